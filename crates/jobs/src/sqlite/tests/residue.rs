use std::collections::BTreeSet;

use super::*;
use crate::database::{Probe, Residue, SchemaStep};
use crate::model::{Goal, JobId};
use crate::store::{Cell, Change, Checkpoint, JobSpec, Order, Outcome, Store};

/// Thousands of values with everything that keeps copies: an old index, statistics of it, rows deleted without
/// secure_delete, rows updated, values over many pages.
const SCHEMA: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT, note TEXT);
    CREATE INDEX plain ON t(email);
    CREATE TABLE archive(id INTEGER PRIMARY KEY, mail TEXT);
    PRAGMA secure_delete = OFF;";

fn filled(mode: &str) -> (Fixture, Vec<String>) {
    let f = fixture(&format!("PRAGMA journal_mode = {mode}; {SCHEMA}"));
    let mut values = Vec::new();
    f.app.execute_batch("BEGIN").unwrap();
    for i in 0..4000 {
        let (email, note) = (format!("customer{i:05}@example.com"), note(i));
        f.app.execute("INSERT INTO t(email, note) VALUES (?1, ?2)", [&email, &note]).unwrap();
        values.extend([email, note]);
    }
    f.app.execute_batch("CREATE TABLE gone(email TEXT)").unwrap();
    for i in 0..20_000 {
        let email = format!("deleted{i:05}@example.net");
        f.app.execute("INSERT INTO gone VALUES (?1)", [format!("{email}{:100}", "")]).unwrap();
        values.push(email);
    }
    f.app.execute_batch("COMMIT; ANALYZE; DROP TABLE gone; DELETE FROM t WHERE id % 7 = 0;").unwrap();
    for i in 0..300 {
        let email = format!("moved{i:05}@example.org");
        f.app.execute("UPDATE t SET email = ?1, note = NULL WHERE id = ?2", (&email, i * 13 + 1)).unwrap();
        values.push(email);
    }
    (f, values)
}

/// Every hundredth goes over several pages.
fn note(i: usize) -> String {
    let words = if i.is_multiple_of(100) { 900 } else { 4 };
    (0..words).map(|w| format!("remark-{i}-{w} ")).collect()
}

fn probes(values: &[String]) -> Vec<Probe> {
    values
        .iter()
        .map(|v| Probe {
            column: if v.contains('@') { "email" } else { "note" }.to_owned(),
            value: zeroize::Zeroizing::new(v.clone().into_bytes()),
        })
        .collect()
}

/// Every value of the columns becomes an envelope, by way of the store.
async fn protect(f: &Fixture, target: &Target) {
    let spec = JobSpec {
        goal: Goal::Protect,
        target: target.clone(),
        batch_rows: 500,
        rate: None,
        lease: Duration::from_secs(60),
        order: Order::default(),
    };
    let job: JobId = f.db.create_job(&spec).await.unwrap();
    let mut n = 0;
    while let Some(lease) = f.db.lease(job, "w", spec.lease).await.unwrap() {
        let mut cursor = Some(lease.cursor);
        while let Some(at) = cursor {
            let batch = f.db.read(&lease, target, at, 500).await.unwrap();
            cursor = batch.next;
            let changes: Vec<Change> = batch
                .rows
                .iter()
                .map(|row| {
                    let mut seal = |old: &Option<Vec<u8>>| {
                        n += 1;
                        old.as_ref().map_or(Cell::Keep, |_| Cell::Set(Some(envelope(n).into_bytes())))
                    };
                    let cells = row.cells.iter().map(&mut seal).collect();
                    Change {
                        version: row.version.clone(),
                        label: row.label.clone(),
                        cells,
                        indexed: Vec::new(),
                        beside: Vec::new(),
                        versions: Vec::new(),
                        errors: Vec::new(),
                    }
                })
                .collect();
            let checkpoint = Checkpoint { cursor, rows_seen: batch.rows.len() as u64, errors: Vec::new() };
            let outcomes = f.db.write(&lease, target, &changes, &checkpoint).await.unwrap();
            assert!(outcomes.iter().all(|o| *o == Outcome::Written));
        }
    }
    assert_eq!(f.db.remaining(Goal::Protect, target).await.unwrap(), 0);
}

