//! AES-256-GCM in a layout that an application made up: which part stands where, and how it is written.

use serde_json::{Map, Value};
use zeroize::Zeroizing;

mod key;
mod write;

use self::key::Key;
use self::write::Writing;
use super::derivation::Derivation;
use super::encoding::Encoding;
use super::error::{Error, Result};
use super::primitives::{NONCE, TAG};
use super::service::transit;
use super::{
    Companion, Foreign, Format, Listed, NO_KEY, NO_WRITER, Plaintext, Reader, Secret, Wrapped, Writer, any_of,
};

/// Bytes that an IV may have: the 96 bits of SP 800-38D, and 128.
pub const IV_LENS: [usize; 2] = [NONCE, key::LONG];

/// The declared layout.
#[derive(Clone, Debug)]
pub struct AesGcm {
    pub layout: Layout,
    /// What stands in columns of its own. Where one of these holds something, the value is taken for one of this format.
    pub apart: Vec<Companion>,
    pub encoding: Encoding,
    /// One of [`IV_LENS`].
    pub iv_len: usize,
    pub prefix: Prefix,
    /// Whether a table says by which keys the values open.
    pub listed: bool,
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

/// What every value begins with, before what is encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    before: Vec<u8>,
    /// What stands behind the version of the value's data key, where the prefix has it.
    behind_version: Option<Vec<u8>>,
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
    fn parts(&self) -> Vec<Part> {
        match self {
            Self::Joined(parts) | Self::Separated(parts, _) => parts.clone(),
            Self::Json(fields) => fields.iter().map(|(part, _)| *part).collect(),
        }
    }
}

impl Prefix {
    /// The place of the version in a prefix: `v{version}:`.
    pub const VERSION: &str = "{version}";

    /// None where the version is there twice, or nothing would say where it ends.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((before, behind)) = text.split_once(Self::VERSION) else {
            return Some(Self { before: text.as_bytes().to_vec(), behind_version: None });
        };
        let ends = behind.starts_with(|c: char| !c.is_ascii_alphanumeric()) && !behind.contains(Self::VERSION);
        ends.then(|| Self { before: before.as_bytes().to_vec(), behind_version: Some(behind.as_bytes().to_vec()) })
    }

    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.behind_version.is_none()
    }

    pub fn has_version(&self) -> bool {
        self.behind_version.is_some()
    }

    /// The version, where the prefix has one, and what stands behind the prefix.
    fn strip<'v>(&self, value: &'v [u8]) -> Option<(Option<&'v [u8]>, &'v [u8])> {
        let rest = value.strip_prefix(&self.before[..])?;
        let Some(behind) = &self.behind_version else { return Some((None, rest)) };
        let len = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let (version, rest) = rest.split_at(len);
        (len > 0).then_some((Some(version), rest.strip_prefix(&behind[..])?))
    }
}

