//! Writing in a declared layout that lies in one cell.

use serde_json::{Map, Value};

use super::super::encoding::Encoding;
use super::super::error::{Error, Result};
use super::super::primitives::Sealed;
use super::super::{NO_WRITER, Writer};
use super::key::Key;
use super::{AesGcm, Layout, Part};

/// A layout with the key under which values are written.
pub(super) struct Writing {
    pub(super) format: AesGcm,
    pub(super) key: Key,
}

impl Writer for Writing {
    fn write(&self, plaintext: &[u8], _: u64) -> Result<Vec<u8>> {
        let format = &self.format;
        let mut sealed = self.key.seal(&format.associated_data, plaintext)?;
        if !format.layout.parts().contains(&Part::Tag) {
            sealed.ciphertext.append(&mut sealed.tag);
        }
        Ok([&format.prefix.before[..], &format.put(&sealed)?].concat())
    }
}

impl AesGcm {
    /// Whether a value is one cell, under a key that was handed in; a version in the prefix would have to be somebody's.
    pub(super) fn is_one_cell(&self) -> bool {
        let spelled = self.encoding != Encoding::Raw || matches!(self.layout, Layout::Joined(_));
        spelled && !self.listed && !self.has_data_key() && self.apart.is_empty() && !self.prefix.has_version()
    }

    /// The parts as the layout has them.
    fn put(&self, sealed: &Sealed) -> Result<Vec<u8>> {
        match &self.layout {
            Layout::Joined(order) => {
                let parts: Vec<&[u8]> = order.iter().map(|part| part.of(sealed)).collect::<Result<_>>()?;
                Ok(self.encoding.encode(&parts.concat()))
            }
            Layout::Separated(order, separator) => {
                let parts = order.iter().map(|part| Ok(self.encoding.encode(part.of(sealed)?)));
                Ok(parts.collect::<Result<Vec<_>>>()?.join(separator.as_bytes()))
            }
            Layout::Json(fields) => self.object(fields, sealed),
        }
    }

    /// A JSON object of the parts alone. Without a member of its own the IV stands at the front of the ciphertext.
    fn object(&self, fields: &[(Part, String)], sealed: &Sealed) -> Result<Vec<u8>> {
        let has_iv = fields.iter().any(|(part, _)| *part == Part::Iv);
        let mut object = Map::new();
        for (part, name) in fields {
            let front = if *part == Part::Ciphertext && !has_iv { &sealed.iv[..] } else { &[] };
            let encoded = self.encoding.encode(&[front, part.of(sealed)?].concat());
            let text = String::from_utf8(encoded).map_err(|_| Error::Library)?;
            object.insert(name.clone(), Value::String(text));
        }
        serde_json::to_vec(&object).map_err(|_| Error::Library)
    }
}

impl Part {
    fn of(self, sealed: &Sealed) -> Result<&[u8]> {
        match self {
            Self::Iv => Ok(&sealed.iv),
            Self::Ciphertext => Ok(&sealed.ciphertext),
            Self::Tag => Ok(&sealed.tag),
            Self::DataKey => Err(NO_WRITER),
        }
    }
}