fn kinds(found: &[Residue]) -> BTreeSet<&str> {
    found.iter().filter(|r| r.found.is_some_and(|n| n > 0)).map(|r| r.kind.as_str()).collect()
}

/// Searches the files without our own matcher, for the first 14 bytes of each value.
fn raw_hits(f: &Fixture, values: &[String]) -> usize {
    let mut bytes = Vec::new();
    for suffix in ["", "-wal", "-journal"] {
        bytes.extend(std::fs::read(super::super::beside(&f.path, suffix)).unwrap_or_default());
    }
    let heads: std::collections::HashSet<&[u8]> = values.iter().map(|v| &v.as_bytes()[..14]).collect();
    let begins = |w: &[u8]| matches!(&w[..3], b"cus" | b"rem" | b"mov" | b"del");
    bytes.windows(14).filter(|w| begins(w) && heads.contains(w)).count()
}

async fn nothing_is_left(mode: &str) {
    let (f, values) = filled(mode);
    let target = target(&["email", "note"]);
    protect(&f, &target).await;
    let before = f.db.residue(&target, &probes(&values)).await.unwrap();
    assert!(raw_hits(&f, &values) > 100, "the conversion alone leaves copies behind");
    for kind in ["free-pages", "statistics"] {
        assert!(kinds(&before).contains(kind), "{kind}: {:?}", kinds(&before));
    }
    assert!(before.iter().any(|r| r.kind == "old-index" && r.place == "plain"));
    assert!(before.iter().all(|r| !format!("{r:?}").contains('@')), "no value in a report");

    f.db.run(&SchemaStep::DropPlainIndex { table: table(), index: "plain".to_owned(), kind: IndexKind::Plain })
        .await
        .unwrap();
    f.db.run(&SchemaStep::Rewrite { table: table() }).await.unwrap();
    assert_eq!(raw_hits(&f, &values), 0);
    let after = f.db.residue(&target, &probes(&values)).await.unwrap();
    assert_eq!(kinds(&after), BTreeSet::new(), "{after:?}");
    assert_eq!(f.one::<String>("PRAGMA integrity_check"), "ok");
}

#[tokio::test]
async fn after_the_rewrite_the_raw_files_hold_no_original_value() {
    nothing_is_left("DELETE").await;
}

#[tokio::test]
async fn after_the_rewrite_the_write_ahead_log_holds_no_original_value() {
    nothing_is_left("WAL").await;
}

#[tokio::test]
async fn a_journal_that_the_application_keeps_is_cleared_too() {
    nothing_is_left("PERSIST").await;
}

#[tokio::test]
async fn other_columns_with_the_same_values_are_named() {
    let (f, values) = filled("WAL");
    f.app
        .execute_batch(
            "INSERT INTO archive(mail) SELECT 'was ' || email FROM t LIMIT 5;
        CREATE VIRTUAL TABLE words USING fts5(note, email);",
        )
        .unwrap();
    let target = target(&["email", "note"]);
    protect(&f, &target).await;
    f.db.run(&SchemaStep::Rewrite { table: table() }).await.unwrap();
    let found = f.db.residue(&target, &probes(&values)).await.unwrap();
    let archive = found.iter().find(|r| r.place == "archive.mail").unwrap();
    assert_eq!(
        (archive.kind.as_str(), archive.column.as_deref(), archive.found),
        ("same-values", Some("email"), Some(5))
    );
    assert!(found.iter().any(|r| r.place == "full-text table words" && r.found.is_none()));
}

#[tokio::test]
async fn without_probes_the_places_are_named() {
    let (f, _) = filled("WAL");
    let found = f.db.residue(&target(&["email"]), &[]).await.unwrap();
    let kinds: BTreeSet<_> = found.iter().map(|r| r.kind.as_str()).collect();
    assert!(kinds.is_superset(&BTreeSet::from(["rollback-log", "old-index", "base-backup"])), "{kinds:?}");
}
