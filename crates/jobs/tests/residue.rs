//! Where plaintext stays after a conversion in place, found on a real server, and cleared by the statements that a
//! report gives.
#![cfg(feature = "postgres")]

use enfold::db::postgres::Endpoint;
use enfold_jobs::database::{Probe, Residue};
use enfold_jobs::model::{Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

struct Fixture {
    db: Database,
    owner: Client,
    postgres: Postgres,
}

impl Fixture {
    async fn new(schema: &str) -> Self {
        let db = Database::create().await;
        let owner = db.connect().await;
        owner.batch_execute(schema).await.expect("the test's schema");
        let postgres = at(&db.url());
        Self { db, owner, postgres }
    }

    async fn sql(&self, sql: &str) {
        self.owner.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Runs what rewrites a table once nobody is left who could see its old rows, which VACUUM FULL would keep. That is
    /// decided by the oldest transaction that writes in any database of the server, and other tests write in theirs.
    async fn rewrite(&self, sql: &str) {
        let now: String = self.owner.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap().get(0);
        let older = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (age(backend_xid) > age('{now}'::xid)
             OR datname = current_database() AND age(backend_xmin) > age('{now}'::xid))"
        );
        while self.owner.query_one(&older, &[]).await.unwrap().get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
        self.sql(sql).await;
    }

    async fn residue(&self, probes: &[Probe]) -> Vec<Residue> {
        self.postgres.residue_of(&target("mail", Storage::Text), probes).await.expect("a report")
    }

    /// How often the mark is in the files of a relation, read from the disk.
    async fn in_files(&self, relation: &str) -> usize {
        self.sql("CHECKPOINT").await;
        let bytes: Vec<u8> = self
            .owner
            .query_one(&format!("SELECT pg_read_binary_file(pg_relation_filepath('{relation}'))"), &[])
            .await
            .unwrap()
            .get(0);
        bytes.windows(b"@marked.example".len()).filter(|w| *w == b"@marked.example").count()
    }
}

fn at(url: &str) -> Postgres {
    Postgres::at(Endpoint::parse_text(url).expect("a URL"), Limits::default())
}

fn target(column: &str, storage: Storage) -> Target {
    Target {
        table: TableName { schema: "public".into(), table: "people".into() },
        policy_table: "public.people".into(),
        columns: vec![TargetColumn {
            name: column.into(),
            id: "people-mail".into(),
            storage,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
        }],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".into()],
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}

fn probe(value: &str) -> Probe {
    Probe { column: "mail".into(), value: zeroize::Zeroizing::new(value.as_bytes().to_vec()) }
}

/// Twenty of the values that [`PEOPLE`] makes.
fn probes() -> Vec<Probe> {
    (1..=20).map(|n| probe(&format!("Person{n}@marked.example"))).collect()
}

const PEOPLE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, mail text, note text) WITH (autovacuum_enabled = off);
    INSERT INTO people SELECT n, 'Person' || n || '@marked.example', 'note' FROM generate_series(1, 5000) n";

/// Stands for a conversion: what matters is that every row is updated with something as long as an envelope.
const SEAL: &str = "UPDATE people SET mail = 'enf1:' || translate(encode(sha256(mail::bytea) || sha256(id::text::bytea)
                    || sha256(note::bytea), 'base64'), E'+/=\\n', '-_') || repeat('A', 20)";

#[track_caller]
fn found<'a>(residue: &'a [Residue], kind: &str) -> &'a Residue {
    residue.iter().find(|r| r.kind == kind).unwrap_or_else(|| panic!("no `{kind}` among {residue:?}"))
}

#[track_caller]
fn clean(residue: &[Residue], kind: &str) {
    let there: Vec<_> = residue.iter().filter(|r| r.kind == kind).collect();
    assert!(there.is_empty(), "{there:?}");
}

