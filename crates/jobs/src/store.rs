//! What the sweep engine asks of a database: leased ranges, rows with their versions, and one transaction that writes
//! a batch together with its checkpoint.
//!
//! The rules a store must keep (each has a test that every store runs, the simulated one from a seed):
//!
//! 1. **A row is written only if it is still the very version that was read.** Never decided by the type's own
//!    equality, and no plaintext as a statement parameter.
//! 2. **The checkpoint commits with the rows**, in one transaction that first proves the lease by its fencing token.
//! 3. **A row that somebody else holds is left alone** ([`Outcome::Lost`]); the store neither waits nor deadlocks.
//! 4. **What was stored is what was sent**: a trigger that alters or swallows a write rolls that row back
//!    ([`Outcome::Rejected`]).

use std::time::Duration;

use async_trait::async_trait;
use enfold::{Code, Error, KeyId, Result};
use enfold_core::binding::OwnedPart;
use serde::{Deserialize, Serialize};

use crate::model::{Goal, JobId, JobState, Progress, RowError, Target};

/// Longer than any worker holds a range without renewing its lease. What ends later than this was set by a clock that has been
/// put back since.
pub const LONGEST_LEASE: Duration = Duration::from_secs(60 * 60);

/// How many bytes of cells a batch may hold, so that memory stays flat whatever the rows hold.
pub const BATCH_BYTES: usize = 16 << 20;

/// A part of a table that one worker works through. What the numbers mean is the store's own: physical blocks, row ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The physical table (a leaf partition's name), in the store's own spelling.
    pub relation: String,
    /// First position, inclusive.
    pub from: u64,
    /// Last position, exclusive; `u64::MAX` for "to the end as it is then".
    pub to: u64,
}

/// A range held by one worker until `expires`. Every write proves `token`; a later holder has a greater one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub job: JobId,
    pub chunk: i64,
    pub token: i64,
    pub worker: String,
    pub range: Range,
    /// Where the last committed batch ended: the next read starts here.
    pub cursor: u64,
}

/// Which version of which row was read. Only the store that made one can use it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowVersion {
    /// Postgres: the tuple's place, the transaction that wrote it, and the file it lies in (a rewritten table may hold
    /// another row of the same transaction at the same place). `held`: when it was read, some transaction had locked it
    /// or begun to change it, and may not have ended.
    Tuple { file: u32, block: u32, offset: u16, xmin: u32, held: bool },
    /// SQLite and the simulated store: the row id and a SHA-256 of the exact stored bytes of every converted, tenant
    /// and bound column, and of those beside the values.
    Digest { rowid: i64, digest: [u8; 32] },
}

/// A row as it is stored. The cells are bytes as they lie in the column (the text form as its characters).
#[derive(Clone)]
pub struct Row {
    pub version: RowVersion,
    /// For error tables: `id=42`.
    pub label: String,
    /// In the order of [`Target::columns`].
    pub cells: Vec<Option<Vec<u8>>>,
    /// In the same order; empty where no column of the target has a shadow.
    pub origins: Vec<Origin>,
    /// In the order of [`Target::indexes`]: the index value now in the row.
    pub indexed: Vec<Option<Vec<u8>>>,
    /// In the order of [`Target::companions`]: what stands beside the values, as it is stored (a number as it prints).
    pub beside: Vec<Option<Vec<u8>>>,
    pub tenant: Option<OwnedPart>,
    pub row_key: Vec<OwnedPart>,
}

/// Where a cell was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// In the column that holds envelopes.
    #[default]
    Holder,
    /// In the source of a shadow, as the database prints it: plaintext, whatever it looks like.
    Source,
    /// In the source, while its shadow holds a value too: nobody knows which is the later one.
    Both,
    /// In the source, and what the database prints of the value is not read back as the same.
    Inexact,
}

impl Row {
    pub fn origin(&self, column: usize) -> Origin {
        self.origins.get(column).copied().unwrap_or_default()
    }
}

impl Drop for Row {
    /// The cells may be plaintext.
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.cells);
    }
}

/// What becomes of a cell.
#[derive(Clone, PartialEq, Eq)]
pub enum Cell {
    Keep,
    Set(Option<Vec<u8>>),
}

/// The new bytes of one row. A store writes all cells of a row in one new row version.
#[derive(Clone)]
pub struct Change {
    pub version: RowVersion,
    pub label: String,
    pub cells: Vec<Cell>,
    pub indexed: Vec<Cell>,
    /// In the order of [`Target::companions`].
    pub beside: Vec<Cell>,
    /// In the order of the cells: the version of the data key of an envelope that is set, where marks beside it say that. Empty
    /// where no column has marks.
    pub versions: Vec<Option<u32>>,
    /// What of the row cannot be converted and stays as it is. Noted when the row is written, and only then: of a row that
    /// lost its race nobody knows whether it still holds what they speak of.
    pub errors: Vec<RowError>,
}

