//! `enfold enforce`: has the database itself refuse what has not the form of an envelope.

use std::fmt::Write as _;

use enfold::Result;
use enfold_jobs::ops;

use super::Context;
use crate::args::Enforce;
use crate::onlooker::Onlooker;

pub(crate) async fn run(context: &Context<'_>, args: &Enforce) -> Result<()> {
    context
        .with_session(async |session| {
            let pace = super::pace(session, None, args.workers)?;
            let selection = super::selection(&session.policy, &args.columns)?;
            for step in ops::plan_enforce(session, &selection).await? {
                context.screen.say(&step.says);
            }
            context.screen.confirm(
                "Afterwards the database refuses plaintext in these columns.",
                "enforce",
                args.yes,
            )?;
            let onlooker = Onlooker::new(context.screen);
            let report = ops::enforce(session, &selection, &pace, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| {
                for table in &report.tables {
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "{}: refuses plaintext in {}", table.table, table.columns.join(", "));
                }
                for (reader, uses) in &report.readers {
                    super::drop_reader::write_left(reader, uses, out);
                }
            })
        })
        .await
}
