//! The rows of a SQLite database, as the engine moves them. See [`crate::store`] for the rules.
//!
//! - A row is known by its row id, its version by a SHA-256 over the exact stored bytes of every converted, index,
//!   tenant and bound column, each with its storage class.
//! - Reads are single statements outside a transaction: nothing is held while values are sealed.
//! - A write is one short `BEGIN IMMEDIATE`: SQLite has one write lock for the whole file, so there are no row locks to
//!   skip; where the lock is not to be had within the busy timeout, the batch ends with `Busy` and nothing was written.

mod jobs;
mod rows;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use enfold::{Code, Error, KeyId, Result};
use rusqlite::Connection;

use self::rows::Reader;
pub(super) use self::rows::cell_bytes;
use super::census;
use super::error::Doing;
use super::names::{last_before, position, rowid};
use super::shape::Shape;
use super::{Sqlite, sampling, wal_bytes};
use crate::model::{Goal, JobId, JobState, RowError, Target};
use crate::store::{
    BATCH_BYTES, Batch, Change, Checkpoint, Control, JobRecord, JobSpec, Lease, Outcome, Pressure, Row, RowVersion,
    Store, WorkerSign,
};

/// A write-ahead log longer than this means that some reader keeps it from being folded back.
const WAL_LIMIT: u64 = 256 << 20;

#[async_trait]
impl Store for Sqlite {
    async fn create_job(&self, spec: &JobSpec) -> Result<JobId> {
        let spec = spec.clone();
        self.pool.write(move |c| jobs::create(c, &spec)).await
    }

    async fn begin_pass(&self, job: JobId, pass: u32) -> Result<bool> {
        self.pool.write(move |c| jobs::begin_pass(c, job, pass)).await
    }

    async fn finish(&self, job: JobId, pass: u32, state: JobState) -> Result<bool> {
        self.pool.write(move |c| jobs::finish(c, job, pass, state)).await
    }

    async fn job(&self, job: JobId) -> Result<JobRecord> {
        self.pool.read(move |c| jobs::read(c, job)).await
    }

    async fn jobs(&self) -> Result<Vec<JobRecord>> {
        self.pool.read(|c| jobs::all(c)).await
    }

    async fn open_jobs(&self) -> Result<Vec<JobRecord>> {
        self.pool.read(|c| jobs::open(c)).await
    }

    async fn transition(&self, job: JobId, from: &[JobState], to: JobState, last_error: Option<&str>) -> Result<bool> {
        let (from, last_error) = (from.to_vec(), last_error.map(str::to_owned));
        self.pool.write(move |c| jobs::transition(c, job, &from, to, last_error.as_deref())).await
    }

    async fn control(&self, job: JobId) -> Result<Control> {
        self.pool.read(move |c| jobs::control(c, job)).await
    }

    async fn set_control(&self, job: JobId, batch_rows: Option<u32>, rate: Option<Option<u32>>) -> Result<()> {
        self.pool.write(move |c| jobs::set_control(c, job, batch_rows, rate)).await
    }

    async fn set_priority(&self, job: JobId, priority: i32) -> Result<()> {
        self.pool.write(move |c| jobs::set_priority(c, job, priority)).await
    }

    async fn sign_of_life(&self, worker: &WorkerSign) -> Result<()> {
        let worker = worker.clone();
        self.pool.write(move |c| jobs::sign_of_life(c, &worker)).await
    }

    async fn sign_off(&self, worker: &str) -> Result<()> {
        let worker = worker.to_owned();
        self.pool.write(move |c| jobs::sign_off(c, &worker)).await
    }

    async fn workers(&self, lately: Duration) -> Result<Vec<WorkerSign>> {
        self.pool.read(move |c| jobs::workers(c, lately)).await
    }