impl Drop for Change {
    /// The cells are plaintext when a column is unprotected.
    fn drop(&mut self) {
        for cell in &mut self.cells {
            if let Cell::Set(bytes) = cell {
                zeroize::Zeroize::zeroize(bytes);
            }
        }
    }
}

impl Change {
    /// Of a row that a pruning read: it goes.
    pub fn gone(row: &Row) -> Self {
        let (version, label) = (row.version.clone(), row.label.clone());
        let (cells, indexed, beside) = (Vec::new(), Vec::new(), Vec::new());
        Self { version, label, cells, indexed, beside, versions: Vec::new(), errors: Vec::new() }
    }

    /// What a store writes into the error table when this became of the row.
    pub fn noted(&self, outcome: &Outcome) -> Vec<RowError> {
        let rejected = |reason: &String| RowError {
            row: self.label.clone(),
            column: String::new(),
            code: Code::DatabaseFailed.word().to_owned(),
            reason: reason.clone(),
        };
        match outcome {
            Outcome::Lost => Vec::new(),
            Outcome::Written => self.errors.clone(),
            Outcome::Rejected { reason } => self.errors.iter().cloned().chain([rejected(reason)]).collect(),
        }
    }
}

/// What became of one [`Change`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written,
    /// Not that version any more, or held by somebody: read it again.
    Lost,
    /// The database would not take it or altered it: the reason, without a value.
    Rejected {
        reason: String,
    },
}

#[derive(Clone)]
pub struct Batch {
    pub rows: Vec<Row>,
    /// Where the next read starts; `None` at the end of the range.
    pub next: Option<u64>,
}

/// What one transaction of a chunk commits besides rows.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// The chunk's new cursor; `None` ends the chunk.
    pub cursor: Option<u64>,
    pub rows_seen: u64,
    /// Kept once for each row and column, for a batch may be read again after a crash; `Progress::rows_failed` counts
    /// the rows that have one.
    pub errors: Vec<RowError>,
}

/// What an operator may change while a job runs; read at every batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Control {
    pub state: JobState,
    pub batch_rows: u32,
    pub rate: Option<u32>,
}

/// When a running job backs off, where its record says something else than the policy; see the policy's `[jobs]` for what
/// each means. A limit that is none is the policy's. The canary query itself is not among them: whoever may write to the
/// database must not choose what the job's role runs there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobLimits {
    pub max_replica_lag_ms: Option<u32>,
    pub max_lock_waits: Option<u32>,
    pub max_slot_mib: Option<u32>,
    pub max_snapshot_age: Option<u32>,
    pub max_wal_mib_per_second: Option<u32>,
    pub max_requested_checkpoints: Option<u32>,
    pub max_disk_growth_mib: Option<u32>,
    pub canary_query_time_ms: Option<u32>,
}

/// Why a job should wait before its next batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pressure {
    None,
    Wait { reason: String, at_least: Duration },
}

#[derive(Clone, Debug)]
pub struct JobSpec {
    pub goal: Goal,
    pub target: Target,
    pub batch_rows: u32,
    pub rate: Option<u32>,
    pub lease: Duration,
    pub order: Order,
}

/// Who wants a job, why, and how much.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Workers take jobs of a higher priority first, and share their time among those of one.
    pub priority: i32,
    pub by: Option<String>,
    pub reason: Option<String>,
}

/// The priority of what cannot wait.
pub const EMERGENCY: i32 = 1_000;

/// A process that waits for jobs, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSign {
    /// Distinct for each process and task.
    pub name: String,
    /// Of the program.
    pub version: String,
    /// The job that it works on.
    pub job: Option<JobId>,
    /// How long ago it gave a sign of life, by the database's clock.
    pub seen: Duration,
}

#[derive(Clone, Debug)]
pub struct JobRecord {
    pub id: JobId,
    pub goal: Goal,
    pub target: Target,
    pub state: JobState,
    /// How often the table was cut into ranges: 1 after `create_job`, one more for each `begin_pass`.
    pub pass: u32,
    /// Sums over all passes, except `chunks_*` and `rows_failed`, which are those of the present pass.
    pub progress: Progress,
    pub last_error: Option<String>,
    pub order: Order,
    /// How many workers hold a range of it.
    pub workers: u32,
    /// When it was made and when its state last changed, in milliseconds since 1970.
    pub created_ms: i64,
    pub changed_ms: i64,
}

/// See the module's head for the rules.
#[async_trait]
pub trait Store: Send + Sync {
    /// Cuts the table into ranges up to its present end, and records the job with them as `pending`.
    async fn create_job(&self, spec: &JobSpec) -> Result<JobId>;

