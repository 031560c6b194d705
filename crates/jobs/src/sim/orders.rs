//! Orders and limits, on the simulated store's own clock: cancel, rate, pressure, errors that pass and errors that stay.

use std::time::Duration;

use async_trait::async_trait;
use enfold::{Code as ErrorCode, Error, KeyId, Result};
use enfold_testkit::rng::Rng;

use super::application::{self, Code};
use super::codec::SimCodec;
use super::executor::Executor;
use super::store::SimStore;
use super::world::World;
use super::{Broken, Faults, LEASE, index_of, target};
use crate::codec::{Codec, Verdict};
use crate::model::{Goal, JobId, JobState, Target};
use crate::store::{JobSpec, Order, Row, Store};
use crate::sweep::{SweepEnd, SweepOptions, SweepReport, Unwatched, sweep};

fn store(rows: u32) -> SimStore {
    let mut world = World::new(Rng::new(7), Faults::default(), Broken::Nothing, 1);
    for _ in 0..rows {
        application::insert_row(&mut world, Goal::Protect, Code::Old);
    }
    SimStore::new(world)
}

type Task<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs futures on the store's clock until all have ended.
fn run<T>(store: &SimStore, tasks: Vec<Task<'_, T>>) -> Vec<T> {
    let mut executor = Executor::new(store.clock.clone());
    for (name, task) in tasks.into_iter().enumerate() {
        executor.spawn(name, Duration::ZERO, task);
    }
    let mut rng = Rng::new(1);
    let mut ended = Vec::new();
    for _ in 0..1_000_000 {
        if executor.is_idle() {
            return ended;
        }
        ended.extend(executor.step(&mut rng).map(|(_, value)| value));
    }
    panic!("it does not end");
}

fn create(store: &SimStore, rate: Option<u32>) -> JobId {
    let spec = JobSpec {
        goal: Goal::Protect,
        target: target(Goal::Protect),
        batch_rows: 5,
        rate,
        lease: LEASE,
        order: Order::default(),
    };
    run(store, vec![Box::pin(async move { store.create_job(&spec).await.unwrap() })]).remove(0)
}

fn options(worker: &str) -> SweepOptions {
    SweepOptions { lease: LEASE, ..SweepOptions::new(worker) }
}

fn one(store: &SimStore, codec: &dyn Codec, job: JobId, options: &SweepOptions) -> Result<SweepReport> {
    run(store, vec![Box::pin(sweep(store, codec, job, options, &Unwatched))]).remove(0)
}

fn state(store: &SimStore, job: JobId) -> JobState {
    store.world().jobs[index_of(job)].state
}

#[test]
fn a_cancelled_job_ends_its_workers_and_changes_no_more_rows() {
    let store = store(200);
    let codec = SimCodec { store: store.clone() };
    let job = create(&store, None);
    let options = options("a");
    let cancel = async {
        store.clock.sleep(Duration::from_millis(100)).await;
        store.transition(job, &[JobState::Running], JobState::Cancelled, None).await.map(|_| None)
    };
    let work = async { sweep(&store, &codec, job, &options, &Unwatched).await.map(Some) };
    let ended = run(&store, vec![Box::pin(cancel), Box::pin(work)]);
    let report = ended.into_iter().find_map(|end| end.unwrap()).unwrap();
    assert_eq!(report.end, SweepEnd::Cancelled);
    let left = store.world().remaining(Goal::Protect);
    assert!(left > 0 && left < 200, "{left} rows left");
    let again = one(&store, &codec, job, &options).unwrap();
    assert_eq!((again.end, store.world().remaining(Goal::Protect)), (SweepEnd::Cancelled, left));
}

#[test]
fn a_rate_is_kept_whatever_the_number_of_workers() {
    for workers in [1, 2] {
        let store = store(100);
        let codec = SimCodec { store: store.clone() };
        let job = create(&store, Some(20));
        let all: Vec<SweepOptions> =
            (0..workers).map(|n| SweepOptions { workers, ..options(&format!("worker {n}")) }).collect();
        let (store, codec) = (&store, &codec);
        let work = |options| -> Task<'_, _> { Box::pin(sweep(store, codec, job, options, &Unwatched)) };
        let ended: Vec<Result<SweepReport>> = run(store, all.iter().map(work).collect());
        assert!(ended.iter().all(Result::is_ok));
        let took = store.clock.now();
        // 100 rows at 20 a second; the first batch does not wait, and the last one is not waited for.
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(20), "{workers} workers took {took:?}");
    }
}

