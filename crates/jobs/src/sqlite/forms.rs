//! The stored forms of an envelope as SQL expressions, for the triggers that enforce.
//!
//! They look at form only: magic, version, suite and kind, payload type, padding flag, alphabet, length, and that the
//! base64 is spelled canonically. Whether an envelope opens is for `verify` to say. Functions of old SQLite versions
//! only (3.38), for the application's own library runs the triggers too.

use enfold_core::envelope::Kind;
use enfold_core::{KeyId, binary_key_prefix, text};

use crate::hex::hex;
use crate::model::Storage;

/// `enf1:` and the 28 characters that name version, kind and key.
const PREFIX_CHARS: usize = 33;
/// `enf1:` and the base64 of the 99 bytes that an envelope adds.
const TEXT_MIN: usize = 5 + 132;
const BINARY_MIN: usize = 99;
/// Magic, version 1, then suite 1 with each kind.
const BINARY_STARTS: &str = "x'f9e9df0111', x'f9e9df0112', x'f9e9df0113'";

/// True where `expr` is an envelope in the form of `storage`; false for everything else, NULL included.
pub(super) fn envelope(expr: &str, storage: Storage) -> String {
    let form = match storage {
        Storage::Text => text_form(expr),
        Storage::Json => {
            let (written, inner) = (json_as_written(expr), format!("({})", json_inner(expr)));
            let may = json_may_carry(expr);
            format!("CASE WHEN {written} THEN 1 WHEN {may} THEN {} ELSE 0 END", text_form(&inner))
        }
        Storage::Bytes => format!(
            "(typeof({expr}) = 'blob' AND substr({expr}, 1, 5) IN ({BINARY_STARTS}) AND length({expr}) >= {BINARY_MIN} \
             AND substr({expr}, 22, 1) IN (x'01', x'02', x'03') AND substr({expr}, 23, 1) IN (x'00', x'01'))"
        ),
    };
    format!("coalesce({form}, 0)")
}

/// The part of an envelope that names version, kind and key.
pub(super) fn key_prefix(expr: &str, storage: Storage) -> String {
    match storage {
        Storage::Text => format!("substr({expr}, 1, {PREFIX_CHARS})"),
        Storage::Json => format!(
            "CASE WHEN {expr} GLOB '\"enf1:*' THEN substr({expr}, 2, {PREFIX_CHARS}) ELSE substr({}, 1, {PREFIX_CHARS}) END",
            json_inner(expr)
        ),
        Storage::Bytes => format!("substr({expr}, 1, 21)"),
    }
}

/// The prefixes of all kinds under one key id (32 hex digits), as SQL literals; none where that is no key id.
pub(super) fn prefixes(key_id: &str, storage: Storage) -> Vec<String> {
    let Ok(id) = key_id.parse::<KeyId>() else { return Vec::new() };
    let kinds = [Kind::ByReference, Kind::InlineRing, Kind::InlineRoot];
    kinds
        .iter()
        .map(|kind| match storage {
            Storage::Text | Storage::Json => format!("'{}'", text::key_prefix(*kind, id)),
            Storage::Bytes => format!("x'{}'", hex(&binary_key_prefix(*kind, id))),
        })
        .collect()
}

fn text_form(expr: &str) -> String {
    // The header's bytes fix some characters and narrow others: `-enf` is the magic, `AR` version 1 and suite 1, then
    // the kind; after the key id `A[Qgw]` the payload type, `[A-H]` the padding flag.
    let header = format!("enf1:-enfAR[E-P]{}A[Qgw][A-H]*", "?".repeat(21));
    // Equal lengths in characters and bytes: ASCII only, and nothing hidden behind a NUL, where GLOB stops.
    format!(
        "(typeof({expr}) = 'text' AND {expr} GLOB '{header}' AND length({expr}) >= {TEXT_MIN} \
         AND length(CAST({expr} AS BLOB)) = length({expr}) AND substr({expr}, 6) NOT GLOB '*[^A-Za-z0-9_-]*' \
         AND CASE (length({expr}) - 5) % 4 WHEN 0 THEN 1 WHEN 2 THEN {expr} GLOB '*[AQgw]' \
         WHEN 3 THEN {expr} GLOB '*[AEIMQUYcgkosw048]' ELSE 0 END)"
    )
}

/// The spelling that Enfold writes: a string without escapes and nothing around it. Such a text is JSON whatever follows
/// the quote, so that nothing need be parsed.
fn json_as_written(expr: &str) -> String {
    let inner = format!("substr({expr}, 2, length({expr}) - 2)");
    format!("(typeof({expr}) = 'text' AND {expr} GLOB '\"enf1:*\"' AND {})", text_form(&inner))
}

/// Whether it is worth parsing: a string that begins so, or an object with such a member somewhere.
fn json_may_carry(expr: &str) -> String {
    let trimmed = format!("ltrim({expr}, char(32, 9, 10, 12, 13))");
    format!(
        "(typeof({expr}) = 'text' AND ({trimmed} GLOB '\"enf*' OR ({trimmed} GLOB '{{*' AND instr({expr}, '\"enf\"') > 0)))"
    )
}

/// The text that is a JSON string, or the `enf` member of an object; NULL for every other JSON.
fn json_inner(expr: &str) -> String {
    format!(
        "CASE WHEN typeof({expr}) = 'text' AND json_valid({expr}) THEN CASE \
         WHEN json_type({expr}) = 'text' THEN json_extract({expr}, '$') \
         WHEN json_type({expr}) = 'object' AND json_type({expr}, '$.enf') = 'text' THEN json_extract({expr}, '$.enf') END END"
    )
}

