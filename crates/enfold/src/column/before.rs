//! What a value is stored as where there are no envelopes: as the application stored it before there was Enfold.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Column, SealRequest};
use crate::events::{CallContext, EventKind};
use crate::readers::FormatReader;
use crate::{Code, Error, Result};

/// Values that are written before others get their turn.
const AT_ONCE: usize = 16;

/// In the format of the policy's `writes`; as they are where the column has no readers.
pub(super) async fn write_many(
    column: &Column,
    context: &CallContext,
    requests: &[SealRequest<'_>],
) -> Result<Vec<Result<Vec<u8>>>> {
    match (&column.seat.writes, column.seat.reads.first()) {
        (Some(writer), _) => in_format(column, writer, context, requests).await,
        (None, Some(reader)) => Err(not_in_the_clear(column, reader)),
        (None, None) => Ok(requests.iter().map(|r| Ok(r.value.to_vec())).collect()),
    }
}

/// In the format of this reader, whatever the mode is.
pub(super) async fn write_back(
    column: &Column,
    context: &CallContext,
    reader: &str,
    requests: &[SealRequest<'_>],
) -> Result<Vec<Result<Vec<u8>>>> {
    column.enter(context).await?;
    let Some(writer) = column.seat.writes.as_ref().filter(|writer| writer.name() == reader) else {
        let line =
            format!("the policy does not say any more that `{}` is written as `{reader}` reads", column.seat.name);
        return Err(Error::new(Code::ReaderMissing, line)
            .hint(format!("put `writes = \"{reader}\"` back into the column, or begin the rollback anew")));
    };
    in_format(column, writer, context, requests).await
}

async fn in_format(
    column: &Column,
    writer: &Arc<FormatReader>,
    context: &CallContext,
    requests: &[SealRequest<'_>],
) -> Result<Vec<Result<Vec<u8>>>> {
    if !writer.is_ready() {
        writer.get_ready().await?;
    }
    // A clock before 1970 makes tokens of the year 1970; nothing goes by their time.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut written = Vec::with_capacity(requests.len());
    for (done, request) in requests.iter().enumerate() {
        if done % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let stored = writer.write(request.form, request.value, now);
        let doing = || format!("cannot write a value of `{}`", column.seat.name);
        written.push(stored.map_err(|error| error.while_doing(doing())));
    }
    column.done(EventKind::Seal, written.iter().filter(|r| r.is_ok()).count(), None, context);
    Ok(written)
}

/// What another product encrypted before must not be written in the clear now.
fn not_in_the_clear(column: &Column, reader: &FormatReader) -> Error {
    let name = &column.seat.name;
    Error::new(Code::PlaintextRefused, format!("cannot write `{name}` as before"))
        .cause(format!(
            "in mode `legacy` its values are encrypted by another product, and the policy does not say to write as reader `{}` reads",
            reader.name()
        ))
        .hint(
            "bring the column to mode `hybrid` with `enfold apply` before an application writes to it through Enfold",
        )
        .hint("or have it written in the format of a reader: `writes` of the column")
}
