//! Fernet and MultiFernet of Python's `cryptography` (the Fernet specification, version 0x80), and what derives its keys:
//! django-fernet-fields and SQLAlchemy-Utils' `FernetEngine`.
//!
//! A token's age is not looked at: a column keeps its values for as long as they are wanted.

use aws_lc_rs::hkdf::HKDF_SHA256;
use zeroize::Zeroizing;

use super::derivation::{Key, hkdf_to};
use super::encoding::{Encoding, base64url};
use super::error::{Error, Result};
use super::primitives::{BLOCK, authenticate, authentication, cbc_pkcs7, seal_cbc_pkcs7, sha256};
use super::{Foreign, Format, NO_KEY, Plaintext, Reader, Secret, Writer, any_of};

pub(super) const VERSION: u8 = 0x80;
/// Version and time.
const HEAD: usize = 1 + 8;
const MAC: usize = 32;
/// The version and a time before the year 2106, in base64.
const BEGINNING: &[u8] = b"gAAAAA";

/// How the 32 bytes of a key are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fernet {
    /// In URL-safe base64.
    Plain,
    /// django-fernet-fields: a text that HKDF makes a key of.
    DjangoFields,
    /// SQLAlchemy-Utils: a text that SHA-256 makes a key of.
    SqlalchemyUtils,
}

impl Fernet {
    fn key(self, secret: &Secret) -> Result<Key> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::Plain => {
                let spelled = Error::Key("32 bytes in URL-safe base64, as `Fernet.generate_key()` makes them");
                let bytes = Zeroizing::new(base64url(secret.trim_ascii()).map_err(|_| spelled)?);
                if bytes.len() != key.len() {
                    return Err(spelled);
                }
                key.copy_from_slice(&bytes);
            }
            _ if secret.is_empty() => return Err(Error::Key("a secret that is not empty")),
            Self::DjangoFields => {
                hkdf_to(HKDF_SHA256, b"django-fernet-fields-hkdf-salt", b"django-fernet-fields", secret, &mut *key)?;
            }
            Self::SqlalchemyUtils => key.copy_from_slice(&*sha256(secret)),
        }
        Ok(key)
    }
}

impl Format for Fernet {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        value.starts_with(BEGINNING)
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let keys = keys.iter().map(|secret| self.key(secret)).collect::<Result<_>>()?;
        any_of(keys, |key: &Key, value| {
            let token = base64url(value)?;
            let (mac, encryption) = key.split_at(16);
            open_token(mac, encryption, &token)
        })
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn writer(&self, keys: &[Secret]) -> Result<Box<dyn Writer>> {
        let first = keys.first().ok_or(NO_KEY)?;
        Ok(Box::new(Tokens(self.key(first)?)))
    }
}

/// The key of new tokens.
struct Tokens(Key);

impl Writer for Tokens {
    fn write(&self, plaintext: &[u8], now: u64) -> Result<Vec<u8>> {
        let (mac, encryption) = self.0.split_at(16);
        let (iv, ciphertext) = seal_cbc_pkcs7(encryption, plaintext)?;
        let mut token = [&[VERSION], &now.to_be_bytes()[..], &iv, &ciphertext].concat();
        token.extend_from_slice(authentication(mac, &token).as_ref());
        Ok(Encoding::Base64Url.encode(&token))
    }
}

/// Version, time, IV, ciphertext and MAC, as bytes.
pub(super) fn open_token(mac_key: &[u8], encryption_key: &[u8], token: &[u8]) -> Result<Plaintext> {
    let at = token.len().checked_sub(MAC).ok_or(Error::Malformed)?;
    let (signed, mac) = token.split_at(at);
    let sealed = signed.get(HEAD..).ok_or(Error::Malformed)?;
    let (iv, ciphertext) = sealed.split_first_chunk::<BLOCK>().ok_or(Error::Malformed)?;
    if signed[0] != VERSION {
        return Err(Error::Malformed);
    }
    authenticate(mac_key, signed, mac)?;
    cbc_pkcs7(encryption_key, iv, ciphertext)
}
