//! `enfold drop-reader`: a reader of another product's format that no value needs may leave the policy.

use std::fmt::Write as _;

use enfold::Result;
use enfold::policy::Mode;
use enfold_jobs::ops::{self, ReaderUse};
use serde::Serialize;

use super::Context;
use crate::args::DropReader;
use crate::onlooker::Onlooker;
use crate::words::count;

#[derive(Serialize)]
struct Report<'a> {
    reader: &'a str,
    columns: &'a [ReaderUse],
}

pub(crate) async fn run(context: &Context<'_>, args: &DropReader) -> Result<()> {
    let reader = &args.reader;
    context
        .with_session(async |session| {
            let uses = ops::plan_drop_reader(session, reader).await?;
            context.screen.confirm(&question(reader, &uses), reader, args.yes)?;
            let onlooker = Onlooker::new(context.screen);
            let uses = ops::drop_reader(session, reader, &onlooker).await?;
            drop(onlooker);
            context.screen.result(&Report { reader, columns: &uses }, |out| {
                // Writing to a String cannot fail.
                for found in &uses {
                    let _ = writeln!(out, "{} (mode {}): 0 values", found.column, found.mode.word());
                }
                let _ = writeln!(out, "{}", may_leave(reader));
            })
        })
        .await
}

fn question(reader: &str, uses: &[ReaderUse]) -> String {
    let mut text = format!("No value of reader `{reader}` was found. A policy without it is accepted from now on.");
    if uses.iter().any(|found| found.mode < Mode::Kms) {
        text.push_str(
            "\nThe database does not refuse its values where a column is not enforced: whoever still writes them must \
             have ended,\nfor a process without the reader takes them for plaintext.",
        );
    }
    text
}

fn may_leave(reader: &str) -> String {
    format!(
        "No column needs reader `{reader}` any more: take it from every column's `reads` and `[readers.{reader}]` from \
         the policy,\nstart the applications with that and without its keys, then throw the keys away."
    )
}

/// What a reader is still needed for, after columns that name it were enforced.
pub(super) fn write_left(reader: &str, uses: &[ReaderUse], out: &mut String) {
    // Writing to a String cannot fail.
    let open = uses.iter().filter(|found| found.mode < Mode::Kms);
    let mut left = 0;
    for found in open.clone() {
        left += found.values;
        let noun = if found.values == 1 { "value" } else { "values" };
        let (n, mode) = (count(found.values), found.mode.word());
        let _ = writeln!(out, "{} (mode {mode}): {n} {noun} of reader `{reader}`", found.column);
    }
    let _ = match (open.count(), left) {
        (0, _) => writeln!(out, "{}", may_leave(reader)),
        (_, 0) => writeln!(out, "Next: enfold drop-reader {reader}"),
        _ => writeln!(out, "Next: enfold apply, then enfold drop-reader {reader}"),
    };
}
