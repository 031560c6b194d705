//! `enfold break-glass`: access in emergencies, looked at and ended.
//!
//! Approving, denying and reviewing is not here. Those are words of a second person, and a command knows of nobody who they are: whoever
//! types it could give themselves another name. Ending only takes away, so it is for everybody who has the keys.

use std::fmt::Write as _;

use enfold::access::{Emergency, Word};
use enfold::{Enfold, Error, Result};
use enfold_jobs::shown::time;
use serde_json::{Value, json};

use super::Context;
use crate::args::BreakGlass;
use crate::table::Table;

pub(crate) async fn run(context: &Context<'_>, args: &BreakGlass) -> Result<()> {
    context
        .with_keys(context.policy()?, async |enfold| match args {
            BreakGlass::List => list(context, enfold).await,
            BreakGlass::Show(args) => show(context, enfold, &enfold.emergency(&args.id).await?),
            BreakGlass::End(args) => {
                let ended = enfold.end_emergency(&args.id, &context.call(Some(&args.reason))).await?;
                show(context, enfold, &ended)
            }
        })
        .await
}

async fn list(context: &Context<'_>, enfold: &Enfold) -> Result<()> {
    let known = enfold.emergencies().await?;
    let documents: Vec<Value> = known
        .iter()
        .map(|(id, emergency)| match emergency {
            Ok(emergency) => document(enfold, emergency),
            Err(error) => json!({ "id": id, "error": { "code": error.code().word(), "message": error.message() } }),
        })
        .collect();
    context.screen.result(&json!({ "emergencies": documents }), |out| {
        if known.is_empty() {
            out.push_str("There was no emergency.\n");
            return;
        }
        let mut table = Table::new(&["id", "asked by", "at", "standing", "until"]);
        for (id, emergency) in &known {
            table.row(match emergency {
                Ok(emergency) => [
                    id.clone(),
                    emergency.asked.by.clone(),
                    time(emergency.asked.at_ms).unwrap_or_default(),
                    enfold.standing_of(emergency).word().to_owned(),
                    until(enfold, emergency).unwrap_or_default(),
                ],
                Err(error) => {
                    let nothing = String::new;
                    [id.clone(), nothing(), nothing(), broken(error), nothing()]
                }
            });
        }
        table.write(context.screen, out);
    })
}

/// It hides no other.
fn broken(error: &Error) -> String {
    format!("not to be believed ({})", error.code().word())
}

fn show(context: &Context<'_>, enfold: &Enfold, emergency: &Emergency) -> Result<()> {
    context.screen.result(&document(enfold, emergency), |out| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{}: {}", emergency.id, enfold.standing_of(emergency).word());
        if let Some(until) = until(enfold, emergency) {
            let _ = write!(out, ", until {until}");
        }
        out.push('\n');
        for (what, word) in words(emergency) {
            let at = time(word.at_ms).unwrap_or_default();
            let _ = writeln!(out, "  {what} {at} by {}: {}", word.by, word.reason);
        }
        for (what, names) in narrowed(emergency) {
            let _ = writeln!(out, "  for {what} {}", names.join(", "));
        }
        if let Some(used) = emergency.used_ms.and_then(time) {
            let _ = writeln!(out, "  first used {used}");
        }
    })
}

/// What was said, in the order in which it may be.
fn words(emergency: &Emergency) -> impl Iterator<Item = (&'static str, &Word)> {
    let said = [
        ("asked", Some(&emergency.asked)),
        ("approved", emergency.approved.as_ref()),
        ("denied", emergency.denied.as_ref()),
        ("ended", emergency.ended.as_ref()),
        ("reviewed", emergency.reviewed.as_ref()),
    ];
    said.into_iter().filter_map(|(what, word)| Some((what, word?)))
}

fn narrowed(emergency: &Emergency) -> impl Iterator<Item = (&'static str, Vec<String>)> {
    let within = &emergency.within;
    let sets = [("tenants", &within.tenants), ("classes", &within.classes), ("columns", &within.columns)];
    sets.into_iter().filter_map(|(what, names)| Some((what, names.as_ref()?.iter().cloned().collect())))
}

fn until(enfold: &Enfold, emergency: &Emergency) -> Option<String> {
    emergency.until_ms(enfold.policy().service.emergency.approval).and_then(time)
}

fn document(enfold: &Enfold, emergency: &Emergency) -> Value {
    let said = |word: &Word| json!({ "by": word.by, "at": time(word.at_ms), "reason": word.reason });
    let words: serde_json::Map<String, Value> =
        words(emergency).map(|(what, word)| (what.to_owned(), said(word))).collect();
    json!({
        "id": emergency.id,
        "standing": enfold.standing_of(emergency).word(),
        "minutes": emergency.lasts_ms / 60_000,
        "until": until(enfold, emergency),
        "within": emergency.within,
        "used_at": emergency.used_ms.and_then(time),
        "said": words,
    })
}
