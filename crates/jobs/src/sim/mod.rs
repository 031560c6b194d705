//! The sweep, simulated from a seed: a store that delays, fails and forgets, workers that die and hang, an application
//! that keeps writing, and a checker. `ENFOLD_SIM_SEED=n cargo test -p enfold-jobs a_seed_from` runs one.

mod application;
mod check;
mod codec;
mod executor;
mod orders;
mod store;
mod tests;
mod value;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold_testkit::rng::Rng;

use self::application::Code;
use self::codec::SimCodec;
use self::executor::Executor;
use self::store::SimStore;
use self::world::World;
use crate::model::{Goal, JobId, JobState, Prune, Storage, TableName, Target, TargetColumn, TargetIndex};
use crate::store::{JobSpec, Order, Store};
use crate::sweep::{SweepEnd, SweepOptions, SweepReport, Watch, sweep};

/// A rule that is left out, to show that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Writes over whatever is there now.
    NoVersionCheck,
    /// Compares as citext would.
    VersionByMeaning,
    /// Compares the values and not the tenant they are bound to.
    VersionWithoutTenant,
    CheckpointFirst,
    CheckpointLast,
    NoFencing,
    /// Takes what a trigger made of a value.
    NoComparison,
    /// Leases begin and end by the clock of the machine that asks.
    LeasesByMachine,
    /// The codec does not see that a value is an envelope.
    SealsAgain,
    /// The codec leaves a whole row as it is for one bad cell.
    WholeRows,
    /// What is read again is not held to the rule by which rows go.
    NoSecondLook,
}

/// How hostile a run is, in thousandths of a step.
#[derive(Clone, Copy, Default)]
struct Faults {
    errors: u64,
    busy: u64,
    slow: u64,
    pressure: u64,
    crashes: u64,
    hangs: u64,
    /// Of a machine's clock, forwards.
    jumps: u64,
    triggers: bool,
}

/// What one seed came to.
#[derive(Default)]
struct Outcome {
    violations: Vec<String>,
    steps: u64,
    crashes: u64,
    hangs: u64,
    jumps: u64,
    lost_races: u64,
    conversions: u64,
}

const LEASE: Duration = Duration::from_secs(5);

/// More steps than any run that ends has needed, by far.
const MOST_STEPS: u64 = 400_000;

struct Scenario {
    goal: Goal,
    faults: Faults,
    rows: u64,
    workers: usize,
    processes: Vec<Code>,
    operations: u32,
    batch_rows: u32,
    operator: bool,
}

impl Scenario {
    fn of(rng: &mut Rng) -> Self {
        let goal = match rng.below(14) {
            0..7 => Goal::Protect,
            7..9 => Goal::Unprotect,
            9 => Goal::Index,
            10..12 => Goal::Reencrypt,
            _ => Goal::Prune,
        };
        let hostile = rng.below(4);
        let faults = match hostile {
            0 => Faults { triggers: rng.chance(300), ..Faults::default() },
            1 => Faults { slow: 20, busy: 60, triggers: true, ..Faults::default() },
            _ => Faults {
                errors: rng.below(30),
                busy: rng.below(150),
                slow: rng.below(60),
                pressure: rng.below(100),
                crashes: rng.below(12),
                hangs: rng.below(8),
                jumps: rng.below(8),
                triggers: rng.chance(500),
            },
        };
        let processes = (0..rng.below(4)).map(|_| if rng.chance(600) { Code::New } else { Code::Old }).collect();
        Self {
            goal,
            faults,
            rows: rng.below(40),
            workers: 1 + rng.index(2),
            processes,
            operations: 1 + u32::try_from(rng.below(25)).unwrap(),
            batch_rows: 1 + u32::try_from(rng.below(8)).unwrap(),
            operator: rng.chance(200),
        }
    }
}

/// Asked to stop by whoever drives the run (Ctrl-C).
#[derive(Default)]
struct Stop(AtomicBool);