    /// Sweeping to zero: cuts the table again, up to its end as it is now, when every chunk of pass `pass - 1` is done.
    /// The row errors so far count as settled (the new pass finds again what still fails). False, and nothing done, if
    /// the job is not `running` at pass `pass - 1`: somebody else began it.
    async fn begin_pass(&self, job: JobId, pass: u32) -> Result<bool>;

    /// Ends a job: from `running` to `state` if it is at `pass` and every chunk of that pass is done; false, and nothing
    /// done, if not. One statement: a worker that decides on what it saw of a former pass must not end the job.
    async fn finish(&self, job: JobId, pass: u32, state: JobState) -> Result<bool>;

    async fn job(&self, job: JobId) -> Result<JobRecord>;

    async fn jobs(&self) -> Result<Vec<JobRecord>>;

    /// Those of [`Store::jobs`] that are not at their end.
    async fn open_jobs(&self) -> Result<Vec<JobRecord>>;

    /// Moves a job from one of `from` to `to`; false if it was in another state.
    async fn transition(&self, job: JobId, from: &[JobState], to: JobState, last_error: Option<&str>) -> Result<bool>;

    async fn control(&self, job: JobId) -> Result<Control>;

    async fn set_control(&self, job: JobId, batch_rows: Option<u32>, rate: Option<Option<u32>>) -> Result<()>;

    /// How urgent a job is; workers heed it when they next choose.
    async fn set_priority(&self, job: JobId, priority: i32) -> Result<()>;

    /// A worker says that it is there, and what it works on.
    async fn sign_of_life(&self, worker: &WorkerSign) -> Result<()>;

    /// It is there no more.
    async fn sign_off(&self, worker: &str) -> Result<()>;

    /// Those that gave a sign of life within `lately`.
    async fn workers(&self, lately: Duration) -> Result<Vec<WorkerSign>>;

    /// A pending chunk, or one whose lease has run out, with a new fencing token. `None`: none is left to take (others
    /// may still be working).
    async fn lease(&self, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>>;

    /// Holds on to a lease for `ttl` from now (zero lets it go, so that others may take it at once); `LeaseLost` when
    /// somebody else has it.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<()>;

    /// Reads at most `limit` rows of the lease's range from `cursor`, fewer where their cells come to more than
    /// [`BATCH_BYTES`] (at least one row, though). Called while a `write` of the same lease is under way.
    async fn read(&self, lease: &Lease, target: &Target, cursor: u64, limit: u32) -> Result<Batch>;

    /// Reads again the present versions of rows that lost a race, by what identified them. Rows that are gone or have
    /// moved beyond reach are left out; the closing sweep finds them.
    async fn reread(&self, lease: &Lease, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>>;

    /// Writes and checkpoints in one transaction. One outcome for each change, in order; the checkpoint counts what was
    /// written. `LeaseLost` if the token is not the present one; `Busy` for what may succeed with fewer rows (a
    /// serialization failure, a partition move, a lock timeout). After either nothing was written. After any other error
    /// it may have been: the engine reads again. What [`Change::noted`] says goes to the error table in the same transaction.
    async fn write(
        &self,
        lease: &Lease,
        target: &Target,
        changes: &[Change],
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Outcome>>;

    /// How many rows do not yet satisfy the goal by their stored form, counted by the database: for `Protect` and
    /// `Verify` those with a value that is no envelope or (`Protect`) an index value that is missing, for `Unprotect`
    /// those with an envelope, for `Index` those with a value and no index value. Of no use to `Reencrypt`: see
    /// [`Store::count_under`].
    async fn remaining(&self, goal: Goal, target: &Target) -> Result<u64>;

    /// How many rows have an envelope under one of these keys in a column of the target, counted by the database.
    async fn count_under(&self, target: &Target, keys: &[KeyId]) -> Result<u64>;

    /// Errors of a job that were not settled since.
    async fn row_errors(&self, job: JobId, limit: u32) -> Result<Vec<RowError>>;

    /// Replaces what a job's record says of when it backs off; in force at the next look.
    async fn set_limits(&self, job: JobId, _: &JobLimits) -> Result<()> {
        Err(Error::new(Code::Usage, format!("cannot change the limits of job {}", job.0))
            .cause("this database has none of the limits that a job backs off for"))
    }

    /// Replica lag, lock waits, growth: whether `job` should wait.
    async fn pressure(&self, job: JobId) -> Result<Pressure>;

    /// Waits; the simulated store decides how long that is.
    async fn pause(&self, duration: Duration);

    /// Seconds since some fixed moment, monotonic: the simulated store's own clock.
    fn now(&self) -> Duration;
}
