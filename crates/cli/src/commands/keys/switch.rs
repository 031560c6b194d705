//! `enfold keys disable` and `enfold keys enable`: a data key that nothing needs goes out of use; the kill switch; and back.

use std::fmt::Write as _;

use enfold::{Code, Enfold, Error, KeyId, Leaving, Result};
use enfold_jobs::ops::{self, Needs, Session};
use serde_json::json;

use super::key_id;
use crate::args::{Disable, Enable};
use crate::commands::Context;
use crate::words::rows;

/// Disables a former data key under which the database holds no value.
pub(super) async fn when_unneeded(context: &Context<'_>, args: &Disable) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            let id = key_id(&args.key)?;
            must_be_former(enfold, args, id).await?;
            let needs = ops::needs(session, &args.ring, &[id]).await?;
            if !needs.is_none() {
                return Err(needed(args, id, &needs));
            }
            let mut question = format!("No value of ring {} is under data key {id} any more.", args.ring);
            if !needs.uncounted.is_empty() {
                question
                    .push_str(&format!("\nNot counted, for they live in no column: {}.", needs.uncounted.join(", ")));
            }
            context.screen.confirm(&question, "disable", args.yes)?;
            off(context, args, enfold, id, Some((session, &needs))).await
        })
        .await
}

/// Disables a data key whatever needs it.
pub(super) async fn kill(context: &Context<'_>, args: &Disable, enfold: &Enfold) -> Result<()> {
    let id = key_id(&args.key)?;
    let question = format!(
        "From now on nothing under data key {id} opens, in any process: whoever reads such a value gets an error.\n\
         `enfold keys enable {} {id}` takes it back.",
        args.ring
    );
    context.screen.confirm(&question, &id.to_string(), args.yes)?;
    off(context, args, enfold, id, None).await
}

async fn off(
    context: &Context<'_>,
    args: &Disable,
    enfold: &Enfold,
    id: KeyId,
    counted: Option<(&Session, &Needs)>,
) -> Result<()> {
    let operator = enfold.operator()?;
    let context_of_call = context.call(Some(&args.reason));
    operator.disable(&args.ring, id, &context_of_call).await?;
    // A value that was sealed before the rotation may have been written after the count.
    if let Some((session, _)) = counted {
        let needs = ops::needs(session, &args.ring, &[id]).await?;
        if !needs.is_none() {
            operator.enable(&args.ring, id, &context_of_call).await?;
            return Err(
                needed(args, id, &needs).cause("they were written while it was being disabled, so it is enabled again")
            );
        }
    }
    let document = json!({
        "ring": args.ring,
        "key": id.to_string(),
        "status": "disabled",
        "reason": args.reason,
        "uncounted": counted.map(|(_, needs)| &needs.uncounted),
    });
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "Disabled data key {id} of ring {}: no process opens under it within a second.", args.ring);
    })
}

pub(super) async fn on(context: &Context<'_>, args: &Enable, enfold: &Enfold) -> Result<()> {
    let (operator, id) = (enfold.operator()?, key_id(&args.key)?);
    let question = format!("Data key {id} opens again, in every process.");
    context.screen.confirm(&question, "enable", args.yes)?;
    operator.enable(&args.ring, id, &context.call(Some(&args.reason))).await?;
    let document = json!({ "ring": args.ring, "key": id.to_string(), "status": "enabled", "reason": args.reason });
    context.screen.result(&document, |out| {
        let _ = writeln!(out, "Enabled data key {id} of ring {}.", args.ring);
    })
}

/// One that seals is in use by definition, and so is one that is not there.
async fn must_be_former(enfold: &Enfold, args: &Disable, id: KeyId) -> Result<()> {
    if enfold.former_keys(&args.ring, &Leaving::default()).await?.contains(&id) {
        return Ok(());
    }
    Err(Error::new(Code::Usage, format!("data key `{id}` of ring `{}` is none that seals no more", args.ring))
        .cause(
            "only a former data key can be free of values; this one seals, makes blind indexes, or is not in the ring",
        )
        .hint(format!("`enfold keys rotate {}` has another version seal", args.ring))
        .hint("`--kill-switch` disables any data key at once, whatever needs it"))
}

fn needed(args: &Disable, id: KeyId, needs: &Needs) -> Error {
    let error = Error::new(Code::KeyNeeded, format!("values still need data key `{id}` of ring `{}`", args.ring));
    let named = needs.tables.iter().map(|table| format!("`{}`: {}", table.table, rows(table.rows)));
    named
        .fold(error, Error::cause)
        .hint(format!("`enfold reencrypt {}` moves them to the data key that seals now", args.ring))
        .hint("`--kill-switch` disables it all the same: they cannot be read until it is enabled again")
}
