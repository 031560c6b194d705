//! One worker of a sweep: takes ranges, waits where it should, and decides when the job is at its end.

use std::time::Duration;

use enfold::{Code, Result};

use super::chunk::{Halt, Position};
use super::pace::{BatchSize, Patience, Rate};
use super::{SweepEnd, SweepOptions, Watch};
use crate::codec::Codec;
use crate::model::{Goal, JobId, JobState, Target};
use crate::store::{JobRecord, Pressure, Store};

/// For how long nothing is said of ranges that others hold: at the end of every pass workers wait for one another.
const OTHERS_UNTOLD: Duration = Duration::from_secs(2);

/// The longest single wait: between two of them leases are kept and orders heard.
const SLICE: Duration = Duration::from_millis(500);

/// How often the database is asked whether it is under pressure.
const PRESSURE_EVERY: Duration = Duration::from_secs(1);

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Worker<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) codec: &'a dyn Codec,
    pub(super) job: JobId,
    pub(super) goal: Goal,
    pub(super) target: Target,
    pub(super) options: &'a SweepOptions,
    pub(super) watch: &'a dyn Watch,
    /// The range that is ours, and how far it is done.
    pub(super) held: Option<Position>,
    pub(super) size: BatchSize,
    /// Rows this worker changed.
    pub(super) changed: u64,
    rate: std::sync::Mutex<Rate>,
    asked_pressure: std::sync::Mutex<Option<Duration>>,
    told_progress: Option<Duration>,
    /// Since when there was no range to be had.
    without_range: Option<Duration>,
    pass: PassSeen,
}

/// What this worker knows of the pass it is in.
struct PassSeen {
    number: u32,
    /// Rows changed by everybody when it began; `None` when this worker came later.
    changed_at_start: Option<u64>,
}

impl PassSeen {
    fn of(record: &JobRecord) -> Self {
        let from_start = record.progress.chunks_done == 0 && record.progress.rows_changed == 0;
        Self { number: record.pass, changed_at_start: from_start.then_some(0) }
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        store: &'a dyn Store,
        codec: &'a dyn Codec,
        record: &JobRecord,
        options: &'a SweepOptions,
        watch: &'a dyn Watch,
    ) -> Self {
        Self {
            store,
            codec,
            job: record.id,
            goal: record.goal,
            target: record.target.clone(),
            options,
            watch,
            held: None,
            size: BatchSize::new(options.write_time),
            changed: 0,
            rate: std::sync::Mutex::default(),
            asked_pressure: std::sync::Mutex::default(),
            told_progress: None,
            without_range: None,
            pass: PassSeen::of(record),
        }
    }

    /// Rounds until the end, waiting out errors that may pass. Everything a round relies on is in the store, so a round
    /// that failed is simply begun again.
    pub(super) async fn run(&mut self) -> Result<(SweepEnd, Option<u64>)> {
        let mut patience = Patience::new(self.options.patience);
        loop {
            match self.round().await {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => patience.success(),
                // Another worker has the range now and does what we did not.
                Err(error) if error.code() == Code::LeaseLost => self.held = None,
                Err(error) => {
                    let said = error.to_string();
                    let wait = patience.spend(error, self.store.now())?;
                    self.watch.waiting(&said);
                    if self.watch.stop_requested() {
                        return Ok((SweepEnd::Stopped, None));
                    }
                    self.store.pause(wait).await;
                }
            }
        }
    }

    /// Frees the range that is held, so that whoever comes next need not wait for it.
    pub(super) async fn let_go(&mut self) {
        if let Some(position) = self.held.take() {
            // It runs out by itself if this does not get through.
            self.store.renew(&position.lease, Duration::ZERO).await.ok();
        }
    }

    async fn round(&mut self) -> Result<Option<(SweepEnd, Option<u64>)>> {
        if self.watch.stop_requested() {
            return Ok(Some((SweepEnd::Stopped, None)));
        }
        let control = self.store.control(self.job).await?;
        match control.state {
            JobState::Running => {}
            JobState::Pending | JobState::Paused => {
                self.watch.waiting("the job is paused");
                self.wait(SLICE).await?;
                return Ok(None);
            }
            JobState::Cancelled => return Ok(Some((SweepEnd::Cancelled, None))),
            JobState::Completed | JobState::CompletedWithErrors => {
                return Ok(Some((SweepEnd::Finished, self.remaining().await?)));
            }
            JobState::Failed => return Ok(Some((SweepEnd::Stopped, None))),
        }
        if self.held.is_none() {
            let lease = self.store.lease(self.job, &self.options.worker, self.options.lease).await?;
            self.held = lease.map(|lease| Position::new(lease, self.store.now()));
        }
        if self.held.is_none() {
            return self.between_ranges().await;
        }
        self.without_range = None;
        let halt = self.chunk().await?;
        self.tell_progress().await?;
        Ok(matches!(halt, Halt::Enough).then_some((SweepEnd::Enough, None)))
    }