#[tokio::test]
async fn vacuum_leaves_old_rows_in_the_files_and_rewriting_the_table_clears_them() {
    let f = Fixture::new(&format!("CREATE EXTENSION pageinspect; {PEOPLE}")).await;
    assert_eq!(f.in_files("people").await, 5000);
    f.sql(SEAL).await;
    assert_eq!(f.in_files("people").await, 5000, "an update leaves the old version");
    let dead = found(&f.residue(&probes()).await, "dead-rows").clone();
    assert_eq!(dead.found, Some(20));
    f.sql("VACUUM people").await;
    f.sql("VACUUM people").await;
    let left = f.in_files("people").await;
    assert!(left > 4500, "two VACUUMs left {left} of 5,000");
    assert!(found(&f.residue(&probes()).await, "dead-rows").found >= Some(15), "found in freed room as well");

    let clear = dead.clear.split(';').next().unwrap();
    assert_eq!(clear, "VACUUM (FULL, ANALYZE) public.people");
    f.rewrite(clear).await;
    assert_eq!(f.in_files("people").await, 0);
    let residue = f.residue(&probes()).await;
    clean(&residue, "dead-rows");
    clean(&residue, "statistics");
}

#[tokio::test]
async fn live_rows_are_not_called_residue() {
    let f = Fixture::new(&format!("CREATE EXTENSION pageinspect; {PEOPLE}")).await;
    f.rewrite("VACUUM (FULL) people").await;
    // A lock leaves its mark in the row's header, and the row is live.
    f.sql("BEGIN; SELECT 1 FROM people FOR NO KEY UPDATE; COMMIT").await;
    clean(&f.residue(&probes()).await, "dead-rows");
    // An insert that was rolled back is residue.
    f.sql("BEGIN; INSERT INTO people SELECT id + 10000, mail, note FROM people; ROLLBACK").await;
    assert_eq!(found(&f.residue(&probes()).await, "dead-rows").found, Some(20));
}

#[tokio::test]
async fn without_pageinspect_the_files_are_searched() {
    let f = Fixture::new(PEOPLE).await;
    f.sql(SEAL).await;
    f.sql("CHECKPOINT").await;
    assert_eq!(found(&f.residue(&probes()).await, "dead-rows").found, Some(20));
    f.rewrite("VACUUM (FULL, ANALYZE) people").await;
    clean(&f.residue(&probes()).await, "dead-rows");
}

