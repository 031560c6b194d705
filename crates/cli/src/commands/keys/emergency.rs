//! `enfold keys rotate --emergency`: from the suspicion that somebody has a data key to the moment when it opens nothing.
//!
//! The former data keys open until the last value has left them, so that no reader fails; then they are disabled. Whoever would
//! rather have readers fail than leave them open that long has the kill switch.

use std::fmt::Write as _;
use std::time::Duration;

use enfold::{Code, Error, KeyId, Leaving, Result, Rotated};
use enfold_jobs::model::{JobId, JobState};
use enfold_jobs::ops::{self, Session, Tried, WorkOptions};
use enfold_jobs::store::EMERGENCY;
use serde_json::json;

use super::rotate;
use super::uses::Found;
use crate::args::Rotate;
use crate::commands::Context;
use crate::commands::reencrypt;
use crate::onlooker::Onlooker;
use crate::words::{rows, some};

/// How long what stands in the way of disabling is waited for: longer than a process goes on by an earlier state, as a rule.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) async fn run(context: &Context<'_>, args: &Rotate) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let since = args.since.as_deref();
            // A misspelt moment is told before anything is done.
            Found::of(enfold, &[], since).await?;
            let rotated = rotate::rotate(context, args, enfold).await?;
            let former: Vec<KeyId> = rotated.iter().filter_map(|key| key.previous_key).collect();
            let call = context.call(Some(&args.reason));
            let wanted = ops::Disable { ring: &args.ring, keys: &former, minimum: None, context: &call };
            ops::announce(session, &wanted).await?;
            let leaving = Leaving { tenants: rotate::tenants(args, enfold).await?, ..Leaving::default() };
            let asked =
                reencrypt::after_rotation(context, session, &args.ring, leaving, &args.reason, EMERGENCY).await?;
            let jobs: Vec<JobId> = asked.jobs().into_iter().map(JobId).collect();
            finish(context, session, &jobs).await?;

            let uncounted = disable(context, session, &wanted, &jobs).await?;
            let found = Found::of(enfold, &former, since).await?;
            let document = json!({
                "rotation": rotate::document(context, args, &rotated, Some(&asked)),
                "disabled": former.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "uncounted": uncounted,
                "used": found.document(),
            });
            context.screen.result(&document, |out| {
                write(context, args, &rotated, &former, out);
                out.push('\n');
                found.write(context, out);
            })
        })
        .await
}

/// Takes the former data keys out of use; what of the policy could not be counted.
async fn disable(
    context: &Context<'_>,
    session: &Session,
    wanted: &ops::Disable<'_>,
    jobs: &[JobId],
) -> Result<Vec<String>> {
    if wanted.keys.is_empty() {
        return Ok(Vec::new());
    }
    let onlooker = Onlooker::new(context.screen);
    match ops::disable_within(session, wanted, PATIENCE, &onlooker).await? {
        Tried::Disabled { uncounted } => Ok(uncounted),
        Tried::Needed(needs) => {
            let line = "values still need the former data keys, so they are not disabled";
            let named = needs.tables.iter().map(|table| format!("`{}`: {}", table.table, rows(table.rows)));
            let hint = format!("`enfold jobs show {}` says why; settle it, then `enfold jobs retry`", list(jobs));
            let error = named.fold(Error::new(Code::KeyNeeded, line), Error::cause);
            Err(error.hint(hint).hint("the rotation stays as it is"))
        }
        Tried::Waits(missing) => {
            let error = Error::new(Code::Busy, "the former data keys cannot be disabled yet");
            Err(missing
                .says()
                .into_iter()
                .fold(error, Error::cause)
                .hint("every value has left them, and the rotation stays as it is")
                .hint(format!("disable them later: `enfold keys disable {} KEY`", wanted.ring)))
        }
    }
}

/// Works on these jobs, beside whoever else does, until they are at their end.
async fn finish(context: &Context<'_>, session: &Session, jobs: &[JobId]) -> Result<()> {
    let onlooker = Onlooker::new(context.screen);
    let options = WorkOptions {
        name: format!("emergency:{}", std::process::id()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        until_idle: true,
        only: Some(jobs.to_vec()),
    };
    let report = ops::work(session, &options, &onlooker).await?;
    let store = session.db.store();
    for job in jobs {
        let state = store.job(*job).await?.state;
        if !matches!(state, JobState::Completed | JobState::CompletedWithErrors) {
            let failed = report.failed.iter().find(|(failed, _)| failed == job).map(|(_, line)| line.clone());
            return Err(Error::new(Code::Interrupted, format!("job {} did not come to its end", job.0))
                .cause(failed.unwrap_or_else(|| "it was stopped, paused or cancelled".to_owned()))
                .hint("the rotation stays as it is; a worker goes on where this one stopped")
                .hint("then disable the former data keys: `enfold keys disable`"));
        }
    }
    Ok(())
}

fn write(context: &Context<'_>, args: &Rotate, rotated: &[Rotated], former: &[KeyId], out: &mut String) {
    rotate::write_table(context, rotated, out);
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\nRotated {} of ring {}, re-encrypted every value, and disabled {}.",
        some(rotated.len(), "data key"),
        args.ring,
        some(former.len(), "former one"),
    );
}

fn list(jobs: &[JobId]) -> String {
    jobs.iter().map(|job| job.0.to_string()).collect::<Vec<_>>().join(", ")
}