    async fn lease(&self, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>> {
        let worker = worker.to_owned();
        self.pool.write(move |c| jobs::lease(c, job, &worker, ttl)).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<()> {
        let lease = lease.clone();
        self.pool.write(move |c| jobs::renew(c, &lease, ttl)).await
    }

    async fn read(&self, lease: &Lease, target: &Target, cursor: u64, limit: u32) -> Result<Batch> {
        let (end, target) = (lease.range.to, target.clone());
        self.pool.read(move |c| read_range(c, &target, cursor, end, limit)).await
    }

    async fn reread(&self, _: &Lease, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>> {
        let (target, lost) = (target.clone(), lost.to_vec());
        self.pool.read(move |c| read_rows(c, &target, &lost)).await
    }

    async fn write(
        &self,
        lease: &Lease,
        target: &Target,
        changes: &[Change],
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Outcome>> {
        let (lease, target, changes, checkpoint) =
            (lease.clone(), target.clone(), changes.to_vec(), checkpoint.clone());
        self.pool.write(move |c| write::write(c, &lease, &target, &changes, &checkpoint)).await
    }

    async fn count_under(&self, target: &Target, keys: &[KeyId]) -> Result<u64> {
        let (target, keys) = (target.clone(), keys.iter().copied().collect());
        self.pool.read(move |c| census::under(c, &target, &keys)).await
    }

    async fn remaining(&self, goal: Goal, target: &Target) -> Result<u64> {
        let target = target.clone();
        self.pool.read(move |c| census::remaining(c, goal, &target)).await
    }

    async fn row_errors(&self, job: JobId, limit: u32) -> Result<Vec<RowError>> {
        self.pool.read(move |c| jobs::row_errors(c, job, limit)).await
    }

    async fn pressure(&self, _: JobId) -> Result<Pressure> {
        let path = self.pool.path().to_owned();
        self.pool
            .write(move |c| {
                if wal_bytes(&path) < WAL_LIMIT {
                    return Ok(Pressure::None);
                }
                // PASSIVE folds back what it can without waiting for anybody. The file stays as long as it was, so the
                // answer is in the counts: frames in the log, and those of them folded back.
                let (frames, folded): (i64, i64) = c
                    .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get(1)?, row.get(2)?)))
                    .doing(|| "fold the write-ahead log back".to_owned())?;
                if frames <= folded {
                    return Ok(Pressure::None);
                }
                let reason = "a long reader keeps SQLite's write-ahead log from being folded back".to_owned();
                Ok(Pressure::Wait { reason, at_least: Duration::from_secs(1) })
            })
            .await
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn now(&self) -> Duration {
        self.opened.elapsed()
    }
}

fn read_range(connection: &Connection, target: &Target, cursor: u64, end: u64, limit: u32) -> Result<Batch> {
    let what = || format!("read a batch of `{}`", target.table.table);
    let none = Batch { rows: Vec::new(), next: None };
    let Some(last) = last_before(end) else { return Ok(none) };
    let reader = Reader::new(connection, target)?;
    let mut statement = connection.prepare_cached(&reader.range_sql()).doing(what)?;
    let mut found = statement.query((rowid(cursor), last, limit)).doing(what)?;
    let (mut rows, mut bytes, mut at) = (Vec::new(), 0, None);
    while let Some(row) = found.next().doing(what)? {
        let row = reader.row(row).doing(what)?;
        bytes += row.cells.iter().flatten().map(Vec::len).sum::<usize>();
        if bytes > BATCH_BYTES && !rows.is_empty() {
            return Ok(Batch { rows, next: Some(position(id(&row.version)?)) });
        }
        at = Some(id(&row.version)?);
        rows.push(row);
    }
    let full = rows.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = at.filter(|at| full && *at < last).map(|at| position(at + 1));
    Ok(Batch { rows, next })
}

fn read_rows(connection: &Connection, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>> {
    let ids = lost.iter().map(id).collect::<Result<Vec<_>>>()?;
    by_ids(connection, target, &ids, usize::MAX)
}

/// Rows spread over the table, fewer where their cells come to more than a batch may hold.
pub(super) fn peek(connection: &Connection, target: &Target, rows: u32) -> Result<Vec<Row>> {
    let shape = Shape::read(connection, &target.table.table)?;
    let ids = sampling::spread(connection, &shape, &shape.rowid()?, u64::from(rows))?;
    by_ids(connection, target, &ids, BATCH_BYTES)
}

/// The rows of `ids` that are there, until their cells come to `most` bytes.
fn by_ids(connection: &Connection, target: &Target, ids: &[i64], most: usize) -> Result<Vec<Row>> {
    let what = || format!("read rows of `{}`", target.table.table);
    let reader = Reader::new(connection, target)?;
    let mut statement = connection.prepare_cached(&reader.row_sql()).doing(what)?;
    let (mut rows, mut bytes) = (Vec::with_capacity(ids.len()), 0);
    for id in ids {
        let mut found = statement.query([id]).doing(what)?;
        if let Some(row) = found.next().doing(what)? {
            let row = reader.row(row).doing(what)?;
            bytes += row.cells.iter().flatten().map(Vec::len).sum::<usize>();
            rows.push(row);
        }
        if bytes >= most {
            break;
        }
    }
    Ok(rows)
}

fn id(version: &RowVersion) -> Result<i64> {
    match version {
        RowVersion::Digest { rowid, .. } => Ok(*rowid),
        RowVersion::Tuple { .. } => {
            Err(Error::new(Code::Internal, "a row version of another store was given to SQLite"))
        }
    }
}
