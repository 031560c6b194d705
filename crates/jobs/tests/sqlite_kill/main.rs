//! The worker is killed with SIGKILL at fifty random moments, with a write-ahead log and with a rollback journal, while
//! threads and another process insert, update, move and delete at full speed. Afterwards every row equals what its last
//! writer wrote, none is plain, none was sealed twice, and the file is sound.
//!
//! `ENFOLD_KILL_SEED` replays a run's choices (not the kernel's).
#![allow(clippy::print_stdout, reason = "a test without a harness tells how it went")]
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../postgres/codec.rs"]
mod codec;
mod writer;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use enfold_core::stored::{Stored, detect};
use enfold_core::{Binding, Envelope};
use enfold_jobs::model::{Goal, JobId, JobState, Storage, TableName, Target, TargetColumn};
use enfold_jobs::sqlite::{Sqlite, SqliteOptions};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepOptions, Unwatched, sweep};
use enfold_testkit::own_main::{self, this_program};
use enfold_testkit::people::{Journal, Person, compare};
use enfold_testkit::rng::Rng;
use rusqlite::Connection;

use codec::OneKey;

const KILLS: usize = 25;
/// Of threads; one more writer is a process of its own.
const THREADS: u32 = 2;
const ROWS_OF_A_WRITER: usize = 2000;
/// Short, so that the next worker need not wait long for what a killed one held.
const LEASE: Duration = Duration::from_millis(200);
const KEY: [u8; 32] = [9; 32];

const SCHEMA: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, org INTEGER, region INTEGER, logical INTEGER NOT NULL, \
        rev INTEGER NOT NULL, email TEXT COLLATE NOCASE, note TEXT, body JSON, secret BLOB); \
    CREATE UNIQUE INDEX people_logical ON people(logical); CREATE INDEX people_email ON people(email)";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--as-worker", path, job] => {
            runtime.block_on(work(Path::new(path), JobId(job.parse().expect("a job number"))));
        }
        ["--as-writer", path, number, seed] => {
            write_as_process(Path::new(path), number.parse().expect("a number"), seed.parse().expect("a seed"));
        }
        _ => own_main::run("a_worker_killed_at_any_moment_loses_nothing", |seed| {
            for mode in ["WAL", "DELETE"] {
                runtime.block_on(kill(mode, seed));
            }
        }),
    }
}

fn target() -> Target {
    let column = |name: &str, storage| TargetColumn {
        name: name.to_owned(),
        id: format!("id-{name}"),
        storage,
        shadow: None,
        member: None,
        companions: Default::default(),
        writes: None,
    };
    Target {
        table: TableName { schema: String::new(), table: "people".to_owned() },
        policy_table: "people".to_owned(),
        columns: vec![
            column("email", Storage::Text),
            column("note", Storage::Text),
            column("body", Storage::Json),
            column("secret", Storage::Bytes),
        ],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}

fn store(path: &Path) -> Sqlite {
    // A killed process is no power failure: the kernel keeps what was written, synced or not.
    let options = SqliteOptions { settings: "PRAGMA synchronous = OFF".to_owned(), ..SqliteOptions::default() };
    Sqlite::open(path, &options).expect("opens")
}

fn options(worker: &str) -> SweepOptions {
    SweepOptions { lease: LEASE, max_passes: u32::MAX, ..SweepOptions::new(worker) }
}

/// What the killed process does: the sweep, until the job is at its end or the process at its.
async fn work(path: &Path, job: JobId) {
    let worker = format!("worker {}", std::process::id());
    let report = sweep(&store(path), &OneKey::new(KEY), job, &options(&worker), &Unwatched).await;
    // A pass may find nothing left between two writes. The parent begins another job then.
    report.expect("sweeps");
}

/// Writes until standard input ends, then tells on standard output what it last wrote.
fn write_as_process(path: &Path, number: u32, seed: u64) {
    let stop = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&stop);
    std::thread::spawn(move || {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        watched.store(true, Ordering::Relaxed);
    });
    let wrote = writer::run(path, number, seed, ROWS_OF_A_WRITER, &stop);
    println!("{}", serde_json::to_string(&wrote).expect("writes it down"));
}