    /// No range is free: others are at work, or the pass is over.
    async fn between_ranges(&mut self) -> Result<Option<(SweepEnd, Option<u64>)>> {
        let record = self.store.job(self.job).await?;
        if record.pass != self.pass.number {
            self.pass = PassSeen { number: record.pass, changed_at_start: None };
            return Ok(None);
        }
        if record.progress.chunks_done < record.progress.chunks_total {
            let now = self.store.now();
            if now.saturating_sub(*self.without_range.get_or_insert(now)) >= OTHERS_UNTOLD {
                self.watch.waiting(
                    "other workers hold what is left of this pass; one that was killed is replaced when its lease runs out",
                );
            }
            self.wait(SLICE.min(self.options.lease / 4)).await?;
            return Ok(None);
        }
        let remaining = self.remaining().await?;
        let failed = record.progress.rows_failed;
        // A pass that came upon nothing it could change, seen from its start: what is left are rows with errors.
        let nothing_more = self.pass.changed_at_start == Some(record.progress.rows_changed);
        let state = match remaining {
            None | Some(0) if failed == 0 => JobState::Completed,
            None | Some(0) => JobState::CompletedWithErrors,
            Some(left) if nothing_more && left <= failed => JobState::CompletedWithErrors,
            Some(_) if record.pass >= self.options.max_passes => JobState::CompletedWithErrors,
            Some(_) => {
                if self.store.begin_pass(self.job, record.pass + 1).await? {
                    let changed_at_start = Some(record.progress.rows_changed);
                    self.pass = PassSeen { number: record.pass + 1, changed_at_start };
                }
                return Ok(None);
            }
        };
        let ours = self.store.finish(self.job, record.pass, state).await?;
        if ours {
            self.watch.moved(&record, state, None);
        }
        Ok(ours.then_some((SweepEnd::Finished, remaining)))
    }

    /// `None` for a verification: it reports what it found, and no number of passes changes that. And for a pruning: what
    /// somebody holds now is not worth another pass, for it goes the next time.
    async fn remaining(&self) -> Result<Option<u64>> {
        match self.goal {
            Goal::Verify | Goal::Prune => Ok(None),
            Goal::Reencrypt => {
                let former = self.codec.former_keys(&self.target).await?;
                self.store.count_under(&self.target, &former).await.map(Some)
            }
            goal => self.store.remaining(goal, &self.target).await.map(Some),
        }
    }

    async fn tell_progress(&mut self) -> Result<()> {
        let now = self.store.now();
        if self.told_progress.is_none_or(|told| now.saturating_sub(told) >= PROGRESS_EVERY) {
            self.watch.progress(&self.store.job(self.job).await?.progress);
            self.told_progress = Some(now);
        }
        Ok(())
    }

    pub(super) async fn progress_in_between(&mut self) -> Result<()> {
        self.tell_progress().await
    }

    /// Waits before a batch for as long as the rate and the database ask for.
    pub(super) async fn hold_back(&self) -> Result<()> {
        let wait = self.rate.lock().map_or(Duration::ZERO, |rate| rate.wait(self.store.now()));
        self.wait(wait).await?;
        while self.pressure_is_due() {
            let Pressure::Wait { reason, at_least } = self.store.pressure(self.job).await? else { break };
            self.watch.waiting(&reason);
            if self.watch.stop_requested() {
                break;
            }
            self.wait(at_least.max(PRESSURE_EVERY)).await?;
        }
        Ok(())
    }

    /// Counts rows against the job's rate, of which each worker has its share.
    pub(super) fn spend_rate(&self, rows: usize, rate: Option<u32>) {
        let (Some(rate), Ok(mut spent)) = (rate, self.rate.lock()) else { return };
        spent.spend(self.store.now(), rows, rate / self.options.workers.max(1));
    }

    fn pressure_is_due(&self) -> bool {
        let now = self.store.now();
        let Ok(mut asked) = self.asked_pressure.lock() else { return false };
        let due = asked.is_none_or(|at| now.saturating_sub(at) >= PRESSURE_EVERY);
        if due {
            *asked = Some(now);
        }
        due
    }

    /// Waits in slices, keeping the lease, until `duration` is over or somebody wants us to stop.
    async fn wait(&self, duration: Duration) -> Result<()> {
        let until = self.store.now() + duration;
        loop {
            let left = until.saturating_sub(self.store.now());
            if left.is_zero() || self.watch.stop_requested() {
                return Ok(());
            }
            self.store.pause(left.min(SLICE).min(self.options.lease / 4)).await;
            self.keep_lease().await?;
        }
    }
}
