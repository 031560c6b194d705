//! A worker: takes the jobs that wait in the database, as one of any number on any machines.
//!
//! It works in turns. Before each it looks which jobs there are and takes the most urgent one that still has a range to give;
//! among equals the one with the fewest workers, then the one that it left alone longest. So an emergency is begun within a
//! turn, and no job waits for another of its priority to end. What holds a worker to a job is its lease alone: when it dies,
//! others take the range when the lease has run out.
//!
//! Between turns it looks at the policy's schedule: what is due is rotated, and what is then under former data keys is asked
//! for like any other job. That many workers look at once does no harm, for a data key is rotated from the version that was
//! found due. Former data keys whose grace period is over go out of use step by step, a step a look at most ([`mod@super::disable`]).

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use enfold::error::Retry;
use enfold::{Code, Error, Result};
use futures_util::future::{Either, select};
use serde::{Deserialize, Serialize};

use super::destroy::finish_due;
use super::disable::disable_due;
use super::observer::{Observer, SweepEvent};
use super::prune;
use super::reencrypt::{Reencryption, plan_reencryption, request_reencryption};
use super::session::Session;
use crate::model::{Goal, JobId, JobState, Progress};
use crate::store::{JobRecord, Order, WorkerSign};
use crate::sweep::{SweepEnd, SweepOptions, Watch, sweep};

/// How long a worker stays with a job before it looks again.
const TURN: Duration = Duration::from_secs(5);

/// How often a worker says that it is there.
const SIGN_EVERY: Duration = Duration::from_secs(5);

/// Workers that were silent for longer are taken for gone.
pub const ALIVE: Duration = Duration::from_secs(30);

/// How often a worker that has nothing to do looks for a job.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it looks at the policy's schedule.
const SCHEDULE_EVERY: Duration = Duration::from_secs(60);

/// How a worker goes about it.
#[derive(Clone, Debug)]
pub struct WorkOptions {
    /// Distinct for each process and task.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// End when no job is left to work on, instead of waiting for the next.
    pub until_idle: bool,
    /// These jobs and no others, nor the policy's schedule.
    pub only: Option<Vec<JobId>>,
}

/// What a worker has done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkReport {
    /// Jobs that came to their end while this worker was at them, and how.
    pub ended: Vec<(JobId, JobState)>,
    /// Jobs that failed in them, with the error's line.
    pub failed: Vec<(JobId, String)>,
}

/// Works until the observer asks to stop or, with `until_idle`, nothing is left to do.
///
/// A job that fails is set aside and reported; the others go on. While the database does not answer the worker waits.
///
/// # Errors
/// What will not pass by itself: no right to the job tables, for one.
pub async fn work(session: &Session, options: &WorkOptions, observer: &dyn Observer) -> Result<WorkReport> {
    let worker = Worker { session, options, observer, present: Mutex::default(), served: Mutex::default() };
    let signs = Box::pin(worker.give_signs());
    let turns = Box::pin(worker.turns());
    let ended = match select(turns, signs).await {
        Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
    };
    // Whoever cannot be told finds out by its silence.
    session.db.store().sign_off(&options.name).await.ok();
    ended
}

/// Rotates what is due at a moment (milliseconds since 1970) by the policy's schedule, disables former data keys whose grace
/// period is over and that nothing needs, ends destructions that are due, and asks for the re-encryptions that
/// follow from it; with `all`, for those of every ring with a cadence, whoever rotated it: a worker that rotated and died before
/// it asked is made up for when the next one starts. Returns the rings in which something was rotated.
pub async fn keep_schedule(session: &Session, now_ms: i64, all: bool) -> Result<Vec<String>> {
    let rotated = session.keys.rotate_due(now_ms).await?;
    for (name, ring) in &session.policy.rings {
        let rotation = &ring.rotation;
        let asks = rotation.cadence.is_some() && rotation.enabled && rotation.auto_reencrypt;
        if !asks || !(all || rotated.contains(name)) {
            continue;
        }
        let reason = Some("due by the policy's cadence".to_owned());
        let wanted = Reencryption {
            ring: Some(name.clone()),
            order: Order { by: Some("schedule".to_owned()), reason, ..Order::default() },
            rate: rotation.reencrypt_rate,
            batch_rows: Some(rotation.reencrypt_batch_size),
            ..Reencryption::default()
        };
        match plan_reencryption(session, &wanted).await {
            Ok(plan) => request_reencryption(session, &wanted, &plan).await.map(|_| ())?,
            // A ring for values that live in no column.
            Err(error) if error.code() == Code::UnknownColumn => {}
            Err(error) => return Err(error),
        }
    }
    let disabled = disable_due(session, now_ms).await;
    finish_due(session, now_ms).await?;
    disabled?;
    Ok(rotated)
}

