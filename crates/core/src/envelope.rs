//! The binary form: reading a header, and the sizes that follow from one.
//!
//! Parsing copies nothing, allocates nothing and decides nothing about trust: a parsed envelope is only well formed.

use crate::error::{Error, Malformed, Result};
use crate::key::KeyId;
use crate::layout::{
    COMMITMENT_LEN, FIXED_LEN, KEY_PREFIX_LEN, MAGIC, MAX_PADDING_BLOCK, MAX_VALUE_LEN, NONCE_LEN, OVERHEAD, SALT_LEN,
    SUITE, TAG_LEN, VERSION, WRAPPED_FIELD_LEN,
};
use crate::padding::Padding;

/// How an envelope says which data key sealed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The key id names a data key of the catalog.
    ByReference = 1,
    /// The envelope carries its own data key, wrapped by the data key that the key id names.
    InlineRing = 2,
    /// The envelope carries its own data key, wrapped by the root key that the key id names.
    InlineRoot = 3,
}

/// What the plaintext was before it was bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadType {
    Bytes = 1,
    Text = 2,
    Json = 3,
}

/// A well-formed envelope, borrowed.
#[derive(Clone, Copy)]
pub struct Envelope<'a> {
    bytes: &'a [u8],
    kind: Kind,
    payload: PayloadType,
    padded: bool,
    key_id: KeyId,
    /// Where the salt begins.
    salt: usize,
}

impl<'a> Envelope<'a> {
    /// Reads the binary form. Every byte belongs to the envelope: what follows the tag would be the tag.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Malformed::Magic.into());
        }
        match *bytes.get(3).ok_or(Malformed::Truncated)? {
            0 => return Err(Malformed::Version.into()),
            VERSION => {}
            found => return Err(Error::NewerVersion { found, known: VERSION }),
        }
        let kind = parse_kind(*bytes.get(4).ok_or(Malformed::Truncated)?)?;
        let fixed = bytes.first_chunk::<FIXED_LEN>().ok_or(Malformed::Truncated)?;
        let payload = PayloadType::from_byte(fixed[21]).ok_or(Malformed::Payload)?;
        let padded = match fixed[22] {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Padding.into()),
        };
        let salt = FIXED_LEN + wrapped_field(kind, bytes)?;
        let body = bytes.len().checked_sub(salt + SALT_LEN + COMMITMENT_LEN + NONCE_LEN + TAG_LEN);
        let ciphertext = body.ok_or(Malformed::Truncated)?;
        if padded && ciphertext == 0 {
            // Even an empty value has its mark.
            return Err(Malformed::Truncated.into());
        }
        if ciphertext > MAX_VALUE_LEN + MAX_PADDING_BLOCK as usize {
            return Err(Malformed::TooLarge.into());
        }
        let key_id = KeyId::from_bytes(array(&fixed[5..KEY_PREFIX_LEN]));
        Ok(Self { bytes, kind, payload, padded, key_id, salt })
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The data key that sealed it or, for inline kinds, the key that wraps the data key.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    pub fn payload(&self) -> PayloadType {
        self.payload
    }

    pub fn is_padded(&self) -> bool {
        self.padded
    }

    pub fn suite(&self) -> u8 {
        SUITE
    }

    pub fn version(&self) -> u8 {
        VERSION
    }

    /// The wrapped data key of an inline kind.
    pub fn wrapped(&self) -> Option<&'a [u8]> {
        (self.kind != Kind::ByReference).then(|| &self.bytes[FIXED_LEN + WRAPPED_FIELD_LEN..self.salt])
    }

    pub fn salt(&self) -> &'a [u8; SALT_LEN] {
        chunk(&self.bytes[self.salt..])
    }

    pub fn commitment(&self) -> &'a [u8; COMMITMENT_LEN] {
        chunk(&self.bytes[self.salt + SALT_LEN..])
    }

    pub fn nonce(&self) -> &'a [u8; NONCE_LEN] {
        chunk(&self.bytes[self.header_len()..])
    }

    /// Length of the plaintext with its padding, in bytes.
    pub fn ciphertext_len(&self) -> usize {
        self.bytes.len() - self.header_len() - NONCE_LEN - TAG_LEN
    }

    /// All that is authenticated of it: up to and with the commitment.
    pub(crate) fn header(&self) -> &'a [u8] {
        &self.bytes[..self.header_len()]
    }

    /// Ciphertext and tag.
    pub(crate) fn body(&self) -> &'a [u8] {
        &self.bytes[self.header_len() + NONCE_LEN..]
    }

    fn header_len(&self) -> usize {
        self.salt + SALT_LEN + COMMITMENT_LEN
    }
}

