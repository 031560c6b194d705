//! The store's rules, each on a real file.

use std::path::PathBuf;
use std::time::Duration;

use enfold::Code;
use rusqlite::Connection;

use super::*;
use crate::model::{Progress, Storage, TableName, TargetColumn, TargetIndex};
use crate::sqlite::SqliteOptions;
use crate::store::{Cell, JobSpec, Order};

const TTL: Duration = Duration::from_secs(60);

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    app: Connection,
    db: Sqlite,
    target: Target,
}

/// A file with `schema`, and a target over `t(email)` with tenant `org`, key `id`.
fn fixture(schema: &str) -> Fixture {
    fixture_with(schema, "")
}

fn fixture_with(schema: &str, settings: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(schema).unwrap();
    let options = SqliteOptions { lock_timeout: Duration::from_millis(50), settings: settings.to_owned() };
    let db = Sqlite::open(&path, &options).unwrap();
    let target = Target {
        table: TableName { schema: String::new(), table: "t".to_owned() },
        policy_table: "t".to_owned(),
        columns: vec![TargetColumn {
            name: "email".to_owned(),
            id: "c1".to_owned(),
            storage: Storage::Text,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
        }],
        indexes: Vec::new(),
        tenant: Some("org".to_owned()),
        row_key: vec!["id".to_owned()],
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: None,
    };
    Fixture { _folder: folder, path, app, db, target }
}

const PLAIN_TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email TEXT COLLATE NOCASE);
    INSERT INTO t VALUES (1, 'a', 'Ada@example.com'), (2, 'a', 'bob@example.com'), (3, 'b', NULL), (4, 'b', 'eve@example.com');";

impl Fixture {
    async fn job(&self, batch_rows: u32) -> JobId {
        let spec = JobSpec {
            goal: Goal::Protect,
            target: self.target.clone(),
            batch_rows,
            rate: None,
            lease: TTL,
            order: Order::default(),
        };
        self.db.create_job(&spec).await.unwrap()
    }

    async fn started(&self) -> (Lease, Vec<Row>) {
        let job = self.job(100).await;
        let lease = self.db.lease(job, "w1", TTL).await.unwrap().unwrap();
        let batch = self.db.read(&lease, &self.target, lease.cursor, 100).await.unwrap();
        (lease, batch.rows)
    }

    async fn write(&self, lease: &Lease, changes: &[Change]) -> Result<Vec<Outcome>> {
        let checkpoint = Checkpoint { cursor: Some(lease.cursor), rows_seen: changes.len() as u64, errors: Vec::new() };
        self.db.write(lease, &self.target, changes, &checkpoint).await
    }

    fn emails(&self) -> Vec<Option<String>> {
        let mut s = self.app.prepare("SELECT CAST(email AS TEXT) FROM t ORDER BY rowid").unwrap();
        s.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }
}

fn set(row: &Row, to: &str) -> Change {
    Change {
        version: row.version.clone(),
        label: row.label.clone(),
        cells: vec![Cell::Set(Some(to.as_bytes().to_vec()))],
        indexed: Vec::new(),
        beside: Vec::new(),
        versions: Vec::new(),
        errors: Vec::new(),
    }
}

fn sealed(rows: &[Row]) -> Vec<Change> {
    rows.iter().filter(|r| r.cells[0].is_some()).map(|r| set(r, &format!("SEALED {}", r.label))).collect()
}

#[tokio::test]
async fn a_batch_and_its_checkpoint_are_written_together() {
    let f = fixture(PLAIN_TABLE);
    let (lease, rows) = f.started().await;
    assert_eq!(rows.iter().map(|r| r.label.as_str()).collect::<Vec<_>>(), ["id=1", "id=2", "id=3", "id=4"]);
    assert!(rows[0].tenant == Some(enfold_core::binding::OwnedPart::Text("a".to_owned())));
    assert!(rows[0].row_key == [enfold_core::binding::OwnedPart::Int(1)]);
    let done = Checkpoint { cursor: None, rows_seen: 4, errors: Vec::new() };
    let outcomes = f.db.write(&lease, &f.target, &sealed(&rows), &done).await.unwrap();
    assert_eq!(outcomes, vec![Outcome::Written; 3]);
    assert_eq!(f.emails()[0].as_deref(), Some("SEALED id=1"));
    let record = f.db.job(lease.job).await.unwrap();
    let expected = Progress {
        rows_total: 4,
        rows_seen: 4,
        rows_changed: 3,
        chunks_total: 1,
        chunks_done: 1,
        ..Progress::default()
    };
    assert_eq!(record.progress, expected);
    assert_eq!(f.db.lease(lease.job, "w2", TTL).await.unwrap(), None);
}

