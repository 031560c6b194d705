//! Rails' Active Record Encryption, deterministic and not: JSON of a payload `p` and headers `h`.
//!
//! Of the headers only IV and tag take part in the authentication, so no other may stand there than those that are known,
//! and each of them is checked.

use std::num::NonZeroU32;

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::derivation::{Digest, stretch};
use super::encoding::base64;
use super::error::{Error, Result};
use super::primitives::{Gcm, NONCE, TAG, sha1};
use super::{Foreign, Format, Plaintext, Reader, Secret, any_of};

/// `ActiveSupport::KeyGenerator`.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(1 << 16).unwrap();

/// The most that a compressed value may hold.
pub(super) const MAX_INFLATED: usize = 64 << 20;

/// Its keys are `primary_key` and `deterministic_key`, old and new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rails {
    /// `key_derivation_salt`.
    pub salt: Vec<u8>,
}

struct Key {
    gcm: Gcm,
    /// What `store_key_references` writes: four hex digits of the key's SHA-1.
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    p: String,
    h: Headers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Headers {
    iv: String,
    at: String,
    /// The id of the key.
    i: Option<String>,
    /// The value's own key, sealed under the reader's (`EnvelopeEncryptionKeyProvider`).
    k: Option<Box<Message>>,
    /// Whether it is compressed.
    #[serde(default)]
    c: bool,
    /// The name of its encoding in Ruby, where that is not UTF-8.
    e: Option<String>,
}

impl Format for Rails {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        // As Rails writes it, or as a database with a JSON type prints it.
        let value = value.trim_ascii_start();
        let as_json = || serde_json::from_slice::<Message>(value).is_ok();
        value.starts_with(b"{\"p\":\"") || (value.starts_with(b"{") && as_json())
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        let mut all = Vec::with_capacity(2 * keys.len());
        for secret in keys {
            if secret.is_empty() {
                return Err(Error::Key("a secret that is not empty"));
            }
            // SHA-256 since Rails 7.1, before that SHA-1; applications that moved have values of both.
            for digest in [Digest::Sha256, Digest::Sha1] {
                let mut key = Zeroizing::new([0; 32]);
                stretch(digest, secret, &self.salt, ITERATIONS, &mut *key);
                all.push(Key::new(&*key)?);
            }
        }
        any_of(all, |key, value| {
            let message: Message = serde_json::from_slice(value).map_err(|_| Error::Malformed)?;
            key.open(&message)
        })
    }
}

impl Key {
    fn new(key: &[u8]) -> Result<Self> {
        let id = sha1(key)[..2].iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { gcm: Gcm::new(key)?, id })
    }

    fn open(&self, message: &Message) -> Result<Plaintext> {
        let Some(wrapped) = &message.h.k else { return self.open_own(message) };
        if wrapped.h.k.is_some() {
            return Err(Error::Malformed);
        }
        let own = self.open_own(wrapped)?;
        // The id in the outer headers is that of the value's own key.
        Self::new(&own).map_err(|_| Error::Malformed)?.open_own(message)
    }

    fn open_own(&self, message: &Message) -> Result<Plaintext> {
        let Headers { iv, at, i, c, e, .. } = &message.h;
        let (iv, tag, sealed) = (base64(iv)?, base64(at)?, base64(&message.p)?);
        if iv.len() != NONCE || tag.len() != TAG {
            return Err(Error::Malformed);
        }
        if let Some(id) = i
            && base64(id)? != self.id.as_bytes()
        {
            return Err(Error::Refused);
        }
        if let Some(name) = e
            && !matches!(&base64(name)?[..], b"UTF-8" | b"US-ASCII" | b"ASCII-8BIT" | b"BINARY")
        {
            return Err(Error::Unsupported("an encoding of Ruby's other than UTF-8"));
        }
        let plaintext = self.gcm.open(&iv, b"", &sealed, &tag)?;
        if !*c {
            return Ok(plaintext);
        }
        decompress_to_vec_zlib_with_limit(&plaintext, MAX_INFLATED).map(Zeroizing::new).map_err(|_| Error::Malformed)
    }
}
