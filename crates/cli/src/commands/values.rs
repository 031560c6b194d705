//! Many values in one call of `enfold seal` or `enfold open`: sealed and opened in batches, in their order, with a result
//! for each.
//!
//! What fails leaves an empty record, so that the n-th record out is always that of the n-th in, and is named on
//! standard error; the exit code is 6 then. A stored value that does not open is never written out.

use std::fmt::Write as _;

use enfold::{Code, Error, OpenRequest, Place, Result, SealRequest};
use enfold_core::{OwnedPart, Part};
use serde::Serialize;
use zeroize::Zeroizing;

use super::Context;
use super::value::{column, form, not_text, place, read};
use crate::args::{FormArg, Value};
use crate::words::some;

/// Values that are sealed or opened at once.
const BATCH: usize = 1_000;

/// Failures that the error at the end repeats.
const NAMED: usize = 5;

/// What ends each value, where there are many.
pub(super) fn separator(args: &Value) -> Result<Option<u8>> {
    let separator = match (args.lines, args.null) {
        (false, false) => return Ok(None),
        (true, _) => b'\n',
        (false, true) => 0,
    };
    if args.form == FormArg::Bytes {
        return Err(Error::new(Code::Usage, "binary values cannot be told apart by a separator")
            .hint("use `--form text`, or one call for each value"));
    }
    Ok(Some(separator))
}

pub(super) async fn seal(context: &Context<'_>, args: &Value, separator: u8) -> Result<()> {
    let (form, payload) = form(args.form);
    let results = each(context, args, separator, async |enfold, place, values| {
        let column = column(enfold, &args.column)?.for_conversion();
        let call = context.person(args.reason.as_deref());
        let mut results = Vec::with_capacity(values.len());
        for batch in values.chunks(BATCH) {
            let sound: Vec<bool> = batch.iter().map(|value| std::str::from_utf8(value).is_ok()).collect();
            let requests = batch.iter().zip(&sound).filter(|(_, sound)| **sound);
            let requests: Vec<_> = requests.map(|(value, _)| SealRequest { place, form, payload, value }).collect();
            let mut sealed = column.seal_many(&call, &requests).await.into_iter();
            results.extend(sound.iter().map(|sound| match sound {
                true => sealed.next().unwrap_or_else(no_result).map(Zeroizing::new),
                false => Err(not_text()),
            }));
        }
        Ok(results)
    })
    .await?;
    finish(context, "sealed", separator, &results)
}

pub(super) async fn open(context: &Context<'_>, args: &Value, separator: u8) -> Result<()> {
    let (form, _) = form(args.form);
    let results = each(context, args, separator, async |enfold, place, values| {
        let column = column(enfold, &args.column)?;
        let call = context.person(args.reason.as_deref());
        let mut results = Vec::with_capacity(values.len());
        for batch in values.chunks(BATCH) {
            let requests: Vec<_> =
                batch.iter().map(|stored| OpenRequest { place, form, stored, beside: &[] }).collect();
            let opened = column.open_many(&call, &requests).await;
            results.extend(opened.into_iter().map(|result| in_one_record(result?.value, separator)));
        }
        Ok(results)
    })
    .await?;
    finish(context, "opened", separator, &results)
}

type Results = Vec<Result<Zeroizing<Vec<u8>>>>;

/// Does `work` with the values on standard input; a separator after the last one may be left out.
async fn each(
    context: &Context<'_>,
    args: &Value,
    separator: u8,
    work: impl AsyncFnOnce(&enfold::Enfold, Place<'_>, &[&[u8]]) -> Result<Results>,
) -> Result<Results> {
    let (tenant, row) = place(args)?;
    let row: Vec<Part<'_>> = row.iter().map(OwnedPart::as_part).collect();
    let place = Place { tenant: tenant.as_ref().map(OwnedPart::as_part), row: &row };
    context
        .with_keys(context.policy()?, async |enfold| {
            let input = read()?;
            let ended = input.strip_suffix(&[separator]).unwrap_or(&input);
            let values: Vec<&[u8]> = match input.is_empty() {
                true => Vec::new(),
                false => ended.split(|byte| *byte == separator).collect(),
            };
            work(enfold, place, &values).await
        })
        .await
}

/// A value with the separator in it would shift every record after it.
fn in_one_record(value: Zeroizing<Vec<u8>>, separator: u8) -> Result<Zeroizing<Vec<u8>>> {
    if !value.contains(&separator) {
        return Ok(value);
    }
    let what = if separator == 0 { "a NUL byte" } else { "a newline, and `--lines` gives each value one line" };
    Err(Error::new(Code::ValueInvalid, format!("the value holds {what}")))
}

#[derive(Serialize)]
struct Document<'a> {
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Item<'a> {
    Value(&'a str),
    Error { code: &'static str, message: String },
}

fn finish(context: &Context<'_>, done: &str, separator: u8, results: &Results) -> Result<()> {
    if context.screen.json() {
        context.screen.result(&Document { items: results.iter().map(item).collect() }, |_| ())?;
    } else {
        let length = results.iter().flatten().map(|value| value.len()).sum::<usize>() + results.len();
        let mut out = Zeroizing::new(Vec::with_capacity(length));
        for result in results {
            out.extend_from_slice(result.as_ref().map(|value| value.as_slice()).unwrap_or_default());
            out.push(separator);
        }
        context.screen.bytes(&out)?;
    }
    let failures: Vec<(usize, &Error)> =
        results.iter().enumerate().filter_map(|(at, result)| Some((at + 1, result.as_ref().err()?))).collect();
    if failures.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(
        Code::RowsFailed,
        format!("{} of {} could not be {done}", failures.len(), some(results.len(), "value")),
    );
    for (number, failure) in failures.iter().take(NAMED) {
        error = error.cause(format!("value {number}: {failure} ({})", failure.code()));
    }
    let mut more = String::new();
    for (number, failure) in failures.iter().skip(NAMED) {
        // Writing to a String cannot fail.
        let _ = writeln!(more, "value {number}: {failure} ({})", failure.code());
    }
    if !more.is_empty() {
        context.screen.say(more.trim_end());
    }
    Err(error.hint("the record of each value that failed is empty; the others are done"))
}

fn item(result: &Result<Zeroizing<Vec<u8>>>) -> Item<'_> {
    match result {
        Ok(value) => match std::str::from_utf8(value) {
            Ok(text) => Item::Value(text),
            Err(_) => {
                Item::Error { code: Code::ValueInvalid.word(), message: "the value is not UTF-8 text".to_owned() }
            }
        },
        Err(error) => Item::Error { code: error.code().word(), message: error.to_string() },
    }
}

fn no_result<T>() -> Result<T> {
    Err(Error::new(Code::Internal, "a value had no result"))
}
