//! The engines of SQLAlchemy-Utils' `EncryptedType` and `StringEncryptedType` besides its `FernetEngine` (see `fernet.rs`).
//!
//! `AesEngine` has no MAC, and takes a part of the key for its IV: nobody can tell what a value was before it was changed.

use super::derivation::Key;
use super::encoding::base64;
use super::error::{Error, Result};
use super::primitives::{BLOCK, Gcm, NONCE, TAG, cbc, sha256};
use super::{Foreign, Format, Plaintext, Reader, Secret, any_of, fits};
use crate::Form;

/// `AesGcmEngine`: IV, tag and ciphertext in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlalchemyGcm;

/// `AesEngine`, by its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlalchemyAes(pub AesPadding);

/// The names that SQLAlchemy-Utils gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AesPadding {
    /// Asterisks, which is its default: those that a value ends with are lost to its own readers too.
    Naive,
    Pkcs5,
    OneAndZeroes,
    Zeroes,
}

impl Format for SqlalchemyGcm {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        base64(value).is_ok_and(|bytes| bytes.len() >= NONCE + TAG)
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(|secret| Gcm::new(&*key(secret)?)).collect::<Result<_>>()?;
        any_of(keys, |key: &Gcm, value| {
            let bytes = base64(value)?;
            let (nonce, rest) = bytes.split_at_checked(NONCE).ok_or(Error::Malformed)?;
            let (tag, ciphertext) = rest.split_at_checked(TAG).ok_or(Error::Malformed)?;
            key.open(nonce, b"", ciphertext, tag)
        })
    }
}

impl Format for SqlalchemyAes {
    fn is_authenticated(&self) -> bool {
        false
    }

    fn recognises(&self, value: &Foreign<'_>) -> bool {
        base64(value).is_ok_and(|bytes| !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK))
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(key).collect::<Result<_>>()?;
        let padding = self.0;
        any_of(keys, move |key: &Key, value| {
            let iv = key.first_chunk::<BLOCK>().ok_or(Error::Library)?;
            let mut padded = cbc(&**key, iv, &base64(value)?)?;
            let len = padding.unpadded(&padded).ok_or(Error::Refused)?;
            padded.truncate(len);
            // It seals text and nothing else, which is the only sign of a wrong key that there is.
            if fits(Form::Text, &padded) { Ok(padded) } else { Err(Error::Refused) }
        })
    }
}

impl AesPadding {
    /// The length of the plaintext, none where there is no such padding.
    fn unpadded(self, padded: &Plaintext) -> Option<usize> {
        let (last, whole) = (*padded.last()?, padded.len());
        let of = |count: u8, byte: u8| {
            let at = whole.checked_sub(usize::from(count)).filter(|_| (1..=16).contains(&count))?;
            padded[at..whole - 1].iter().all(|b| *b == byte).then_some(at)
        };
        match self {
            Self::Naive => {
                let kept = padded.iter().rposition(|byte| *byte != b'*').map_or(0, |at| at + 1);
                (kept < whole).then_some(kept)
            }
            Self::Pkcs5 => of(last, last),
            Self::Zeroes => of(last, 0),
            Self::OneAndZeroes => {
                let at = padded.iter().rposition(|byte| *byte != 0)?;
                (padded[at] == 0x80 && whole - at <= BLOCK).then_some(at)
            }
        }
    }
}

fn key(secret: &Secret) -> Result<Key> {
    if secret.is_empty() { Err(Error::Key("a secret that is not empty")) } else { Ok(sha256(secret)) }
}