/// Has workers try again what failed: a job that failed goes on where it stood; one that completed with errors looks at its
/// table once more.
///
/// # Errors
/// `Usage` for a job in any other state.
pub async fn retry(session: &Session, job: JobId) -> Result<()> {
    let store = session.db.store();
    let record = store.job(job).await?;
    let taken_up = match record.state {
        JobState::Failed => store.transition(job, &[JobState::Failed], JobState::Pending, None).await?,
        // Between the two a worker may begin that pass itself, which is as good.
        JobState::CompletedWithErrors => {
            let moved = store.transition(job, &[JobState::CompletedWithErrors], JobState::Running, None).await?;
            moved && (store.begin_pass(job, record.pass + 1).await? || store.job(job).await?.pass > record.pass)
        }
        _ => false,
    };
    if taken_up {
        return Ok(());
    }
    Err(Error::new(Code::Usage, format!("job {} has nothing to try again", job.0))
        .cause("only what failed, or completed with errors, is tried again")
        .hint(format!("`enfold jobs show {}` says how it stands", job.0)))
}

/// What people do with a job, besides trying it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    Pause,
    Resume,
    Cancel,
}

impl Steering {
    /// What the job becomes.
    pub fn to(self) -> JobState {
        match self {
            Self::Pause => JobState::Paused,
            Self::Resume => JobState::Pending,
            Self::Cancel => JobState::Cancelled,
        }
    }

    fn from(self) -> &'static [JobState] {
        match self {
            Self::Pause => &[JobState::Pending, JobState::Running],
            Self::Resume => &[JobState::Paused],
            Self::Cancel => &[JobState::Pending, JobState::Running, JobState::Paused, JobState::Failed],
        }
    }
}

/// Has a job become what is wanted of it. `Some` is the state by which it cannot; one that it has already is none.
pub async fn steer(session: &Session, job: JobId, steering: Steering) -> Result<Option<JobState>> {
    let store = session.db.store();
    if store.transition(job, steering.from(), steering.to(), None).await? {
        return Ok(None);
    }
    Ok(Some(store.job(job).await?.state).filter(|now| *now != steering.to()))
}

struct Worker<'a> {
    session: &'a Session,
    options: &'a WorkOptions,
    observer: &'a dyn Observer,
    /// The job at hand.
    present: Mutex<Option<JobId>>,
    served: Mutex<HashMap<JobId, Instant>>,
}

