//! One leased range, from its cursor to its end: reading and judging a batch while the one before it is written.

use std::sync::Mutex;
use std::time::Duration;

use enfold::traces::TARGET;
use enfold::{Code, Result};
use futures_util::future::join;
use tracing::Instrument as _;

use super::worker::Worker;
use crate::codec::Verdict;
use crate::model::{JobState, RowError};
use crate::store::{Change, Checkpoint, Lease, Outcome, Row, RowVersion};

/// Into how many batches a throttled worker divides what it may do in a second,
const BATCHES_A_SECOND: u32 = 20;

/// as long as they have so many rows: a batch costs the database something whatever its size, and the application meets each.
const WORTH_A_BATCH: u32 = 50;

/// A lease and how far its range is done.
pub(super) struct Position {
    pub(super) lease: Lease,
    /// Everything before it is committed; where to read on after an error.
    cursor: u64,
    renewed: Mutex<Duration>,
}

impl Position {
    pub(super) fn new(lease: Lease, now: Duration) -> Self {
        Self { cursor: lease.cursor, lease, renewed: Mutex::new(now) }
    }
}

/// Why work on a range stopped.
pub(super) enum Halt {
    /// It is done.
    Done,
    /// The job is not running any more, or somebody wants us to stop; the range is still ours.
    Asked,
    /// As many rows as wanted were changed.
    Enough,
}

/// A batch that was read and judged.
struct Prepared {
    start: u64,
    next: Option<u64>,
    rows_seen: u64,
    changes: Vec<Change>,
    errors: Vec<RowError>,
}

enum Next {
    Batch(Prepared),
    Halt(Halt),
}

/// What became of changes.
#[derive(Default)]
struct Written {
    changed: u64,
    lost: Vec<RowVersion>,
    /// The database took fewer rows at once than it was given.
    halved: bool,
}

