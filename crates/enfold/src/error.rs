//! One error type for everything above the envelope.
//!
//! An [`Error`] carries a [`Code`] (a closed set: each has a word, a page in `docs/errors/`, an exit code and an
//! HTTP status), one line that says what was being done to what, hints that name the next command, and the cause
//! chain. Every part of it is safe to log: it is built from names and counts, never from a row value or a key. What a
//! database or a key service says is passed through [`Cause`], which keeps only what cannot hold a value.

use std::fmt;
use std::time::Duration;

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The code or the person that called.
    Caller,
    /// Whoever runs the database, the policy and the keys.
    Operator,
    /// The key service or the database server.
    Provider,
    /// The stored bytes themselves.
    Data,
    /// A fault of Enfold.
    Us,
}

/// Whether the same call may succeed later without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    Later,
}

macro_rules! codes {
    ($( $(#[$doc:meta])* $name:ident = $word:literal, $actor:ident, exit $exit:literal, http $http:literal, $retry:ident; )*) => {
        /// The closed set of error codes. The word is stable: scripts match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code { $( $(#[$doc])* $name, )* }

        impl Code {
            /// Every code, in the order of the reference.
            pub const ALL: &'static [Code] = &[ $( Code::$name, )* ];

            /// The word printed after `code:`, which is also the name of its page in `docs/errors/`.
            pub const fn word(self) -> &'static str { match self { $( Code::$name => $word, )* } }

            /// Who can act on it.
            pub const fn actor(self) -> Actor { match self { $( Code::$name => Actor::$actor, )* } }

            /// The exit code of the command that ends with it.
            pub const fn exit_code(self) -> u8 { match self { $( Code::$name => $exit, )* } }

            /// The HTTP status of a response that carries it.
            pub const fn http_status(self) -> u16 { match self { $( Code::$name => $http, )* } }

            /// May the caller try again?
            pub const fn retry(self) -> Retry { match self { $( Code::$name => Retry::$retry, )* } }

            /// Is it that who asked may not, of the service or of a key service?
            pub const fn is_denial(self) -> bool {
                matches!(
                    self,
                    Code::PermissionDenied | Code::Unauthenticated | Code::KmsAccessDenied | Code::CustomerKeyRefused
                )
            }
        }
    };
}

codes! {
    /// The policy file cannot be read, parsed or made sense of.
    PolicyInvalid = "policy-invalid", Operator, exit 2, http 500, Never;
    /// A command or a call was given something it cannot use.
    Usage = "usage", Caller, exit 2, http 400, Never;
    /// A column, value or index that the policy does not name.
    UnknownColumn = "unknown-column", Caller, exit 2, http 404, Never;
    /// The call context lacks what the policy requires.
    ContextRequired = "context-required", Caller, exit 1, http 400, Never;
    /// A tenant or a row key is needed for this column and was not given, or is of the wrong kind.
    BindingIncomplete = "binding-incomplete", Caller, exit 2, http 400, Never;
    /// The database cannot be reached.
    DatabaseUnavailable = "database-unavailable", Provider, exit 5, http 503, Later;
    /// The database refused the user or a right is missing.
    DatabaseDenied = "database-denied", Operator, exit 1, http 500, Never;
    /// The server could not prove over TLS that it is the one that was meant.
    DatabaseUntrusted = "database-untrusted", Operator, exit 1, http 502, Never;
    /// The database refused a statement for a reason of its own.
    DatabaseFailed = "database-failed", Provider, exit 1, http 500, Never;
    /// The disk of the database or of this machine is full.
    DiskFull = "disk-full", Operator, exit 5, http 507, Later;
    /// A table or a column of the policy is not in the database.
    TableMissing = "table-missing", Operator, exit 2, http 500, Never;
    /// A column's type cannot hold an envelope.
    TypeRefused = "type-refused", Operator, exit 1, http 500, Never;
    /// Something about the table must be settled by its owner first.
    PlanRefused = "plan-refused", Operator, exit 1, http 409, Never;
    /// The saved plan was made for another state of the database or of the policy.
    PlanStale = "plan-stale", Operator, exit 1, http 409, Never;
    /// A person said no, or nobody could be asked.
    NotConfirmed = "not-confirmed", Caller, exit 1, http 409, Never;
    /// The catalog has no schema, or one newer than this program.
    CatalogVersion = "catalog-version", Operator, exit 2, http 500, Never;
    /// The ring's state or a row of the catalog is not what the operators signed.
    StateTampered = "state-tampered", Operator, exit 1, http 500, Never;
    /// The ring's state is older than one already seen or pinned.
    StateRolledBack = "state-rolled-back", Operator, exit 1, http 500, Never;
    /// The operators' signing key is needed and is not here.
    OperatorKeyMissing = "operator-key-missing", Operator, exit 2, http 409, Never;
    /// The key that signs the log's checkpoints is needed and is not here.
    LogKeyMissing = "log-key-missing", Operator, exit 2, http 500, Never;
    /// The log of events is not what was written or signed.
    LogTampered = "log-tampered", Data, exit 4, http 500, Never;
    /// Evidence for an auditor is not what was signed.
    EvidenceTampered = "evidence-tampered", Data, exit 4, http 500, Never;
    /// An event could not be written, and the policy wants it written before there is an answer.
    EventsUnwritten = "events-unwritten", Operator, exit 5, http 503, Later;
    /// A file that holds a key can be read by others.
    KeyFilePermissions = "key-file-permissions", Operator, exit 2, http 500, Never;
    /// A file that should hold a key does not.
    KeyFileInvalid = "key-file-invalid", Operator, exit 2, http 500, Never;
    /// A key file is sealed under a passphrase, and none was given.
    PassphraseMissing = "passphrase-missing", Operator, exit 2, http 500, Never;
    /// The passphrase is not the one that the key file was sealed under.
    PassphraseWrong = "passphrase-wrong", Operator, exit 1, http 500, Never;
    /// A development key where the environment is production.
    LocalKeyInProduction = "local-key-in-production", Operator, exit 1, http 500, Never;
    /// The key of a reader of another product's format is missing, or is none of that format.
    ReaderKeyInvalid = "reader-key-invalid", Operator, exit 2, http 500, Never;
    /// The policy lacks a reader that a column's values may need.
    ReaderMissing = "reader-missing", Operator, exit 2, http 500, Never;
    /// Values still need a reader that was to leave the policy.
    ReaderNeeded = "reader-needed", Operator, exit 1, http 409, Never;
    /// A root-key URI that no built-in provider understands.
    KmsUriInvalid = "kms-uri-invalid", Operator, exit 2, http 500, Never;
    /// The key service could not be reached or did not answer in time.
    KmsUnavailable = "kms-unavailable", Provider, exit 5, http 503, Later;
    /// The key service asks for fewer calls.
    KmsThrottled = "kms-throttled", Provider, exit 5, http 503, Later;
    /// The key service refused the caller.
    KmsAccessDenied = "kms-access-denied", Operator, exit 1, http 500, Never;
    /// The root key does not exist (any more).
    KmsKeyNotFound = "kms-key-not-found", Operator, exit 1, http 500, Never;
    /// The root key is disabled or waits for its deletion.
    KmsKeyDisabled = "kms-key-disabled", Operator, exit 1, http 500, Never;
    /// A root key that a customer holds refused: withdrawn, disabled, or gone.
    CustomerKeyRefused = "customer-key-refused", Operator, exit 1, http 403, Never;
    /// The policy and the ring's signed state do not name the same customer's root key for a tenant.
    CustomerKeyMismatch = "customer-key-mismatch", Operator, exit 1, http 500, Never;
    /// The version of the root key that made the wrap may not open anything any more.
    KmsVersionRetired = "kms-version-retired", Operator, exit 1, http 500, Never;
    /// The wrapped key, its root key and its context do not belong together.
    WrapInvalid = "wrap-invalid", Data, exit 4, http 500, Never;
    /// The key service answered something that its protocol does not allow.
    KmsProtocol = "kms-protocol", Provider, exit 1, http 502, Never;
    /// A data key that an envelope names is not in the catalog.
    KeyNotFound = "key-not-found", Data, exit 4, http 500, Never;
    /// The data key is disabled.
    KeyDisabled = "key-disabled", Operator, exit 1, http 403, Never;
    /// Values are still under a data key that was to be taken out of use.
    KeyNeeded = "key-needed", Operator, exit 1, http 409, Never;
    /// The data key was destroyed; its values cannot be read again.
    KeyDestroyed = "key-destroyed", Operator, exit 1, http 410, Never;
    /// The ring's epoch has not been seen for longer than the policy allows.
    StateUnseen = "state-unseen", Provider, exit 5, http 503, Later;
    /// The stored bytes begin like an envelope and are not one.
    EnvelopeMalformed = "envelope-malformed", Data, exit 4, http 422, Never;
    /// An envelope of a version or suite that this program does not know.
    EnvelopeNewer = "envelope-newer", Data, exit 4, http 422, Never;
    /// The envelope does not open here: changed, or taken from another place.
    OpenFailed = "open-failed", Data, exit 4, http 422, Never;
    /// Plaintext where the column's mode wants envelopes only.
    PlaintextRefused = "plaintext-refused", Data, exit 4, http 422, Never;
    /// A value larger than an envelope may hold.
    ValueTooLarge = "value-too-large", Caller, exit 1, http 413, Never;
    /// A value that the column's normalisers or its type cannot take.
    ValueInvalid = "value-invalid", Caller, exit 1, http 422, Never;
    /// `audit` or `verify` found plaintext, or an envelope that does not open.
    PlaintextFound = "plaintext-found", Data, exit 4, http 409, Never;
    /// The job ended and some rows could not be converted.
    RowsFailed = "rows-failed", Data, exit 6, http 409, Never;
    /// Interrupted; what was committed stays, and the command may be run again.
    Interrupted = "interrupted", Caller, exit 6, http 503, Later;
    /// Somebody else holds what is needed (a lease, a lock) for longer than we wait.
    Busy = "busy", Operator, exit 5, http 409, Later;
    /// A job or a chunk that has moved on to another worker.
    LeaseLost = "lease-lost", Provider, exit 5, http 409, Later;
    /// Applications that read the column are not ready for envelopes.
    ReadersNotReady = "readers-not-ready", Operator, exit 1, http 409, Never;
    /// A request to the service says nobody's name that is known: no credentials, or none that are good.
    Unauthenticated = "unauthenticated", Caller, exit 1, http 401, Never;
    /// The keys of an issuer of tokens could not be fetched.
    IssuerUnavailable = "issuer-unavailable", Provider, exit 5, http 503, Later;
    /// The caller is known and may not do that, or not there.
    PermissionDenied = "permission-denied", Caller, exit 1, http 403, Never;
    /// A request has the `Idempotency-Key` of another one.
    IdempotencyKeyReused = "idempotency-key-reused", Caller, exit 2, http 422, Never;
    /// The request of this `Idempotency-Key` is being done.
    RequestRunning = "request-running", Caller, exit 5, http 409, Later;
    /// The service has nothing at this path.
    UnknownEndpoint = "unknown-endpoint", Caller, exit 2, http 404, Never;
    /// What is at this path does not take this method.
    MethodNotAllowed = "method-not-allowed", Caller, exit 2, http 405, Never;
    /// A request with more bytes or more items than the service takes.
    RequestTooLarge = "request-too-large", Caller, exit 2, http 413, Never;
    /// The caller asks the service more often than it may.
    RateLimited = "rate-limited", Caller, exit 5, http 429, Later;
    /// A request took longer than the service lets one take.
    RequestTimeout = "request-timeout", Provider, exit 5, http 504, Later;
    /// A file could not be read or written.
    FileFailed = "file-failed", Operator, exit 2, http 500, Never;
    /// A fault of Enfold itself.
    Internal = "internal", Us, exit 70, http 500, Never;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A link of the cause chain: one fact, safe to log.
///
/// Foreign errors do not enter the chain themselves, because their text may quote a value (Postgres quotes the key of
/// a violated constraint; a parser quotes its input). Whoever converts one writes down what may be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause(pub String);

/// What went wrong, for whom, and what to do next. See the module's head.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    message: String,
    causes: Vec<Cause>,
    hints: Vec<String>,
    again_after: Option<Duration>,
}

/// The result of everything in this crate and above.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// `message`: one line, lower case, no full stop, objects in backticks: what was being done to what.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (causes, hints) = (Vec::new(), Vec::new());
        Self(Box::new(Inner { code, message: message.into(), causes, hints, again_after: None }))
    }

    /// Adds a fact below the line, nearest first.
    #[must_use]
    pub fn cause(mut self, fact: impl Into<String>) -> Self {
        self.0.causes.push(Cause(fact.into()));
        self
    }

    /// Adds what to do next, with the exact command where there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Says before when another try is in vain, because whoever refused said so.
    #[must_use]
    pub fn try_again_after(mut self, pause: Duration) -> Self {
        self.0.again_after = Some(pause);
        self.hint(format!("try again in {:.1} s", pause.as_secs_f64().max(0.1)))
    }

    /// Puts a wider "what was being done" in front; the former line becomes the first cause.
    #[must_use]
    pub fn while_doing(mut self, message: impl Into<String>) -> Self {
        let former = std::mem::replace(&mut self.0.message, message.into());
        self.0.causes.insert(0, Cause(former));
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    /// See [`Self::try_again_after`].
    pub fn again_after(&self) -> Option<Duration> {
        self.0.again_after
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn causes(&self) -> impl Iterator<Item = &str> {
        self.0.causes.iter().map(|c| c.0.as_str())
    }

    pub fn hints(&self) -> impl Iterator<Item = &str> {
        self.0.hints.iter().map(String::as_str)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for cause in &self.0.causes {
            write!(f, ": {}", cause.0)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self, self.0.code)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.word()), "{} twice", code.word());
            assert!(code.word().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
        }
    }

    #[test]
    fn a_wider_line_keeps_the_former_one_as_its_first_cause() {
        let error = Error::new(Code::Busy, "inner").cause("root").while_doing("outer");
        assert_eq!(error.message(), "outer");
        assert_eq!(error.causes().collect::<Vec<_>>(), ["inner", "root"]);
    }
}