async fn kill(mode: &str, seed: u64) {
    let mut random = Rng::new(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.db");
    let app = Connection::open(&path).expect("opens");
    app.execute_batch(&format!("PRAGMA journal_mode = {mode}; {SCHEMA}")).expect("makes the table");

    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let (path, seed, stop) = (path.clone(), random.next(), Arc::clone(&stop));
            std::thread::spawn(move || writer::run(&path, number, seed, ROWS_OF_A_WRITER, &stop))
        })
        .collect();
    let text = path.to_str().expect("text");
    let other = this_program(&["--as-writer", text, &THREADS.to_string(), &random.next().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts the writer");

    let db = store(&path);
    let mut job = begin(&db).await;
    let (mut killed, mut busy_kills) = (0, 0);
    while killed < KILLS {
        let before = changed(&db, job).await;
        let mut child = spawn(&path, job);
        // Every other one dies in the middle of its work, the rest wherever the time finds them.
        let until = random.below(800);
        let rows = if killed % 2 == 0 { Some(before + 1 + until) } else { None };
        let begun = Instant::now();
        while match rows {
            Some(rows) => changed(&db, job).await < rows && child.try_wait().expect("asks after the worker").is_none(),
            None => begun.elapsed() < Duration::from_millis(until),
        } {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(status) = child.try_wait().expect("asks after the worker") {
            assert!(status.success(), "the worker failed with {status}; seed {seed}");
            job = begin(&db).await;
            continue;
        }
        child.kill().expect("kills");
        child.wait().expect("is gone");
        killed += 1;
        busy_kills += usize::from(changed(&db, job).await > before);
    }
    stop.store(true, Ordering::Relaxed);
    let mut wrote: Vec<(Journal, u64)> = threads.into_iter().map(|t| t.join().expect("the writer ends well")).collect();
    // Its standard input is closed by this.
    let said = other.wait_with_output().expect("the other process ends");
    wrote.push(serde_json::from_slice(&said.stdout).expect("what it wrote"));
    let writes: u64 = wrote.iter().map(|(_, writes)| writes).sum();

    // The last workers go on where the killed ones stood.
    loop {
        let report = sweep(&db, &OneKey::new(KEY), job, &options("the last"), &Unwatched).await.expect("sweeps");
        if (report.state, report.remaining) == (JobState::Completed, Some(0)) {
            break;
        }
        job = begin(&db).await;
    }
    let rows = compare(wrote.into_iter().map(|(journal, _)| journal), opened(&app));
    assert!(busy_kills * 2 >= KILLS, "only {busy_kills} of {KILLS} workers had written anything when they were killed");
    println!(
        "{mode}: {killed} kills ({busy_kills} of workers that had committed rows), {writes} writes, {rows} rows as their last writer left them"
    );
}

/// Every row of a sound file, opened.
fn opened(app: &Connection) -> Vec<Person> {
    let sound: String = app.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checks the file");
    assert_eq!(sound, "ok");
    let (codec, target) = (OneKey::new(KEY), target());
    let sql = "SELECT logical, id, org, region, rev, CAST(email AS BLOB), CAST(note AS BLOB), CAST(body AS BLOB), secret \
               FROM people";
    let mut statement = app.prepare(sql).expect("reads the table");
    let rows = statement.query_map([], |row| {
        let logical = row.get(0)?;
        let mut values = [const { None }; 4];
        for (at, column) in target.columns.iter().enumerate() {
            let stored: Option<Vec<u8>> = row.get(5 + at)?;
            values[at] = stored.map(|stored| open(&codec, &column.id, column.storage, &stored, logical));
        }
        Ok(Person { logical, id: row.get(1)?, org: row.get(2)?, region: row.get(3)?, rev: row.get(4)?, values })
    });
    rows.expect("reads the table").collect::<rusqlite::Result<_>>().expect("every row")
}

fn open(codec: &OneKey, column: &str, storage: Storage, stored: &[u8], logical: i64) -> Vec<u8> {
    let form = storage.form();
    let Stored::Envelope(bytes) = detect(form, stored) else { panic!("`{column}` of row {logical} is plain") };
    let envelope = Envelope::parse(&bytes).expect("well formed");
    let opened = codec.opener.open(&envelope, &Binding::new("ring", column)).expect("opens");
    assert!(matches!(detect(form, &opened.plaintext), Stored::Plain), "`{column}` of row {logical} was sealed twice");
    opened.plaintext.to_vec()
}

async fn begin(store: &Sqlite) -> JobId {
    let spec = JobSpec {
        goal: Goal::Protect,
        target: target(),
        batch_rows: 200,
        rate: None,
        lease: LEASE,
        order: Order::default(),
    };
    store.create_job(&spec).await.expect("a job")
}

async fn changed(store: &Sqlite, job: JobId) -> u64 {
    store.job(job).await.expect("a record").progress.rows_changed
}

fn spawn(path: &Path, job: JobId) -> Child {
    let path = path.to_str().expect("text");
    this_program(&["--as-worker", path, &job.0.to_string()]).spawn().expect("starts the worker")
}