impl Worker<'_> {
    async fn give_signs(&self) -> Result<WorkReport> {
        let store = self.session.db.store();
        loop {
            let sign = WorkerSign {
                name: self.options.name.clone(),
                version: self.options.version.clone(),
                job: self.present.lock().map_or(None, |job| *job),
                seen: Duration::ZERO,
            };
            if let Err(error) = store.sign_of_life(&sign).await {
                self.outlast(error)?;
            }
            store.pause(SIGN_EVERY).await;
        }
    }

    async fn turns(&self) -> Result<WorkReport> {
        let store = self.session.db.store();
        let mut report = WorkReport::default();
        let mut looked: Option<Instant> = None;
        while !self.observer.stop_requested() {
            if self.options.only.is_none() && looked.is_none_or(|at| at.elapsed() >= SCHEDULE_EVERY) {
                let first = looked.replace(Instant::now()).is_none();
                // What could not be done now is due at the next look as well.
                if let Err(error) = self.look_at_schedule(first).await {
                    self.observer.waiting(&error.to_string());
                }
                if let Err(error) = prune::keep_schedule(self.session).await {
                    self.observer.waiting(&error.to_string());
                }
            }
            let job = match store.open_jobs().await {
                Ok(jobs) => self.choose(jobs),
                Err(error) => {
                    self.outlast(error)?;
                    store.pause(LOOK_EVERY).await;
                    continue;
                }
            };
            let Some(job) = job else {
                if self.options.until_idle {
                    break;
                }
                store.pause(LOOK_EVERY).await;
                continue;
            };
            self.hold(Some(job.id));
            self.turn(&job, &mut report).await;
            self.hold(None);
        }
        Ok(report)
    }

    /// By the database's clock, which all workers share: one whose own is behind would find everything due that another has
    /// rotated, and one whose own is ahead nothing.
    async fn look_at_schedule(&self, first: bool) -> Result<()> {
        let now_ms = self.session.db.now_ms().await?;
        let kept = keep_schedule(self.session, now_ms, first).await;
        // Apart from data keys: the one waits for nobody's key service but its own.
        self.session.keys.rotate_due_roots(now_ms, &|| !self.observer.stop_requested()).await?;
        kept.map(|_| ())
    }

    /// The job to work on next.
    fn choose(&self, jobs: Vec<JobRecord>) -> Option<JobRecord> {
        let served = self.served.lock().ok()?;
        let taken = |job: &JobRecord| {
            let left = job.progress.chunks_total.saturating_sub(job.progress.chunks_done);
            // The last of them to end its range closes the pass, and begins the next.
            u64::from(job.workers) >= left && job.workers > 0
        };
        let ours = |job: &JobRecord| {
            let meant = self.options.only.as_ref().is_none_or(|only| only.contains(&job.id));
            let ours = match job.goal {
                Goal::Reencrypt => true,
                Goal::Prune => prune::is_in_policy(self.session, job),
                _ => false,
            };
            meant && ours && matches!(job.state, JobState::Pending | JobState::Running)
        };
        let rank = |job: &JobRecord| {
            (taken(job), std::cmp::Reverse(job.order.priority), job.workers, served.get(&job.id).copied(), job.id)
        };
        jobs.into_iter().filter(ours).min_by_key(rank)
    }

    async fn turn(&self, job: &JobRecord, report: &mut WorkReport) {
        let mut options = SweepOptions::new(self.options.name.clone());
        options.lease = self.session.policy.jobs.lease;
        options.patience = self.session.policy.jobs.patience;
        options.takes_up = &[JobState::Pending];
        // The rate is the job's: every worker has its share.
        options.workers = job.workers + 1;
        let turn = Turn { worker: self, job, began: Instant::now(), wrote: AtomicU64::new(0) };
        let codec = self.session.keys.codec();
        let swept = match self.may_begin(job).await {
            Ok(()) => sweep(self.session.db.store(), codec, job.id, &options, &turn).await,
            Err(error) => Err(error),
        };
        prune::log(self.session, job.id, &job.target, turn.wrote.into_inner());
        match swept {
            Ok(swept) if swept.end == SweepEnd::Finished => report.ended.push((job.id, swept.state)),
            Ok(_) => {}
            // A key service that is out, for one: the job waits with the worker.
            Err(error) if error.code().retry() != Retry::Never => {
                self.observer.waiting(&format!("job {}: {error}", job.id.0));
                let store = self.session.db.store();
                store.transition(job.id, &[JobState::Failed], JobState::Pending, None).await.ok();
                store.pause(LOOK_EVERY).await;
            }
            Err(error) => {
                let line = error.to_string();
                self.observer.waiting(&format!("job {} failed: {line}", job.id.0));
                report.failed.push((job.id, line));
            }
        }
        if let Ok(mut served) = self.served.lock() {
            served.insert(job.id, Instant::now());
        }
    }

    /// What a pruning takes along is looked at again before each turn; where that is not settled any more, the job fails.
    async fn may_begin(&self, job: &JobRecord) -> Result<()> {
        if job.goal != Goal::Prune {
            return Ok(());
        }
        let settled = prune::must_be_settled(self.session, &job.target).await;
        if let Err(error) = &settled {
            let (from, line) = ([JobState::Pending, JobState::Running], error.to_string());
            self.session.db.store().transition(job.id, &from, JobState::Failed, Some(&line)).await?;
        }
        settled
    }

    fn hold(&self, job: Option<JobId>) {
        if let Ok(mut present) = self.present.lock() {
            *present = job;
        }
    }

    /// Says what a worker waits for; an error that will not pass is handed back.
    fn outlast(&self, error: Error) -> Result<()> {
        if error.code().retry() == Retry::Never {
            return Err(error);
        }
        self.observer.waiting(&error.to_string());
        Ok(())
    }
}

/// Looks on while a worker has its turn with a job, and ends it.
struct Turn<'a> {
    worker: &'a Worker<'a>,
    job: &'a JobRecord,
    began: Instant,
    wrote: AtomicU64,
}

impl Watch for Turn<'_> {
    fn progress(&self, progress: &Progress) {
        let table = self.job.target.policy_table.clone();
        self.worker.observer.progress(&SweepEvent { table, goal: self.job.goal, progress: progress.clone() });
    }

    fn waiting(&self, reason: &str) {
        self.worker.observer.waiting(reason);
    }

    fn wrote(&self, rows: u64) {
        self.wrote.fetch_add(rows, Ordering::Relaxed);
    }

    fn moved(&self, job: &JobRecord, to: JobState, error: Option<&Error>) {
        let served = self.worker.served.lock().is_ok_and(|served| served.contains_key(&job.id));
        let may_pass = error.is_some_and(|error| error.code().retry() != Retry::Never);
        // What a job waits for, such as a key service that is out, makes no new beginning of each turn.
        let begins_again = served && to == JobState::Running;
        if !may_pass && !begins_again {
            super::log::moved(&*self.worker.session.keys, job, to, error);
        }
    }

    fn stop_requested(&self) -> bool {
        self.began.elapsed() >= TURN || self.worker.observer.stop_requested()
    }
}
