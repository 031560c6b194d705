//! `enfold jobs`: which there are, how far they are, and what is to become of them.

use std::fmt::Write as _;
use std::time::Duration;

use enfold::{Code, Error, Result};
use enfold_jobs::model::{JobId, JobState, RowError};
use enfold_jobs::ops::{self, Observer as _, Session, Steering, SweepEvent};
use enfold_jobs::store::{Control, JobRecord, WorkerSign};
use serde_json::{Value, json};

use super::Context;
use super::status::word;
use crate::args::{JobSet, Jobs};
use crate::onlooker::Onlooker;
use crate::table::Table;
use crate::words::{count, rows, some, time};

/// Row errors of a job that are shown to a person, and in JSON.
const ERRORS: (u32, u32) = (50, 10_000);

/// How often a job that is watched is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(context: &Context<'_>, args: &Jobs) -> Result<()> {
    context
        .with_session(async |session| match args {
            Jobs::List(args) => list(context, session, args.all).await,
            Jobs::Show(args) => show(context, session, JobId(args.job)).await,
            Jobs::Watch(args) => watch(context, session, JobId(args.job)).await,
            Jobs::Pause(args) => steer(context, session, JobId(args.job), Steering::Pause).await,
            Jobs::Resume(args) => steer(context, session, JobId(args.job), Steering::Resume).await,
            Jobs::Cancel(args) => steer(context, session, JobId(args.job), Steering::Cancel).await,
            Jobs::Retry(args) => {
                ops::retry(session, JobId(args.job)).await?;
                show(context, session, JobId(args.job)).await
            }
            Jobs::Set(args) => set(context, session, args).await,
        })
        .await
}

async fn list(context: &Context<'_>, session: &Session, all: bool) -> Result<()> {
    let store = session.db.store();
    let jobs = if all { store.jobs().await? } else { store.open_jobs().await? };
    let workers = store.workers(ops::ALIVE).await?;
    let document = json!({ "jobs": jobs.iter().map(of_job).collect::<Vec<_>>(), "workers": workers });
    context.screen.result(&document, |out| {
        if jobs.is_empty() {
            out.push_str(if all { "There was never a job.\n" } else { "No job waits or runs.\n" });
        } else {
            table(&jobs).write(context.screen, out);
        }
        hint(&jobs, &workers, out);
    })
}

async fn show(context: &Context<'_>, session: &Session, job: JobId) -> Result<()> {
    let store = session.db.store();
    let record = store.job(job).await?;
    let control = store.control(job).await?;
    let most = if context.global.json { ERRORS.1 } else { ERRORS.0 };
    let errors = store.row_errors(job, most).await?;
    let workers = store.workers(ops::ALIVE).await?;
    let mut document = of_job(&record);
    document["batch_rows"] = json!(control.batch_rows);
    document["rate"] = json!(control.rate);
    document["row_errors"] = json!(errors);
    context.screen.result(&document, |out| {
        write(&record, &control, &errors, out);
        hint(std::slice::from_ref(&record), &workers, out);
    })
}

/// Shows a job's progress until it is at its end, or waits for a person.
async fn watch(context: &Context<'_>, session: &Session, job: JobId) -> Result<()> {
    let store = session.db.store();
    let onlooker = Onlooker::new(context.screen);
    loop {
        let record = store.job(job).await?;
        if record.state.is_end()
            || matches!(record.state, JobState::Failed | JobState::Paused)
            || onlooker.stop_requested()
        {
            break;
        }
        if record.workers == 0 && store.workers(ops::ALIVE).await?.is_empty() {
            onlooker.waiting("no worker is running: start `enfold worker`");
        }
        let table = record.target.policy_table.clone();
        onlooker.progress(&SweepEvent { table, goal: record.goal, progress: record.progress });
        store.pause(LOOK_EVERY).await;
    }
    drop(onlooker);
    show(context, session, job).await
}

async fn steer(context: &Context<'_>, session: &Session, job: JobId, steering: Steering) -> Result<()> {
    if let Some(now) = ops::steer(session, job, steering).await? {
        return Err(Error::new(Code::Usage, format!("job {} cannot become `{}`", job.0, word(&steering.to())))
            .cause(format!("it is `{}`", word(&now)))
            .hint("nothing was changed"));
    }
    show(context, session, job).await
}

