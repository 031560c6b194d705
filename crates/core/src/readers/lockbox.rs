//! Lockbox of Ruby with its `aes-gcm`, which is its default: nonce, ciphertext and tag, as bytes or in base64.

use aws_lc_rs::hkdf::HKDF_SHA384;
use zeroize::Zeroizing;

use super::derivation::{Key, hkdf_to};
use super::encoding::{base64, hex};
use super::error::{Error, Result};
use super::primitives::{Gcm, NONCE, TAG};
use super::{Foreign, Format, Plaintext, Reader, Secret, any_of};

/// Its keys are 32 bytes in hex: of a box, or the master key of which an attribute's key is derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lockbox {
    /// The table and the column of the ciphertext, where the key is the master key.
    pub attribute: Option<(String, String)>,
    /// To a multiple of how many bytes values were padded, where they were.
    pub pad_to: Option<u16>,
    pub associated_data: Vec<u8>,
    /// In base64, and not as bytes.
    pub encoded: bool,
}

impl Lockbox {
    fn key(&self, secret: &Secret) -> Result<Key> {
        let expected = Error::Key("32 bytes in hex, as `Lockbox.generate_key` makes them");
        let bytes = Zeroizing::new(hex(secret.trim_ascii()).map_err(|_| expected)?);
        let mut key = Zeroizing::new(<[u8; 32]>::try_from(&bytes[..]).map_err(|_| expected)?);
        if let Some((table, attribute)) = &self.attribute {
            // Ported from CipherSweet, as Lockbox says.
            let info = [&[0xb4; 32], attribute.as_bytes()].concat();
            hkdf_to(HKDF_SHA384, table.as_bytes(), &info, &bytes, &mut *key)?;
        }
        Ok(key)
    }
}

impl Format for Lockbox {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        match self.encoded {
            true => base64(value).is_ok_and(|bytes| bytes.len() >= NONCE + TAG),
            false => value.len() >= NONCE + TAG,
        }
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(|secret| Gcm::new(&*self.key(secret)?)).collect::<Result<_>>()?;
        let Self { pad_to, associated_data, encoded, .. } = self.clone();
        any_of(keys, move |key: &Gcm, value| {
            let opened = if encoded {
                key.open_joined(&associated_data, &base64(value)?)?
            } else {
                key.open_joined(&associated_data, value)?
            };
            match pad_to {
                Some(block) => unpad(opened, usize::from(block)),
                None => Ok(opened),
            }
        })
    }
}

/// ISO/IEC 7816-4: 0x80, then zeros.
fn unpad(mut padded: Plaintext, block: usize) -> Result<Plaintext> {
    let at = padded.iter().rposition(|byte| *byte != 0).filter(|at| padded[*at] == 0x80 && padded.len() - at <= block);
    padded.truncate(at.ok_or(Error::Malformed)?);
    Ok(padded)
}
