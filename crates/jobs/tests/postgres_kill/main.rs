//! `apply` and then `enforce`, as one plan, killed with SIGKILL at fifty moments: in the schema steps, in the filling of
//! the blind index, in the sweep, in the verification, under the checks, and anywhere else. The server is restarted as
//! by a crash twice, and the worker's connections are cut, while an application inserts, updates, moves and deletes at
//! full speed, in the clear until the signed mode says otherwise; one column's envelopes go to a shadow. Afterwards every row equals what its last writer
//! wrote, none is plain, none was sealed twice, every blind index is that of its value, the database refuses plaintext,
//! the application was refused nothing, and the server saw no deadlock. Then the data keys are rotated and workers that are
//! killed as well re-encrypt every value (`reencrypt.rs`), a rollback gives all of them back, and the next round begins.
//!
//! `ENFOLD_KILL_SEED` replays a run's choices (not the kernel's).
#![allow(clippy::print_stdout, reason = "a test without a harness tells how it went")]
mod reencrypt;
mod table;
mod worker;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::{CallContext, Enfold};
use enfold_jobs::database::Database;
use enfold_jobs::model::Goal;
use enfold_jobs::ops::{Action, Pace, PlanOptions, Selection, Session, Silent, Step, plan, rollback};
use enfold_testkit::faultproxy::FaultProxy;
use enfold_testkit::people::compare;
use enfold_testkit::postgres_private::Server;
use enfold_testkit::rng::Rng;
use enfold_testkit::{own_main, postgres};
use tokio_postgres::Client;

use table::Table;
use worker::{Hangs, Worker};
use writer::Writer;

const ROUNDS: usize = 2;
const KILLS_OF_A_ROUND: usize = 25;
const KILLS: usize = ROUNDS * KILLS_OF_A_ROUND;
/// Of a round, in the sweep that seals.
const SWEEP_KILLS: usize = 11;
/// Rows that a worker seals at most before it is killed there: few enough that the rows last for all of these kills.
const SEALED_AT_MOST: u64 = 24;
/// Of the steps, as many must have been under way at some kill.
const STEPS_HIT: usize = 8;
const RESTARTS_AT: [usize; 2] = [17, 34];
const WRITERS: u32 = 2;
const ROWS_OF_A_WRITER: usize = 300;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--as-worker", folder, url] => runtime.block_on(worker::work(Path::new(folder), url)),
        ["--as-reencrypter", folder, url] => runtime.block_on(reencrypt::as_worker(Path::new(folder), url)),
        _ => own_main::run("an_apply_killed_at_any_moment_loses_nothing", |seed| runtime.block_on(kill(seed))),
    }
}

/// What the parent works with.
struct Scene {
    seed: u64,
    random: Rng,
    server: Server,
    proxy: FaultProxy,
    folder: tempfile::TempDir,
    table: Table,
    enfold: Enfold,
    session: Session,
    killed: usize,
    /// Of workers that re-encrypted.
    reencrypters: usize,
    /// Kills by the step that was under way.
    under_way: BTreeMap<String, usize>,
    /// Of workers that were in the sweep that seals, and had committed sealed rows themselves.
    busy: usize,
}

async fn kill(seed: u64) {
    let mut random = Rng::new(seed);
    let server = Server::start(&[
        ("log_lock_waits", "on"),
        ("deadlock_timeout", "'1s'"),
        ("shared_buffers", "'64MB'"),
        // It is the server that crashes and not the machine: what it wrote is there when it comes back.
        ("fsync", "off"),
    ]);
    let proxy = FaultProxy::to(([127, 0, 0, 1], server.port()).into());
    let folder = tempfile::tempdir().expect("a folder");
    let client = postgres::connect(&server.config()).await;
    client.batch_execute(table::SCHEMA).await.expect("makes the table");
    client.batch_execute(table::SHADOW).await.expect("adds the shadow");

    let enfold = Enfold::open(table::policy(folder.path(), &server.url())).await.expect("opens the keys");
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.expect("connects");
    let session = Session::over(enfold.clone(), db, &CallContext::new("test", "conversion")).expect("a session");
    let table = Table::of(&enfold);
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let mut writer = Writer::new(server.config(), table.clone(), number, random.next(), ROWS_OF_A_WRITER);
        writer.fill(ROWS_OF_A_WRITER).await;
        writers.push(writer);
    }
    let mut scene = Scene {
        seed,
        random,
        server,
        proxy,
        folder,
        table,
        enfold,
        session,
        killed: 0,
        reencrypters: 0,
        under_way: BTreeMap::new(),
        busy: 0,
    };
    let mut rows = 0;
    for _ in 0..ROUNDS {
        (writers, rows) = scene.round(writers).await;
    }
    let deadlocks = scene.server.log().matches("deadlock detected").count();
    assert_eq!(deadlocks, 0, "seed {seed}");
    for (step, kills) in &scene.under_way {
        println!("{kills:>3} killed in: {step}");
    }
    assert!(scene.under_way.len() >= STEPS_HIT, "seed {seed}");
    let busy = scene.busy;
    assert!(busy * 3 >= KILLS, "only {busy} of {KILLS} were sealing rows when they were killed; seed {seed}");
    let writes: u64 = writers.iter().map(Writer::writes).sum();
    println!(
        "{} kills in {ROUNDS} conversions ({busy} of workers that were sealing rows), {} in {ROUNDS} re-encryptions, {} \
         restarts, {writes} writes, {rows} rows as their last writer left them",
        scene.killed,
        scene.reencrypters,
        RESTARTS_AT.len() + ROUNDS
    );
}

