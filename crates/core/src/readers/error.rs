//! What can go wrong with a value or a key of another product. Every variant is safe to log.

/// The result of everything in this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The value begins like one of the format, and is not whole.
    #[error("it begins like a value of this format and is not one")]
    Malformed,
    /// Changed, or sealed under another key. Which of them is not said.
    #[error("it does not open under the keys of this reader")]
    Refused,
    /// A part of the format that this reader leaves to its own product.
    #[error("it uses {0}, which this reader does not know")]
    Unsupported(&'static str),
    /// A key that cannot be one of this format; what was expected.
    #[error("not a key of this format: expected {0}")]
    Key(&'static str),
    /// The cryptographic library refused an operation that cannot fail.
    #[error("the cryptographic library failed")]
    Library,
}