impl Worker<'_> {
    /// Works on the held range. Errors leave `held` where reading may go on.
    pub(super) async fn chunk(&mut self) -> Result<Halt> {
        self.keep_lease().await?;
        let mut next = self.prepare(self.position()?.cursor, 0).await?;
        loop {
            let batch = match next {
                Next::Batch(batch) => batch,
                Next::Halt(Halt::Done) => return self.finish_range().await,
                Next::Halt(halt) => return Ok(halt),
            };
            let (rows, table) = (batch.changes.len(), self.target.policy_table.as_str());
            let writing = tracing::info_span!(target: TARGET, "write batch", table, rows);
            let (written, following) = join(self.commit(&batch).instrument(writing), self.prepare_after(&batch)).await;
            let (written, took) = written?;
            if written.halved {
                self.size.halve();
            } else {
                self.size.learn(batch.changes.len(), took);
            }
            self.changed += written.changed;
            self.watch.wrote(written.changed);
            let position = self.held.as_mut().ok_or_else(nothing_held)?;
            position.cursor = batch.next.unwrap_or(batch.start);
            self.progress_in_between().await?;
            next = following?;
        }
    }

    /// Renews the lease well before it runs out.
    pub(super) async fn keep_lease(&self) -> Result<()> {
        let Some(position) = &self.held else { return Ok(()) };
        let now = self.store.now();
        let due = position.renewed.lock().is_ok_and(|at| now.saturating_sub(*at) >= self.options.lease / 3);
        if due {
            self.store.renew(&position.lease, self.options.lease).await?;
            if let Ok(mut at) = position.renewed.lock() {
                *at = now;
            }
        }
        Ok(())
    }

    fn position(&self) -> Result<&Position> {
        self.held.as_ref().ok_or_else(nothing_held)
    }

    async fn prepare_after(&self, batch: &Prepared) -> Result<Next> {
        match batch.next {
            Some(cursor) => self.prepare(cursor, batch.changes.len() as u64).await,
            None => Ok(Next::Halt(Halt::Done)),
        }
    }

    /// Reads and judges the batch at `cursor`, while `in_flight` changes are being written.
    async fn prepare(&self, cursor: u64, in_flight: u64) -> Result<Next> {
        self.hold_back().await?;
        let control = self.store.control(self.job).await?;
        if control.state != JobState::Running || self.watch.stop_requested() {
            return Ok(Next::Halt(Halt::Asked));
        }
        let mut limit = self.size.get(control.batch_rows);
        if let Some(rate) = control.rate {
            // Little at a time, so that the application waits for none of it long, and a changed rate is in force soon.
            let ours = (rate / self.options.workers.max(1)).max(1);
            limit = limit.min((ours / BATCHES_A_SECOND).max(ours.min(WORTH_A_BATCH)));
        }
        if let Some(enough) = self.options.stop_after {
            let left = enough.saturating_sub(self.changed + in_flight);
            if left == 0 {
                return Ok(Next::Halt(Halt::Enough));
            }
            limit = limit.min(u32::try_from(left).unwrap_or(u32::MAX));
        }
        let preparing = tracing::info_span!(target: TARGET, "read batch", table = self.target.policy_table);
        let reading = tracing::info_span!(target: TARGET, parent: &preparing, "read rows", phase = "database");
        let read = self.store.read(&self.position()?.lease, &self.target, cursor, limit).instrument(reading).await?;
        let rows_seen = read.rows.len() as u64;
        let (changes, errors) = self.judge(&read.rows).instrument(preparing).await?;
        self.spend_rate(changes.len(), control.rate);
        Ok(Next::Batch(Prepared { start: cursor, next: read.next, rows_seen, changes, errors }))
    }

    /// Asks the codec. This is where the key service may be called, so never inside a transaction.
    async fn judge(&self, rows: &[Row]) -> Result<(Vec<Change>, Vec<RowError>)> {
        let (mut changes, mut errors) = (Vec::new(), Vec::new());
        if rows.is_empty() {
            return Ok((changes, errors));
        }
        let verdicts = self.codec.judge(self.goal, &self.target, rows).await?;
        if verdicts.len() != rows.len() {
            return Err(enfold::Error::new(Code::Internal, "a codec gave another number of verdicts than rows"));
        }
        for verdict in verdicts {
            match verdict {
                Verdict::Satisfied => {}
                Verdict::Convert(change) => changes.push(change),
                Verdict::Failed(of_row) => errors.extend(of_row),
            }
        }
        Ok((changes, errors))
    }

    /// Writes a batch, then what lost a race in it, a few times. Returns what became of all of it, and how long the
    /// first transaction took.
    async fn commit(&self, batch: &Prepared) -> Result<(Written, Duration)> {
        let position = self.position()?;
        self.keep_lease().await?;
        // The last batch keeps the range open at its own start: rows of it that lose their race are still ours.
        let cursor = batch.next.unwrap_or(batch.start);
        let errors = batch.errors.clone();
        let began = self.store.now();
        let checkpoint = Checkpoint { cursor: Some(cursor), rows_seen: batch.rows_seen, errors };
        let mut written = self.write(&position.lease, batch.start, &batch.changes, checkpoint).await?;
        let took = self.store.now().saturating_sub(began);
        for attempt in 0..self.options.lost_tries {
            if written.lost.is_empty() {
                break;
            }
            // Whoever holds the row is seldom done at once.
            self.store.pause(Duration::from_millis(5 << attempt.min(6))).await;
            let rows = self.store.reread(&position.lease, &self.target, &written.lost).await?;
            let (changes, errors) = self.judge(&rows).await?;
            if changes.is_empty() && errors.is_empty() {
                break;
            }
            let checkpoint = Checkpoint { cursor: Some(cursor), rows_seen: 0, errors };
            let again = self.write(&position.lease, cursor, &changes, checkpoint).await?;
            written.changed += again.changed;
            written.lost = again.lost;
        }
        Ok((written, took))
    }

    /// Writes changes in one transaction, or in ever smaller halves where the database will not take them together. The
    /// checkpoint goes with the last of them; until then the cursor stays at `start`.
    async fn write(&self, lease: &Lease, start: u64, changes: &[Change], checkpoint: Checkpoint) -> Result<Written> {
        let mut written = Written::default();
        let mut parts = vec![changes];
        let mut checkpointed = false;
        let not_yet = Checkpoint { cursor: Some(start), ..Checkpoint::default() };
        while let Some(part) = parts.pop() {
            let last = parts.is_empty();
            let with = if last { &checkpoint } else { &not_yet };
            let writing = tracing::info_span!(target: TARGET, "write rows", phase = "database", rows = part.len());
            match self.store.write(lease, &self.target, part, with).instrument(writing).await {
                Ok(outcomes) => {
                    written.count(part, outcomes)?;
                    checkpointed |= last;
                }
                Err(error) if error.code() == Code::Busy && !part.is_empty() => {
                    written.halved = true;
                    if let [only] = part {
                        written.lost.push(only.version.clone());
                    } else {
                        let (left, right) = part.split_at(part.len() / 2);
                        parts.extend([right, left]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if !checkpointed {
            self.store.write(lease, &self.target, &[], &checkpoint).await?;
        }
        Ok(written)
    }

    async fn finish_range(&mut self) -> Result<Halt> {
        let lease = &self.position()?.lease;
        self.store.write(lease, &self.target, &[], &Checkpoint::default()).await?;
        self.held = None;
        Ok(Halt::Done)
    }
}

impl Written {
    fn count(&mut self, changes: &[Change], outcomes: Vec<Outcome>) -> Result<()> {
        if outcomes.len() != changes.len() {
            return Err(enfold::Error::new(Code::Internal, "a store gave another number of outcomes than changes"));
        }
        for (change, outcome) in changes.iter().zip(outcomes) {
            match outcome {
                Outcome::Written => self.changed += 1,
                Outcome::Lost => self.lost.push(change.version.clone()),
                // In the error table since the same transaction.
                Outcome::Rejected { .. } => {}
            }
        }
        Ok(())
    }
}

fn nothing_held() -> enfold::Error {
    enfold::Error::new(Code::Internal, "a sweep worked on a range that it does not hold")
}
