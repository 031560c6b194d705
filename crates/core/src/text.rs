//! The text form: `enf1:` and the binary form in unpadded base64url (RFC 4648 section 5).

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose};

use crate::envelope::{Kind, binary_key_prefix};
use crate::error::{Malformed, Result};
use crate::key::KeyId;
use crate::layout::{KEY_PREFIX_CHARS, KEY_PREFIX_LEN};

/// What every envelope in a text column begins with.
pub const PREFIX: &str = "enf1:";

/// Length in characters of [`key_prefix`].
pub const KEY_PREFIX_TEXT_LEN: usize = PREFIX.len() + KEY_PREFIX_CHARS;

/// One value has one spelling: no padding characters, and the bits left over in the last character are zero.
/// Otherwise a row could be changed without any check noticing, and two spellings of one envelope would count as two.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    NO_PAD.with_decode_padding_mode(DecodePaddingMode::RequireNone).with_decode_allow_trailing_bits(false),
);

/// The text form of a binary envelope.
pub fn encode(envelope: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(envelope.len()));
    text.push_str(PREFIX);
    BASE64.encode_string(envelope, &mut text);
    text
}

/// The bytes of a text form. It checks the spelling; [`crate::Envelope::parse`] checks the bytes.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let encoded = text.strip_prefix(PREFIX).ok_or(Malformed::Prefix)?;
    Ok(BASE64.decode(encoded).map_err(|_| Malformed::Base64)?)
}

/// Length in characters of the text form of a binary envelope of `len` bytes.
pub const fn encoded_len(len: usize) -> usize {
    PREFIX.len() + len / 3 * 4 + [0, 2, 3][len % 3]
}

/// The 33 characters that every text form of this kind under this key begins with.
///
/// base64url has `_`, which LIKE takes for any character: compare with `starts_with` or `left`, or escape it
/// ([`like_pattern`]).
pub fn key_prefix(kind: Kind, key_id: KeyId) -> String {
    let prefix: [u8; KEY_PREFIX_LEN] = binary_key_prefix(kind, key_id);
    encode(&prefix)
}

/// [`key_prefix`] as a LIKE pattern with the escape character `\`.
pub fn like_pattern(kind: Kind, key_id: KeyId) -> String {
    key_prefix(kind, key_id).replace('_', "\\_") + "%"
}
