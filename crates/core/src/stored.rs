//! What is in a stored cell: an envelope, a value that only looks like one, or plaintext.
//!
//! A cell holds the binary form in a column of bytes, the text form in a column of text, and in a column of JSON the
//! text form as a string or an object whose member `enf` is one. This decides by form alone; whether plaintext is
//! allowed, and what a lookalike is taken for, is the policy's.

use std::fmt;

use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use crate::envelope::Envelope;
use crate::error::{Error, Malformed, Result};
use crate::layout::MAGIC;
use crate::text;

/// In which form a place holds its envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    Text,
    Bytes,
    Json,
}

/// What a cell holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Stored {
    /// Nothing about it is an envelope.
    Plain,
    /// The binary form of a well-formed envelope.
    Envelope(Vec<u8>),
    /// It begins like an envelope and is not one, for this reason: a user typed it, it was damaged, or a newer
    /// program wrote it.
    Lookalike(Error),
}

/// Looks at the bytes of a cell as the database returns them (JSON: its text).
pub fn detect(form: Form, stored: &[u8]) -> Stored {
    match form {
        Form::Bytes if stored.starts_with(&MAGIC) => well_formed(Ok(stored.to_vec())),
        Form::Bytes => Stored::Plain,
        Form::Text => match std::str::from_utf8(stored) {
            Ok(stored) => detect_text(stored),
            Err(_) => Stored::Plain,
        },
        Form::Json => match text_in_json(stored) {
            Ok(Some(text)) => detect_text(&text),
            Ok(None) => Stored::Plain,
            Err(error) => Stored::Lookalike(error),
        },
    }
}

/// The binary envelope in a cell that must hold one.
pub fn decode(form: Form, stored: &[u8]) -> Result<Vec<u8>> {
    match detect(form, stored) {
        Stored::Envelope(envelope) => Ok(envelope),
        Stored::Lookalike(error) => Err(error),
        Stored::Plain => Err(Error::Malformed(match form {
            Form::Text => Malformed::Prefix,
            Form::Bytes => Malformed::Magic,
            Form::Json => Malformed::Json,
        })),
    }
}

/// A binary envelope as the bytes to store: JSON as a string.
pub fn encode(form: Form, envelope: Vec<u8>) -> Vec<u8> {
    match form {
        Form::Bytes => envelope,
        Form::Text => text::encode(&envelope).into_bytes(),
        Form::Json => format!("\"{}\"", text::encode(&envelope)).into_bytes(),
    }
}

/// A binary envelope as a JSON object `{"enf": "enf1:…"}` with the sidecar fields that a policy asks for. Sidecar fields
/// are not authenticated: they are for people and queries, never for decisions.
pub fn encode_object(envelope: &[u8], sidecar: &[(&str, serde_json::Value)]) -> serde_json::Value {
    let own = ("enf", serde_json::Value::String(text::encode(envelope)));
    let fields = std::iter::once(own).chain(sidecar.iter().filter(|(name, _)| *name != "enf").cloned());
    serde_json::Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
}

fn detect_text(stored: &str) -> Stored {
    if stored.starts_with(text::PREFIX) {
        return well_formed(text::decode(stored));
    }
    match other_version(stored) {
        Some(error) => Stored::Lookalike(error),
        None => Stored::Plain,
    }
}

fn well_formed(envelope: Result<Vec<u8>>) -> Stored {
    match envelope.and_then(|bytes| Envelope::parse(&bytes).map(|_| ()).map(|()| bytes)) {
        Ok(bytes) => Stored::Envelope(bytes),
        Err(error) => Stored::Lookalike(error),
    }
}

/// `enf2:` and so on with the magic after it: a newer program's, which must not be taken for plaintext. Without the
/// magic it is somebody's text.
fn other_version(stored: &str) -> Option<Error> {
    let (version, encoded) = stored.strip_prefix("enf")?.split_once(':')?;
    let found = version.parse::<u8>().ok().filter(|found| *found > crate::layout::VERSION)?;
    encoded.starts_with("-enf").then_some(Error::NewerVersion { found, known: crate::layout::VERSION })
}