#[cfg(test)]
mod tests {
    use enfold_core::stored::{Form, Stored, detect};
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    /// An envelope by form, of `len` bytes of ciphertext.
    fn binary(kind: u8, key: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xf9, 0xe9, 0xdf, 1, 0x10 | kind];
        bytes.extend([key; 16]);
        bytes.extend([2, 0]);
        bytes.resize(99 + len, 0xa5);
        bytes
    }

    fn text(kind: u8, key: u8, len: usize) -> String {
        text::encode(&binary(kind, key, len))
    }

    fn is(expr: fn(&str, Storage) -> String, storage: Storage, value: impl rusqlite::ToSql) -> bool {
        let db = Connection::open_in_memory().unwrap();
        db.query_row(&format!("SELECT {} FROM (SELECT ?1 AS v)", expr("v", storage)), [value], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn envelopes_of_every_kind_and_length_have_the_form() {
        for kind in 1..=3 {
            for len in 0..9 {
                assert!(is(envelope, Storage::Bytes, binary(kind, 0xff, len)));
                assert!(is(envelope, Storage::Text, text(kind, 0xff, len)), "kind {kind} length {len}");
                assert!(is(envelope, Storage::Json, format!("\"{}\"", text(kind, 0, len))));
                assert!(is(envelope, Storage::Json, format!("{{\"enf\": \"{}\", \"v\": 1}}", text(kind, 0, len))));
            }
        }
    }

    #[test]
    fn what_is_not_quite_an_envelope_has_not_the_form() {
        let good = text(1, 7, 5);
        let mut bad = vec![
            "x".to_owned(),
            String::new(),
            "enf1:".to_owned(),
            "enf1:hello".to_owned(),
            good[..good.len() - 20].to_owned(),
            format!("{good}="),
            format!("{good} "),
            good.replace("enf1:", "ENF1:"),
            good.replace("-enf", "-enG"),
            good.replacen("-enfAR", "-enfAh", 1),
            format!("{}\u{e9}{}", &good[..60], &good[61..]),
            format!("{good}\0secret"),
            format!("\"{good}\""),
        ];
        // A non-canonical last character, and a length that no bytes have.
        bad.push(format!("{}B", &text(1, 7, 1)[..text(1, 7, 1).len() - 1]));
        bad.push(format!("{}A", text(1, 7, 0)));
        for value in bad {
            assert!(!is(envelope, Storage::Text, &value), "{}", value.escape_debug());
        }
        assert!(!is(envelope, Storage::Text, binary(1, 7, 5)), "a blob is no text form");
        assert!(!is(envelope, Storage::Bytes, text(1, 7, 5)), "a text is no binary form");
        assert!(!is(envelope, Storage::Bytes, &binary(1, 7, 0)[..98]));
        assert!(!is(envelope, Storage::Bytes, binary(4, 7, 0)));
        for json in ["5", "null", "\"x\"", "{", "{\"enf\": 5}", "{\"a\": \"enf1:\"}", "[\"enf1:\"]", "\"enf1:abc\""] {
            assert!(!is(envelope, Storage::Json, json), "{json}");
        }
        assert!(!is(envelope, Storage::Json, 5) && !is(envelope, Storage::Text, rusqlite::types::Null));
    }

    #[test]
    fn a_key_has_one_prefix_for_each_kind() {
        let id = "07".repeat(16);
        let chars = text(2, 7, 3);
        assert!(prefixes(&id, Storage::Text).contains(&format!("'{}'", &chars[..33])));
    }

    proptest! {
        /// SQL and the core agree on what is an envelope: on envelopes, and on those of which one character was changed, put in or taken away.
        #[test]
        fn sql_and_the_core_see_the_same_forms(
            len in 0usize..40, key: u8, at in 0usize..200, what in 0u8..4, c in "[A-Za-z0-9_=\" {}:é-]", json: bool,
        ) {
            let mut value: Vec<char> = text(1, key, len).chars().collect();
            if json {
                value.insert(0, '"');
                value.push('"');
            }
            let at = at % value.len();
            let c = c.chars().next().unwrap();
            match what {
                0 => {}
                1 => value[at] = c,
                2 => value.insert(at, c),
                _ => { value.remove(at); }
            }
            let value: String = value.into_iter().collect();
            let storage = if json { Storage::Json } else { Storage::Text };
            let sealed = is(envelope, storage, &value);
            // The letter of the kind: of inline ones the wrapped key has a length as well, and SQL takes any.
            let inline = value.trim_start_matches('"').chars().nth(11).is_some_and(|c| ('I'..='P').contains(&c));
            match detect(storage.form(), value.as_bytes()) {
                Stored::Envelope(_) => prop_assert!(sealed, "{}", value),
                Stored::Lookalike(_) => prop_assert!(!sealed || inline, "{}", value),
                Stored::Plain => prop_assert!(!sealed, "{}", value),
            }
        }

        #[test]
        fn sql_and_the_core_see_the_same_binary_forms(len in 0usize..20, at in 0usize..24, byte: u8, cut in 0usize..4) {
            let mut value = binary(1, 7, len);
            value[at] = byte;
            value.truncate(value.len() - cut);
            let sealed = is(envelope, Storage::Bytes, &value);
            match detect(Form::Bytes, &value) {
                Stored::Envelope(_) => prop_assert!(sealed),
                // The field after the padding flag is a wrapped key's length in the inline kinds: SQL takes any.
                Stored::Lookalike(_) => prop_assert!(!sealed || value[4] != 0x11),
                Stored::Plain => prop_assert!(!sealed),
            }
        }
    }
}
