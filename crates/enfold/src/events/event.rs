//! What an event says.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EventKind, Outcome};
use crate::catalog::DataKeyRow;
use crate::{Code, Error, Result};

/// Whom a call is about, as the log has them: a keyed hash of the ring's, which [`crate::Enfold::subject_tag`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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
    /// The emergency under which they may do it.
    pub emergency: Option<String>,
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

/// What came of the test of a backup: it was restored to a database of its own, and every value of some columns was to be opened
/// there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoreTest {
    /// The name of the database that the backup was restored to.
    pub database: String,
    /// What tells the live database, whose backup it is, from others.
    pub live: String,
    /// When the backup was made, in the words of whoever tests it: milliseconds since 1970.
    pub backup_ms: i64,
    pub took_ms: u64,
    /// Rows that were read.
    pub rows: u64,
    /// Rows with a value that is plaintext or does not open.
    pub failed: u64,
    /// The columns, as the policy spells them, and how many envelopes each holds.
    pub columns: BTreeMap<String, u64>,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When: milliseconds since 1970; of the first value, where it stands for several.
    pub at_ms: i64,
    /// What happened.
    #[schemars(with = "String")]
    pub kind: EventKind,
    /// How it went: `success`, `failure` or `denied`. Events of earlier versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
    /// The ring's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<String>,
    /// The column as the policy spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The id of the data key that is concerned, in hex; of the root key, for values whose own data key that wraps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The data key's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u32>,
    /// The job's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What of the service was asked: the method and the path, as the reference of the API has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What came of the test of a restored backup: its `database`, what tells the `live` one, when the backup was made (`backup_ms`, in the
    /// words of whoever tests it), `took_ms`, `rows` that were read, rows that `failed`, and `columns` with their envelopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Box<RestoreTest>>,
    /// How many values (or keys, rows, look-ups, lost events) this line stands for.
    pub count: u64,
    /// The error's [code](../errors/), where something was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The error's line or what was done, which holds no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Who did it: of the service's callers who they proved to be, of a library's calls what the program says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The request, as the caller or the service named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Where it came from: an address, a service, a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whom it is about, as a keyed hash, where the caller said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<SubjectTag>,
    /// The emergency that it is of, or under whose access it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency: Option<String>,
}

impl Event {
    /// An event of now.
    pub fn new(kind: EventKind, count: u64) -> Self {
        Self {
            at_ms: jiff::Timestamp::now().as_millisecond(),
            kind,
            result: Some(kind.outcome()),
            ring: None,
            column: None,
            key: None,
            key_version: None,
            job: None,
            endpoint: None,
            restored: None,
            count,
            code: None,
            detail: None,
            actor: None,
            reason: None,
            request_id: None,
            source: None,
            subject: None,
            emergency: None,
        }
    }

    /// A refusal, in the words of the error.
    pub fn refused(error: &Error) -> Self {
        Self::failed(EventKind::Refused, error)
    }

    /// A failure of this kind, in the words of the error: `denied`, where it is that who asked may not.
    pub fn failed(kind: EventKind, error: &Error) -> Self {
        let kind = if error.code().is_denial() { EventKind::Denied } else { kind };
        Self::new(kind, 1).because(error)
    }

    /// Where what was tried did not go well: why.
    #[must_use]
    pub fn because(mut self, error: &Error) -> Self {
        let denied = error.code().is_denial();
        self.result = Some(if denied { Outcome::Denied } else { Outcome::Failure });
        self.code = Some(error.code().word().to_owned());
        self.detail = Some(match self.detail {
            Some(what) => format!("{what}: {error}"),
            None => error.to_string(),
        });
        self
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

    /// `version`: none of a root key.
    #[must_use]
    pub fn key(mut self, key: enfold_core::KeyId, version: Option<u32>) -> Self {
        (self.key, self.key_version) = (Some(key.to_string()), version);
        self
    }

    #[must_use]
    pub fn data_key(self, row: &DataKeyRow) -> Self {
        self.key(row.id, Some(row.version))
    }

    #[must_use]
    pub fn job(mut self, job: impl Into<String>) -> Self {
        self.job = Some(job.into());
        self
    }

    #[must_use]
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = Some(endpoint.into());
        self
    }

    #[must_use]
    pub fn restored(mut self, test: RestoreTest) -> Self {
        self.restored = Some(Box::new(test));
        self
    }

    #[must_use]
    pub fn context(mut self, context: &CallContext) -> Self {
        self.actor.clone_from(&context.actor);
        self.reason.clone_from(&context.reason);
        self.request_id.clone_from(&context.request_id);
        self.source.clone_from(&context.source);
        self.subject.clone_from(&context.subject);
        self.emergency.clone_from(&context.emergency);
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
