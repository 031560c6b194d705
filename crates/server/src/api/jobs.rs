//! Jobs: how far they are, and steering them. Workers do them (`enfold worker`); the service does not.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use enfold::{Code, Error, Result};
use enfold_jobs::model::{JobId, JobState, RowError};
use enfold_jobs::ops::{self, Session, Steering};
use enfold_jobs::shown::time;
use enfold_jobs::store::JobRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::body::{Asked, Data, Sought};
use super::edge::{Call, to_its_end};
use crate::Shared;
use crate::identity::Caller;

/// Row errors of a job that are told.
const ERRORS: u32 = 1_000;

/// Which jobs are listed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobsAsked {
    /// Also those that are at their end.
    #[serde(default)]
    all: bool,
}

pub(crate) type JobsAnswer = Data<JobList>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct JobList {
    jobs: Vec<JobInfo>,
    /// Workers that are alive: without one, jobs wait.
    workers: usize,
}

/// A job.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobInfo {
    job_id: i64,
    /// `QUEUED`, `RUNNING`, `PAUSED`, `COMPLETED`, `COMPLETED_WITH_ERRORS`, `FAILED` or `CANCELLED`.
    status: &'static str,
    /// The same in Enfold's own words, in which `QUEUED` is `pending`.
    state: &'static str,
    /// `protect`, `unprotect`, `index`, `verify`, `reencrypt` or `prune`.
    goal: &'static str,
    table: String,
    columns: Vec<String>,
    progress: JobProgress,
    priority: i32,
    /// Workers that hold a range of it.
    workers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    created_at: Option<String>,
    changed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct JobProgress {
    rows_total: u64,
    rows_seen: u64,
    /// Rows that were written.
    rows_changed: u64,
    rows_failed: u64,
}

pub(crate) type JobAnswer = Data<JobDetails>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct JobDetails {
    job: JobInfo,
    /// Rows a second at most; missing where nothing limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// Rows that could not be converted, the first thousand.
    errors: Vec<RowFailure>,
}

/// A row that could not be converted, by its key.
#[derive(Serialize, JsonSchema)]
struct RowFailure {
    row: String,
    column: String,
    code: String,
    reason: String,
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Sought(asked): Sought<JobsAsked>,
) -> Result<JobsAnswer, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    let store = session.db.store();
    let jobs = if asked.all { store.jobs().await? } else { store.open_jobs().await? };
    let workers = store.workers(ops::ALIVE).await?.len();
    Ok(Data { data: JobList { jobs: jobs.iter().map(JobInfo::of).collect(), workers } })
}

pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
) -> Result<JobAnswer, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    Ok(show_job(&session, job_id(&id)?).await?)
}

macro_rules! orders {
    ($($name:ident($session:ident, $job:ident) => $obey:expr;)*) => {
        $(
            pub(crate) async fn $name(
                State(shared): State<Arc<Shared>>,
                Extension(caller): Extension<Arc<Caller>>,
                Extension(call): Extension<Call>,
                Path(id): Path<String>,
            ) -> Result<JobAnswer, Failure> {
                let session = shared.session(&call.context(&caller, None)).await?;
                let $job = job_id(&id)?;
                Ok(to_its_end(async move {
                    let $session = &session;
                    $obey.await?;
                    show_job(&session, $job).await
                })
                .await?)
            }
        )*
    };
}

orders! {
    pause(session, job) => steer(session, job, Steering::Pause);
    resume(session, job) => steer(session, job, Steering::Resume);
    cancel(session, job) => steer(session, job, Steering::Cancel);
    retry(session, job) => ops::retry(session, job);
}

pub(crate) async fn steer(session: &Session, job: JobId, steering: Steering) -> Result<()> {
    match ops::steer(session, job, steering).await? {
        None => Ok(()),
        Some(now) => {
            let (wanted, now) = (words(steering.to()).0, words(now).0);
            let line = format!("job {} cannot become `{wanted}`: it is `{now}`", job.0);
            Err(Error::new(Code::Busy, line))
        }
    }
}

/// How fast a job may be.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateAsked {
    /// Rows a second at most; 0 for no limit.
    rate: u32,
}

pub(crate) async fn rate(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    Asked(asked): Asked<RateAsked>,
) -> Result<JobAnswer, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    let job = job_id(&id)?;
    let changed = to_its_end(async move {
        session.db.store().set_control(job, None, Some((asked.rate > 0).then_some(asked.rate))).await?;
        show_job(&session, job).await
    });
    Ok(changed.await?)
}

pub(super) async fn show_job(session: &Session, job: JobId) -> Result<JobAnswer> {
    let store = session.db.store();
    let record = store.job(job).await?;
    let rate = store.control(job).await?.rate;
    let errors = store.row_errors(job, ERRORS).await?;
    let errors =
        errors.into_iter().map(|RowError { row, column, code, reason }| RowFailure { row, column, code, reason });
    Ok(Data { data: JobDetails { job: JobInfo::of(&record), rate, errors: errors.collect() } })
}

impl JobInfo {
    pub(super) fn of(job: &JobRecord) -> Self {
        let (state, status) = words(job.state);
        let progress = &job.progress;
        Self {
            job_id: job.id.0,
            status,
            state,
            goal: job.goal.word(),
            table: job.target.policy_table.clone(),
            columns: job.target.columns.iter().map(|column| column.name.clone()).collect(),
            progress: JobProgress {
                rows_total: progress.rows_total,
                rows_seen: progress.rows_seen,
                rows_changed: progress.rows_changed,
                rows_failed: progress.rows_failed,
            },
            priority: job.order.priority,
            workers: job.workers,
            requested_by: job.order.by.clone(),
            reason: job.order.reason.clone(),
            created_at: time(job.created_ms),
            changed_at: time(job.changed_ms),
            last_error: job.last_error.clone(),
        }
    }
}

pub(crate) fn job_id(text: &str) -> Result<JobId> {
    text.parse().map(JobId).map_err(|_| Error::new(Code::Usage, "a job is named by a number"))
}

/// In our words, and in those of who calls a pending job queued.
pub(crate) fn words(state: JobState) -> (&'static str, &'static str) {
    match state {
        JobState::Pending => ("pending", "QUEUED"),
        JobState::Running => ("running", "RUNNING"),
        JobState::Paused => ("paused", "PAUSED"),
        JobState::Completed => ("completed", "COMPLETED"),
        JobState::CompletedWithErrors => ("completed_with_errors", "COMPLETED_WITH_ERRORS"),
        JobState::Failed => ("failed", "FAILED"),
        JobState::Cancelled => ("cancelled", "CANCELLED"),
    }
}