impl Scene {
    /// One conversion from plaintext to enforced envelopes, killed again and again, and the way back.
    async fn round(&mut self, writers: Vec<Writer>) -> (Vec<Writer>, usize) {
        let client = postgres::connect(&self.server.config()).await;
        client.batch_execute(table::SHADOW).await.expect("a rollback dropped it");
        let shown = plan(&self.session, &PlanOptions::default()).await.expect("plans");
        assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
        let mut moments = moments(&shown.tables[0].steps, &mut self.random).into_iter();
        std::fs::write(self.folder.path().join("plan.json"), shown.to_json().expect("text")).expect("saves");
        let stop = Arc::new(AtomicBool::new(false));
        let writing: Vec<_> = writers.into_iter().map(|writer| tokio::spawn(writer.run(Arc::clone(&stop)))).collect();

        let until = self.killed + KILLS_OF_A_ROUND;
        while self.killed < until {
            // A worker that came to its end before the last moments leaves kills over.
            let moment = moments.next().unwrap_or(Moment { step: 0, until: Until::Milliseconds(400) });
            let mut worker = self.worker();
            if let Some(status) = self.kill_at(&mut worker, &moment).await {
                assert!(status.success(), "the worker failed with {status}; seed {}", self.seed);
            }
        }
        let ended = self.worker().wait().unwrap_or_else(|hangs| self.hangs(&hangs));
        assert!(ended.success(), "the worker failed with {ended}; seed {}", self.seed);

        stop.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        for writer in writing {
            writers.push(writer.await.expect("the writer ends well"));
        }
        let journals = || writers.iter().map(|writer| writer.journal().clone());
        let client = postgres::connect(&self.server.config()).await;
        let rows = compare(journals(), self.table.sealed(&client).await);
        refuses_plaintext(&client).await;
        let killed;
        (writers, killed) = self.reencrypt(writers).await;
        self.reencrypters += killed;
        // The server was restarted meanwhile.
        let client = postgres::connect(&self.server.config()).await;
        compare(writers.iter().map(|writer| writer.journal().clone()), self.table.sealed(&client).await);
        rollback(&self.session, &Selection::All, &Pace::default(), &Silent).await.expect("goes back");
        compare(writers.iter().map(|writer| writer.journal().clone()), self.table.plain(&client).await);
        (writers, rows)
    }

