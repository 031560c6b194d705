//! Readers of other products' ciphertext, so that a column can leave a home-made scheme in place.
//!
//! A [`Format`] tells by form alone whether a stored value is its own; a [`Reader`] is a format with its keys, and opens.
//! Keys come in as their users spell them, and are derived once, when a reader is made. What a format recognises and does
//! not open is an error, never plaintext.
//!
//! What was opened goes into an envelope. A [`Writer`] is for the time in which the product's own code still reads a column,
//! or has to again: it writes what that code would have written. Formats whose key stands in the environment have one.
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
mod foreign;
mod laravel;
mod lockbox;
mod openpgp;
mod pgcrypto;
mod pickle;
mod primitives;
mod rails;
mod service;
mod sqlalchemy_utils;

use std::fmt;

use zeroize::Zeroizing;

pub use self::aes_gcm::{AesGcm, IV_LENS, KeyEncoding, Layout, Part, Prefix};
pub use self::cloak::Cloak;
pub use self::derivation::{Derivation, Digest, Scrypt};
pub use self::django_cryptography::DjangoCryptography;
pub use self::encoding::Encoding;
pub use self::error::{Error, Result};
pub use self::fernet::Fernet;
pub use self::foreign::{Beside, Companion, Foreign};
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

    /// Whether a value is taken for one of this format, by form alone. Where the format has a beginning of its own, the
    /// beginning decides, so that a damaged value is still not taken for plaintext.
    fn recognises(&self, value: &Foreign<'_>) -> bool;

    /// What of its values stands in columns of its own.
    fn apart(&self) -> &[Companion] {
        &[]
    }

    /// Makes the keys ready. They are tried in order.
    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>>;

    /// Whether values can be written in this format as well.
    fn is_writable(&self) -> bool {
        false
    }

    /// Makes the first key ready, under which values are written.
    fn writer(&self, _keys: &[Secret]) -> Result<Box<dyn Writer>> {
        Err(NO_WRITER)
    }

    /// Where a key service opens values of this format, or the data keys in them, or a table says by which keys they open:
    /// what leads to the key. None where keys are handed in ([`Self::with_keys`]).
    fn wrapped(&self, _value: &Foreign<'_>) -> Option<Result<Wrapped>> {
        None
    }

    /// The plaintext of a value, with what [`Self::wrapped`] led to.
    fn open_with(&self, _value: &Foreign<'_>, _opened: &Secret) -> Result<Plaintext> {
        Err(Error::Unsupported("no key service"))
    }

    /// What [`Self::open_with`] takes, of a key as its users spell it.
    fn spelled(&self, _secret: &Secret) -> Result<Secret> {
        Err(Error::Unsupported("no table of keys"))
    }
}

/// What leads to the key of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrapped {
    /// The value itself, for a key service.
    Value(Vec<u8>),
    /// The wrapped key of the value, for a key service. Others may share it.
    DataKey(Vec<u8>),
    /// What is to be looked up in a table.
    Listed(Listed),
}

/// What is to be looked up in a table of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Listed {
    /// The row that is meant.
    pub key: Option<Vec<u8>>,
    /// The version of the tenant's data key.
    pub version: Option<Vec<u8>>,
    /// The wrapped key of the value, where that is not in the table.
    pub data_key: Option<Vec<u8>>,
}

/// A format with its keys.
pub trait Reader: Send + Sync {
    /// The plaintext of a value.
    fn open(&self, value: &Foreign<'_>) -> Result<Plaintext>;
}

/// A format with the key under which values are written.
pub trait Writer: Send + Sync {
    /// A value as the product's own code makes it, before it goes into a cell ([`cell`]). `now`: seconds since 1970, for
    /// formats that say when a value was made.
    fn write(&self, plaintext: &[u8], now: u64) -> Result<Vec<u8>>;
}

const NO_KEY: Error = Error::Key("one at least");
const NO_WRITER: Error = Error::Unsupported("writing in this format");

/// A written value as such a cell holds it, so that [`Foreign::new`] finds it again: in JSON an object is the cell itself, and
/// everything else a string.
///
/// # Errors
/// [`Error::Unsupported`] where bytes that are no text are to go into text or JSON.
pub fn cell(form: Form, written: Vec<u8>) -> Result<Vec<u8>> {
    let no_text = Error::Unsupported("bytes in a column of text");
    match form {
        Form::Json if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&written).is_err() => {
            let text = String::from_utf8(written).map_err(|_| no_text)?;
            serde_json::to_vec(&text).map_err(|_| Error::Library)
        }
        Form::Text if !fits(form, &written) => Err(no_text),
        _ => Ok(written),
    }
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
    F: Fn(&K, &Foreign<'_>) -> Result<Plaintext> + Send + Sync + 'static,
{
    if keys.is_empty() {
        return Err(NO_KEY);
    }
    Ok(Box::new(AnyOf { keys, open }))
}

impl<K: Send + Sync, F: Fn(&K, &Foreign<'_>) -> Result<Plaintext> + Send + Sync> Reader for AnyOf<K, F> {
    fn open(&self, value: &Foreign<'_>) -> Result<Plaintext> {
        for key in &self.keys {
            match (self.open)(key, value) {
                Err(Error::Refused) => {}
                done => return done,
            }
        }
        Err(Error::Refused)
    }
}
