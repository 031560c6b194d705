//! Carries out steps: the interpreter that apply, enforce and rollback share.

use enfold::policy::Mode;
use enfold::{Code, Error, Result};
use futures_util::future::join_all;

use super::observer::{Observer, StepEvent, StepState, TableWatch};
use super::session::Session;
use super::steps::{Action, Step};
use super::verify::Verified;
use crate::database::Dialect;
use crate::model::{Goal, JobId, JobState, RowError, Target, TargetColumn};
use crate::store::{JobRecord, JobSpec, Order};
use crate::sweep::{SweepEnd, SweepOptions, SweepReport, sweep};

/// How the sweeps of an operation go about it.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Rows a second; the policy's when none is given.
    pub rate: Option<u32>,
    /// Rows in a batch at most; the policy's when none is given.
    pub batch_rows: Option<u32>,
    /// Workers in this process; zero is taken for one.
    pub workers: u32,
}

impl Pace {
    /// Checks the pace against what the database can do, before anything is changed.
    ///
    /// # Errors
    /// `Usage` for several workers on SQLite: they would wait for each other's write lock and be no faster.
    pub fn check(&self, dialect: Dialect) -> Result<()> {
        if self.workers <= 1 || dialect != Dialect::Sqlite {
            return Ok(());
        }
        Err(Error::new(Code::Usage, format!("cannot run {} workers on SQLite", self.workers))
            .cause("SQLite lets one connection write at a time, so they would only wait for each other")
            .hint("leave `--workers` out")
            .hint("nothing was changed"))
    }
}

/// One table's operation on its way.
pub(super) struct Run<'a> {
    pub(super) session: &'a Session,
    pub(super) observer: &'a dyn Observer,
    pub(super) pace: &'a Pace,
    pub(super) target: &'a Target,
    /// A canary: rows after which a protecting sweep stops.
    pub(super) stop_after: Option<u64>,
}

/// How often plaintext that turned up is sealed and all of it verified again, before somebody must look.
const VERIFY_TRIES: u32 = 3;

/// What a list of steps came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    pub(super) rows_changed: u64,
    /// The canary is out: the steps after it were not taken.
    pub(super) canary: bool,
}

