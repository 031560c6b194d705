//! Jobs: how far they are, live, and steering them.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use enfold::{Code, Error, Result};
use enfold_jobs::model::{JobId, JobState, RowError};
use enfold_jobs::ops::{self, Session, Steering};
use enfold_jobs::shown::count;
use enfold_jobs::store::JobRecord;
use serde::Deserialize;

use super::guard::{Sent, is_part};
use super::session::Notice;
use super::view::{Chrome, Html, ago};
use crate::Shared;
use crate::api::jobs::{job_id, steer, words};
use crate::api::{Call, Failure, Sought, to_its_end};
use crate::identity::Caller;

/// Row errors that a page shows.
const ERRORS: u32 = 200;

/// A job as pages show it.
pub(super) struct JobView {
    pub(super) id: i64,
    pub(super) goal: &'static str,
    pub(super) table: String,
    columns: String,
    pub(super) state: &'static str,
    /// Of a hundred.
    pub(super) percent: u64,
    seen: String,
    total: String,
    changed: String,
    failed: u64,
    workers: u32,
    by: Option<String>,
    reason: Option<String>,
    changed_ago: String,
    last_error: Option<String>,
    /// Rows a second since the job was asked for, while it runs.
    speed: Option<String>,
    is_open: bool,
    /// What can be asked of it as it is, and what its button says.
    orders: &'static [(&'static str, &'static str)],
}

impl JobView {
    pub(super) fn of(job: &JobRecord) -> Self {
        let progress = &job.progress;
        let is_open = matches!(job.state, JobState::Pending | JobState::Running | JobState::Paused);
        let age_ms = jiff::Timestamp::now().as_millisecond() - job.created_ms;
        let seconds = u64::try_from(age_ms / 1_000).unwrap_or_default().max(1);
        let percent = match progress.rows_total {
            0 if is_open => 0,
            0 => 100,
            total => (progress.rows_seen.min(total) * 100) / total,
        };
        Self {
            id: job.id.0,
            goal: job.goal.word(),
            table: job.target.policy_table.clone(),
            columns: job.target.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            state: words(job.state).0,
            percent,
            seen: count(progress.rows_seen),
            total: count(progress.rows_total),
            changed: count(progress.rows_changed),
            failed: progress.rows_failed,
            workers: job.workers,
            by: job.order.by.clone(),
            reason: job.order.reason.clone(),
            changed_ago: ago(job.changed_ms),
            last_error: job.last_error.clone(),
            speed: (job.state == JobState::Running).then(|| count(progress.rows_seen / seconds)),
            is_open,
            orders: orders(job.state),
        }
    }
}

const fn orders(state: JobState) -> &'static [(&'static str, &'static str)] {
    match state {
        JobState::Pending | JobState::Running => &[("pause", "Pause"), ("cancel", "Cancel")],
        JobState::Paused => &[("resume", "Resume"), ("cancel", "Cancel")],
        JobState::CompletedWithErrors | JobState::Failed => &[("retry", "Retry")],
        JobState::Completed | JobState::Cancelled => &[],
    }
}

#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    all: bool,
}

#[derive(Template)]
#[template(path = "jobs.html")]
struct JobsPage {
    chrome: Chrome,
    all: bool,
    rows: JobRows,
}

/// The part of the page that is fetched again while it is looked at.
#[derive(Template)]
#[template(path = "job_rows.html")]
struct JobRows {
    jobs: Vec<JobView>,
    workers: usize,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Extension(chrome): Extension<Chrome>,
    headers: HeaderMap,
    Sought(which): Sought<Which>,
) -> Result<Response, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    let store = session.db.store();
    let mut jobs = if which.all { store.jobs().await? } else { store.open_jobs().await? };
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id.0));
    let workers = store.workers(ops::ALIVE).await?.len();
    let rows = JobRows { jobs: jobs.iter().map(JobView::of).collect(), workers };
    if is_part(&headers) {
        return Ok(Html(rows).into_response());
    }
    Ok(Html(JobsPage { chrome, all: which.all, rows }).into_response())
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    chrome: Chrome,
    job: JobPart,
    rate: Option<u32>,
}

#[derive(Template)]
#[template(path = "job_part.html")]
struct JobPart {
    job: JobView,
    form_token: String,
    errors: Vec<RowError>,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Extension(chrome): Extension<Chrome>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    let (store, id) = (session.db.store(), job_id(&id)?);
    let record = store.job(id).await?;
    let errors = store.row_errors(id, ERRORS).await?;
    let job = JobPart { job: JobView::of(&record), form_token: chrome.form_token.clone(), errors };
    if is_part(&headers) {
        return Ok(Html(job).into_response());
    }
    let rate = store.control(id).await?.rate;
    Ok(Html(JobPage { chrome, job, rate }).into_response())
}

/// What a button or a form of a job's page asks.
pub(super) async fn order(sent: Sent, Path((id, order)): Path<(String, String)>) -> Result<Response, Failure> {
    let job = job_id(&id)?;
    let rate = match (order.as_str(), sent.fields.get("rate")) {
        ("rate", Some(rate)) => Some(rate.parse::<u32>().map_err(|_| no_rate())?),
        ("rate", None) => Some(0),
        _ => None,
    };
    let session = sent.shared.session(&sent.context(None)).await?;
    let said = to_its_end(async move { obey(&session, job, &order, rate).await }).await;
    let notice = match said {
        Ok(text) => Notice { is_error: false, text },
        // What a job cannot become any more is news for whoever pressed the button, and no page of its own.
        Err(error) if error.code() == Code::Busy => Notice { is_error: true, text: error.message().to_owned() },
        Err(error) => return Err(Failure(error)),
    };
    Ok(sent.answer(notice, &format!("/console/jobs/{}", job.0)))
}

async fn obey(session: &Session, job: JobId, order: &str, rate: Option<u32>) -> Result<String> {
    match order {
        "pause" => steer(session, job, Steering::Pause).await.map(|()| "It pauses after the batch at hand.".to_owned()),
        "resume" => steer(session, job, Steering::Resume).await.map(|()| "It goes on.".to_owned()),
        "cancel" => steer(session, job, Steering::Cancel)
            .await
            .map(|()| "It is cancelled. What it has committed stays.".to_owned()),
        "retry" => ops::retry(session, job).await.map(|()| "What failed is tried again.".to_owned()),
        "rate" => {
            let rate = rate.filter(|rate| *rate > 0);
            session.db.store().set_control(job, None, Some(rate)).await?;
            Ok(match rate {
                Some(rate) => format!("It writes {} rows a second at most.", count(rate.into())),
                None => "Nothing limits how fast it is.".to_owned(),
            })
        }
        _ => Err(Error::new(Code::UnknownEndpoint, "a job cannot be asked this")),
    }
}

fn no_rate() -> Error {
    Error::new(Code::Usage, "a rate is a number of rows a second").hint("leave it empty for no limit")
}
