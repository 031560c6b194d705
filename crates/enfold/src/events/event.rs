//! What an event says.

use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Values were sealed.
    Seal,
    /// Values were opened.
    Open,
    /// A data key was made and stored.
    KeyMade,
    /// A data key was unwrapped: a key service was asked.
    KeyUsed,
    /// A new version of a data key seals from now on.
    KeyRotated,
    /// A data key was disabled: it neither seals nor opens.
    KeyDisabled,
    /// It was enabled again.
    KeyEnabled,
    /// Data keys were given other wraps; `count` says how many.
    KeysRewrapped,
    /// A root key was registered, rotated, retired, disabled, taken back or restored; `detail` says which and what.
    RootKey,
    /// The rules of a blind index were signed, or a generation of it was begun, took over or was given up; `detail` says which
    /// and what.
    Index,
    /// Rows were deleted by a rule of the policy; `count` says how many, `detail` which.
    RowsPruned,
    /// Values under versions below one do not open any more; `detail` says which scope and version.
    MinimumSet,
    /// Data keys are to be destroyed, and do nothing meanwhile; `detail` says whose.
    DestructionAnnounced,
    /// That was taken back.
    DestructionCancelled,
    /// They were destroyed.
    KeysDestroyed,
    /// A writer's chain does not hold together in the catalog; `detail` says whose, and where.
    LogBroken,
    /// Something was refused; `code` says why.
    Refused,
    /// Events were lost because sinks could not keep up; `count` says how many.
    Lost,
}

impl EventKind {
    /// The word that stands in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
            Self::KeyMade => "key-made",
            Self::KeyUsed => "key-used",
            Self::KeyRotated => "key-rotated",
            Self::KeyDisabled => "key-disabled",
            Self::KeyEnabled => "key-enabled",
            Self::KeysRewrapped => "keys-rewrapped",
            Self::RootKey => "root-key",
            Self::Index => "index",
            Self::RowsPruned => "rows-pruned",
            Self::MinimumSet => "minimum-set",
            Self::DestructionAnnounced => "destruction-announced",
            Self::DestructionCancelled => "destruction-cancelled",
            Self::KeysDestroyed => "keys-destroyed",
            Self::LogBroken => "log-broken",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Whom a call is about, as the log has them: a keyed hash of the ring's, which [`crate::Enfold::subject_tag`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubjectTag(String);

impl SubjectTag {
    pub(crate) fn new(tag: String) -> Self {
        Self(tag)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who calls, why, and on whose behalf. All parts are the caller's word; a policy can require them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub request_id: Option<String>,
    /// Where the call came from: an address, a service, a job.
    pub source: Option<String>,
    /// Whom it is about: whose request to know who opened their data will find it.
    pub subject: Option<SubjectTag>,
    /// Whether each call is written down, whatever the policy says of opens and seals: for people with more rights than
    /// applications have.
    pub each: bool,
}

impl CallContext {
    /// A context that says who asks and why.
    pub fn new(actor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), reason: Some(reason.into()), ..Self::default() }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970; of the first value, where it stands for several.
    pub at_ms: i64,
    pub kind: EventKind,
    /// The ring's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<String>,
    /// The column as the policy spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The data key's id, where one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many values (or lost events) this line stands for.
    pub count: u64,
    /// The error's code, where something was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The error's line or what was done, which holds no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whom it is about, where the caller said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectTag>,
}

impl Event {
    /// An event of now.
    pub fn new(kind: EventKind, count: u64) -> Self {
        Self {
            at_ms: jiff::Timestamp::now().as_millisecond(),
            kind,
            ring: None,
            column: None,
            key: None,
            count,
            code: None,
            detail: None,
            actor: None,
            reason: None,
            request_id: None,
            source: None,
            subject: None,
        }
    }

    /// A refusal, in the words of the error.
    pub fn refused(error: &Error) -> Self {
        let mut event = Self::new(EventKind::Refused, 1);
        event.code = Some(error.code().word().to_owned());
        event.detail = Some(error.to_string());
        event
    }

    #[must_use]
    pub fn ring(mut self, ring: &str) -> Self {
        self.ring = Some(ring.to_owned());
        self
    }

    /// What was done, in words that hold no value.
    #[must_use]
    pub fn detail(mut self, says: impl Into<String>) -> Self {
        self.detail = Some(says.into());
        self
    }

    #[must_use]
    pub fn column(mut self, column: &str) -> Self {
        self.column = Some(column.to_owned());
        self
    }

    #[must_use]
    pub fn key(mut self, key: enfold_core::KeyId) -> Self {
        self.key = Some(key.to_string());
        self
    }

    #[must_use]
    pub fn context(mut self, context: &CallContext) -> Self {
        self.actor.clone_from(&context.actor);
        self.reason.clone_from(&context.reason);
        self.request_id.clone_from(&context.request_id);
        self.source.clone_from(&context.source);
        self.subject.clone_from(&context.subject);
        self
    }

    /// One line, without a line break: JSON escapes those of the caller's words.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The reverse of [`Self::to_json`].
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|_| Error::new(Code::LogTampered, "the log holds a line that is not one of its events"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The catalog writes and reads the one, lines of JSON are the other.
    #[test]
    fn the_word_of_a_kind_is_the_one_that_it_is_read_by() {
        use EventKind::*;
        for kind in [
            Seal,
            Open,
            KeyMade,
            KeyUsed,
            KeyRotated,
            KeyDisabled,
            KeyEnabled,
            KeysRewrapped,
            RootKey,
            Index,
            RowsPruned,
            MinimumSet,
            DestructionAnnounced,
            DestructionCancelled,
            KeysDestroyed,
            LogBroken,
            Refused,
            Lost,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