#[tokio::test]
async fn a_row_that_changed_since_it_was_read_is_lost_whatever_its_collation_says() {
    let f = fixture(PLAIN_TABLE);
    let (lease, rows) = f.started().await;
    // Equal under NOCASE; another tenant; another storage class of the same characters.
    f.app.execute("UPDATE t SET email = 'ADA@EXAMPLE.COM' WHERE id = 1", []).unwrap();
    f.app.execute("UPDATE t SET org = 'z' WHERE id = 2", []).unwrap();
    f.app.execute("UPDATE t SET email = CAST(email AS BLOB) WHERE id = 4", []).unwrap();
    let outcomes = f.write(&lease, &sealed(&rows)).await.unwrap();
    assert_eq!(outcomes, vec![Outcome::Lost; 3]);
    assert_eq!(f.emails()[0].as_deref(), Some("ADA@EXAMPLE.COM"));
    let lost: Vec<_> = rows.iter().map(|r| r.version.clone()).collect();
    f.app.execute("DELETE FROM t WHERE id = 4", []).unwrap();
    let again = f.db.reread(&lease, &f.target, &lost).await.unwrap();
    assert_eq!(again.len(), 3, "the row that is gone is left out");
    assert_eq!(again[0].cells[0].as_deref(), Some(b"ADA@EXAMPLE.COM".as_slice()));
}

#[tokio::test]
async fn a_worker_whose_lease_was_taken_over_writes_nothing() {
    let f = fixture(PLAIN_TABLE);
    let job = f.job(100).await;
    let old = f.db.lease(job, "w1", Duration::ZERO).await.unwrap().unwrap();
    let rows = f.db.read(&old, &f.target, old.cursor, 100).await.unwrap().rows;
    let new = f.db.lease(job, "w2", TTL).await.unwrap().unwrap();
    assert!(new.token > old.token && new.chunk == old.chunk);
    assert_eq!(f.write(&old, &sealed(&rows)).await.unwrap_err().code(), Code::LeaseLost);
    assert_eq!(f.db.renew(&old, TTL).await.unwrap_err().code(), Code::LeaseLost);
    assert_eq!(f.emails()[0].as_deref(), Some("Ada@example.com"));
    f.write(&new, &sealed(&rows)).await.unwrap();
}