impl Run<'_> {
    /// Takes steps in order, until one fails, the observer asks to stop, or the canary is out.
    pub(super) async fn all(&self, steps: &[Step]) -> Result<Came> {
        let mut came = Came::default();
        for step in steps {
            self.may_go_on()?;
            self.tell(&step.says, StepState::Started);
            let ended = match &step.action {
                Action::CheckReaders { columns, mode } => {
                    self.check_readers(columns, *mode).await.map(|()| StepState::Done)
                }
                Action::SetMode { columns, mode } => self.set_mode(columns, *mode, |_, now| now < *mode).await,
                Action::TakeModeBack { columns, mode } => {
                    // Where values are written in another format the readers are signed too, in the weakest mode as well.
                    let signs = |column: &TargetColumn| *mode == Mode::Legacy && column.writes.is_some();
                    self.set_mode(columns, *mode, |column, now| now > *mode || now == *mode && signs(column)).await
                }
                Action::Settle => self.settle().await.map(|()| StepState::Done),
                Action::Schema { change } => self.session.db.run(change).await.map(|()| StepState::Done),
                Action::Verify => self.verify().await.map(|changed| {
                    came.rows_changed += changed;
                    StepState::Done
                }),
                // Indexed already: see there.
                Action::Sweep { goal: Goal::Index } if self.sealing_has_begun().await? => Ok(StepState::Skipped),
                Action::Sweep { goal } => self.sweep_to_zero(*goal).await.map(|report| match report {
                    None => StepState::Skipped,
                    Some(report) => {
                        // A row is counted once: filling its blind indexes leaves its values as they are.
                        if *goal != Goal::Index {
                            came.rows_changed += report.progress.rows_changed;
                        }
                        came.canary = report.end == SweepEnd::Enough;
                        StepState::Done
                    }
                }),
            };
            let ended = ended.map_err(|error| error.while_doing(self.doing(&step.says)))?;
            self.tell(&step.says, ended);
            if came.canary {
                break;
            }
        }
        Ok(came)
    }

    /// Whether the sweep that seals was begun, which comes after the blind indexes were filled and built. From then on
    /// it is sealing a row that gives it its index, and verifying that puts the last of them right.
    async fn sealing_has_begun(&self) -> Result<bool> {
        let last = self.last(Goal::Protect, |_| true).await?;
        Ok(last.is_some_and(|job| !matches!(job.state, JobState::Pending | JobState::Cancelled)))
    }

    /// Opens every value. What a writer of the old kind left meanwhile, plain or under the blind index of another value,
    /// is put right, and all of it opened again; returns how many rows that were.
    async fn verify(&self) -> Result<u64> {
        let mut changed = 0;
        for _ in 0..VERIFY_TRIES {
            match Verified::of(self).await {
                Ok(_) => return Ok(changed),
                Err(error) if error.code() == Code::PlaintextFound => changed += self.put_right(error).await?,
                Err(error) => return Err(error),
            }
        }
        Verified::of(self).await.map(|_| changed)
    }

    /// Seals what is plain or, where nothing is, fills the blind indexes. An envelope that does not open stays as it is,
    /// and `error` says so.
    async fn put_right(&self, error: Error) -> Result<u64> {
        let sealed = self.sweep_to_zero(Goal::Protect).await?;
        let report = match sealed {
            None if !self.target.indexes.is_empty() => self.sweep_to_zero(Goal::Index).await?,
            sealed => sealed,
        };
        match report.map(|report| report.progress.rows_changed) {
            None | Some(0) => Err(error),
            Some(rows) => Ok(rows),
        }
    }

    /// Sweeps until nothing is left; `None` when nothing was left to begin with.
    pub(super) async fn sweep_to_zero(&self, goal: Goal) -> Result<Option<SweepReport>> {
        let store = self.session.db.store();
        // Counting by form does not see an index value that an older writer left behind when it changed the value.
        let countable = goal != Goal::Index;
        if countable && self.unfinished(goal).await?.is_none() && store.remaining(goal, self.target).await? == 0 {
            return Ok(None);
        }
        let job = self.job(goal).await?;
        let report = self.sweep(job, goal).await?;
        // A row without its index stops nothing: sealing it computes the index too, or reports the same error.
        if report.end == SweepEnd::Enough || goal == Goal::Index {
            return Ok(Some(report));
        }
        self.settled(job, goal, &report).await?;
        Ok(Some(report))
    }

    /// Runs a job to its end with this process's workers.
    pub(super) async fn sweep(&self, job: JobId, goal: Goal) -> Result<SweepReport> {
        let store = self.session.db.store();
        let watch = TableWatch::new(&*self.session.keys, self.observer, &self.target.policy_table, goal);
        let workers = self.pace.workers.max(1);
        let options: Vec<SweepOptions> = (0..workers).map(|n| self.options(n, workers, goal)).collect();
        let codec = self.session.keys.codec();
        // Every worker comes to its own end: one that was dropped in the middle would leave its range leased.
        let ended = join_all(options.iter().map(|options| sweep(store, codec, job, options, &watch))).await;
        // However it ended: what is gone is gone.
        super::prune::log(self.session, job, self.target, watch.wrote());
        let reports = ended.into_iter().collect::<Result<Vec<_>>>()?;
        // Where one of them came to the end, the job did, whatever made the others stop before.
        let report = reports
            .into_iter()
            .min_by_key(|report| match report.end {
                SweepEnd::Finished => 0,
                SweepEnd::Cancelled => 1,
                SweepEnd::Stopped => 2,
                SweepEnd::Enough => 3,
            })
            .ok_or_else(|| Error::new(Code::Internal, "a sweep without a worker"))?;
        match report.end {
            SweepEnd::Finished => {}
            SweepEnd::Enough => self.pause(job).await?,
            SweepEnd::Stopped => {
                self.pause(job).await?;
                return Err(interrupted());
            }
            SweepEnd::Cancelled => {
                return Err(Error::new(Code::Interrupted, format!("job {} was cancelled", job.0))
                    .hint("what was converted stays; run the same command again to begin a new job"));
            }
        }
        Ok(report)
    }

    /// A new job, or the one that an interrupted run of the same operation left.
    pub(super) async fn job(&self, goal: Goal) -> Result<JobId> {
        let Some(job) = self.unfinished(goal).await? else { return self.new_job(goal).await };
        if self.pace.batch_rows.is_some() || self.pace.rate.is_some() {
            let rate = self.pace.rate.map(Some);
            self.session.db.store().set_control(job.id, self.pace.batch_rows, rate).await?;
        }
        Ok(job.id)
    }

    pub(super) async fn new_job(&self, goal: Goal) -> Result<JobId> {
        let limits = &self.session.policy.jobs;
        let spec = JobSpec {
            goal,
            target: self.target.clone(),
            batch_rows: self.pace.batch_rows.unwrap_or(limits.batch_rows),
            rate: self.pace.rate.or(limits.rate),
            lease: limits.lease,
            order: Order::default(),
        };
        self.session.db.store().create_job(&spec).await
    }

    pub(super) async fn unfinished(&self, goal: Goal) -> Result<Option<JobRecord>> {
        self.last(goal, is_open).await
    }

    /// The newest job with this goal for this target that is in such a state.
    async fn last(&self, goal: Goal, state: impl Fn(JobState) -> bool) -> Result<Option<JobRecord>> {
        let ours = |job: &JobRecord| job.goal == goal && state(job.state) && same(&job.target, self.target);
        Ok(self.session.db.store().jobs().await?.into_iter().rev().find(ours))
    }

    /// Ends what an interrupted protection left on record.
    pub(super) async fn cancel_protection(&self) -> Result<()> {
        self.cancel(&[Goal::Protect, Goal::Index]).await
    }

    /// Ends the jobs with these goals that are not at their end.
    pub(super) async fn cancel(&self, goals: &[Goal]) -> Result<()> {
        let store = self.session.db.store();
        let open = [JobState::Pending, JobState::Running, JobState::Paused, JobState::Failed];
        for &goal in goals {
            while let Some(job) = self.unfinished(goal).await? {
                store.transition(job.id, &open, JobState::Cancelled, None).await?;
            }
        }
        Ok(())
    }

    /// Errors when the sweep ended before its goal.
    pub(super) async fn settled(&self, job: JobId, goal: Goal, report: &SweepReport) -> Result<()> {
        let failed = report.progress.rows_failed;
        let left = report.remaining.unwrap_or(0);
        if failed > 0 {
            let errors = self.session.db.store().row_errors(job, 5).await?;
            return Err(rows_failed(&self.target.policy_table, failed, job, &errors));
        }
        if left > 0 {
            let what = if goal == Goal::Unprotect { "envelopes" } else { "plaintext" };
            return Err(Error::new(
                Code::Busy,
                format!("{left} rows of `{}` are not converted", self.target.policy_table),
            )
            .cause(format!("after {} passes somebody still writes {what}", report.passes))
            .hint("bring every writer of the column up to date, then run the same command again"));
        }
        Ok(())
    }

    async fn pause(&self, job: JobId) -> Result<()> {
        self.session.db.store().transition(job, &[JobState::Running], JobState::Paused, None).await.map(|_| ())
    }

    fn options(&self, n: u32, workers: u32, goal: Goal) -> SweepOptions {
        let mut options = SweepOptions::new(format!("{}:{n}", std::process::id()));
        options.lease = self.session.policy.jobs.lease;
        options.patience = self.session.policy.jobs.patience;
        options.workers = workers;
        options.stop_after = match goal {
            Goal::Protect => self.stop_after.map(|rows| rows.div_ceil(u64::from(workers))),
            _ => None,
        };
        options
    }

    async fn check_readers(&self, columns: &[String], mode: Mode) -> Result<()> {
        let readers = self.session.keys.readers().await?;
        let behind: Vec<String> = readers
            .iter()
            .filter(|reader| reader.ready < mode && reader.columns.iter().any(|column| columns.contains(column)))
            .map(|reader| format!("`{}` {} is ready for mode {}", reader.name, reader.version, reader.ready.word()))
            .collect();
        if behind.is_empty() {
            return Ok(());
        }
        let wanted = mode.word();
        let error = Error::new(Code::ReadersNotReady, format!("not every reader is ready for mode {wanted}"));
        Err(behind.into_iter().fold(error, Error::cause).hint("deploy them with an Enfold that reads envelopes first"))
    }

    /// Signs a mode for those of the target's columns of which `changes` says so, by their mode of now: on the way up none is
    /// weakened, and on the way back none strengthened.
    async fn set_mode(
        &self,
        columns: &[String],
        mode: Mode,
        changes: impl Fn(&TargetColumn, Mode) -> bool,
    ) -> Result<StepState> {
        let now = self.session.keys.modes(columns).await?;
        let each = columns.iter().zip(&self.target.columns).zip(now);
        let change: Vec<(String, Mode)> = each
            .filter(|((_, column), now)| changes(column, *now))
            .map(|((name, _), _)| (name.clone(), mode))
            .collect();
        if change.is_empty() {
            return Ok(StepState::Skipped);
        }
        self.session.keys.set_modes(&change).await?;
        Ok(StepState::Done)
    }

    pub(super) fn may_go_on(&self) -> Result<()> {
        if self.observer.stop_requested() { Err(interrupted()) } else { Ok(()) }
    }

    pub(super) fn tell(&self, says: &str, state: StepState) {
        let event = StepEvent { table: self.target.policy_table.clone(), says: says.to_owned(), state };
        self.observer.step(&event);
    }

    fn doing(&self, says: &str) -> String {
        format!("cannot {says} (`{}`)", self.target.policy_table)
    }
}

