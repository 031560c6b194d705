//! What can go wrong between bytes and bytes. Every variant is safe to log: none holds a value, a key or a part of one.

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A closed set, grouped by who can act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    // --- the data ---
    /// The bytes are not an envelope.
    #[error("not an envelope: {0}")]
    Malformed(Malformed),
    /// An envelope of a version that this program does not know.
    #[error("an envelope of version {found}, while this program knows version {known}")]
    NewerVersion { found: u8, known: u8 },
    /// A suite that this program does not know.
    #[error("an envelope of suite {found}, while this program knows suite {known}")]
    UnknownSuite { found: u8, known: u8 },
    /// The envelope does not open here: changed, taken from another place, or sealed under another key. Which of them
    /// is not said, because whoever could change it would learn from the difference.
    #[error("the envelope does not open here")]
    OpenFailed,
    /// A wrapped data key that does not open under this key with this context.
    #[error("the wrapped data key does not open here")]
    UnwrapFailed,

    // --- the caller ---
    /// An envelope was given to the opener of another key, or of another kind.
    #[error("the envelope names another key than the one it was given to")]
    KeyMismatch,
    /// The value is larger than an envelope may hold.
    #[error("a value of {len} bytes, while an envelope holds at most {max}")]
    ValueTooLarge { len: u64, max: u64 },
    /// A padding block of 0 bytes or of more than the largest allowed.
    #[error("a padding block of {0} bytes")]
    PaddingBlock(u32),
    /// A wrapped data key that is empty or too long for the header.
    #[error("a wrapped data key of {0} bytes")]
    WrappedLength(usize),
    /// A key of another length than 32 bytes.
    #[error("a key of {0} bytes instead of 32")]
    KeyLength(usize),
    /// A key id that is not 32 lower-case hexadecimal digits.
    #[error("a key id that is not 32 hexadecimal digits")]
    KeyIdSyntax,
    /// A blind index of fewer bits than 8 or more than 256.
    #[error("a blind index of {0} bits, while 8 to 256 are allowed")]
    IndexBits(u16),
    /// A unique blind index must keep all of its 256 bits: a truncated one refuses values that differ.
    #[error("a unique blind index truncated to {0} bits")]
    IndexUniqueTruncated(u16),
    /// The index is over another number of columns than values were given.
    #[error("a blind index over {columns} columns was given {values} values")]
    IndexColumns { columns: usize, values: usize },
    /// An index that crosses tenants was given one.
    #[error("a blind index that crosses tenants was given a tenant")]
    IndexTenant,

    // --- the process ---
    /// The process was forked after this sealer was made, or its memory was wiped: make another one.
    #[error("the process has changed since this key was made ready")]
    ProcessChanged,

    // --- the machine, or us ---
    /// The operating system or the library gave no random bytes.
    #[error("no random bytes")]
    Random,
    /// The cryptographic library refused an operation that cannot fail.
    #[error("the cryptographic library failed")]
    Library,
}

/// Why bytes are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    #[error("it does not begin with the magic bytes")]
    Magic,
    #[error("it does not begin with `enf1:`")]
    Prefix,
    #[error("it ends before its header does, or before its tag")]
    Truncated,
    #[error("it is not canonical unpadded base64url")]
    Base64,
    #[error("its version is 0, which never was")]
    Version,
    #[error("its kind is unknown")]
    Kind,
    #[error("its payload type is unknown")]
    Payload,
    #[error("its padding byte is unknown")]
    Padding,
    #[error("its wrapped data key is empty")]
    Wrapped,
    #[error("it is larger than an envelope may be")]
    TooLarge,
    #[error("it is not a JSON string or object that carries an envelope")]
    Json,
}

impl From<Malformed> for Error {
    fn from(reason: Malformed) -> Self {
        Error::Malformed(reason)
    }
}
