//! Cloak of 47ng, which prisma-field-encryption stores: `v1.aesgcm256.FINGERPRINT.IV.CIPHERTEXT`.

use super::encoding::{Encoding, base64url};
use super::error::{Error, Result};
use super::primitives::{Gcm, NONCE, TAG, sha256};
use super::{Foreign, Format, Reader, Secret, any_of};

const BEGINNING: &[u8] = b"v1.aesgcm256.";
const KEY_BEGINNING: &[u8] = b"k1.aesgcm256.";

/// Its keys are spelled `k1.aesgcm256.…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cloak;

struct Key {
    /// The first 32 bits of the SHA-256 of the key as it is spelled, in hex. Nothing authenticates it, so it must fit.
    fingerprint: String,
    gcm: Gcm,
}

impl Format for Cloak {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        value.starts_with(BEGINNING)
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(Key::new).collect::<Result<_>>()?;
        any_of(keys, |key: &Key, value| {
            let parts: Vec<&[u8]> =
                value.strip_prefix(BEGINNING).ok_or(Error::Malformed)?.split(|b| *b == b'.').collect();
            let [fingerprint, iv, sealed] = parts[..] else { return Err(Error::Malformed) };
            let (iv, sealed) = (Encoding::Base64Url.decode(iv)?, Encoding::Base64Url.decode(sealed)?);
            let at = sealed.len().checked_sub(TAG).filter(|_| iv.len() == NONCE).ok_or(Error::Malformed)?;
            if fingerprint != key.fingerprint.as_bytes() {
                return Err(Error::Refused);
            }
            key.gcm.open(&iv, b"", &sealed[..at], &sealed[at..])
        })
    }
}

impl Key {
    fn new(secret: &Secret) -> Result<Self> {
        let spelled = secret.trim_ascii();
        let expected = Error::Key("`k1.aesgcm256.` and 32 bytes in URL-safe base64");
        let encoded = spelled.strip_prefix(KEY_BEGINNING).ok_or(expected)?;
        let bytes = zeroize::Zeroizing::new(base64url(encoded).map_err(|_| expected)?);
        if bytes.len() != 32 {
            return Err(expected);
        }
        let fingerprint = sha256(spelled)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { fingerprint, gcm: Gcm::new(&bytes)? })
    }
}