pub(super) fn is_open(state: JobState) -> bool {
    matches!(state, JobState::Pending | JobState::Running | JobState::Paused | JobState::Failed)
}

/// Of the same table and the same columns; a job of a former policy is not taken up again.
pub(super) fn same(one: &Target, other: &Target) -> bool {
    let column = |c: &TargetColumn| (c.name.clone(), c.id.clone(), c.writes.clone());
    let columns = |target: &Target| target.columns.iter().map(column).collect::<Vec<_>>();
    let indexes = |target: &Target| target.indexes.iter().map(|i| i.column.clone()).collect::<Vec<_>>();
    let rules = match (&one.prune, &other.prune) {
        (Some(one), Some(other)) => one.is_of(other),
        (one, other) => one.is_none() && other.is_none(),
    };
    one.table == other.table && rules && columns(one) == columns(other) && indexes(one) == indexes(other)
}

pub(super) fn interrupted() -> Error {
    Error::new(Code::Interrupted, "stopped as asked")
        .cause("what was committed stays, and nothing is half written")
        .hint("run the same command again to go on")
}

fn rows_failed(table: &str, failed: u64, job: JobId, errors: &[RowError]) -> Error {
    let rows = if failed == 1 { "1 row".to_owned() } else { format!("{failed} rows") };
    let error = Error::new(Code::RowsFailed, format!("{rows} of `{table}` could not be converted"));
    let said = errors.iter().map(|e| match e.column.as_str() {
        "" => format!("{}: {} ({})", e.row, e.reason, e.code),
        column => format!("{} `{column}`: {} ({})", e.row, e.reason, e.code),
    });
    let mut error = said.fold(error, Error::cause);
    if errors.iter().any(|e| e.code == Code::EnvelopeMalformed.word()) {
        error = error
            .hint("a value that only looks like an envelope is sealed if its column says `lookalikes = \"plaintext\"`");
    }
    error.hint(format!("`enfold status` lists them under job {}; settle them and run the same command again", job.0))
}