impl Format for AesGcm {
    fn recognises(&self, value: &Foreign<'_>) -> bool {
        // A damaged value is one too: what stands beside it says that it is no plaintext.
        if !self.apart.is_empty() {
            return self.apart.iter().any(|companion| value.beside(*companion).is_some());
        }
        if !self.prefix.is_empty() {
            return self.prefix.strip(value).is_some();
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

    fn apart(&self) -> &[Companion] {
        &self.apart
    }

    fn wrapped(&self, value: &Foreign<'_>) -> Option<Result<Wrapped>> {
        if self.listed {
            return Some(self.parts(value).map(|parts| Wrapped::Listed(self.listed(value, parts))));
        }
        let data_key = || match self.parts(value)?.data_key {
            none if none.is_empty() => Err(Error::Malformed),
            data_key => Ok(Wrapped::DataKey(data_key)),
        };
        self.has_data_key().then(data_key)
    }

    fn open_with(&self, value: &Foreign<'_>, opened: &Secret) -> Result<Plaintext> {
        // A data key of another length is none of this format's.
        let key = Key::new(self.iv_len, opened).map_err(|error| match error {
            Error::Key(_) => Error::Refused,
            error => error,
        });
        self.open(&key?, value)
    }

    fn spelled(&self, secret: &Secret) -> Result<Secret> {
        let bytes = self.key_encoding.decode(secret)?;
        Ok(Zeroizing::new(self.derivation.key(&bytes)?.to_vec()))
    }

    fn with_keys(&self, keys: &[Secret]) -> Result<Box<dyn Reader>> {
        if self.listed || self.has_data_key() {
            return Err(Error::Key("none: a key service opens the values' own"));
        }
        let keys = keys.iter().map(|secret| Key::new(self.iv_len, &self.spelled(secret)?)).collect::<Result<_>>()?;
        let format = self.clone();
        any_of(keys, move |key: &Key, value| format.open(key, value))
    }

    fn is_writable(&self) -> bool {
        self.is_one_cell()
    }

    fn writer(&self, keys: &[Secret]) -> Result<Box<dyn Writer>> {
        if !self.is_writable() {
            return Err(NO_WRITER);
        }
        let key = Key::new(self.iv_len, &self.spelled(keys.first().ok_or(NO_KEY)?)?)?;
        Ok(Box::new(Writing { format: self.clone(), key }))
    }
}

impl AesGcm {
    /// Whether there is a ciphertext and, outside of JSON, an IV, and nothing twice. A data key stands in JSON or apart.
    pub fn is_sound(&self) -> bool {
        let apart = |companion| self.apart.iter().filter(|found| **found == companion).count();
        let inside = |part| self.layout.parts().iter().filter(|found| **found == part).count();
        let json = matches!(self.layout, Layout::Json(_));
        let iv = inside(Part::Iv) + apart(Companion::Iv);
        let tag = inside(Part::Tag) + apart(Companion::Tag);
        let data_key = inside(Part::DataKey) + apart(Companion::DataKey);
        let once = Companion::ALL.iter().all(|companion| apart(*companion) <= 1);
        (iv == 1 || json && iv == 0)
            && inside(Part::Ciphertext) == 1
            && tag <= 1
            && data_key <= 1
            && (json || inside(Part::DataKey) == 0)
            && once
    }

    /// Whether each value has its own key.
    pub fn has_data_key(&self) -> bool {
        self.layout.parts().contains(&Part::DataKey) || self.apart.contains(&Companion::DataKey)
    }

    /// What leads to the key of a value.
    fn listed(&self, value: &Foreign<'_>, parts: Parts) -> Listed {
        let in_prefix = self.prefix.strip(value).and_then(|(version, _)| version);
        Listed {
            key: value.beside(Companion::Key).map(<[u8]>::to_vec),
            version: in_prefix.or_else(|| value.beside(Companion::Version)).map(<[u8]>::to_vec),
            data_key: Some(parts.data_key).filter(|key| !key.is_empty()),
        }
    }

    fn open(&self, key: &Key, value: &Foreign<'_>) -> Result<Plaintext> {
        let parts = self.parts(value)?;
        key.open(&parts.iv, &self.associated_data, &parts.ciphertext, &parts.tag)
    }

    /// The parts of a value, each of its length.
    fn parts(&self, value: &Foreign<'_>) -> Result<Parts> {
        let (_, encoded) = self.prefix.strip(value).ok_or(Error::Malformed)?;
        let mut parts = Parts::default();
        match &self.layout {
            Layout::Joined(order) => self.split(&self.encoding.decode(encoded)?, order, &mut parts)?,
            Layout::Separated(order, separator) => {
                let text = std::str::from_utf8(encoded).map_err(|_| Error::Malformed)?;
                let mut pieces = text.split(separator);
                for part in order {
                    let piece = pieces.next().ok_or(Error::Malformed)?;
                    parts.set(*part, self.encoding.decode(piece.as_bytes())?);
                }
                if pieces.next().is_some() {
                    return Err(Error::Malformed);
                }
            }
            Layout::Json(fields) => self.members(encoded, fields, &mut parts)?,
        }
        self.beside(value, &mut parts)?;
        parts.whole(self.iv_len)
    }

    fn members(&self, encoded: &[u8], fields: &[(Part, String)], parts: &mut Parts) -> Result<()> {
        let object: Map<String, Value> = serde_json::from_slice(encoded).map_err(|_| Error::Malformed)?;
        for (part, name) in fields {
            parts.set(*part, self.member(*part, object.get(name).ok_or(Error::Malformed)?)?);
        }
        let iv_is_elsewhere = fields.iter().any(|(part, _)| *part == Part::Iv) || self.apart.contains(&Companion::Iv);
        if !iv_is_elsewhere {
            let front = parts.ciphertext.split_at_checked(self.iv_len).ok_or(Error::Malformed)?;
            (parts.iv, parts.ciphertext) = (front.0.to_vec(), front.1.to_vec());
        }
        Ok(())
    }

    /// What stands in columns of its own.
    fn beside(&self, value: &Foreign<'_>, parts: &mut Parts) -> Result<()> {
        for companion in &self.apart {
            let Some(stored) = value.beside(*companion) else { continue };
            match companion {
                Companion::Iv => parts.iv = self.encoding.decode(stored)?,
                Companion::Tag => parts.tag = self.encoding.decode(stored)?,
                // Vault's own spelling is what its server takes.
                Companion::DataKey if transit(stored).is_ok() => parts.data_key = stored.to_vec(),
                Companion::DataKey => parts.data_key = self.encoding.decode(stored)?,
                Companion::DataKeyIv => return Err(Error::Unsupported("a nonce of the data key's wrap")),
                Companion::Key | Companion::Version => {}
            }
        }
        Ok(())
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
            let (found, after) = rest.split_at_checked(self.len(*part)).ok_or(Error::Malformed)?;
            parts.set(*part, found.to_vec());
            rest = after;
        }
        for part in order[at + 1..].iter().rev() {
            let cut = rest.len().checked_sub(self.len(*part)).ok_or(Error::Malformed)?;
            let (before, found) = rest.split_at(cut);
            parts.set(*part, found.to_vec());
            rest = before;
        }
        parts.ciphertext = rest.to_vec();
        Ok(())
    }

    /// Bytes of a part; of the ciphertext it says nothing.
    fn len(&self, part: Part) -> usize {
        match part {
            Part::Iv => self.iv_len,
            Part::Ciphertext | Part::DataKey => 0,
            Part::Tag => TAG,
        }
    }
}

impl KeyEncoding {
    fn decode(self, secret: &Secret) -> Result<Secret> {
        Ok(match self {
            Self::Text => secret.clone(),
            Self::Hex => {
                Zeroizing::new(Encoding::Hex.decode(secret.trim_ascii()).map_err(|_| Error::Key("hexadecimal digits"))?)
            }
            Self::Base64 => {
                let text = secret.trim_ascii();
                let decoded = Encoding::Base64.decode(text).or_else(|_| Encoding::Base64Url.decode(text));
                Zeroizing::new(decoded.map_err(|_| Error::Key("base64"))?)
            }
        })
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

    fn whole(mut self, iv_len: usize) -> Result<Self> {
        if self.tag.is_empty() {
            let at = self.ciphertext.len().checked_sub(TAG).ok_or(Error::Malformed)?;
            self.tag = self.ciphertext.split_off(at);
        }
        if self.iv.len() == iv_len && self.tag.len() == TAG { Ok(self) } else { Err(Error::Malformed) }
    }
}