#[tokio::test]
async fn a_chunk_is_not_orphaned_by_a_clock_that_is_put_back_and_its_former_worker_is_fenced() {
    let f = fixture(PLAIN_TABLE);
    let job = f.job(100).await;
    let old = f.db.lease(job, "w1", TTL).await.unwrap().unwrap();
    let rows = f.db.read(&old, &f.target, old.cursor, 100).await.unwrap().rows;
    let ends = |minutes: i64| {
        let later = jobs::now() + minutes * 60_000;
        f.app.execute("UPDATE enfold_job_chunks SET expires_at = ?1", [later]).unwrap();
    };
    ends(50);
    assert_eq!(f.db.lease(job, "w2", TTL).await.unwrap(), None, "somebody may hold it for so long");
    // As the machine's clock has it after it was put back by a year.
    ends(365 * 24 * 60);
    let new = f.db.lease(job, "w2", TTL).await.unwrap().unwrap();
    assert_eq!(f.write(&old, &sealed(&rows)).await.unwrap_err().code(), Code::LeaseLost);
    f.write(&new, &sealed(&rows)).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_let_go_can_be_taken_at_once() {
    let f = fixture(PLAIN_TABLE);
    let job = f.job(100).await;
    let held = f.db.lease(job, "w1", TTL).await.unwrap().unwrap();
    assert_eq!(f.db.lease(job, "w2", TTL).await.unwrap(), None);
    f.db.renew(&held, Duration::ZERO).await.unwrap();
    assert!(f.db.lease(job, "w2", TTL).await.unwrap().is_some());
}

/// Row 2 is refused in the way that `trigger` has; the others are written.
async fn rejected(schema: &str) -> String {
    let f = fixture(&format!("{PLAIN_TABLE}{schema}"));
    let (lease, rows) = f.started().await;
    let outcomes = f.write(&lease, &sealed(&rows)).await.unwrap();
    let [Outcome::Written, Outcome::Rejected { reason }, Outcome::Written] = outcomes.as_slice() else {
        panic!("{outcomes:?}")
    };
    assert_eq!(f.emails()[1].as_deref(), Some("bob@example.com"), "the row is as it was");
    assert_eq!(f.emails()[3].as_deref(), Some("SEALED id=4"));
    let errors = f.db.row_errors(lease.job, 10).await.unwrap();
    assert_eq!((errors.len(), errors[0].row.as_str()), (1, "id=2"));
    assert_eq!(f.db.job(lease.job).await.unwrap().progress.rows_failed, 1);
    reason.clone()
}

#[tokio::test]
async fn a_trigger_that_alters_the_write_rolls_that_row_back() {
    let reason = rejected(
        "CREATE TRIGGER g AFTER UPDATE ON t WHEN NEW.id = 2 BEGIN UPDATE t SET email = lower(email) WHERE id = 2; END;",
    )
    .await;
    assert!(reason.contains("altered"), "{reason}");
}

#[tokio::test]
async fn a_trigger_that_suppresses_the_write_rejects_that_row() {
    let reason = rejected("CREATE TRIGGER g BEFORE UPDATE ON t WHEN NEW.id = 2 BEGIN SELECT RAISE(IGNORE); END;").await;
    assert!(reason.contains("suppressed"), "{reason}");
}

#[tokio::test]
async fn a_trigger_that_ends_the_transaction_costs_its_own_row_only() {
    for kind in ["ABORT", "FAIL", "ROLLBACK"] {
        let trigger = format!(
            "CREATE TRIGGER g BEFORE UPDATE ON t WHEN NEW.id = 2 BEGIN SELECT RAISE({kind}, 'no ' || OLD.email); END;"
        );
        let reason = rejected(&trigger).await;
        assert!(reason.contains("trigger") && !reason.contains("bob"), "{reason}");
    }
}

#[tokio::test]
async fn a_value_of_another_storage_class_is_refused_and_left_as_it_is() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email); INSERT INTO t VALUES (1, 'a', 42), (2, 'a', 1.5), (3, 'a', x'00ff');",
    );
    let (lease, rows) = f.started().await;
    let outcomes = f.write(&lease, &sealed(&rows)).await.unwrap();
    assert!(outcomes.iter().all(|o| matches!(o, Outcome::Rejected { .. })), "{outcomes:?}");
    let classes: String =
        f.app.query_row("SELECT group_concat(typeof(email), ',') FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(classes, "integer,real,blob");
}

#[tokio::test]
async fn a_row_is_written_in_part_around_a_value_of_another_storage_class() {
    let mut f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email TEXT, note, both BLOB); \
         INSERT INTO t VALUES (1, 'a', 'ada@example.com', 42, x'01')",
    );
    f.target.columns.push(TargetColumn {
        name: "note".to_owned(),
        id: "c2".to_owned(),
        storage: Storage::Text,
        shadow: None,
        member: None,
        companions: Default::default(),
        writes: None,
    });
    let over = vec![0, 1];
    f.target.indexes.push(TargetIndex {
        name: "both".to_owned(),
        column: "both".to_owned(),
        over,
        unique: false,
        generation: None,
    });
    let (lease, rows) = f.started().await;
    let noted = |column: &str| RowError {
        row: "id=1".to_owned(),
        column: column.to_owned(),
        code: "open-failed".to_owned(),
        reason: "as the codec said".to_owned(),
    };
    let mut change = set(&rows[0], "SEALED");
    change.cells.push(Cell::Set(Some(b"SEALED TOO".to_vec())));
    change.indexed.push(Cell::Set(Some(vec![2])));
    change.errors.push(noted("elsewhere"));
    assert_eq!(f.write(&lease, &[change]).await.unwrap(), [Outcome::Written]);
    let found: (String, i64, Vec<u8>) = f
        .app
        .query_row("SELECT email, note, both FROM t", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(found, ("SEALED".to_owned(), 42, vec![1]), "the index over the cell that stayed is left alone");
    let errors = f.db.row_errors(lease.job, 10).await.unwrap();
    assert_eq!(errors.iter().map(|e| e.column.as_str()).collect::<Vec<_>>(), ["elsewhere", "note"]);
    assert_eq!(f.db.job(lease.job).await.unwrap().progress.rows_failed, 1, "rows are counted, not errors");
}

