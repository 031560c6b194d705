//! `enfold keys disable` and `enfold keys enable`: a data key that nothing needs goes out of use; the kill switch; and back.

use std::fmt::Write as _;
use std::time::Duration;

use enfold::{Code, Enfold, Error, KeyId, Result};
use enfold_jobs::ops::{self, Missing, Needs, Session, Tried};
use serde_json::json;

use super::key_id;
use crate::args::{Disable, Enable};
use crate::commands::Context;
use crate::onlooker::Onlooker;
use crate::words::rows;

/// Disables a former data key under which the database holds no value, nor will.
pub(super) async fn when_unneeded(context: &Context<'_>, args: &Disable) -> Result<()> {
    context
        .with_session_and_keys(async |session, _| {
            if args.print_sql {
                return print_sql(context, args, session).await;
            }
            let (id, call) = (key_id(&args.key)?, context.call(Some(&args.reason)));
            let wanted = ops::Disable { ring: &args.ring, keys: &[id], minimum: None, context: &call };
            let needs = ops::disable::look(session, &wanted).await?;
            if !needs.is_none() {
                return Err(needed(args, id, &needs));
            }
            let mut question = format!("No value of ring {} is under data key {id} any more.", args.ring);
            if !needs.uncounted.is_empty() {
                question
                    .push_str(&format!("\nNot counted, for they live in no column: {}.", needs.uncounted.join(", ")));
            }
            context.screen.confirm(&question, "disable", args.yes)?;
            let onlooker = Onlooker::new(context.screen);
            match ops::disable_within(session, &wanted, Duration::from_secs(args.wait), &onlooker).await? {
                Tried::Disabled { uncounted } => done(context, args, id, Some(&uncounted)),
                Tried::Needed(needs) => Err(needed(args, id, &needs)
                    .cause("they were written since it was first counted; the database refuses more of them")),
                Tried::Waits(missing) => {
                    Err(waits(&format!("data key `{id}` of ring `{}` cannot be disabled yet", args.ring), &missing))
                }
            }
        })
        .await
}

/// What passes by itself, and has not.
pub(super) fn waits(line: &str, missing: &Missing) -> Error {
    let error = missing.says().into_iter().fold(Error::new(Code::Busy, line), Error::cause);
    error
        .hint("run the command again: what has passed is on record")
        .hint("the data key opens meanwhile, and seals no more")
}

async fn print_sql(context: &Context<'_>, args: &Disable, session: &Session) -> Result<()> {
    let steps = ops::refusals(session, &args.ring).await?;
    let statements: Vec<String> = steps.iter().flat_map(|step| session.db.sql(step)).collect();
    context.screen.result(&statements, |out| {
        statements.iter().for_each(|sql| out.push_str(&format!("{sql};\n")));
    })
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
    enfold.operator()?.disable(&args.ring, id, &context.call(Some(&args.reason))).await?;
    done(context, args, id, None)
}

fn done(context: &Context<'_>, args: &Disable, id: KeyId, uncounted: Option<&[String]>) -> Result<()> {
    let document = json!({
        "ring": args.ring,
        "key": id.to_string(),
        "status": "disabled",
        "reason": args.reason,
        "uncounted": uncounted,
    });
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "Disabled data key {id} of ring {}: no process opens under it within a second.", args.ring);
    })
}

pub(super) async fn on(context: &Context<'_>, args: &Enable) -> Result<()> {
    context
        .with_session(async |session| {
            let (id, call) = (key_id(&args.key)?, context.call(Some(&args.reason)));
            let question = format!("Data key {id} opens again, in every process.");
            context.screen.confirm(&question, "enable", args.yes)?;
            let wanted = ops::Disable { ring: &args.ring, keys: &[id], minimum: None, context: &call };
            ops::enable(session, &wanted).await?;
            let document =
                json!({ "ring": args.ring, "key": id.to_string(), "status": "enabled", "reason": args.reason });
            context.screen.result(&document, |out| {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "Enabled data key {id} of ring {}.", args.ring);
            })
        })
        .await
}

fn needed(args: &Disable, id: KeyId, needs: &Needs) -> Error {
    let error = Error::new(Code::KeyNeeded, format!("values still need data key `{id}` of ring `{}`", args.ring));
    let named = needs.tables.iter().map(|table| format!("`{}`: {}", table.table, rows(table.rows)));
    named
        .fold(error, Error::cause)
        .hint(format!("`enfold reencrypt {}` moves them to the data key that seals now", args.ring))
        .hint("`--kill-switch` disables it all the same: they cannot be read until it is enabled again")
}
