//! `enfold status`: how far the columns are, which jobs there are, who reads.

use std::fmt::Write as _;

use enfold::Result;
use enfold::policy::Mode;
use enfold_jobs::model::{Census, Goal, JobId, JobState, Progress, RowError};
use enfold_jobs::ops::{self, Selection};
use enfold_jobs::ops::{Reader, audit::ColumnAudit};
use serde::Serialize;

use super::Context;
use super::plan::mode;
use crate::table::Table;
use crate::words::count;

/// Rows of each table that are looked at for the counts.
const SAMPLE: u64 = 10_000;
/// Row errors of a job that are shown.
const ERRORS: u32 = 20;

#[derive(Serialize)]
struct Report {
    columns: Vec<ColumnStatus>,
    jobs: Vec<Job>,
    readers: Vec<Reader>,
}

#[derive(Serialize)]
struct ColumnStatus {
    column: String,
    mode: Mode,
    wanted: Mode,
    /// Of a sample.
    census: Census,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Job {
    id: JobId,
    table: String,
    goal: Goal,
    state: JobState,
    progress: Progress,
    last_error: Option<String>,
    row_errors: Vec<RowError>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<()> {
    context
        .with_session(async |session| {
            let audit = ops::audit(session.db.as_ref(), &session.policy, &Selection::All, Some(SAMPLE)).await?;
            let names: Vec<String> = audit.columns.iter().map(|c| c.column.clone()).collect();
            let modes = session.keys.modes(&names).await?;
            let columns = audit.columns.into_iter().zip(modes).map(|(audited, mode)| {
                let wanted = session.policy.column(&audited.column).map_or(mode, |(_, c)| c.mode);
                let ColumnAudit { column, census, reason, .. } = audited;
                ColumnStatus { column, mode, wanted, census, reason }
            });
            let columns = columns.collect();
            let mut jobs = Vec::new();
            for record in session.db.store().jobs().await? {
                let row_errors = session.db.store().row_errors(record.id, ERRORS).await?;
                jobs.push(Job {
                    id: record.id,
                    table: record.target.policy_table,
                    goal: record.goal,
                    state: record.state,
                    progress: record.progress,
                    last_error: record.last_error,
                    row_errors,
                });
            }
            let report = Report { columns, jobs, readers: session.keys.readers().await? };
            context.screen.result(&report, |out| write(context, &report, out))
        })
        .await
}

fn write(context: &Context<'_>, report: &Report, out: &mut String) {
    let mut table = Table::new(&["column", "mode", "wanted", "envelopes", "plaintext", "of rows looked at"]);
    for c in &report.columns {
        table.row([
            c.column.clone(),
            mode(c.mode).to_owned(),
            mode(c.wanted).to_owned(),
            count(c.census.envelopes),
            count(c.census.plaintext),
            count(c.census.rows),
        ]);
    }
    table.write(context.screen, out);
    for (c, reason) in report.columns.iter().filter_map(|c| Some((c, c.reason.as_ref()?))) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "`{}` was not looked at: {reason}", c.column);
    }
    let mut table = Table::new(&["job", "table", "goal", "state", "rows", "changed", "failed"]);
    for j in &report.jobs {
        let p = &j.progress;
        table.row([
            j.id.0.to_string(),
            j.table.clone(),
            word(&j.goal),
            word(&j.state),
            format!("{} of {}", count(p.rows_seen), count(p.rows_total)),
            count(p.rows_changed),
            count(p.rows_failed),
        ]);
    }
    if !table.is_empty() {
        out.push('\n');
        table.write(context.screen, out);
    }
    // Writing to a String cannot fail.
    for j in report.jobs.iter().filter(|j| !j.row_errors.is_empty()) {
        for e in &j.row_errors {
            let _ = writeln!(out, "job {}: row {} {}: {} ({})", j.id.0, e.row, e.column, e.reason, e.code);
        }
    }
    for r in &report.readers {
        let _ = writeln!(
            out,
            "reader {} {}: ready for {}, reads {}",
            r.name,
            r.version,
            mode(r.ready),
            r.columns.join(", ")
        );
    }
}

/// The word under which a state or a goal stands in JSON.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
