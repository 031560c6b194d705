//! The encrypted fields of django-cryptography (`FernetBytes` of its version 1.1): Fernet's layout in bytes, with a key of 256
//! bits, around a pickle.

use std::num::NonZeroU32;

use zeroize::Zeroizing;

use super::derivation::{Digest, Key, stretch};
use super::error::{Error, Result};
use super::fernet::{VERSION, open_token};
use super::pickle::text_or_bytes;
use super::{Foreign, Format, Reader, Secret, any_of};

const ITERATIONS: NonZeroU32 = NonZeroU32::new(30_000).unwrap();

/// Its keys: Django's `SECRET_KEY`, which signs, and after it `CRYPTOGRAPHY_KEY` where that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DjangoCryptography {
    /// `CRYPTOGRAPHY_SALT`.
    pub salt: Vec<u8>,
}

impl DjangoCryptography {
    /// What it is unless it is set.
    pub const USUAL_SALT: &str = "django-cryptography";
}

struct Keys {
    mac: Secret,
    encryption: Key,
}

impl Format for DjangoCryptography {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        // The version, and a time before the year 2106.
        value.starts_with(&[VERSION, 0, 0, 0, 0])
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let (mac, source) = match keys {
            [secret] => (secret, secret),
            [secret, own] => (secret, own),
            _ => return Err(Error::Key("`SECRET_KEY`, and after it `CRYPTOGRAPHY_KEY` if there is one")),
        };
        if mac.is_empty() || source.is_empty() {
            return Err(Error::Key("a secret that is not empty"));
        }
        let mut encryption = Zeroizing::new([0; 32]);
        stretch(Digest::Sha256, source, &self.salt, ITERATIONS, &mut *encryption);
        let keys = Keys { mac: mac.clone(), encryption };
        any_of(vec![keys], |keys, value| text_or_bytes(&open_token(&keys.mac, &*keys.encryption, value)?))
    }
}
