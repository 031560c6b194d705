//! AES-256-GCM in a layout that an application made up: which part stands where, and how it is written.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::derivation::Derivation;
use super::encoding::Encoding;
use super::error::{Error, Result};
use super::primitives::{Gcm, NONCE, TAG};
use super::service::transit;
use super::{Format, Plaintext, Reader, Secret, Wrapped, any_of};

/// Bytes of an IV: the 96 bits of SP 800-38D. The library has no other.
pub const IV_LEN: usize = NONCE;

/// The declared layout.
#[derive(Clone, Debug)]
pub struct AesGcm {
    pub layout: Layout,
    pub encoding: Encoding,
    /// What every value begins with, before what is encoded.
    pub prefix: Vec<u8>,
    /// Authenticated with every value.
    pub associated_data: Vec<u8>,
    pub key_encoding: KeyEncoding,
    pub derivation: Derivation,
}

/// A part of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Iv,
    /// With the tag after it, where the tag is no part of its own.
    Ciphertext,
    Tag,
    /// The value's own key, wrapped by a key service.
    DataKey,
}

/// Where the parts stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other, encoded as a whole.
    Joined(Vec<Part>),
    /// Each encoded by itself, with this between them.
    Separated(Vec<Part>, String),
    /// As members of a JSON object, each encoded by itself, or as Node writes a Buffer. Without a member of its own the IV
    /// stands at the front of the ciphertext. Other members are not looked at.
    Json(Vec<(Part, String)>),
}

/// How the key is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEncoding {
    Text,
    Hex,
    Base64,
}

#[derive(Default)]
struct Parts {
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
    data_key: Vec<u8>,
}

impl Layout {
    /// Whether ciphertext and, outside of JSON, IV are there once, and nothing twice. A data key stands in JSON alone.
    pub fn is_sound(&self) -> bool {
        let count = |part| self.parts().iter().filter(|found| **found == part).count();
        let json = matches!(self, Self::Json(_));
        let iv = count(Part::Iv) == 1 || json && count(Part::Iv) == 0;
        let data_key = count(Part::DataKey) <= usize::from(json);
        iv && data_key && count(Part::Ciphertext) == 1 && count(Part::Tag) <= 1
    }

    /// Whether each value has its own key.
    pub fn has_data_key(&self) -> bool {
        self.parts().contains(&Part::DataKey)
    }

    fn parts(&self) -> Vec<Part> {
        match self {
            Self::Joined(parts) | Self::Separated(parts, _) => parts.clone(),
            Self::Json(fields) => fields.iter().map(|(part, _)| *part).collect(),
        }
    }
}

impl Format for AesGcm {
    fn recognises(&self, value: &[u8]) -> bool {
        if !self.prefix.is_empty() {
            return value.starts_with(&self.prefix);
        }
        match &self.layout {
            // An object with these members is one, whatever is wrong with them.
            Layout::Json(fields) => {
                let object = serde_json::from_slice::<Map<String, Value>>(value);
                object.is_ok_and(|object| fields.iter().all(|(_, name)| object.contains_key(name)))
            }
            _ => self.parts(value).is_ok(),
        }
    }

    fn wrapped(&self, value: &[u8]) -> Option<Result<Wrapped>> {
        let has = self.layout.has_data_key();
        has.then(|| self.parts(value).map(|parts| Wrapped::DataKey(parts.data_key)))
    }

    fn open_with(&self, value: &[u8], opened: &Secret) -> Result<Plaintext> {
        // A data key of another length is none of this format's.
        self.open(&Gcm::new(opened).map_err(|_| Error::Refused)?, value)
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        if self.layout.has_data_key() {
            return Err(Error::Key("none: a key service opens the values' own"));
        }
        let keys = keys.iter().map(|secret| self.key(secret)).collect::<Result<_>>()?;
        let format = self.clone();
        any_of(keys, move |key: &Gcm, value| format.open(key, value))
    }
}

impl AesGcm {
    fn key(&self, secret: &Secret) -> Result<Gcm> {
        let bytes = match self.key_encoding {
            KeyEncoding::Text => secret.clone(),
            KeyEncoding::Hex => {
                Zeroizing::new(Encoding::Hex.decode(secret.trim_ascii()).map_err(|_| Error::Key("hexadecimal digits"))?)
            }
            KeyEncoding::Base64 => {
                let text = secret.trim_ascii();
                let decoded = Encoding::Base64.decode(text).or_else(|_| Encoding::Base64Url.decode(text));
                Zeroizing::new(decoded.map_err(|_| Error::Key("base64"))?)
            }
        };
        Gcm::new(&*self.derivation.key(&bytes)?)
    }

