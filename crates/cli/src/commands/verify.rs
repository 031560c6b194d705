//! `enfold verify`: opens every stored value, and changes nothing.

use std::fmt::Write as _;

use enfold::{Code, Error, Result};
use enfold_jobs::ops;

use super::Context;
use crate::args::Verify;
use crate::onlooker::Onlooker;
use crate::words::{count, rows};

pub(crate) async fn run(context: &Context<'_>, args: &Verify) -> Result<()> {
    context
        .with_session(async |session| {
            let pace = super::pace(session, None, args.workers)?;
            let selection = super::selection(&session.policy, &args.columns)?;
            let onlooker = Onlooker::new(context.screen);
            let report = ops::verify(session, &selection, &pace, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| {
                for table in &report.tables {
                    // Writing to a String cannot fail.
                    let _ = writeln!(
                        out,
                        "{}: {}, {} with a value that is plaintext or does not open",
                        table.table,
                        rows(table.rows),
                        count(table.failed)
                    );
                    for (column, readers) in &table.readers {
                        crate::words::readers(&format!("{}.{column}", table.table), Some(readers), out);
                    }
                    for error in &table.errors {
                        let _ = writeln!(out, "  {} {}: {} ({})", error.row, error.column, error.reason, error.code);
                    }
                }
            })?;
            if report.is_clean() {
                return Ok(());
            }
            let failed: u64 = report.tables.iter().map(|t| t.failed).sum();
            Err(Error::new(Code::PlaintextFound, format!("a value in {} is plaintext or does not open", rows(failed)))
                .hint("`enfold apply` converts plaintext; `enfold explain open-failed` is about the others"))
        })
        .await
}
