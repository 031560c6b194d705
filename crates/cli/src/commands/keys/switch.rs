//! `enfold keys disable` and `enfold keys enable`: the kill switch, and back.

use std::fmt::Write as _;

use enfold::{Code, Enfold, Error, KeyId, Result};
use serde_json::json;

use crate::args::Switch;
use crate::commands::Context;

pub(super) async fn off(context: &Context<'_>, args: &Switch, enfold: &Enfold) -> Result<()> {
    let (operator, id) = (enfold.operator()?, key(args)?);
    let question = format!(
        "From now on nothing under data key {id} opens, in any process: whoever reads such a value gets an error.\n\
         `enfold keys enable {} {id}` takes it back.",
        args.ring
    );
    context.screen.confirm(&question, &id.to_string(), args.yes)?;
    operator.disable(&args.ring, id, &context.call(Some(&args.reason))).await?;
    let document = json!({ "ring": args.ring, "key": id.to_string(), "status": "disabled", "reason": args.reason });
    context.screen.result(&document, |out| {
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "Disabled data key {id} of ring {}: no process opens under it within a second.", args.ring);
    })
}

pub(super) async fn on(context: &Context<'_>, args: &Switch, enfold: &Enfold) -> Result<()> {
    let (operator, id) = (enfold.operator()?, key(args)?);
    let question = format!("Data key {id} opens again, in every process.");
    context.screen.confirm(&question, "enable", args.yes)?;
    operator.enable(&args.ring, id, &context.call(Some(&args.reason))).await?;
    let document = json!({ "ring": args.ring, "key": id.to_string(), "status": "enabled", "reason": args.reason });
    context.screen.result(&document, |out| {
        let _ = writeln!(out, "Enabled data key {id} of ring {}.", args.ring);
    })
}

fn key(args: &Switch) -> Result<KeyId> {
    args.key.parse().map_err(|_| {
        Error::new(Code::Usage, format!("`{}` is not the id of a data key", args.key))
            .cause("it has 32 lower-case hexadecimal digits")
            .hint("`enfold inspect` shows it for a value, `enfold audit --json` for a column")
    })
}
