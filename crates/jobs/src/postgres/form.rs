//! The form of an envelope as SQL: for checks, counts and the residue. Decided by stored bytes alone.
//!
//! Every expression is immutable and looks at the value once; a value is never compared under the column's own type or
//! collation.

use enfold::{Code, Error, Result};
use enfold_core::layout::{KEY_ID_LEN, KEY_PREFIX_LEN, MAGIC, OVERHEAD, VERSION};
use enfold_core::text::{self, KEY_PREFIX_TEXT_LEN};
use enfold_core::{KeyId, Kind, binary_key_prefix};

use crate::hex::hex;
use crate::model::Storage;

/// Characters of the shortest text form.
const SHORTEST: usize = text::encoded_len(OVERHEAD);

/// Characters that depend on nothing but magic, version and suite: four and a half bytes are six characters.
const STARTS_ALIKE: usize = text::PREFIX.len() + 6;

const KINDS: [Kind; 3] = [Kind::ByReference, Kind::InlineRing, Kind::InlineRoot];

/// How the values of a column are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Text,
    Bytes,
    Json,
    Jsonb,
}

impl Look {
    /// `base`: the type under the column's domains.
    pub fn of(storage: Storage, base: &str) -> Self {
        match storage {
            Storage::Text => Look::Text,
            Storage::Bytes => Look::Bytes,
            Storage::Json if base == "json" => Look::Json,
            Storage::Json => Look::Jsonb,
        }
    }

    /// A condition that is true of envelopes under one of `keys` (any key, if empty), false of other values, and NULL
    /// or false for NULL.
    pub fn is_envelope(self, column: &str, keys: &[KeyId]) -> String {
        match self {
            Look::Bytes => format!(
                "(octet_length({column}::bytea) >= {OVERHEAD} AND {})",
                match keys {
                    [] => format!("substring({column}::bytea FROM 1 FOR 5) IN ({})", list(KINDS.map(start))),
                    _ => format!(
                        "substring({column}::bytea FROM 1 FOR {KEY_PREFIX_LEN}) IN ({})",
                        list(pairs(keys).map(|(kind, key)| bytea(&binary_key_prefix(kind, key))))
                    ),
                }
            ),
            Look::Text | Look::Json | Look::Jsonb => {
                let text = self.text(column);
                let mut condition = format!(
                    "octet_length({text}) >= {SHORTEST} AND octet_length({text}) % 4 <> {odd} AND {text} ~ '^{prefix}-enfAR[E-P][A-Za-z0-9_-]+$'",
                    // A last group of one character encodes nothing.
                    odd = (text::PREFIX.len() + 1) % 4,
                    prefix = text::PREFIX,
                );
                if !keys.is_empty() {
                    let prefixes = list(pairs(keys).map(|(kind, key)| format!("'{}'", text::key_prefix(kind, key))));
                    condition.push_str(&format!(" AND left({text}, {KEY_PREFIX_TEXT_LEN}) IN ({prefixes})"));
                }
                // JSON that is neither string nor object has no text.
                if self == Look::Text { format!("({condition})") } else { format!("coalesce({condition}, false)") }
            }
        }
    }

    /// As [`Look::is_envelope`] with any key, but without looking at the alphabet: a tenth of the time, for counts over
    /// the whole table that only say when a sweep may stop. Only a value made to deceive tells the two apart, and what
    /// opens every value finds it.
    pub fn is_shaped_like_envelope(self, column: &str) -> String {
        match self {
            Look::Bytes => self.is_envelope(column, &[]),
            Look::Text | Look::Json | Look::Jsonb => {
                let text = self.text(column);
                let start = &text::key_prefix(Kind::ByReference, KeyId::from_bytes([0; KEY_ID_LEN]))[..STARTS_ALIKE];
                let condition =
                    format!("octet_length({text}) >= {SHORTEST} AND left({text}, {STARTS_ALIKE}) = '{start}'");
                if self == Look::Text { format!("({condition})") } else { format!("coalesce({condition}, false)") }
            }
        }
    }

