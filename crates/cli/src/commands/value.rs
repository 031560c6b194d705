//! `enfold seal` and `enfold open`: a value from standard input to standard output, as a column would hold it, or many of
//! them (`values`).

use std::io::Read;

use enfold::{Code, Column, Enfold, Error, Place, Result};
use enfold_core::{Form, OwnedPart, Part, PayloadType};
use zeroize::Zeroizing;

use super::{Context, values};
use crate::args::{FormArg, Value};

/// More than a value may have: an envelope of the largest value, in base64.
const MOST: u64 = 2 << 30;

/// The value is sealed exactly as it was read: a newline at its end belongs to it.
pub(crate) async fn seal(context: &Context<'_>, args: &Value) -> Result<()> {
    if let Some(separator) = values::separator(args)? {
        return values::seal(context, args, separator).await;
    }
    let (form, payload) = form(args.form);
    let (tenant, row) = place(args)?;
    let row: Vec<Part<'_>> = row.iter().map(OwnedPart::as_part).collect();
    let place = Place { tenant: tenant.as_ref().map(OwnedPart::as_part), row: &row };
    let call = context.person(args.reason.as_deref());
    let stored = context
        .with_keys(context.policy()?, async |enfold| {
            let column = column(enfold, &args.column)?;
            let value = read()?;
            if payload != PayloadType::Bytes && std::str::from_utf8(&value).is_err() {
                return Err(not_text().hint("`--form bytes` seals any bytes"));
            }
            column.for_conversion().seal(&call, &place, form, payload, &value).await
        })
        .await?;
    context.screen.bytes(&stored)
}

/// Plaintext goes to standard output and nowhere else.
pub(crate) async fn open(context: &Context<'_>, args: &Value) -> Result<()> {
    if let Some(separator) = values::separator(args)? {
        return values::open(context, args, separator).await;
    }
    let (form, _) = form(args.form);
    let (tenant, row) = place(args)?;
    let row: Vec<Part<'_>> = row.iter().map(OwnedPart::as_part).collect();
    let place = Place { tenant: tenant.as_ref().map(OwnedPart::as_part), row: &row };
    let call = context.person(args.reason.as_deref());
    let opened = context
        .with_keys(context.policy()?, async |enfold| {
            let column = column(enfold, &args.column)?;
            let stored = read()?;
            // A terminal or an editor ends a text with a newline; the binary form is what it is.
            let stored = if form == Form::Bytes { &stored[..] } else { stored.trim_ascii_end() };
            column.open(&call, &place, form, stored).await
        })
        .await?;
    context.screen.bytes(&opened.value)
}

pub(super) fn not_text() -> Error {
    Error::new(Code::ValueInvalid, "the value on standard input is not UTF-8 text")
}

pub(super) fn column(enfold: &Enfold, name: &str) -> Result<Column> {
    enfold.column(name).or_else(|error| enfold.value(name).map_err(|_| error))
}

pub(super) fn read() -> Result<Zeroizing<Vec<u8>>> {
    let mut input = Zeroizing::new(Vec::new());
    std::io::stdin()
        .lock()
        .take(MOST)
        .read_to_end(&mut input)
        .map_err(|e| Error::new(Code::FileFailed, "reading a value from standard input").cause(e.kind().to_string()))?;
    Ok(input)
}

pub(super) fn form(form: FormArg) -> (Form, PayloadType) {
    match form {
        FormArg::Text => (Form::Text, PayloadType::Text),
        FormArg::Bytes => (Form::Bytes, PayloadType::Bytes),
        FormArg::Json => (Form::Json, PayloadType::Json),
    }
}

pub(super) fn place(args: &Value) -> Result<(Option<OwnedPart>, Vec<OwnedPart>)> {
    let tenant = args.tenant.as_deref().map(part).transpose()?;
    Ok((tenant, args.row.iter().map(|text| part(text)).collect::<Result<_>>()?))
}

/// `int:7` is a number and `7` a text: they bind differently.
pub(super) fn part(text: &str) -> Result<OwnedPart> {
    let wrong = |what: &str| {
        Error::new(Code::Usage, format!("`{text}` is not {what}")).hint("spell it `int:7`, `uuid:…`, or as plain text")
    };
    if let Some(number) = text.strip_prefix("int:") {
        return number.parse().map(OwnedPart::Int).map_err(|_| wrong("a 64-bit integer"));
    }
    let Some(uuid) = text.strip_prefix("uuid:") else { return Ok(OwnedPart::Text(text.to_owned())) };
    let digits: Vec<u8> = uuid.bytes().filter(|b| *b != b'-').collect();
    let mut bytes = [0; 16];
    if digits.len() != 32 {
        return Err(wrong("a UUID"));
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong("a UUID"))?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong("a UUID"))?;
    }
    Ok(OwnedPart::Uuid(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_place_have_types() {
        assert!(part("7").unwrap() == OwnedPart::Text("7".into()));
        assert!(part("int:7").unwrap() == OwnedPart::Int(7));
        assert!(
            part("uuid:00000000-0000-0000-0000-0000000000ff").unwrap()
                == OwnedPart::Uuid([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255])
        );
        assert_eq!(part("int:x").err().map(|e| e.code()), Some(Code::Usage));
        assert_eq!(part("uuid:12").err().map(|e| e.code()), Some(Code::Usage));
    }
}
