//! `enfold log prune`: what was kept long enough is archived and removed, and a signed checkpoint says so.

use enfold::policy::format_duration;
use enfold::{Enfold, Error, LogDue, Result};
use serde_json::json;

use super::signer;
use crate::args::PruneLog;
use crate::commands::Context;
use crate::words::{count, many, time};

pub(super) async fn run(context: &Context<'_>, args: &PruneLog, enfold: &Enfold) -> Result<()> {
    let events = &enfold.policy().events;
    let unfinished = !args.dry_run && enfold.finish_pruning_log().await?;
    let Some(due) = enfold.log_due(events.keep).await? else {
        return context.screen.result(&json!({ "due": null, "finished": unfinished }), |out| {
            if unfinished {
                out.push_str("What a former pruning was interrupted over is removed.\n");
            }
            out.push_str(&format!("Nothing that was signed is older than {}.\n", format_duration(events.keep)));
        });
    };
    let until = time(due.until_ms).unwrap_or_default();
    let what = format!("{} and {} until {until}", entries(due.entries), many(due.checkpoints(), "checkpoint"));
    if args.dry_run {
        return context.screen.result(&json!({ "due": shown(&due) }), |out| {
            out.push_str(&format!("{what} would be removed. {}\n", archived(enfold)));
        });
    }
    let signer = signer(args.key_file.as_deref(), enfold).await?;
    let question = format!("{what} are removed for good. {}", archived(enfold));
    context.screen.confirm(&question, "prune log", args.yes).map_err(unchanged)?;
    let cut = enfold.prune_log(&*signer, &due, &context.person(args.reason.as_deref())).await?;
    context.screen.result(&json!({ "removed": cut }), |out| {
        out.push_str(&format!("{what} are removed, and a signed checkpoint says so.\n"));
        if let Some(archive) = &cut.archive {
            out.push_str(&format!("They are in `{}`, SHA-256 {}\n", archive.file, archive.sha256));
        }
        out.push_str("Whoever signs the log goes on with it by the same policy.\n");
    })
}

fn shown(due: &LogDue) -> serde_json::Value {
    json!({ "entries": due.entries, "checkpoints": due.checkpoints(), "until": time(due.until_ms) })
}

fn archived(enfold: &Enfold) -> String {
    match &enfold.policy().events.archive {
        Some(folder) => format!("They are archived in `{}` before.", folder.display()),
        None => "The policy names no archive (`events.archive`).".to_owned(),
    }
}

fn unchanged(error: Error) -> Error {
    error.while_doing("cannot prune the log".to_owned())
}

fn entries(n: u64) -> String {
    if n == 1 { "1 entry".to_owned() } else { format!("{} entries", count(n)) }
}
