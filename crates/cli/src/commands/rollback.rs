//! `enfold rollback`: the way back, online.

use std::fmt::Write as _;

use enfold::Result;
use enfold_jobs::ops::{self, RollbackReport};

use super::Context;
use crate::args::Rollback;
use crate::onlooker::Onlooker;
use crate::words::rows;

pub(crate) async fn run(context: &Context<'_>, args: &Rollback) -> Result<()> {
    context
        .with_session(async |session| {
            let pace = super::pace(session, args.rate, args.workers)?;
            let selection = super::selection(&session.policy, &args.columns)?;
            for (table, steps) in ops::plan_rollback(session, &selection).await? {
                for step in steps {
                    context.screen.say(&format!("{table}: {}", step.says));
                }
            }
            context.screen.confirm(
                "This decrypts the columns above: they will be plaintext again.",
                "decrypt",
                args.yes,
            )?;
            let onlooker = Onlooker::new(context.screen);
            let report = ops::rollback(session, &selection, &pace, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| write(&report, out))
        })
        .await
}

pub(super) fn write(report: &RollbackReport, out: &mut String) {
    for table in &report.tables {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}: plaintext again, {} converted", table.table, rows(table.rows_changed));
    }
}