#[test]
fn a_job_waits_while_the_database_is_under_pressure() {
    let pressed = store(20);
    pressed.world().faults.pressure = 1_000;
    let codec = SimCodec { store: pressed.clone() };
    let job = create(&pressed, None);
    let relief = async {
        pressed.clock.sleep(Duration::from_secs(30)).await;
        let changed = pressed.world().jobs[index_of(job)].conversions;
        pressed.world().faults.pressure = 0;
        Err(changed)
    };
    let options = options("a");
    let work = async { Ok(sweep(&pressed, &codec, job, &options, &Unwatched).await.unwrap()) };
    let tasks: Vec<Task<'_, std::result::Result<SweepReport, u64>>> = vec![Box::pin(relief), Box::pin(work)];
    for ended in run(&pressed, tasks) {
        match ended {
            Err(changed) => assert_eq!(changed, 0, "rows were changed under pressure"),
            Ok(report) => assert_eq!(report.end, SweepEnd::Finished),
        }
    }
    assert!(pressed.clock.now() >= Duration::from_secs(30));
}

/// Fails until the clock says otherwise.
struct Outage<'a> {
    codec: &'a SimCodec,
    code: ErrorCode,
    until: Duration,
}

#[async_trait]
impl Codec for Outage<'_> {
    async fn judge(&self, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
        if self.codec.store.clock.now() < self.until {
            return Err(Error::new(self.code, "cannot unwrap a data key"));
        }
        self.codec.judge(goal, target, rows).await
    }

    async fn former_keys(&self, target: &Target) -> Result<Vec<KeyId>> {
        self.codec.former_keys(target).await
    }
}

#[test]
fn an_outage_of_the_key_service_is_waited_out() {
    let store = store(50);
    let codec = SimCodec { store: store.clone() };
    let job = create(&store, None);
    let outage = Outage { codec: &codec, code: ErrorCode::KmsUnavailable, until: Duration::from_secs(40) };
    assert_eq!(one(&store, &outage, job, &options("a")).unwrap().end, SweepEnd::Finished);
    assert!(store.clock.now() >= Duration::from_secs(40));
}

#[test]
fn an_outage_that_lasts_too_long_fails_the_job_and_the_same_call_takes_it_up_later() {
    let store = store(50);
    let codec = SimCodec { store: store.clone() };
    let job = create(&store, None);
    let outage = Outage { codec: &codec, code: ErrorCode::KmsUnavailable, until: Duration::from_secs(3_600) };
    assert_eq!(one(&store, &outage, job, &options("a")).unwrap_err().code(), ErrorCode::KmsUnavailable);
    assert_eq!(state(&store, job), JobState::Failed);
    assert!(store.clock.now() < Duration::from_secs(200), "gave up in time");
    let before = store.clock.now();
    assert_eq!(one(&store, &codec, job, &options("b")).unwrap().end, SweepEnd::Finished);
    assert!(store.clock.now() - before < LEASE, "the failed worker let its range go");
    assert_eq!(state(&store, job), JobState::CompletedWithErrors, "some rows are ones that nobody can seal");
}

#[test]
fn an_error_that_will_not_pass_is_not_tried_again() {
    let store = store(50);
    let codec = SimCodec { store: store.clone() };
    let job = create(&store, None);
    let denied = Outage { codec: &codec, code: ErrorCode::KmsAccessDenied, until: Duration::MAX };
    assert_eq!(one(&store, &denied, job, &options("a")).unwrap_err().code(), ErrorCode::KmsAccessDenied);
    assert!(store.clock.now() < Duration::from_secs(5));
    assert_eq!((state(&store, job), store.world().remaining(Goal::Protect)), (JobState::Failed, 50));
}

#[test]
fn rows_that_many_at_once_are_refused_go_through_in_halves() {
    let store = store(60);
    store.world().faults.busy = 700;
    let codec = SimCodec { store: store.clone() };
    let job = create(&store, None);
    let report = one(&store, &codec, job, &options("a")).unwrap();
    let world = store.world();
    let excused =
        |tuple: &super::world::Tuple| world.jobs[index_of(job)].errors.keys().any(|(row, _)| *row == tuple.label());
    assert!(world.live().all(|(_, _, tuple)| tuple.satisfies(Goal::Protect, 0) || excused(tuple)));
    assert_eq!(report.end, SweepEnd::Finished);
    assert_eq!(world.jobs[index_of(job)].conversions, report.progress.rows_changed);
}
