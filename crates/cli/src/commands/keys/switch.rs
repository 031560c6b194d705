//! `enfold keys disable` and `enfold keys enable`: data keys that nothing needs go out of use; the kill switch; and back.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use enfold::{Code, Enfold, Error, KeyId, Result};
use enfold_jobs::ops::{self, Missing, Needs, Session, Tried};
use serde_json::json;

use super::key_id;
use crate::args::{Disable, Enable};
use crate::commands::Context;
use crate::onlooker::Onlooker;
use crate::words::{rows, some};

/// Disables former data keys under which the database holds no value, nor will.
pub(super) async fn when_unneeded(context: &Context<'_>, args: &Disable) -> Result<()> {
    context
        .with_session_and_keys(async |session, enfold| {
            if args.print_sql {
                return print_sql(context, args, session).await;
            }
            let (ids, call) = (wanted(args, session, enfold).await?, context.call(Some(&args.reason)));
            if ids.is_empty() {
                return done(context, args, &ids, None);
            }
            let wanted = ops::Disable { ring: &args.ring, keys: &ids, minimum: None, context: &call };
            let needs = ops::disable::look(session, &wanted).await?;
            if !needs.is_none() {
                return Err(needed(args, &ids, &needs));
            }
            let mut question = format!("No value of ring {} is under {} any more.", args.ring, named(&ids, ""));
            if !needs.uncounted.is_empty() {
                question
                    .push_str(&format!("\nNot counted, for they live in no column: {}.", needs.uncounted.join(", ")));
            }
            context.screen.confirm(&question, "disable", args.yes)?;
            let onlooker = Onlooker::new(context.screen);
            match ops::disable_within(session, &wanted, Duration::from_secs(args.wait), &onlooker).await? {
                Tried::Disabled { uncounted } => done(context, args, &ids, Some(&uncounted)),
                Tried::Needed(needs) => Err(needed(args, &ids, &needs)
                    .cause("they were written since it was first counted; the database refuses more of them")),
                Tried::Waits(missing) => {
                    let line = format!("{} of ring `{}` cannot be disabled yet", named(&ids, "`"), args.ring);
                    Err(waits(&line, &missing))
                }
            }
        })
        .await
}

/// The data keys that are meant, each once.
async fn wanted(args: &Disable, session: &Session, enfold: &Enfold) -> Result<Vec<KeyId>> {
    if !args.past_grace {
        return key_ids(&args.keys);
    }
    let now_ms = session.db.now_ms().await?;
    let graces = enfold.graces().await?.into_iter().filter(|grace| grace.ring == args.ring);
    Ok(graces.flat_map(|grace| grace.due(now_ms).iter().map(|key| key.id).collect::<Vec<_>>()).collect())
}

fn key_ids(texts: &[String]) -> Result<Vec<KeyId>> {
    texts.iter().map(|text| key_id(text)).collect::<Result<BTreeSet<_>>>().map(|ids| ids.into_iter().collect())
}

/// One by its id, in these marks; more by their number.
fn named(ids: &[KeyId], marks: &str) -> String {
    match ids {
        [id] => format!("data key {marks}{id}{marks}"),
        _ => some(ids.len(), "data key"),
    }
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

/// Disables data keys whatever needs them.
pub(super) async fn kill(context: &Context<'_>, args: &Disable, enfold: &Enfold) -> Result<()> {
    let ids = key_ids(&args.keys)?;
    let these = args.keys.join(" ");
    let question = format!(
        "From now on nothing under {} opens, in any process: whoever reads such a value gets an error.\n\
         `enfold keys enable {} {these}` takes it back.",
        named(&ids, ""),
        args.ring
    );
    let word = if let [id] = &ids[..] { id.to_string() } else { some(ids.len(), "data key") };
    context.screen.confirm(&question, &word, args.yes)?;
    enfold.operator()?.disable_many(&args.ring, &ids, &context.call(Some(&args.reason))).await?;
    done(context, args, &ids, None)
}

fn done(context: &Context<'_>, args: &Disable, ids: &[KeyId], uncounted: Option<&[String]>) -> Result<()> {
    let document = json!({
        "ring": args.ring,
        "keys": ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "status": "disabled",
        "reason": args.reason,
        "uncounted": uncounted,
    });
    let under = if ids.len() == 1 { "it" } else { "them" };
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ = match ids {
            [] => writeln!(out, "No former data key of ring {} is past its grace period.", args.ring),
            ids => writeln!(
                out,
                "Disabled {} of ring {}: no process opens under {under} within a second.",
                named(ids, ""),
                args.ring
            ),
        };
    })
}

pub(super) async fn on(context: &Context<'_>, args: &Enable) -> Result<()> {
    context
        .with_session(async |session| {
            let (ids, call) = (key_ids(&args.keys)?, context.call(Some(&args.reason)));
            let question = match &ids[..] {
                [id] => format!("Data key {id} opens again, in every process."),
                ids => format!("{} open again, in every process.", named(ids, "")),
            };
            context.screen.confirm(&question, "enable", args.yes)?;
            let wanted = ops::Disable { ring: &args.ring, keys: &ids, minimum: None, context: &call };
            ops::enable(session, &wanted).await?;
            let named_ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>();
            let document = json!({ "ring": args.ring, "keys": named_ids, "status": "enabled", "reason": args.reason });
            context.screen.result(&document, |out| {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "Enabled {} of ring {}.", named(&ids, ""), args.ring);
            })
        })
        .await
}

fn needed(args: &Disable, ids: &[KeyId], needs: &Needs) -> Error {
    let one_of = if ids.len() == 1 { "" } else { "one of " };
    let line = format!("values still need {one_of}{} of ring `{}`", named(ids, "`"), args.ring);
    let tables = needs.tables.iter().map(|table| format!("`{}`: {}", table.table, rows(table.rows)));
    tables
        .fold(Error::new(Code::KeyNeeded, line), Error::cause)
        .hint(format!("`enfold reencrypt {}` moves them to the data key that seals now", args.ring))
        .hint("`--kill-switch` disables it all the same: they cannot be read until it is enabled again")
}
