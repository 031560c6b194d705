//! `enfold drop-source`: the column goes whose values are all in its shadow.

use std::fmt::Write as _;

use enfold::Result;
use enfold_jobs::ops;
use serde::Serialize;

use super::Context;
use crate::args::DropSource;
use crate::onlooker::Onlooker;

#[derive(Serialize)]
struct Report<'a> {
    column: &'a str,
}

pub(crate) async fn run(context: &Context<'_>, args: &DropSource) -> Result<()> {
    let column = &args.column;
    context
        .with_session(async |session| {
            for step in ops::plan_drop_source(session, column).await? {
                context.screen.say(&step.says);
            }
            let word = column.rsplit('.').next().unwrap_or(column);
            let question =
                "The column goes for good, and everything that reads it with it. Its values stay in the shadow.";
            context.screen.confirm(question, word, args.yes)?;
            let onlooker = Onlooker::new(context.screen);
            ops::drop_source(session, column, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&Report { column }, |out| {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{column}: dropped; its values are in the shadow. The policy stays as it is");
            })
        })
        .await
}