#[tokio::test]
async fn what_is_noted_with_a_row_is_noted_only_when_it_was_written() {
    let f = fixture(PLAIN_TABLE);
    let (lease, rows) = f.started().await;
    f.app.execute("UPDATE t SET email = 'somebody else' WHERE id = 1", []).unwrap();
    let mut changes = sealed(&rows);
    for change in &mut changes[..2] {
        change.errors.push(RowError {
            row: change.label.clone(),
            column: "note".to_owned(),
            code: "open-failed".to_owned(),
            reason: "as the codec said".to_owned(),
        });
    }
    let outcomes = f.write(&lease, &changes).await.unwrap();
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Written, Outcome::Written]);
    let errors = f.db.row_errors(lease.job, 10).await.unwrap();
    assert_eq!(errors.iter().map(|e| e.row.as_str()).collect::<Vec<_>>(), ["id=2"]);
}

#[tokio::test]
async fn texts_that_are_not_utf8_come_and_go_byte_for_byte() {
    let f = fixture(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email TEXT); INSERT INTO t VALUES (1, 'a', CAST(x'c328ff00' AS TEXT));",
    );
    let (lease, rows) = f.started().await;
    assert_eq!(rows[0].cells[0].as_deref(), Some([0xc3, 0x28, 0xff, 0x00].as_slice()));
    f.write(&lease, &[set(&rows[0], "SEALED")]).await.unwrap();
    let back = f.db.reread(&lease, &f.target, &[rows[0].version.clone()]).await.unwrap();
    let mut restore = set(&back[0], "");
    restore.cells = vec![Cell::Set(rows[0].cells[0].clone())];
    assert_eq!(f.write(&lease, &[restore]).await.unwrap(), [Outcome::Written]);
    let stored: Vec<u8> = f.app.query_row("SELECT CAST(email AS BLOB) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(stored, [0xc3, 0x28, 0xff, 0x00]);
}

#[tokio::test]
async fn ranges_cover_every_row_once_with_gaps_and_negative_ids() {
    let f = fixture("CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email TEXT);");
    let ids: Vec<i64> = (0..500).map(|i| (i - 250) * 7919).chain([i64::MIN, i64::MAX]).collect();
    f.app.execute_batch("BEGIN").unwrap();
    for id in &ids {
        f.app.execute("INSERT INTO t VALUES (?1, 'a', 'x')", [id]).unwrap();
    }
    f.app.execute_batch("COMMIT").unwrap();
    let job = f.job(3).await;
    let mut seen = Vec::new();
    let mut chunks = 0;
    while let Some(lease) = f.db.lease(job, "w", TTL).await.unwrap() {
        chunks += 1;
        let mut cursor = Some(lease.cursor);
        while let Some(at) = cursor {
            let batch = f.db.read(&lease, &f.target, at, 3).await.unwrap();
            seen.extend(batch.rows.iter().map(|r| id(&r.version).unwrap()));
            cursor = batch.next;
            let checkpoint = Checkpoint { cursor, rows_seen: batch.rows.len() as u64, errors: Vec::new() };
            f.db.write(&lease, &f.target, &[], &checkpoint).await.unwrap();
        }
    }
    let mut expected = ids.clone();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    assert!(chunks > 5);
    let progress = f.db.job(job).await.unwrap().progress;
    assert_eq!((progress.rows_seen, progress.chunks_done), (502, progress.chunks_total));
}

