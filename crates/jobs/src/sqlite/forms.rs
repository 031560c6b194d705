//! The stored forms of an envelope as SQL expressions: one source for counting and for the triggers that enforce.
//!
//! They look at form only: magic, version, suite and kind, payload type, padding flag, alphabet, length, and that the
//! base64 is spelled canonically. Whether an envelope opens is for `verify` to say. Functions of old SQLite versions
//! only (3.38), for the application's own library runs the triggers too.

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
            let inner = json_inner(expr);
            format!("(typeof({expr}) = 'text' AND {})", text_form(&inner))
        }
        Storage::Bytes => format!(
            "(typeof({expr}) = 'blob' AND substr({expr}, 1, 5) IN ({BINARY_STARTS}) AND length({expr}) >= {BINARY_MIN} \
             AND substr({expr}, 22, 1) IN (x'01', x'02', x'03') AND substr({expr}, 23, 1) IN (x'00', x'01'))"
        ),
    };
    format!("coalesce({form}, 0)")
}

/// True where `expr` begins like an envelope (in whatever form or not): the superset of [`envelope`].
pub(super) fn begins_like_one(expr: &str, storage: Storage) -> String {
    let begins = match storage {
        Storage::Text => format!("substr({expr}, 1, 5) = 'enf1:'"),
        Storage::Json => format!("substr({}, 1, 5) = 'enf1:'", json_inner(expr)),
        Storage::Bytes => format!("substr({expr}, 1, 3) = x'f9e9df'"),
    };
    format!("coalesce({begins}, 0)")
}

/// The part of an envelope that names version, kind and key.
pub(super) fn key_prefix(expr: &str, storage: Storage) -> String {
    match storage {
        Storage::Text => format!("substr({expr}, 1, {PREFIX_CHARS})"),
        Storage::Json => format!("substr({}, 1, {PREFIX_CHARS})", json_inner(expr)),
        Storage::Bytes => format!("substr({expr}, 1, 21)"),
    }
}

/// The key id (hex) out of what [`key_prefix`] gave.
pub(super) fn key_id(prefix: &[u8], storage: Storage) -> Option<String> {
    let bytes = match storage {
        Storage::Bytes => prefix.to_vec(),
        Storage::Text | Storage::Json => decode(prefix.strip_prefix(b"enf1:")?)?,
    };
    Some(bytes.get(5..21)?.iter().map(|b| format!("{b:02x}")).collect())
}

/// The prefixes of all kinds under one key id (32 hex digits), as SQL literals.
pub(super) fn prefixes(key_id: &str, storage: Storage) -> Vec<String> {
    let id: String = key_id.chars().filter(char::is_ascii_hexdigit).collect();
    let starts = ["f9e9df0111", "f9e9df0112", "f9e9df0113"];
    starts
        .iter()
        .map(|start| match storage {
            Storage::Bytes => format!("x'{start}{id}'"),
            Storage::Text | Storage::Json => format!("'enf1:{}'", encode(&unhex(&format!("{start}{id}")))),
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

/// The text inside a JSON string, or inside the `enf` member of an object; NULL for every other JSON.
fn json_inner(expr: &str) -> String {
    format!(
        "CASE WHEN substr({expr}, 1, 6) = '\"enf1:' AND substr({expr}, -1) = '\"' THEN substr({expr}, 2, length({expr}) - 2) \
         WHEN typeof({expr}) = 'text' AND json_valid({expr}) THEN \
         CASE WHEN json_type({expr}) = 'object' AND json_type({expr}, '$.enf') = 'text' THEN json_extract({expr}, '$.enf') END END"
    )
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url of whole groups of three bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let n = group.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
        out.extend([18, 12, 6, 0].map(|shift| char::from(ALPHABET[n >> shift & 63])));
    }
    out
}

/// Base64url of whole groups of four characters.
fn decode(chars: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(chars.len() / 4 * 3);
    for group in chars.chunks(4) {
        let mut n = 0u32;
        for c in group {
            n = n << 6 | u32::try_from(ALPHABET.iter().position(|a| a == c)?).ok()?;
        }
        out.extend_from_slice(&n.to_be_bytes()[1..]);
    }
    Some(out)
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |n, d| n << 4 | d)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    /// An envelope by form, of `len` bytes of ciphertext.
    fn binary(kind: u8, key: u8, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xf9, 0xe9, 0xdf, 1, 0x10 | kind];
        bytes.extend([key; 16]);
        bytes.extend([2, 0]);
        bytes.resize(99 + len, 0xa5);
        bytes
    }

    fn base64(bytes: &[u8]) -> String {
        let whole = bytes.len().div_ceil(3) * 3;
        let mut padded = bytes.to_vec();
        padded.resize(whole, 0);
        let mut text = encode(&padded);
        text.truncate(bytes.len() * 8 / 6 + usize::from(!(bytes.len() * 8).is_multiple_of(6)));
        text
    }

    fn text(kind: u8, key: u8, len: usize) -> String {
        format!("enf1:{}", base64(&binary(kind, key, len)))
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
        assert!(is(begins_like_one, Storage::Text, "enf1:hello") && is(begins_like_one, Storage::Json, "\"enf1:abc\""));
    }

    #[test]
    fn the_key_id_is_read_from_both_forms() {
        let id = "07".repeat(16);
        let chars = text(2, 7, 3);
        assert_eq!(key_id(&chars.as_bytes()[..33], Storage::Text).unwrap(), id);
        assert_eq!(key_id(&binary(2, 7, 3)[..21], Storage::Bytes).unwrap(), id);
        assert!(prefixes(&id, Storage::Text).contains(&format!("'{}'", &chars[..33])));
    }
}