    fn open(&self, key: &Gcm, value: &[u8]) -> Result<Plaintext> {
        let parts = self.parts(value)?;
        key.open(&parts.iv, &self.associated_data, &parts.ciphertext, &parts.tag)
    }

    /// The parts of a value, each of its length.
    fn parts(&self, value: &[u8]) -> Result<Parts> {
        let value = value.strip_prefix(&self.prefix[..]).ok_or(Error::Malformed)?;
        let mut parts = Parts::default();
        match &self.layout {
            Layout::Joined(order) => self.split(&self.encoding.decode(value)?, order, &mut parts)?,
            Layout::Separated(order, separator) => {
                let text = std::str::from_utf8(value).map_err(|_| Error::Malformed)?;
                let mut pieces = text.split(separator);
                for part in order {
                    let piece = pieces.next().ok_or(Error::Malformed)?;
                    parts.set(*part, self.encoding.decode(piece.as_bytes())?);
                }
                if pieces.next().is_some() {
                    return Err(Error::Malformed);
                }
            }
            Layout::Json(fields) => {
                let object: Map<String, Value> = serde_json::from_slice(value).map_err(|_| Error::Malformed)?;
                for (part, name) in fields {
                    parts.set(*part, self.member(*part, object.get(name).ok_or(Error::Malformed)?)?);
                }
                if parts.iv.is_empty() && !fields.iter().any(|(part, _)| *part == Part::Iv) {
                    let front = parts.ciphertext.split_at_checked(NONCE).ok_or(Error::Malformed)?;
                    (parts.iv, parts.ciphertext) = (front.0.to_vec(), front.1.to_vec());
                }
            }
        }
        parts.whole()
    }

    /// A member of a JSON object: a text, or `{"type":"Buffer","data":[…]}`.
    fn member(&self, part: Part, value: &Value) -> Result<Vec<u8>> {
        match value {
            // Vault's own spelling is what its server takes.
            Value::String(text) if part == Part::DataKey && transit(text.as_bytes()).is_ok() => {
                Ok(text.clone().into_bytes())
            }
            Value::String(text) => self.encoding.decode(text.as_bytes()),
            Value::Object(buffer) if buffer.len() == 2 && buffer.get("type").is_some_and(|kind| kind == "Buffer") => {
                let data = buffer.get("data").and_then(Value::as_array).ok_or(Error::Malformed)?;
                let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
                data.iter().map(|value| byte(value).ok_or(Error::Malformed)).collect()
            }
            _ => Err(Error::Malformed),
        }
    }

    /// Cuts what stands before the ciphertext from the front, and the rest from the back.
    fn split(&self, joined: &[u8], order: &[Part], parts: &mut Parts) -> Result<()> {
        let at = order.iter().position(|part| *part == Part::Ciphertext).ok_or(Error::Malformed)?;
        let mut rest = joined;
        for part in &order[..at] {
            let (found, after) = rest.split_at_checked(part.len()).ok_or(Error::Malformed)?;
            parts.set(*part, found.to_vec());
            rest = after;
        }
        for part in order[at + 1..].iter().rev() {
            let cut = rest.len().checked_sub(part.len()).ok_or(Error::Malformed)?;
            let (before, found) = rest.split_at(cut);
            parts.set(*part, found.to_vec());
            rest = before;
        }
        parts.ciphertext = rest.to_vec();
        Ok(())
    }
}

impl Part {
    /// Bytes; of the ciphertext it says nothing.
    fn len(self) -> usize {
        match self {
            Self::Iv => NONCE,
            Self::Ciphertext | Self::DataKey => 0,
            Self::Tag => TAG,
        }
    }
}

impl Parts {
    fn set(&mut self, part: Part, bytes: Vec<u8>) {
        match part {
            Part::Iv => self.iv = bytes,
            Part::Ciphertext => self.ciphertext = bytes,
            Part::Tag => self.tag = bytes,
            Part::DataKey => self.data_key = bytes,
        }
    }

    fn whole(mut self) -> Result<Self> {
        if self.tag.is_empty() {
            let at = self.ciphertext.len().checked_sub(TAG).ok_or(Error::Malformed)?;
            self.tag = self.ciphertext.split_off(at);
        }
        if self.iv.len() == NONCE && self.tag.len() == TAG { Ok(self) } else { Err(Error::Malformed) }
    }
}
