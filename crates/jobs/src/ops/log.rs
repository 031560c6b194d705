//! What the log of events says of jobs: begun, at their end, failed.

use enfold::Error;
use enfold::events::{Event, EventKind};

use super::keys::Keys;
use crate::model::JobState;
use crate::store::JobRecord;

/// Says that a job, which was as `job` has it, is in another state now.
pub(super) fn moved(keys: &dyn Keys, job: &JobRecord, to: JobState, error: Option<&Error>) {
    let said = |kind, rows, more: String| {
        Event::new(kind, rows).job(job.id.0.to_string()).detail(format!(
            "{} `{}`{more}",
            job.goal.word(),
            job.target.policy_table
        ))
    };
    let changed = job.progress.rows_changed;
    keys.log(match (to, error) {
        (JobState::Running, _) => said(EventKind::JobStarted, changed, asked_for(job)),
        (JobState::CompletedWithErrors, _) => {
            said(EventKind::JobCompleted, changed, format!(", with {} row errors", job.progress.rows_failed))
        }
        (JobState::Completed, _) => said(EventKind::JobCompleted, changed, String::new()),
        (JobState::Failed, Some(error)) => said(EventKind::JobFailed, changed, String::new()).because(error),
        _ => return,
    });
}

/// Whose wish it is, where somebody left it for workers.
fn asked_for(job: &JobRecord) -> String {
    let by = job.order.by.iter().map(|by| format!(", asked for by {by}"));
    by.chain(job.order.reason.iter().map(|reason| format!(": {reason}"))).collect()
}
