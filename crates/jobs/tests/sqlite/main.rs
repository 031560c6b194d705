//! Whole sweeps on SQLite files.
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../postgres/codec.rs"]
mod codec;

use std::path::Path;
use std::time::Duration;

use codec::OneKey;
use enfold::Code;
use enfold_core::stored::{Stored, detect};
use enfold_core::{Binding, Envelope};
use enfold_jobs::model::{Goal, JobId, JobState, Storage, TableName, Target, TargetColumn};
use enfold_jobs::sqlite::{Sqlite, SqliteOptions};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepOptions, SweepReport, Unwatched, sweep};
use rusqlite::Connection;

const ROWS: i64 = 3000;

fn target() -> Target {
    Target {
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
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}

fn filled(path: &Path) -> Connection {
    let app = Connection::open(path).unwrap();
    app.execute_batch("CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT); BEGIN").unwrap();
    for id in 1..=ROWS {
        app.execute("INSERT INTO t VALUES (?1, ?2)", (id, value(id))).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
    app
}

fn value(id: i64) -> String {
    format!("person{id}@example.com")
}

fn open(path: &Path, settings: &str) -> Sqlite {
    let options = SqliteOptions { settings: settings.to_owned(), ..SqliteOptions::default() };
    Sqlite::open(path, &options).unwrap()
}

async fn begin(db: &Sqlite, goal: Goal) -> JobId {
    let lease = Duration::from_secs(5);
    db.create_job(&JobSpec { goal, target: target(), batch_rows: 200, rate: None, lease, order: Order::default() })
        .await
        .unwrap()
}

async fn run(db: &Sqlite, job: JobId) -> enfold::Result<SweepReport> {
    let options = SweepOptions { patience: Duration::ZERO, ..SweepOptions::new("w") };
    sweep(db, &OneKey::new([3; 32]), job, &options, &Unwatched).await
}

/// How many rows are sealed; every row, sealed or not, must have its value.
fn sealed(app: &Connection) -> usize {
    let codec = OneKey::new([3; 32]);
    let mut statement = app.prepare("SELECT id, email FROM t").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).unwrap();
    let (mut count, mut all) = (0, 0);
    for (id, stored) in rows.map(Result::unwrap) {
        all += 1;
        match detect(Storage::Text.form(), stored.as_bytes()) {
            Stored::Plain => assert_eq!(stored, value(id)),
            Stored::Envelope(bytes) => {
                count += 1;
                let envelope = Envelope::parse(&bytes).unwrap();
                let opened = codec.opener.open(&envelope, &Binding::new("ring", "c1")).unwrap();
                assert_eq!(*opened.plaintext, value(id).into_bytes());
            }
            Stored::Lookalike(_) => panic!("row {id}"),
        }
    }
    assert_eq!(all, ROWS);
    count
}

#[tokio::test]
async fn a_sweep_that_fills_the_disk_stops_with_all_rows_whole_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let app = filled(&path);
    let pages: i64 = app.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    let tight = open(&path, &format!("PRAGMA max_page_count = {}", pages + 40));
    let job = begin(&tight, Goal::Protect).await;
    let error = run(&tight, job).await.unwrap_err();
    assert_eq!(error.code(), Code::DiskFull);
    let so_far = sealed(&app);
    assert!(so_far > 0 && so_far < 3000, "{so_far}");
    let record = tight.job(job).await.unwrap();
    assert_eq!((record.state, record.progress.rows_changed), (JobState::Failed, so_far as u64));

    let roomy = open(&path, "");
    let report = run(&roomy, job).await.unwrap();
    assert_eq!((report.state, report.remaining), (JobState::Completed, Some(0)));
    assert_eq!(sealed(&app), 3000);
}

#[tokio::test]
async fn protect_and_unprotect_bring_every_byte_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let app = filled(&path);
    let db = open(&path, "");
    let job = begin(&db, Goal::Protect).await;
    assert_eq!(run(&db, job).await.unwrap().progress.rows_changed, 3000);
    assert_eq!(sealed(&app), 3000);
    let job = begin(&db, Goal::Unprotect).await;
    assert_eq!(run(&db, job).await.unwrap().remaining, Some(0));
    assert_eq!(sealed(&app), 0);
}
