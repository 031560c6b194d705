//! `enfold verify`: opens every stored value, and changes nothing. Of a restored backup it goes on record.

use std::fmt::Write as _;

use enfold::events::RestoreTest;
use enfold::{Code, Error, Result};
use enfold_jobs::ops::{self, Restored, VerifyReport};
use enfold_jobs::shown::time;
use jiff::Timestamp;

use super::Context;
use super::reencrypt::moment;
use crate::args::Verify;
use crate::onlooker::Onlooker;
use crate::words::{count, rows};

pub(crate) async fn run(context: &Context<'_>, args: &Verify) -> Result<()> {
    let restored = restored(context, args)?;
    context
        .with_session_and_keys(async |session, enfold| {
            let pace = super::pace(session, None, args.workers)?;
            let selection = super::selection(&session.policy, &args.columns)?;
            let onlooker = Onlooker::new(context.screen);
            if let Some(restored) = &restored {
                let who = context.call(Some("restore test"));
                let live = (session, enfold);
                let report = ops::test_restored(live, restored, &selection, &pace, &who, &onlooker).await?;
                drop(onlooker);
                context.screen.result(&report, |out| {
                    show(&report.verified, out);
                    show_record(&report.restored, out);
                })?;
                return report.verified.error().map_or(Ok(()), Err);
            }
            let report = ops::verify(session, &selection, &pace, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&report, |out| show(&report, out))?;
            let hint = "`enfold apply` converts plaintext; `enfold explain open-failed` is about the others";
            report.error().map_or(Ok(()), |error| Err(error.hint(hint)))
        })
        .await
}

/// The copy that is to be tested, if one is.
fn restored(context: &Context<'_>, args: &Verify) -> Result<Option<Restored>> {
    let (Some(url), Some(made)) = (&args.restored, &args.backup_of) else { return Ok(None) };
    let backup_ms = moment(made)?;
    if backup_ms > Timestamp::now().as_millisecond() {
        return Err(Error::new(Code::Usage, format!("no backup was made yet of `{made}`"))
            .hint("say when the backup was made that you restored"));
    }
    let database = context.database_url(url)?;
    let catalog = args.restored_catalog.as_ref().map(|url| context.database_url(url)).transpose()?;
    Ok(Some(Restored { database, catalog, backup_ms }))
}

fn show(report: &VerifyReport, out: &mut String) {
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
}

fn show_record(test: &RestoreTest, out: &mut String) {
    for (column, envelopes) in &test.columns {
        let _ = writeln!(out, "  {column}: {} envelopes", count(*envelopes));
    }
    let made = time(test.backup_ms).unwrap_or_default();
    let _ = writeln!(out, "On record: a backup of {made}, as you say, restored to `{}`.", test.database);
}