    /// Kills the worker, after whatever else happens to it; its status if it came to its end before.
    async fn kill_at(&mut self, worker: &mut Worker, moment: &Moment) -> Option<ExitStatus> {
        let before = sealed(&self.store().await).await;
        worker.wait_for_step(moment.step).unwrap_or_else(|hangs| self.hangs(&hangs));
        match moment.until {
            Until::Milliseconds(most) => tokio::time::sleep(Duration::from_millis(self.random.below(most))).await,
            Until::Sealed(most) => {
                let (db, rows) = (self.store().await, before + 1 + self.random.below(most));
                while sealed(&db).await < rows && worker.is_in(moment.step) {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
        if self.killed % 5 == 3 {
            self.proxy.cut();
            tokio::time::sleep(Duration::from_millis(self.random.below(200))).await;
        }
        if RESTARTS_AT.contains(&self.killed) {
            self.server.restart_immediately();
            tokio::time::sleep(Duration::from_millis(self.random.below(400))).await;
        }
        let (number, step) = match worker.kill() {
            Ok(killed) => killed,
            Err(status) => return Some(status),
        };
        self.killed += 1;
        let sealing = matches!(moment.until, Until::Sealed(_)) && number == moment.step;
        self.busy += usize::from(sealing && sealed(&self.store().await).await > before);
        *self.under_way.entry(step).or_default() += 1;
        None
    }

    /// Fails, with what the server has to do.
    fn hangs(&self, hangs: &Hangs) -> ! {
        let sql = "SELECT pid, application_name, state, now() - xact_start AS since, wait_event_type, wait_event, \
                          pg_blocking_pids(pid) AS blocked_by, left(query, 200) AS query \
                   FROM pg_stat_activity WHERE backend_type = 'client backend' ORDER BY xact_start; \
                   SELECT j.id, j.goal, j.state, j.pass, c.chunk, c.cursor_position, c.to_position, c.done, c.token, \
                          c.expires_at - now() AS expires_in \
                   FROM enfold.jobs j LEFT JOIN enfold.job_chunks c ON c.job = j.id AND c.pass = j.pass";
        let shown = self.server.tool("psql").args(["-X", "-d", &self.server.url(), "-c", sql]).output().expect("psql");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        panic!("{hangs}; seed {}, {} killed; the server has:\n{shown}", self.seed, self.killed)
    }

    /// A connection of its own, past the proxy and whatever the last restart left.
    async fn store(&self) -> Arc<dyn Database> {
        enfold_jobs::connect(&self.session.policy.database, None).await.expect("a handle")
    }

    fn worker(&self) -> Worker {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", self.proxy.port());
        Worker::spawn(self.folder.path(), &url)
    }
}

/// Rows sealed by committed batches, over all rounds.
async fn sealed(db: &Arc<dyn Database>) -> u64 {
    let jobs = db.store().jobs().await.expect("the jobs");
    jobs.iter().filter(|job| job.goal == Goal::Protect).map(|job| job.progress.rows_changed).sum()
}

/// Where a worker is killed: after it began a step.
struct Moment {
    /// Counted from 1; 0 is its start.
    step: usize,
    until: Until,
}

enum Until {
    /// A random time below this passes.
    Milliseconds(u64),
    /// It has sealed a random number of rows below this, or the step is over.
    Sealed(u64),
}

/// Those of one round. They go forward through the conversion, so that it comes to its end, but for some that come late:
/// they find a worker in a step that was done long ago and is gone through again.
fn moments(steps: &[Step], random: &mut Rng) -> Vec<Moment> {
    let mut short = vec![(0, 400), (0, 400)];
    let mut sweep = 0;
    for (n, step) in (1..).zip(steps) {
        match step.action {
            Action::Sweep { goal: Goal::Protect } => sweep = n,
            Action::Sweep { .. } | Action::Verify => short.push((n, 400)),
            _ => short.push((n, 25)),
        }
    }
    // What `enforce` tells: a check for each column and for the source of the shadow, the validation of each, and the mode. The proof comes after the last
    // check and is not told; what follows it takes a few milliseconds.
    let columns = enfold_testkit::people::COLUMNS.len() + 1;
    let checked = steps.len() + columns;
    let last = checked + columns + 1;
    short.extend((steps.len() + 1..checked).map(|n| (n, 25)));
    short.extend([(checked, 400), (checked, 400)]);
    short.extend((checked + 1..=last).map(|n| (n, 3)));

    let mut moments: Vec<(usize, Moment)> =
        (0..SWEEP_KILLS).map(|_| (sweep, Moment { step: sweep, until: Until::Sealed(SEALED_AT_MOST) })).collect();
    while moments.len() < KILLS_OF_A_ROUND {
        let (step, most) = short.swap_remove(random.index(short.len()));
        let comes = if random.chance(250) { step + random.index(last + 1 - step) } else { step };
        moments.push((comes, Moment { step, until: Until::Milliseconds(most) }));
    }
    moments.sort_by_key(|(comes, _)| *comes);
    moments.into_iter().map(|(_, moment)| moment).collect()
}

/// The database itself, whoever asks.
async fn refuses_plaintext(client: &Client) {
    for column in ["email = 'plain'", "note = 'plain'", "note_enf = 'plain'", "body = '{}'", "secret = 'plain'"] {
        let refused = client.batch_execute(&format!("UPDATE people SET {column}")).await.expect_err("a check");
        assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::CHECK_VIOLATION), "{column}");
    }
}