impl Watch for Stop {
    fn stop_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Rows with an earlier moment go.
const DOOMED_BEFORE: i64 = 500;

fn target(goal: Goal) -> Target {
    let column = |n: usize| TargetColumn {
        name: format!("c{n}"),
        id: format!("c{n}"),
        storage: Storage::Text,
        shadow: None,
        member: None,
        companions: Default::default(),
        writes: None,
    };
    Target {
        table: TableName { schema: String::new(), table: "t".to_owned() },
        policy_table: "t".to_owned(),
        columns: (0..store::TARGET_COLUMNS).map(column).collect(),
        indexes: vec![TargetIndex {
            name: "eq".to_owned(),
            column: "c0_eq".to_owned(),
            over: vec![0],
            unique: false,
            generation: None,
        }],
        tenant: Some("tenant".to_owned()),
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: (goal == Goal::Prune).then(|| Prune {
            rule: "expired".to_owned(),
            column: "moment".to_owned(),
            unit: None,
            older_than_ms: 0,
            before_ms: DOOMED_BEFORE,
            only: Default::default(),
            takes_along: Default::default(),
        }),
    }
}

/// Runs one seed from an empty world to its last check.
fn run(seed: u64, broken: Broken) -> Outcome {
    let mut rng = Rng::new(seed);
    let scenario = Scenario::of(&mut rng);
    let faults = Faults { triggers: scenario.faults.triggers, ..Faults::default() };
    let mut world = World::new(Rng::new(rng.next()), faults, broken, 1 + rng.index(2));
    for _ in 0..scenario.rows {
        // What is re-encrypted was sealed before.
        let old = if scenario.goal == Goal::Reencrypt { 150 } else { 850 };
        let code = if rng.chance(old) { Code::Old } else { Code::New };
        application::insert_row(&mut world, scenario.goal, code);
    }
    world.key += u8::from(scenario.goal == Goal::Reencrypt);
    let store = SimStore::new(world);
    let mut outcome = Outcome::default();
    let first = traffic(&store, &scenario, &mut rng, &mut outcome);
    let last = match first {
        // Nobody else wrote: what the job itself said must hold.
        Some(job) if scenario.processes.is_empty() => Some(job),
        _ => closing(&store, &scenario, &mut rng, &mut outcome),
    };
    let mut world = store.world();
    if let Some(job) = last {
        check::check(&mut world, usize::try_from(job.0).unwrap());
    }
    outcome.violations.append(&mut world.violations);
    outcome.jumps = world.jumps;
    outcome.lost_races = world.jobs.iter().map(|job| job.progress.rows_lost_race).sum();
    outcome.conversions = world.jobs.iter().map(|job| job.conversions).sum();
    outcome
}

/// How a task of the executor ended.
enum Ended {
    Worker(enfold::Result<SweepReport>),
    Other,
}

/// The job while the application writes and everything goes wrong that the scenario has in store.
fn traffic(store: &SimStore, scenario: &Scenario, rng: &mut Rng, outcome: &mut Outcome) -> Option<JobId> {
    let job = create(store, scenario, rng)?;
    store.world().faults = scenario.faults;
    let codec = SimCodec { store: store.clone() };
    let stop = Stop::default();
    let stops = rng.chance(100);
    let mut executor = Executor::new(store.clock.clone());
    let mut next_worker = 0;
    for _ in 0..scenario.workers {
        executor.spawn(next_worker, Duration::ZERO, worker(machine(store, rng), &codec, job, next_worker, &stop));
        next_worker += 1;
    }
    for &code in &scenario.processes {
        executor.spawn(usize::MAX, Duration::ZERO, async move {
            application::process(store, scenario.goal, code, scenario.operations).await;
            Ended::Other
        });
    }
    if scenario.operator {
        executor.spawn(usize::MAX, Duration::ZERO, operator(store, job));
    }
    if scenario.goal == Goal::Reencrypt && !scenario.processes.is_empty() && rng.chance(500) {
        executor.spawn(usize::MAX, Duration::ZERO, rotation(store));
    }
    let mut hostility = 12;
    while !executor.is_idle() {
        outcome.steps += 1;
        if outcome.steps > MOST_STEPS {
            store.world().violation("the job does not end");
            return None;
        }
        if hostility > 0 && next_worker > 0 {
            let victim = rng.index(next_worker);
            if rng.chance(scenario.faults.crashes) && executor.kill(victim) {
                hostility -= 1;
                outcome.crashes += 1;
                let after = Duration::from_millis(rng.below(8_000));
                executor.spawn(next_worker, after, worker(machine(store, rng), &codec, job, next_worker, &stop));
                next_worker += 1;
            } else if rng.chance(scenario.faults.hangs) {
                hostility -= 1;
                outcome.hangs += 1;
                executor.stop(victim, LEASE + Duration::from_millis(rng.below(20_000)));
            }
        }
        if stops && outcome.steps == 300 {
            stop.0.store(true, Ordering::Relaxed);
        }
        match executor.step(rng) {
            Some((_, Ended::Worker(Ok(report)))) if report.end == SweepEnd::Finished => {}
            // Stopped, failed, or asked to stop: somebody runs the same command again.
            Some((_, Ended::Worker(_))) => {
                stop.0.store(false, Ordering::Relaxed);
                let after = Duration::from_millis(rng.below(2_000));
                executor.spawn(next_worker, after, worker(machine(store, rng), &codec, job, next_worker, &stop));
                next_worker += 1;
            }
            Some((_, Ended::Other)) | None => {}
        }
    }
    let done = matches!(store.world().jobs[index_of(job)].state, JobState::Completed | JobState::CompletedWithErrors);
    if !done {
        store.world().violation("every worker has left a job that is not at its end");
    }
    Some(job)
}

/// One more job when the application's old processes are gone, and nothing fails.
fn closing(store: &SimStore, scenario: &Scenario, rng: &mut Rng, outcome: &mut Outcome) -> Option<JobId> {
    store.world().faults = Faults { triggers: scenario.faults.triggers, ..Faults::default() };
    let job = create(store, scenario, rng)?;
    let codec = SimCodec { store: store.clone() };
    let stop = Stop::default();
    let mut executor = Executor::new(store.clock.clone());
    executor.spawn(0, Duration::ZERO, worker(machine(store, rng), &codec, job, 0, &stop));
    while !executor.is_idle() {
        outcome.steps += 1;
        if outcome.steps > MOST_STEPS {
            store.world().violation("the closing job does not end");
            return None;
        }
        if let Some((_, Ended::Worker(Err(error)))) = executor.step(rng) {
            store.world().violation(format!("the closing job failed: {error}"));
            return None;
        }
    }
    Some(job)
}

fn create(store: &SimStore, scenario: &Scenario, rng: &mut Rng) -> Option<JobId> {
    let (goal, batch_rows) = (scenario.goal, scenario.batch_rows);
    let rate = rng.chance(100).then_some(200);
    let mut executor = Executor::new(store.clock.clone());
    executor.spawn(0, Duration::ZERO, async move {
        let spec = JobSpec { goal, target: target(goal), batch_rows, rate, lease: LEASE, order: Order::default() };
        store.create_job(&spec).await
    });
    loop {
        if let Some((_, created)) = executor.step(rng) {
            return created.ok();
        }
    }
}

/// The store as a machine has it whose clock is up to a week ahead of the database's.
fn machine(store: &SimStore, rng: &mut Rng) -> SimStore {
    store.on_another_machine(Duration::from_secs(rng.below(7 * 24 * 60 * 60)))
}

async fn worker(store: SimStore, codec: &SimCodec, job: JobId, name: usize, stop: &Stop) -> Ended {
    let mut options = SweepOptions::new(format!("worker {name}"));
    options.lease = LEASE;
    options.write_time = Duration::from_millis(5);
    options.max_passes = 200;
    Ended::Worker(sweep(&store, codec, job, &options, stop).await)
}

/// Somebody who changes the pace, and pauses the job for a while.
async fn operator(store: &SimStore, job: JobId) -> Ended {
    for rate in [Some(50), None] {
        store.clock.sleep(Duration::from_millis(40)).await;
        store.transition(job, &[JobState::Running], JobState::Paused, None).await.ok();
        store.set_control(job, Some(2), Some(rate)).await.ok();
        store.clock.sleep(Duration::from_secs(1)).await;
        // The pause may have got through though its answer did not.
        while store.transition(job, &[JobState::Paused], JobState::Running, None).await.is_err() {}
    }
    Ended::Other
}

/// Somebody who rotates the data key while values come under the one before.
async fn rotation(store: &SimStore) -> Ended {
    let nap = store.world().rng.below(400_000);
    store.clock.sleep(Duration::from_micros(nap)).await;
    store.world().key += 1;
    Ended::Other
}

fn index_of(job: JobId) -> usize {
    usize::try_from(job.0).unwrap()
}
