//! What an envelope is authenticated with besides its own header.

/// One typed part of a binding (a tenant, a component of a row key). Types are part of the encoding: the text `7` and
/// the integer 7 bind differently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    Text(&'a str),
    Int(i64),
    Uuid([u8; 16]),
    Bytes(&'a [u8]),
}

/// A [`Part`] that owns what it holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum OwnedPart {
    Text(String),
    Int(i64),
    Uuid([u8; 16]),
    Bytes(Vec<u8>),
}

impl OwnedPart {
    pub fn as_part(&self) -> Part<'_> {
        match self {
            OwnedPart::Text(s) => Part::Text(s),
            OwnedPart::Int(n) => Part::Int(*n),
            OwnedPart::Uuid(u) => Part::Uuid(*u),
            OwnedPart::Bytes(b) => Part::Bytes(b),
        }
    }
}