/// The string, or the string in the member `enf` of the object, if the JSON text is one of these.
fn text_in_json(stored: &[u8]) -> Result<Option<String>> {
    if !may_carry(stored) {
        return Ok(None);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    match deserializer.deserialize_any(Cell).and_then(|found| deserializer.end().map(|()| found)) {
        Ok(Found::Text(text)) => Ok(Some(text)),
        Ok(Found::Nothing) => Ok(None),
        // What cannot be parsed and speaks of an envelope is not called plaintext.
        Ok(Found::Twice) | Err(_) => Err(Malformed::Json.into()),
    }
}

/// A look that spares the parser most documents of a plain column: our writers never escape these letters.
fn may_carry(stored: &[u8]) -> bool {
    match stored.trim_ascii_start().first() {
        Some(b'"') => stored.trim_ascii_start()[1..].starts_with(b"enf"),
        Some(b'{') => stored.windows(5).any(|window| window == b"\"enf\""),
        _ => false,
    }
}

enum Found {
    Text(String),
    Nothing,
    /// An object with two members `enf`: readers differ in which they take.
    Twice,
}

struct Cell;

impl<'de> Visitor<'de> for Cell {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Nothing;
        let mut seen = false;
        while let Some(name) = map.next_key::<String>()? {
            if name != "enf" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<serde_json::Value>()?;
            found = match value {
                _ if seen => Found::Twice,
                serde_json::Value::String(text) => Found::Text(text),
                _ => Found::Nothing,
            };
            seen = true;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Binding, DataKey, KeyId, Padding, PayloadType, Sealer};

    fn envelope() -> Vec<u8> {
        let sealer = Sealer::new(&DataKey::generate().unwrap(), KeyId::random().unwrap()).unwrap();
        sealer.seal(&Binding::new("r", "c"), PayloadType::Text, Padding::None, b"value").unwrap()
    }

    fn is_plain(form: Form, cell: &str) -> bool {
        detect(form, cell.as_bytes()) == Stored::Plain
    }

    fn why_lookalike(form: Form, cell: &str) -> Error {
        match detect(form, cell.as_bytes()) {
            Stored::Lookalike(error) => error,
            Stored::Plain => panic!("{cell} is called plaintext"),
            Stored::Envelope(_) => panic!("{cell} is called an envelope"),
        }
    }

    #[test]
    fn what_nobody_would_take_for_an_envelope_is_plaintext() {
        for cell in ["", "a", "ENF1:x", "enf", "enf1", " enf1:x", "enf2: hello", "enf2:", "enf256:-enf", "enfold1:x"] {
            assert!(is_plain(Form::Text, cell), "{cell}");
        }
        for cell in [
            "null",
            "1",
            "[\"enf1:x\"]",
            "{}",
            "{\"a\":\"enf1:x\"}",
            "{\"enf\":1}",
            "{\"enf\":\"x\"}",
            "\"x\"",
            "not JSON",
        ] {
            assert!(is_plain(Form::Json, cell), "{cell}");
        }
        assert!(is_plain(Form::Bytes, "enf1:x"));
        assert!(detect(Form::Text, b"\xff\xfe") == Stored::Plain);
    }

    #[test]
    fn what_a_user_typed_with_our_prefix_is_a_lookalike_and_says_why() {
        assert_eq!(why_lookalike(Form::Text, "enf1: hello"), Malformed::Base64.into());
        assert_eq!(why_lookalike(Form::Text, "enf1:"), Malformed::Magic.into());
        assert_eq!(why_lookalike(Form::Text, "enf1:aGVsbG8"), Malformed::Magic.into());
        assert_eq!(why_lookalike(Form::Text, "enf1:-enfARE"), Malformed::Truncated.into());
        assert_eq!(why_lookalike(Form::Json, "\"enf1:x\""), Malformed::Base64.into());
        assert_eq!(why_lookalike(Form::Json, "{\"enf\":\"enf1:\",\"enf\":1}"), Malformed::Json.into());
        assert_eq!(why_lookalike(Form::Json, "\"enf1:unfinished"), Malformed::Json.into());
    }

    #[test]
    fn a_newer_version_is_never_plaintext() {
        let newer = Error::NewerVersion { found: 2, known: 1 };
        assert_eq!(why_lookalike(Form::Text, "enf2:-enfAhE"), newer);
        assert_eq!(why_lookalike(Form::Json, "{\"enf\":\"enf2:-enfAhE\"}"), newer);
        let mut bytes = envelope();
        bytes[3] = 2;
        assert!(detect(Form::Bytes, &bytes) == Stored::Lookalike(newer));
        assert_eq!(decode(Form::Text, text::encode(&bytes).as_bytes()), Err(newer));
    }

    #[test]
    fn json_is_read_as_databases_print_it() {
        let envelope = envelope();
        let text = text::encode(&envelope);
        for cell in [
            format!(" \"{text}\"\n"),
            format!("{{\"enf\": \"{text}\"}}"),
            format!("{{\"a\": {{\"enf\": [1, {{}}]}}, \"enf\": \"{text}\", \"zz\": \"enf1:x\"}}"),
        ] {
            assert!(detect(Form::Json, cell.as_bytes()) == Stored::Envelope(envelope.clone()), "{cell}");
        }
    }

    #[test]
    fn a_sidecar_cannot_take_the_envelopes_place() {
        let envelope = envelope();
        let object =
            encode_object(&envelope, &[("enf", serde_json::json!("enf1:x")), ("class", serde_json::json!("a"))]);
        assert_eq!(object["class"], "a");
        assert_eq!(decode(Form::Json, object.to_string().as_bytes()), Ok(envelope));
    }

    #[test]
    fn a_cell_that_must_hold_an_envelope_says_what_it_lacks() {
        assert_eq!(decode(Form::Text, b"anna"), Err(Malformed::Prefix.into()));
        assert_eq!(decode(Form::Bytes, b"anna"), Err(Malformed::Magic.into()));
        assert_eq!(decode(Form::Json, b"\"anna\""), Err(Malformed::Json.into()));
    }
}