async fn set(context: &Context<'_>, session: &Session, args: &JobSet) -> Result<()> {
    let (store, job) = (session.db.store(), JobId(args.job));
    if (args.rate, args.batch, args.priority) == (None, None, None) {
        return Err(Error::new(Code::Usage, "nothing was said that is to be changed")
            .hint("give `--rate`, `--batch` or `--priority`"));
    }
    if args.rate.is_some() || args.batch.is_some() {
        let rate = args.rate.map(|rate| (rate > 0).then_some(rate));
        store.set_control(job, args.batch, rate).await?;
    }
    if let Some(priority) = args.priority {
        store.set_priority(job, priority).await?;
    }
    show(context, session, job).await
}

fn of_job(job: &JobRecord) -> Value {
    json!({
        "id": job.id,
        "table": job.target.policy_table,
        "columns": job.target.columns.iter().map(|column| &column.name).collect::<Vec<_>>(),
        "goal": job.goal,
        "leaving": job.target.leaving,
        "state": job.state,
        "pass": job.pass,
        "progress": job.progress,
        "priority": job.order.priority,
        "requested_by": job.order.by,
        "reason": job.order.reason,
        "workers": job.workers,
        "created_at": time(job.created_ms),
        "changed_at": time(job.changed_ms),
        "last_error": job.last_error,
    })
}

fn table(jobs: &[JobRecord]) -> Table {
    let mut table = Table::new(&["job", "table", "goal", "state", "priority", "rows", "changed", "failed", "workers"]);
    for job in jobs {
        let p = &job.progress;
        table.row([
            job.id.0.to_string(),
            job.target.policy_table.clone(),
            word(&job.goal),
            word(&job.state),
            job.order.priority.to_string(),
            format!("{} of {}", count(p.rows_seen), count(p.rows_total)),
            count(p.rows_changed),
            count(p.rows_failed),
            job.workers.to_string(),
        ]);
    }
    table
}

fn write(job: &JobRecord, control: &Control, errors: &[RowError], out: &mut String) {
    // Writing to a String cannot fail.
    let mut line = |name: &str, says: String| {
        let _ = writeln!(out, "{name:<10}{says}");
    };
    let columns: Vec<&str> = job.target.columns.iter().map(|column| column.name.as_str()).collect();
    let p = &job.progress;
    line("job", format!("{}, {} of {} ({})", job.id.0, word(&job.goal), job.target.policy_table, columns.join(", ")));
    line("state", format!("{}, pass {}, {}", word(&job.state), job.pass, some(job.workers as usize, "worker")));
    line(
        "rows",
        format!(
            "{} of {} looked at, {} changed, {} failed",
            count(p.rows_seen),
            count(p.rows_total),
            count(p.rows_changed),
            count(p.rows_failed)
        ),
    );
    line("ranges", format!("{} of {}", count(p.chunks_done), count(p.chunks_total)));
    let rate = control.rate.map_or("no limit".to_owned(), |rate| format!("{} a second", rows(u64::from(rate))));
    line(
        "pace",
        format!("{rate}, at most {} at once, priority {}", rows(u64::from(control.batch_rows)), job.order.priority),
    );
    if let Some(by) = &job.order.by {
        line("by", by.clone());
    }
    if let Some(reason) = &job.order.reason {
        line("reason", reason.clone());
    }
    if let (Some(created), Some(changed)) = (time(job.created_ms), time(job.changed_ms)) {
        line("times", format!("made {created}, state changed {changed}"));
    }
    if let Some(error) = &job.last_error {
        line("error", error.clone());
    }
    for e in errors {
        let _ = writeln!(out, "row {} {}: {} ({})", e.row, e.column, e.reason, e.code);
    }
    if p.rows_failed > 0 && job.state.is_end() {
        let _ = writeln!(out, "\nSettle what is wrong with them, then: enfold jobs retry {}", job.id.0);
    }
}

/// Jobs that wait for workers, where there are none.
fn hint(jobs: &[JobRecord], workers: &[WorkerSign], out: &mut String) {
    let waiting =
        jobs.iter().any(|job| job.goal == enfold_jobs::model::Goal::Reencrypt && job.state == JobState::Pending);
    match workers {
        [] if waiting => out
            .push_str("\nNo worker is running, so it waits: start `enfold worker`, on any machine with this policy.\n"),
        [] => {}
        workers => {
            let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\n{} running: {}", some(workers.len(), "worker"), names.join(", "));
        }
    }
}