#[tokio::test]
async fn without_values_or_rights_a_place_is_named_and_never_called_clean() {
    let f = Fixture::new(PEOPLE).await;
    f.sql("CREATE INDEX people_mail ON people (mail)").await;
    f.sql(SEAL).await;
    let residue = f.residue(&[]).await;
    assert_eq!(found(&residue, "dead-rows").found, None);
    assert_eq!(found(&residue, "old-index").found, None);
    assert_eq!(found(&residue, "catalog-pages").found, None);
    assert_eq!(found(&residue, "same-values").found, None);

    let role = format!("enfold_auditor_{}", std::process::id());
    f.sql(&format!("CREATE TABLE secret (x text); DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT SELECT ON people TO {role}")).await;
    let auditor = at(&f.db.url().replace("postgres@", &format!("{role}@")));
    let residue = auditor.residue_of(&target("mail", Storage::Text), &probes()).await.unwrap();
    assert_eq!(found(&residue, "dead-rows").found, None);
    let hidden = found(&residue, "same-values");
    assert!(hidden.place.contains("secret") && hidden.found.is_none(), "{hidden:?}");
    drop(auditor);
    f.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn toast_keeps_old_values_until_the_table_is_rewritten() {
    let f = Fixture::new(
        "CREATE EXTENSION pageinspect;
         CREATE TABLE people (id int PRIMARY KEY, mail text, note text) WITH (autovacuum_enabled = off);
         ALTER TABLE people ALTER COLUMN mail SET STORAGE EXTERNAL;
         INSERT INTO people SELECT n, repeat('x', 3000) || '|Person' || n || '@marked.example', 'note' FROM generate_series(1, 100) n",
    )
    .await;
    f.sql("UPDATE people SET mail = 'enf1:' || repeat('A', 5000)").await;
    // The value sits in the middle of a long one: what is known of it is enough.
    let residue = f.residue(&probes()).await;
    let toast = found(&residue, "toast-rows");
    assert_eq!(toast.found, Some(20));
    f.rewrite(toast.clear.split(';').next().unwrap()).await;
    clean(&f.residue(&probes()).await, "toast-rows");
}

#[tokio::test]
async fn an_index_keeps_entries_of_old_versions() {
    let f = Fixture::new(&format!("CREATE EXTENSION pageinspect; {PEOPLE}")).await;
    f.sql(
        "CREATE INDEX people_mail ON people (lower(mail)); ALTER TABLE people ADD CONSTRAINT mail_once UNIQUE (mail)",
    )
    .await;
    f.sql(SEAL).await;
    let residue = f.residue(&probes()).await;
    let places: Vec<_> = residue.iter().filter(|r| r.kind == "old-index").collect();
    assert_eq!(places.len(), 2);
    assert!(places.iter().all(|r| r.found >= Some(20)), "{places:?}");
    for place in places {
        f.sql(place.clear.split(", or").next().unwrap()).await;
    }
    clean(&f.residue(&probes()).await, "old-index");
}

#[tokio::test]
async fn statistics_hold_values_until_the_table_is_analysed() {
    let f = Fixture::new(&format!(
        "CREATE EXTENSION pageinspect; {PEOPLE}; CREATE STATISTICS pairs (mcv) ON mail, note FROM people"
    ))
    .await;
    f.sql("UPDATE people SET mail = 'Person1@marked.example' WHERE id <= 1000; ANALYZE people").await;
    f.sql(SEAL).await;
    let residue = f.residue(&probes()).await;
    let statistics = found(&residue, "statistics");
    assert!(statistics.found > Some(10));
    assert!(found(&residue, "extended-statistics").found >= Some(1));
    f.sql(&statistics.clear).await;
    let residue = f.residue(&probes()).await;
    clean(&residue, "statistics");
    clean(&residue, "extended-statistics");
    // ANALYZE replaced rows of the catalog, whose old versions hold what it read.
    let catalog = found(&residue, "catalog-pages").clone();
    assert!(catalog.found > Some(0));
    for residue in residue.iter().filter(|r| r.kind == "catalog-pages") {
        f.rewrite(&residue.clear).await;
    }
    clean(&f.residue(&probes()).await, "catalog-pages");
}

#[tokio::test]
async fn a_dropped_column_stays_in_every_row_until_the_table_is_rewritten() {
    let f = Fixture::new(&format!("CREATE EXTENSION pageinspect; {PEOPLE}; ALTER TABLE people ADD COLUMN backup text"))
        .await;
    f.sql("UPDATE people SET backup = mail").await;
    f.sql(SEAL).await;
    f.rewrite("VACUUM (FULL) people").await;
    f.sql("ALTER TABLE people DROP COLUMN backup").await;
    let residue = f.residue(&probes()).await;
    let dropped = found(&residue, "dropped-column");
    assert_eq!(dropped.found, Some(20));
    f.rewrite(&dropped.clear).await;
    assert_eq!(f.in_files("people").await, 0);
    clean(&f.residue(&probes()).await, "dropped-column");
}

#[tokio::test]
async fn other_columns_with_the_same_values_are_found_whatever_their_type() {
    let f = Fixture::new(&format!(
        "CREATE EXTENSION pageinspect; {PEOPLE};
         CREATE TABLE letters (id int, recipient text, body text, meta jsonb, raw bytea, tags text[], year int) WITH (autovacuum_enabled = off);
         INSERT INTO letters SELECT n, lower('Person' || n || '@marked.example'), 'Dear Person' || n || '@marked.example, hello',
             jsonb_build_object('to', jsonb_build_array('Person' || n || '@marked.example')), NULL, ARRAY['x', 'Person' || n || '@marked.example'], 2000
         FROM generate_series(1, 30) n;
         CREATE TABLE innocent (title text); INSERT INTO innocent SELECT 'Track ' || n FROM generate_series(1, 100) n;
         ALTER TABLE people ADD COLUMN login text; UPDATE people SET login = mail"
    ))
    .await;
    f.sql(SEAL).await;
    f.rewrite("VACUUM (FULL) people").await;
    let residue = f.residue(&probes()).await;
    let same: Vec<_> = residue
        .iter()
        .filter(|r| r.kind == "same-values")
        .map(|r| (r.column.clone().unwrap(), r.found.unwrap()))
        .collect();
    let expected = [("recipient", 20), ("body", 20), ("meta", 20), ("tags", 20), ("login", 20)];
    assert_eq!(same, expected.map(|(c, n)| (c.to_owned(), n)));
    clean(&residue, "dead-rows");
    clean(&residue, "dropped-column");
    let everything = serde_json::to_string(&residue).unwrap();
    assert!(!everything.contains("marked"), "a report holds no value");
}

#[tokio::test]
async fn a_materialised_view_keeps_its_copy_until_it_is_refreshed() {
    let f = Fixture::new(&format!(
        "CREATE EXTENSION pageinspect; {PEOPLE}; CREATE VIEW v AS SELECT mail FROM people; CREATE MATERIALIZED VIEW m AS SELECT * FROM v"
    ))
    .await;
    f.sql(SEAL).await;
    let residue = f.residue(&probes()).await;
    let view = found(&residue, "materialised-view");
    assert_eq!((view.found, view.clear.as_str()), (Some(20), "REFRESH MATERIALIZED VIEW public.m"));
    f.rewrite(&view.clear).await;
    clean(&f.residue(&probes()).await, "materialised-view");
}

#[tokio::test]
async fn recorded_statements_with_values_are_counted() {
    let f = Fixture::new(&format!("CREATE EXTENSION pg_stat_statements; {PEOPLE}")).await;
    f.sql("CREATE TABLE copy AS SELECT * FROM people WHERE mail = 'Person7@marked.example'").await;
    f.sql("DROP TABLE copy").await;
    let residue = f.residue(&probes()).await;
    assert_eq!(found(&residue, "statement-texts").found, Some(1));
}

#[tokio::test]
async fn what_cannot_be_looked_into_is_named() {
    let f = Fixture::new(&format!("{PEOPLE}; CREATE PUBLICATION out FOR TABLE people")).await;
    let slot = format!("enfold_residue_{}", std::process::id());
    f.owner.query("SELECT pg_create_physical_replication_slot($1, true)", &[&slot]).await.unwrap();
    let residue = f.residue(&probes()).await;
    f.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    for kind in ["wal", "server-log", "base-backup", "slot", "subscriber"] {
        let named = found(&residue, kind);
        assert_eq!(named.found, None);
        assert!(!named.clear.is_empty());
    }
    assert!(residue.iter().any(|r| r.place.contains(&slot)));
}

#[tokio::test]
async fn json_and_bytes_are_searched_by_what_is_in_them() {
    let f = Fixture::new(
        "CREATE EXTENSION pageinspect;
         CREATE TABLE people (id int PRIMARY KEY, mail jsonb) WITH (autovacuum_enabled = off);
         INSERT INTO people SELECT n, jsonb_build_object('to', 'Person' || n || '@marked.example') FROM generate_series(1, 50) n",
    )
    .await;
    f.sql("UPDATE people SET mail = '\"enf1:AAAA\"'").await;
    let probe = probe("{\"to\": \"Person3@marked.example\", \"n\": 1}");
    let residue = f.postgres.residue_of(&target("mail", Storage::Json), &[probe]).await.unwrap();
    assert_eq!(found(&residue, "dead-rows").found, Some(1));
}
