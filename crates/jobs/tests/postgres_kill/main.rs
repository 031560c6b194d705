//! The worker is killed with SIGKILL at fifty random moments, the server restarted as by a crash twice, and the worker's
//! connections cut, while writers insert, update, move and delete at full speed. Afterwards every row equals what its
//! last writer wrote, none is plain, none was sealed twice, and the server saw no deadlock.
//!
//! `ENFOLD_KILL_SEED` replays a run's choices (not the kernel's).
#![allow(clippy::print_stdout, reason = "a test without a harness tells how it went")]
#[path = "../postgres/codec.rs"]
mod codec;
mod journal;
mod rng;
mod writer;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::db::postgres::Endpoint;
use enfold::error::Retry;
use enfold_jobs::model::{Goal, JobId, JobState, Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{JobSpec, Store};
use enfold_jobs::sweep::{SweepOptions, Unwatched, sweep};
use enfold_testkit::faultproxy::FaultProxy;
use enfold_testkit::postgres_private::Server;

use codec::OneKey;
use rng::Rng;

const KILLS: usize = 50;
const RESTARTS_AT: [usize; 2] = [17, 34];
const WRITERS: u32 = 3;
const ROWS_OF_A_WRITER: u32 = 3000;
/// Short, so that the next worker need not wait long for what a killed one held.
const LEASE: Duration = Duration::from_millis(300);
const KEY: [u8; 32] = [9; 32];

const SCHEMA: &str = "CREATE EXTENSION citext; \
    CREATE TABLE people (id bigint, region int, logical bigint NOT NULL, rev bigint NOT NULL, \
        email citext, note text, body jsonb, secret bytea, PRIMARY KEY (id, region)) PARTITION BY LIST (region); \
    CREATE TABLE people_0 PARTITION OF people FOR VALUES IN (0); \
    CREATE TABLE people_1 PARTITION OF people FOR VALUES IN (1); \
    CREATE TABLE people_2 PARTITION OF people FOR VALUES IN (2); \
    CREATE INDEX people_logical ON people (logical)";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let [flag, url, job] = arguments.as_slice()
        && flag == "--as-worker"
    {
        return runtime.block_on(work(url, JobId(job.parse().expect("a job number"))));
    }
    let name = "a_worker_killed_at_any_moment_loses_nothing";
    if arguments.iter().any(|a| a == "--list") {
        // Test runners ask a second time for what is ignored, which must not be this.
        if !arguments.iter().any(|a| a == "--ignored") {
            println!("{name}: test");
        }
        return;
    }
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
        runtime.block_on(kill());
        println!("test {name} ... ok");
    }
}

fn target() -> Target {
    let column = |name: &str, storage| TargetColumn { name: name.to_owned(), id: format!("id-{name}"), storage };
    Target {
        table: TableName { schema: "public".to_owned(), table: "people".to_owned() },
        policy_table: "public.people".to_owned(),
        columns: vec![
            column("email", Storage::Text),
            column("note", Storage::Text),
            column("body", Storage::Json),
            column("secret", Storage::Bytes),
        ],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned(), "region".to_owned()],
    }
}

fn store(url: &str) -> Postgres {
    let limits = Limits { lock_timeout: Duration::from_millis(100), ..Limits::default() };
    Postgres::at(Endpoint::parse_text(url).expect("a URL"), limits)
}

fn options(worker: &str) -> SweepOptions {
    SweepOptions { lease: LEASE, max_passes: u32::MAX, ..SweepOptions::new(worker) }
}

/// What the killed process does: the sweep, until the job is at its end or the process at its.
async fn work(url: &str, job: JobId) {
    let worker = format!("worker {}", std::process::id());
    let (store, codec) = (store(url), OneKey::new(KEY));
    // A pass may find nothing left between two writes: then it ends, and the parent begins another job.
    while let Err(error) = sweep(&store, &codec, job, &options(&worker), &Unwatched).await {
        assert_eq!(error.code().retry(), Retry::Later, "{error}");
    }
}

async fn kill() {
    let seed = std::env::var("ENFOLD_KILL_SEED").ok().map_or_else(rng::fresh_seed, |s| s.parse().expect("a number"));
    println!("seed {seed}: run again with ENFOLD_KILL_SEED={seed}");
    let mut random = Rng::new(seed);
    let server = Server::start(&[("log_lock_waits", "on"), ("deadlock_timeout", "'1s'"), ("shared_buffers", "'64MB'")]);
    let proxy = FaultProxy::to(([127, 0, 0, 1], server.port()).into());
    let through = format!("postgres://postgres@127.0.0.1:{}/postgres", proxy.port());
    let setup = enfold_testkit::postgres::connect(&server.config()).await;
    setup.batch_execute(SCHEMA).await.expect("makes the table");

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let mut writer = writer::Writer::new(server.config(), number, random.next(), Arc::clone(&stop));
        writer.fill(ROWS_OF_A_WRITER).await;
        writers.push(tokio::spawn(writer.run()));
    }

    let direct = store(&server.url());
    let mut job = begin(&direct).await;
    let mut killed = 0;
    let mut busy_kills = 0;
    while killed < KILLS {
        let mut child = spawn(&through, job);
        let changed = changed(&direct, job).await;
        tokio::time::sleep(Duration::from_millis(random.below(900))).await;
        if killed % 5 == 3 {
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(random.below(200))).await;
        }
        if RESTARTS_AT.contains(&killed) {
            server.restart_immediately();
            tokio::time::sleep(Duration::from_millis(random.below(200))).await;
        }
        if let Some(status) = child.try_wait().expect("asks after the worker") {
            assert!(status.success(), "the worker failed with {status}; seed {seed}");
            job = begin(&direct).await;
            continue;
        }
        child.kill().expect("kills");
        child.wait().expect("is gone");
        killed += 1;
        busy_kills += usize::from(self::changed(&direct, job).await > changed);
    }
    stop.store(true, Ordering::Relaxed);
    let mut journal = journal::Journal::default();
    let mut writes = 0;
    for writer in writers {
        let (rows, count) = writer.await.expect("the writer ends well");
        journal.join(rows);
        writes += count;
    }

    // The last worker goes on where the killed ones stood.
    let report = sweep(&direct, &OneKey::new(KEY), job, &options("the last"), &Unwatched).await.expect("sweeps");
    let report = if report.remaining == Some(0) {
        report
    } else {
        let last = begin(&direct).await;
        sweep(&direct, &OneKey::new(KEY), last, &options("the very last"), &Unwatched).await.expect("sweeps")
    };
    assert_eq!((report.state, report.remaining), (JobState::Completed, Some(0)), "seed {seed}");
    let client = enfold_testkit::postgres::connect(&server.config()).await;
    let rows = journal.check(&client, &OneKey::new(KEY), &target()).await;
    let deadlocks = server.log().matches("deadlock detected").count();
    assert_eq!(deadlocks, 0, "seed {seed}");
    assert!(busy_kills * 5 > KILLS, "only {busy_kills} of {KILLS} workers had written anything when they were killed");
    println!(
        "{killed} kills ({busy_kills} of workers that had committed rows), 2 restarts, {writes} writes, {rows} rows as their last writer left them"
    );
}

async fn begin(store: &Postgres) -> JobId {
    let spec = JobSpec { goal: Goal::Protect, target: target(), batch_rows: 200, rate: None, lease: LEASE };
    store.create_job(&spec).await.expect("a job")
}

async fn changed(store: &Postgres, job: JobId) -> u64 {
    store.job(job).await.expect("a record").progress.rows_changed
}

fn spawn(url: &str, job: JobId) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--as-worker", url, &job.0.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("starts the worker")
}