#[tokio::test]
async fn a_batch_ends_where_its_cells_are_too_many_bytes() {
    let f = fixture("CREATE TABLE t(id INTEGER PRIMARY KEY, org TEXT, email TEXT);");
    for id in 1..=5 {
        f.app.execute("INSERT INTO t VALUES (?1, 'a', ?2)", (id, "x".repeat(BATCH_BYTES / 2 - 1))).unwrap();
    }
    let job = f.job(100).await;
    let lease = f.db.lease(job, "w", TTL).await.unwrap().unwrap();
    let batch = f.db.read(&lease, &f.target, lease.cursor, 100).await.unwrap();
    assert_eq!(batch.rows.len(), 2);
    assert_eq!(batch.next, Some(position(3)));
}

#[tokio::test]
async fn a_held_write_lock_is_busy_and_nothing_is_written() {
    let f = fixture(PLAIN_TABLE);
    let (lease, rows) = f.started().await;
    f.app.execute_batch("BEGIN IMMEDIATE; UPDATE t SET org = 'q' WHERE id = 3;").unwrap();
    assert_eq!(f.write(&lease, &sealed(&rows)).await.unwrap_err().code(), Code::Busy);
    f.app.execute_batch("COMMIT").unwrap();
    assert_eq!(f.write(&lease, &sealed(&rows)).await.unwrap(), vec![Outcome::Written; 3]);
}