    /// True of values that begin like an envelope, whether they are one or not.
    pub fn begins_like(self, column: &str) -> String {
        match self {
            Look::Bytes => format!("substring({column}::bytea FROM 1 FOR 3) = {}", bytea(&MAGIC)),
            _ => format!("coalesce(left({}, {}) = '{}', false)", self.text(column), text::PREFIX.len(), text::PREFIX),
        }
    }

    /// What all envelopes under one key have in common, as text; hex for bytes. See [`key_of`] and [`key_prefixes`].
    pub fn key_prefix(self, column: &str) -> String {
        match self {
            Look::Bytes => format!("encode(substring({column}::bytea FROM 1 FOR {KEY_PREFIX_LEN}), 'hex')"),
            _ => format!("left({}, {KEY_PREFIX_TEXT_LEN})", self.text(column)),
        }
    }

    /// The text form that a value would have.
    fn text(self, column: &str) -> String {
        match self {
            Look::Text | Look::Bytes => format!("({column}::text COLLATE \"C\")"),
            Look::Json | Look::Jsonb => {
                let kind = if self == Look::Json { "json" } else { "jsonb" };
                format!(
                    "((CASE {kind}_typeof({column}) WHEN 'string' THEN {column} #>> '{{}}' \
                     WHEN 'object' THEN {column} ->> 'enf' END) COLLATE \"C\")"
                )
            }
        }
    }
}

/// The key id (hex) in what [`Look::key_prefix`] gives.
pub fn key_of(prefix: &str) -> Option<String> {
    let bytes = match prefix.strip_prefix(text::PREFIX) {
        Some(_) => text::decode(prefix).ok()?,
        None => (0..prefix.len() / 2)
            .map(|at| u8::from_str_radix(prefix.get(at * 2..at * 2 + 2)?, 16).ok())
            .collect::<Option<_>>()?,
    };
    let id: [u8; KEY_ID_LEN] = bytes.get(KEY_PREFIX_LEN - KEY_ID_LEN..)?.try_into().ok()?;
    Some(KeyId::from_bytes(id).to_string())
}

/// What [`Look::key_prefix`] gives of envelopes under one of `keys`, in whatever form and kind they are.
pub(super) fn key_prefixes(keys: &[KeyId]) -> Vec<String> {
    let both = |(kind, key)| {
        let bytes = binary_key_prefix(kind, key);
        [text::key_prefix(kind, key), hex(&bytes)]
    };
    pairs(keys).flat_map(both).collect()
}

/// Key ids as a step carries them.
pub fn key_ids(hex: &[String]) -> Result<Vec<KeyId>> {
    hex.iter()
        .map(|id| id.parse().map_err(|_| Error::new(Code::Usage, "a key id is not 32 hexadecimal digits")))
        .collect()
}

fn pairs(keys: &[KeyId]) -> impl Iterator<Item = (Kind, KeyId)> {
    keys.iter().flat_map(|key| KINDS.map(|kind| (kind, *key)))
}

/// The first five bytes: magic, version, suite and kind.
fn start(kind: Kind) -> String {
    let prefix = binary_key_prefix(kind, KeyId::from_bytes([0; KEY_ID_LEN]));
    debug_assert_eq!(prefix[3], VERSION);
    bytea(&prefix[..5])
}

fn bytea(bytes: &[u8]) -> String {
    // decode() reads the same whatever standard_conforming_strings says.
    format!("decode('{}', 'hex')", hex(bytes))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_of_the_pattern_are_those_of_every_kind_and_key() {
        for first in [0, 0x3f, 0x40, 0x80, 0xff] {
            for kind in KINDS {
                let prefix = text::key_prefix(kind, KeyId::from_bytes([first; KEY_ID_LEN]));
                assert!(prefix.starts_with("enf1:-enfAR"), "{prefix}");
                assert!(('E'..='P').contains(&prefix.chars().nth(11).expect("33 characters")), "{prefix}");
            }
        }
    }

    #[test]
    fn the_key_id_is_read_back_from_both_prefixes() {
        let key = KeyId::from_bytes(*b"0123456789abcdef");
        assert_eq!(key_of(&hex(&binary_key_prefix(Kind::InlineRing, key))), Some(key.to_string()));
        assert_eq!(key_of(&text::key_prefix(Kind::ByReference, key)), Some(key.to_string()));
        assert_eq!(key_of("enf1:?"), None);
    }
}
