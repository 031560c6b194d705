//! Blind indexes for equality.

/// A declared step that makes equal what a lookup should find equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normaliser {
    Trim,
    Lower,
    Nfkc,
    Digits,
    Email,
    LastN(u16),
    WordPrefix(u16),
}
