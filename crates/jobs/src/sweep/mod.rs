//! The sweep: makes every value of a table's policy columns satisfy a goal, batch by batch, while others use the table.
//!
//! One engine serves protect, unprotect, index and verify. It knows neither SQL nor keys: a [`Store`] moves rows, a
//! [`Codec`] judges them. It owns no state that matters: whatever is lost when a process dies (a lease, a batch in
//! memory) is found again in the store, so a sweep that is called again for the same job goes on where it stood.
//! Nothing is spawned here; a caller that wants several workers polls several sweeps of one job, and the simulation
//! drives them step by step.

mod chunk;
mod pace;
mod worker;

use std::time::Duration;

use enfold::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::codec::Codec;
use crate::model::{JobId, JobState, Progress};
use crate::store::{JobRecord, Store};

/// How one worker goes about it. What an operator may change while a job runs is in [`crate::store::Control`] instead.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// Names the worker in its leases; distinct for each process and task.
    pub worker: String,
    /// How long a range stays ours without a word from us.
    pub lease: Duration,
    /// How long one chunk's transaction should take: longer ones hold rows that the application may want.
    pub write_time: Duration,
    /// For how long errors that may go away by themselves are waited out, since the last success.
    pub patience: Duration,
    /// How often a row that lost a race is read again at once; after that the closing sweep finds it.
    pub lost_tries: u32,
    /// After so many passes a sweep gives up on reaching zero: somebody keeps writing what the goal forbids.
    pub max_passes: u32,
    /// Stop after about so many rows were changed by this worker (a canary).
    pub stop_after: Option<u64>,
    /// How many workers share the job's rate.
    pub workers: u32,
    /// In which states a job is taken up. One that an operator paused a moment ago is not for a worker to take up again.
    pub takes_up: &'static [JobState],
}

impl SweepOptions {
    pub fn new(worker: impl Into<String>) -> Self {
        Self {
            worker: worker.into(),
            lease: Duration::from_secs(30),
            write_time: Duration::from_millis(100),
            patience: Duration::from_secs(60),
            lost_tries: 3,
            max_passes: 20,
            stop_after: None,
            workers: 1,
            takes_up: &[JobState::Pending, JobState::Paused, JobState::Failed],
        }
    }
}

/// Whoever looks on while a sweep runs, and may ask it to stop.
pub trait Watch: Send + Sync {
    /// After batches, about twice a second.
    fn progress(&self, _progress: &Progress) {}

    /// The sweep waits before its next batch: for the database, an operator, or an error to pass.
    fn waiting(&self, _reason: &str) {}

    /// So many rows more were written by this worker.
    fn wrote(&self, _rows: u64) {}

    /// This worker had the job, which was as it says, change its state; `error` is what it failed at, where it did.
    fn moved(&self, _job: &JobRecord, _to: JobState, _error: Option<&Error>) {}

    /// Asked between batches: true ends the sweep with what is committed.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Looks on and says nothing.
pub struct Unwatched;

impl Watch for Unwatched {}

/// Why a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepEnd {
    /// The job reached its end; see the report for rows with errors.
    Finished,
    /// [`Watch::stop_requested`]; the job is still `running` and its ranges are free.
    Stopped,
    /// [`SweepOptions::stop_after`] rows were changed; likewise.
    Enough,
    /// An operator cancelled the job.
    Cancelled,
}

/// What a sweep leaves behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SweepReport {
    pub job: JobId,
    pub end: SweepEnd,
    pub state: JobState,
    pub passes: u32,
    pub progress: Progress,
    /// Rows that do not satisfy the goal by their stored form, as counted when the job finished; `None` when it did not
    /// get there, or (`Verify`) does not count.
    pub remaining: Option<u64>,
}

/// Works on `job` until it has reached its goal, or somebody stops it. Ranges up to the table's end at the start, then
/// further passes until the database counts zero rows left, or only rows with errors are.
///
/// Errors that may pass (`Retry::Later`) are waited out for [`SweepOptions::patience`]; any other ends the job as
/// `failed` and is returned. Either way the same call takes the job up again later.
pub async fn sweep(
    store: &dyn Store,
    codec: &dyn Codec,
    job: JobId,
    options: &SweepOptions,
    watch: &dyn Watch,
) -> Result<SweepReport> {
    let record = store.job(job).await?;
    if options.takes_up.contains(&record.state)
        && store.transition(job, options.takes_up, JobState::Running, None).await?
    {
        watch.moved(&record, JobState::Running, None);
    }
    let mut worker = worker::Worker::new(store, codec, &record, options, watch);
    let ended = worker.run().await;
    worker.let_go().await;
    if let Err(error) = &ended {
        // Best effort: when the store cannot be reached, the job stays `running` and its leases run out.
        let line = error.to_string();
        if let Ok(true) = store.transition(job, &[JobState::Running], JobState::Failed, Some(&line)).await {
            watch.moved(&record, JobState::Failed, Some(error));
        }
    }
    let (end, remaining) = ended?;
    let record = store.job(job).await?;
    Ok(SweepReport { job, end, state: record.state, passes: record.pass, progress: record.progress, remaining })
}