#[tokio::test]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let f = fixture_with(PLAIN_TABLE, "PRAGMA max_page_count = 20;");
    let (lease, rows) = f.started().await;
    let big = set(&rows[0], &"x".repeat(200_000));
    let error = f.write(&lease, &[set(&rows[1], "SEALED"), big]).await.unwrap_err();
    assert_eq!(error.code(), Code::DiskFull);
    assert_eq!(f.emails()[1].as_deref(), Some("bob@example.com"), "the whole batch was rolled back");
    assert_eq!(f.db.job(lease.job).await.unwrap().progress.rows_seen, 0);
    assert_eq!(f.write(&lease, &[set(&rows[1], "SEALED")]).await.unwrap(), [Outcome::Written]);
    f.app
        .query_row("PRAGMA integrity_check", [], |row| {
            assert_eq!(row.get::<_, String>(0)?, "ok");
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn a_pass_begins_once_and_settles_the_errors_of_the_one_before() {
    let f = fixture(PLAIN_TABLE);
    let (lease, rows) = f.started().await;
    assert!(!f.db.begin_pass(lease.job, 2).await.unwrap(), "chunks of pass 1 are still open");
    let error = RowError {
        row: rows[0].label.clone(),
        column: "email".to_owned(),
        code: "open-failed".to_owned(),
        reason: "no".to_owned(),
    };
    let done = Checkpoint { cursor: None, rows_seen: 4, errors: vec![error.clone(), error] };
    f.db.write(&lease, &f.target, &[], &done).await.unwrap();
    assert_eq!(f.db.job(lease.job).await.unwrap().progress.rows_failed, 1);
    assert!(!f.db.begin_pass(lease.job, 2).await.unwrap(), "the job is not running");
    f.db.transition(lease.job, &[JobState::Pending], JobState::Running, None).await.unwrap();
    assert!(f.db.begin_pass(lease.job, 2).await.unwrap());
    assert!(!f.db.finish(lease.job, 2, JobState::Completed).await.unwrap(), "chunks of pass 2 are open");
    assert!(!f.db.begin_pass(lease.job, 2).await.unwrap());
    let record = f.db.job(lease.job).await.unwrap();
    assert_eq!((record.pass, record.progress.rows_failed, record.progress.chunks_done), (2, 0, 0));
    assert_eq!((record.progress.rows_total, record.progress.rows_seen), (8, 4));
    assert_eq!(f.write(&lease, &[]).await.unwrap_err().code(), Code::LeaseLost, "a lease of pass 1");
    let lease = f.db.lease(lease.job, "w1", TTL).await.unwrap().unwrap();
    f.db.write(&lease, &f.target, &[], &Checkpoint::default()).await.unwrap();
    assert!(!f.db.finish(lease.job, 1, JobState::Completed).await.unwrap(), "seen of a former pass");
    assert!(f.db.finish(lease.job, 2, JobState::Completed).await.unwrap());
}

#[tokio::test]
async fn settings_and_states_change_only_as_asked() {
    let f = fixture(PLAIN_TABLE);
    let job = f.job(100).await;
    f.db.set_control(job, Some(7), Some(Some(50))).await.unwrap();
    f.db.set_control(job, None, None).await.unwrap();
    let expected = Control { state: JobState::Pending, batch_rows: 7, rate: Some(50) };
    assert_eq!(f.db.control(job).await.unwrap(), expected);
    f.db.set_control(job, None, Some(None)).await.unwrap();
    assert_eq!(f.db.control(job).await.unwrap().rate, None);
    assert!(!f.db.transition(job, &[JobState::Running], JobState::Paused, None).await.unwrap());
    assert!(f.db.transition(job, &[JobState::Pending], JobState::CompletedWithErrors, Some("why")).await.unwrap());
    let record = f.db.jobs().await.unwrap().pop().unwrap();
    assert_eq!((record.state, record.last_error.as_deref()), (JobState::CompletedWithErrors, Some("why")));
    assert_eq!(f.db.job(JobId(99)).await.unwrap_err().code(), Code::Usage);
}

#[tokio::test]
async fn what_remains_is_counted_by_stored_form() {
    let mut f = fixture(&format!("{PLAIN_TABLE} ALTER TABLE t ADD COLUMN email_eq BLOB;"));
    assert_eq!(f.db.jobs().await.unwrap().len(), 0);
    assert_eq!(f.db.remaining(Goal::Protect, &f.target).await.unwrap(), 3);
    assert_eq!(f.db.remaining(Goal::Unprotect, &f.target).await.unwrap(), 0);
    f.target.indexes.push(TargetIndex {
        name: "eq".to_owned(),
        column: "email_eq".to_owned(),
        over: vec![0],
        unique: false,
        generation: None,
    });
    f.app.execute("UPDATE t SET email_eq = x'01' WHERE id = 1", []).unwrap();
    assert_eq!(f.db.remaining(Goal::Index, &f.target).await.unwrap(), 2);
}

#[tokio::test]
async fn rows_are_found_where_columns_take_the_row_ids_names() {
    let f = fixture(
        "CREATE TABLE t(rowid TEXT, oid TEXT, id TEXT, org TEXT, email TEXT);
         INSERT INTO t VALUES ('r', 'o', 'k', 'a', 'x'), ('r', 'o', 'l', 'a', 'y');",
    );
    let (lease, rows) = f.started().await;
    assert_eq!(rows.iter().map(|r| r.label.as_str()).collect::<Vec<_>>(), ["id=k", "id=l"]);
    assert_eq!(f.write(&lease, &sealed(&rows)).await.unwrap(), vec![Outcome::Written; 2]);
}

#[tokio::test]
async fn what_cannot_be_swept_is_refused_by_name() {
    let f = fixture("CREATE TABLE t(id TEXT PRIMARY KEY, org TEXT, email TEXT) WITHOUT ROWID;");
    let spec = JobSpec {
        goal: Goal::Protect,
        target: f.target.clone(),
        batch_rows: 9,
        rate: None,
        lease: TTL,
        order: Order::default(),
    };
    let error = f.db.create_job(&spec).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanRefused);
    assert!(error.hints().next().unwrap().contains("WITHOUT ROWID"));
    let mut missing = spec.clone();
    missing.target.table.table = "nobody".to_owned();
    assert_eq!(f.db.create_job(&missing).await.unwrap_err().code(), Code::TableMissing);
    let nowhere = f.path.with_extension("nowhere");
    let opened = Sqlite::open(&nowhere, &SqliteOptions::default());
    assert_eq!(opened.err().unwrap().code(), Code::DatabaseUnavailable);
    assert!(!nowhere.exists(), "a wrong path is not created");
    std::fs::write(&nowhere, [b'x'; 4096]).unwrap();
    let opened = Sqlite::open(&nowhere, &SqliteOptions::default());
    assert_eq!(opened.err().unwrap().code(), Code::DatabaseFailed);
}
