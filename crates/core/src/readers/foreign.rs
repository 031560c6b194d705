//! A stored value as a format looks at it: the cell, and what stands beside it in columns of its own.

use std::borrow::Cow;
use std::ops::Deref;

use crate::Form;

/// What stands in a column of its own beside a value. The names are those of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Companion {
    Iv,
    Tag,
    /// The value's own key, wrapped by a key service.
    DataKey,
    /// A nonce of the wrapped key, for services that return one. None that is read does.
    DataKeyIv,
    /// Which row of a table of keys leads to the value's key.
    Key,
    /// Which version of its tenant's data key the value is under.
    Version,
}

impl Companion {
    pub const ALL: [Self; 6] = [Self::Iv, Self::Tag, Self::DataKey, Self::DataKeyIv, Self::Key, Self::Version];

    /// As the policy spells it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Iv => "iv",
            Self::Tag => "tag",
            Self::DataKey => "data_key",
            Self::DataKeyIv => "data_key_iv",
            Self::Key => "key",
            Self::Version => "version",
        }
    }

    /// Whether it is spelled as the value is: bytes, or text in the reader's encoding. The others name something.
    pub const fn is_encoded(self) -> bool {
        !matches!(self, Self::Key | Self::Version)
    }
}

/// What the columns beside a value hold, as they are stored (a number as it prints). A column that is NULL is left out.
pub type Beside<'a> = &'a [(Companion, &'a [u8])];

/// A stored value that may be another product's.
pub struct Foreign<'a> {
    cell: Cow<'a, [u8]>,
    beside: Beside<'a>,
}

impl<'a> Foreign<'a> {
    /// What formats look at of a stored cell: its bytes; in a JSON cell that is a string, the string.
    pub fn new(form: Form, stored: &'a [u8], beside: Beside<'a>) -> Self {
        if form == Form::Json
            && stored.trim_ascii_start().starts_with(b"\"")
            && let Ok(text) = serde_json::from_slice::<String>(stored)
        {
            return Self { cell: Cow::Owned(text.into_bytes()), beside };
        }
        Self { cell: Cow::Borrowed(stored), beside }
    }

    /// What the column beside it holds; none where it is NULL.
    pub fn beside(&self, companion: Companion) -> Option<&'a [u8]> {
        self.beside.iter().find(|(is, _)| *is == companion).map(|(_, bytes)| *bytes)
    }
}

/// Of bytes with nothing beside them.
impl<'a> From<&'a [u8]> for Foreign<'a> {
    fn from(cell: &'a [u8]) -> Self {
        Self { cell: Cow::Borrowed(cell), beside: &[] }
    }
}

impl Deref for Foreign<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.cell
    }
}

impl AsRef<[u8]> for Foreign<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
