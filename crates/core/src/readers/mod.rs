//! Readers of other products' ciphertext, so that a column can leave a home-made scheme in place.
//!
//! A [`Format`] tells by form alone whether a stored value is its own; a [`Reader`] is a format with its keys, and opens.
//! Nothing here seals: what was opened goes into an envelope. Keys come in as their users spell them, and are derived
//! once, when a reader is made. What a format recognises and does not open is an error, never plaintext.
//!
//! The cryptography is the library's, as everywhere. What is here is each format's layout, from its project's own source,
//! and it is proved on values that the projects' code made (`vectors/foreign`). It owns neither where keys come from nor
//! which readers a column has.

mod aes_gcm;
mod cloak;
mod derivation;
mod django_cryptography;
mod encoding;
mod error;
mod fernet;
mod laravel;
mod lockbox;
mod openpgp;
mod pgcrypto;
mod pickle;
mod primitives;
mod rails;
mod service;
mod sqlalchemy_utils;

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

pub use self::aes_gcm::{AesGcm, IV_LEN, KeyEncoding, Layout, Part};
pub use self::cloak::Cloak;
pub use self::derivation::{Derivation, Digest, Scrypt};
pub use self::django_cryptography::DjangoCryptography;
pub use self::encoding::Encoding;
pub use self::error::{Error, Result};
pub use self::fernet::Fernet;
pub use self::laravel::Laravel;
pub use self::lockbox::Lockbox;
pub use self::pgcrypto::{Pgcrypto, Wrapping};
pub use self::rails::Rails;
pub use self::service::{AwsBlob, Transit};
pub use self::sqlalchemy_utils::{AesPadding, SqlalchemyAes, SqlalchemyGcm};

use crate::Form;

/// A key, passphrase or password as its users spell it.
pub type Secret = Zeroizing<Vec<u8>>;

/// What was opened.
pub type Plaintext = Zeroizing<Vec<u8>>;

/// A format as a policy declares it, without keys.
pub trait Format: fmt::Debug + Send + Sync {
    /// Whether a changed value is refused. Of a format that is not authenticated nobody can tell what a value was.
    fn is_authenticated(&self) -> bool {
        true
    }

    /// Whether a value (see [`value`]) is taken for one of this format, by form alone. Where the format has a beginning of
    /// its own, the beginning decides, so that a damaged value is still not taken for plaintext.
    fn recognises(&self, value: &[u8]) -> bool;

    /// Makes the keys ready. They are tried in order.
    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>>;

    /// Where a key service opens values of this format, or the data keys in them: what it is to be given. None where keys
    /// are handed in ([`Self::with_keys`]).
    fn wrapped(&self, _value: &[u8]) -> Option<Result<Wrapped>> {
        None
    }

    /// The plaintext of a value, with what the key service made of [`Self::wrapped`].
    fn open_with(&self, _value: &[u8], _opened: &Secret) -> Result<Plaintext> {
        Err(Error::Unsupported("no key service"))
    }
}

/// What a key service is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrapped {
    /// The value itself.
    Value(Vec<u8>),
    /// The wrapped key of the value, which others may share.
    DataKey(Vec<u8>),
}

/// A format with its keys.
pub trait Reader: Send + Sync {
    /// The plaintext of a value (see [`value`]).
    fn open(&self, value: &[u8]) -> Result<Plaintext>;
}

/// What formats look at of a stored cell: its bytes; in a JSON cell that is a string, the string.
pub fn value(form: Form, stored: &[u8]) -> Cow<'_, [u8]> {
    if form == Form::Json
        && stored.trim_ascii_start().starts_with(b"\"")
        && let Ok(text) = serde_json::from_slice::<String>(stored)
    {
        return Cow::Owned(text.into_bytes());
    }
    Cow::Borrowed(stored)
}

/// Whether a plaintext can stand in such a cell as it is: text is UTF-8 without a zero byte, JSON is JSON.
pub fn fits(form: Form, plaintext: &[u8]) -> bool {
    match form {
        Form::Bytes => true,
        Form::Text => std::str::from_utf8(plaintext).is_ok_and(|text| !text.contains('\0')),
        Form::Json => serde_json::from_slice::<serde::de::IgnoredAny>(plaintext).is_ok(),
    }
}

/// A reader that tries each of its keys.
struct AnyOf<K, F> {
    keys: Vec<K>,
    open: F,
}

/// `open` with each of `keys` in order, until one opens. What is wrong with the value itself is said at once.
fn any_of<K, F>(keys: Vec<K>, open: F) -> Result<Box<dyn Reader>>
where
    K: Send + Sync + 'static,
    F: Fn(&K, &[u8]) -> Result<Plaintext> + Send + Sync + 'static,
{
    if keys.is_empty() {
        return Err(Error::Key("one at least"));
    }
    Ok(Box::new(AnyOf { keys, open }))
}

impl<K: Send + Sync, F: Fn(&K, &[u8]) -> Result<Plaintext> + Send + Sync> Reader for AnyOf<K, F> {
    fn open(&self, value: &[u8]) -> Result<Plaintext> {
        for key in &self.keys {
            match (self.open)(key, value) {
                Err(Error::Refused) => {}
                done => return done,
            }
        }
        Err(Error::Refused)
    }
}
