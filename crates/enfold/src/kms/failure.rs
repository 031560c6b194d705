//! The errors of key services: one function for each thing that goes wrong, so that every provider says it alike.
//!
//! Whoever calls adds what it was being done for; here stand the operation, the root key, the fact and the hint.
//! Nothing of what a service answers is passed on but its error's name and its request id.

use std::fmt;

use super::uri::KeyUri;
use crate::error::{Code, Error};

/// What is asked of a key service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Wrap,
    Unwrap,
    Generate,
    Describe,
    Rewrap,
    Rotate,
    ScheduleRotation,
    Disable,
    Enable,
    ScheduleDeletion,
    CancelDeletion,
    /// Of what another program encrypted.
    Decrypt,
    Sign,
}

impl Operation {
    pub const ALL: [Self; 13] = [
        Self::Wrap,
        Self::Unwrap,
        Self::Generate,
        Self::Describe,
        Self::Rewrap,
        Self::Rotate,
        Self::ScheduleRotation,
        Self::Disable,
        Self::Enable,
        Self::ScheduleDeletion,
        Self::CancelDeletion,
        Self::Decrypt,
        Self::Sign,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Wrap => "wrap",
            Self::Unwrap => "unwrap",
            Self::Generate => "generate",
            Self::Describe => "describe",
            Self::Rewrap => "rewrap",
            Self::Rotate => "rotate",
            Self::ScheduleRotation => "schedule-rotation",
            Self::Disable => "disable",
            Self::Enable => "enable",
            Self::ScheduleDeletion => "schedule-deletion",
            Self::CancelDeletion => "cancel-deletion",
            Self::Decrypt => "decrypt",
            Self::Sign => "sign",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

pub(crate) fn disabled(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsKeyDisabled, operation, uri)
        .cause("the root key is disabled")
        .hint("enable it in the key service, or put another root key of the ring first in `roots`")
}

pub(crate) fn pending_deletion(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsKeyDisabled, operation, uri)
        .cause("the root key waits for its deletion")
        .hint("cancel the deletion in the key service now: once it is gone, what only it wraps is lost")
}

pub(crate) fn not_found(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsKeyNotFound, operation, uri)
        .cause("the root key does not exist, or not any more")
        .hint("compare the URI, its region and its account with the key service")
}

pub(crate) fn denied(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsAccessDenied, operation, uri).cause("the key service refused the caller")
}

pub(crate) fn throttled(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsThrottled, operation, uri).cause("the key service asks for fewer calls")
}

pub(crate) fn timed_out(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsUnavailable, operation, uri).cause("the key service did not answer in time")
}

pub(crate) fn wrap_invalid(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::WrapInvalid, operation, uri)
        .cause("the wrapped key, the root key and the encryption context do not belong together")
}

pub(crate) fn credential_expired(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsAccessDenied, operation, uri)
        .cause("the credential that the key service is called with is not valid any more")
        .hint("renew it where it is kept; it is read again without a restart")
}

pub(crate) fn version_retired(operation: Operation, uri: &KeyUri) -> Error {
    failed(Code::KmsVersionRetired, operation, uri)
        .cause("the version of the root key that made this wrap may not open anything any more")
        .hint("allow that version again in the key service, rewrap, and only then retire it")
}

/// The service does not do this, or not so. It was not asked.
pub(crate) fn not_so(operation: Operation, uri: &KeyUri, why: impl Into<String>) -> Error {
    failed(Code::Usage, operation, uri).cause(why).hint("nothing was changed")
}

pub(crate) fn not_pending(operation: Operation, uri: &KeyUri) -> Error {
    not_so(operation, uri, "it does not wait for its deletion")
}

/// The service answered what its protocol does not allow.
#[cfg(any(feature = "oauth", feature = "vault"))]
pub(crate) fn unusable(operation: Operation, uri: &KeyUri, fact: &str) -> Error {
    failed(Code::KmsProtocol, operation, uri)
        .cause(format!("the key service gave an answer that cannot be used: {fact}"))
}

pub(crate) fn wrong_count(uri: &KeyUri) -> Error {
    Error::new(Code::KmsProtocol, format!("cannot use the answer of `{uri}`"))
        .cause("it holds another number of results than there were requests")
}

pub(crate) fn failed(code: Code, operation: Operation, uri: &KeyUri) -> Error {
    let what = match operation {
        Operation::Wrap => "wrap a data key under",
        Operation::Unwrap => "unwrap a data key under",
        Operation::Generate => "generate a data key under",
        Operation::Describe => "describe",
        Operation::Rewrap => "wrap a data key again under",
        Operation::Rotate => "rotate",
        Operation::ScheduleRotation => "set the rotation of",
        Operation::Disable => "disable",
        Operation::Enable => "enable",
        Operation::ScheduleDeletion => "schedule the deletion of",
        Operation::CancelDeletion => "cancel the deletion of",
        Operation::Decrypt => "decrypt a value under",
        Operation::Sign => "sign with",
    };
    Error::new(code, format!("cannot {what} `{uri}`"))
}