impl Kind {
    pub(crate) const fn byte(self) -> u8 {
        SUITE << 4 | self as u8
    }
}

impl PayloadType {
    fn from_byte(byte: u8) -> Option<Self> {
        [PayloadType::Bytes, PayloadType::Text, PayloadType::Json].into_iter().find(|payload| *payload as u8 == byte)
    }
}

/// The 21 bytes that every binary envelope of this kind under this key begins with: for counting and finding rows with
/// a prefix match. [`crate::text::key_prefix`] is the same for the text form.
pub fn binary_key_prefix(kind: Kind, key_id: KeyId) -> [u8; KEY_PREFIX_LEN] {
    let mut prefix = [0; KEY_PREFIX_LEN];
    prefix[..3].copy_from_slice(&MAGIC);
    prefix[3] = VERSION;
    prefix[4] = kind.byte();
    prefix[5..].copy_from_slice(key_id.as_bytes());
    prefix
}

/// Length in bytes of the binary envelope of a value of `len` bytes; `wrapped` is the length of an inline kind's
/// wrapped data key. [`crate::text::encoded_len`] gives the text form's from it.
pub fn sealed_len(wrapped: Option<usize>, padding: Padding, len: usize) -> Result<usize> {
    Ok(OVERHEAD + wrapped.map_or(0, |wrapped| WRAPPED_FIELD_LEN + wrapped) + padding.padded_len(len)?)
}

/// Everything before the salt, for a sealer to complete.
pub(crate) fn header_start(kind: Kind, key_id: KeyId, wrapped: Option<&[u8]>) -> Result<Vec<u8>> {
    let wrapped_len = wrapped.map_or(0, |wrapped| WRAPPED_FIELD_LEN + wrapped.len());
    let mut header = Vec::with_capacity(FIXED_LEN + wrapped_len + SALT_LEN + COMMITMENT_LEN);
    header.extend_from_slice(&binary_key_prefix(kind, key_id));
    header.extend_from_slice(&[0, 0]);
    if let Some(wrapped) = wrapped {
        let len = u16::try_from(wrapped.len()).ok().filter(|len| *len > 0);
        header.extend_from_slice(&len.ok_or(Error::WrappedLength(wrapped.len()))?.to_be_bytes());
        header.extend_from_slice(wrapped);
    }
    Ok(header)
}

fn parse_kind(byte: u8) -> Result<Kind> {
    if byte >> 4 != SUITE {
        return Err(Error::UnknownSuite { found: byte >> 4, known: SUITE });
    }
    let kinds = [Kind::ByReference, Kind::InlineRing, Kind::InlineRoot];
    kinds.into_iter().find(|kind| kind.byte() == byte).ok_or(Malformed::Kind.into())
}

/// Length of the wrapped key's field with its own length, 0 where there is none.
fn wrapped_field(kind: Kind, bytes: &[u8]) -> Result<usize> {
    if kind == Kind::ByReference {
        return Ok(0);
    }
    let len = bytes.get(FIXED_LEN..FIXED_LEN + WRAPPED_FIELD_LEN).ok_or(Malformed::Truncated)?;
    match usize::from(u16::from_be_bytes(array(len))) {
        0 => Err(Malformed::Wrapped.into()),
        len => Ok(WRAPPED_FIELD_LEN + len),
    }
}

/// `bytes` is at least `N` long: parsing has checked it.
fn chunk<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.first_chunk().expect("a parsed envelope is long enough")
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    *chunk(bytes)
}
