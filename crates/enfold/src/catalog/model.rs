//! The rows of the catalog.

use std::time::Duration;

use enfold_core::KeyId;
use serde::{Deserialize, Serialize};

use crate::events::{Event, EventKind, SubjectTag};
use crate::policy::Mode;
use crate::{Code, Error, Result};

/// What a data key is for. A key of one purpose is never used for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Seals values, or the data keys of records.
    Seal,
    /// Computes a blind index. It survives the rotation of data keys, or no lookup would find anything after one.
    Index,
    /// Authenticates the ring's rows.
    Rows,
    /// Seals the ring's entries in the shared cache.
    Cache,
}

impl Purpose {
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Seal => "seal",
            Purpose::Index => "index",
            Purpose::Rows => "rows",
            Purpose::Cache => "cache",
        }
    }

    /// From the word that is stored: for whoever writes a catalog of their own.
    pub fn parse(text: &str) -> Result<Self> {
        [Purpose::Seal, Purpose::Index, Purpose::Rows, Purpose::Cache]
            .into_iter()
            .find(|p| p.as_str() == text)
            .ok_or_else(|| unknown_word("purpose"))
    }
}

/// What may be done with a data key, from everything to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyStatus {
    /// Seals and opens.
    Active,
    /// Opens, seals no more.
    Retired,
    /// Does neither, and can come back.
    Disabled,
    /// Disabled, with its destruction announced.
    Destroying,
    /// Its wraps are gone: its values are unreadable for ever.
    Destroyed,
}

impl KeyStatus {
    const ALL: [Self; 5] = [Self::Active, Self::Retired, Self::Disabled, Self::Destroying, Self::Destroyed];

    pub fn as_str(self) -> &'static str {
        match self {
            KeyStatus::Active => "active",
            KeyStatus::Retired => "retired",
            KeyStatus::Disabled => "disabled",
            KeyStatus::Destroying => "destroying",
            KeyStatus::Destroyed => "destroyed",
        }
    }

    /// From the word that is stored: for whoever writes a catalog of their own.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| unknown_word("status"))
    }
}

/// A key inside a key service, by the id that inline envelopes carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootKey {
    pub id: KeyId,
    /// Spelled as in the policy. Only URIs of the policy are ever called.
    pub uri: String,
    /// Ids that it had besides: its record was deleted, made anew, and restored.
    pub other_ids: Vec<KeyId>,
    pub about: RootAbout,
}

/// What was learned of a root key, for people. Nothing of it is believed: it decides nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootAbout {
    /// What operators call it.
    pub alias: Option<String>,
    /// Why it is there, in the operators' words.
    pub description: Option<String>,
    /// The key itself, as its service names it: an ARN on AWS.
    pub resolved: Option<String>,
    /// As its service last said it.
    pub service_state: Option<String>,
    /// The version that wraps, where its service numbers them.
    pub version: Option<u32>,
    /// Milliseconds since 1970, as all that follow: when its record was made, if that is known.
    pub created_ms: Option<i64>,
    /// When its service was last asked about it.
    pub described_ms: Option<i64>,
    /// When Enfold last had its service make a version.
    pub rotated_ms: Option<i64>,
}

impl RootKey {
    /// One of which no more is known.
    pub fn new(id: KeyId, uri: impl Into<String>) -> Self {
        Self { id, uri: uri.into(), other_ids: Vec::new(), about: RootAbout::default() }
    }

    /// Every id that stands for it; the one that is written first.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        std::iter::once(self.id).chain(self.other_ids.iter().copied()).collect()
    }
}

/// A data key with another status or other wraps, and the MAC of the row that it was made for.
#[derive(Clone)]
pub struct Swap {
    pub key: DataKeyRow,
    pub expected: Vec<u8>,
}

/// A data key wrapped under one root key.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrap {
    /// The root key's URI.
    pub root: String,
    /// What the key service returned.
    pub wrapped: Vec<u8>,
}

/// The layer over a data key that a root key of the tenant's own guards: without it nothing in the row opens.
///
/// The data key is sealed under a layer key that the customer's root key wraps, and the result under one that ours wrap
/// ([`DataKeyRow::wraps`]). So no key service sees the data key, and no more than one layer key.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerLayer {
    /// The URI of the customer's root key.
    pub root: String,
    /// The customer's layer key, as its key service wrapped it.
    pub wrapped: Vec<u8>,
    /// The data key under both layer keys.
    pub sealed: Vec<u8>,
}

/// A data key as it is stored: wrapped, and authenticated by `mac`.
#[derive(Clone, PartialEq, Eq)]
pub struct DataKeyRow {
    pub id: KeyId,
    /// The ring's id.
    pub ring: String,
    pub purpose: Purpose,
    /// What it covers, in the spelling of [`crate::keyring::ScopeId`]. A tenant stands here as a keyed hash only: tenant
    /// ids may be personal data, and whoever can read a catalog of its own need not know whose keys it holds.
    pub scope: String,
    /// From 1. (ring, purpose, scope, version) is unique.
    pub version: u32,
    pub status: KeyStatus,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// One for each root key of the ring, in the order of their URIs: of the data key, or of our layer key where there is
    /// a customer's layer.
    pub wraps: Vec<Wrap>,
    pub customer: Option<CustomerLayer>,
    /// HMAC-SHA-256 over all of the above under the ring's row-authentication key.
    pub mac: Vec<u8>,
}

/// What became of an attempt to store a data key.
pub enum Inserted {
    Made,
    /// Somebody else made this version first: use theirs.
    Exists(DataKeyRow),
}

/// A ring's state as it is stored: bytes and a signature over them, both to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedState {
    /// The ring's id.
    pub ring: String,
    /// Repeated from the document so that the database can compare it; the document's own is the one that counts.
    pub epoch: u64,
    pub document: Vec<u8>,
    pub signature: Vec<u8>,
}

/// The access list as it is stored: bytes and a signature over them, both to be verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAccess {
    /// Repeated from the document so that the database can compare it; the document's own is the one that counts.
    pub epoch: u64,
    pub document: Vec<u8>,
    pub signature: Vec<u8>,
}

/// A running application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    pub name: String,
    pub version: String,
    /// Tells processes of one application apart.
    pub instance: String,
    /// Columns it reads or writes through Enfold, as the policy spells them.
    pub columns: Vec<String>,
    /// The strongest mode that it can work in.
    pub ready: Mode,
    /// Milliseconds since 1970.
    pub last_seen_ms: i64,
}

/// What a process says of a ring: by which state it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The ring's id.
    pub ring: String,
    /// Distinct for each process and each open policy in it.
    pub process: String,
    /// Name and version, where the process gave them.
    pub application: Option<String>,
    /// It seals and opens by this state or a later one.
    pub epoch: u64,
    /// For how long that can be so: a process that does not look again within this time has stopped using its keys.
    pub holds: Duration,
}

/// Access in an emergency, as it is stored; see [`crate::access::Emergency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEmergency {
    pub id: String,
    pub revision: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub at_ms: i64,
    pub document: Vec<u8>,
    pub mac: Vec<u8>,
}

/// Which events are looked for. What is left out is not asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// From this moment on, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Before this moment.
    pub until_ms: Option<i64>,
    /// Words of kinds, one of which it has.
    pub kinds: Option<Vec<String>>,
    /// In hex, one of which it has.
    pub keys: Option<Vec<String>>,
    /// Tags of a data subject, one for each ring, one of which it has.
    pub subjects: Option<Vec<String>>,
    /// As the policy spells it.
    pub column: Option<String>,
    pub actor: Option<String>,
    /// The newest that many.
    pub limit: u32,
}

/// Which part is wanted of the events that are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    pub oldest_first: bool,
    /// The place of the last event of the page before.
    pub after: Option<i64>,
}

impl EventQuery {
    pub fn newest(limit: u32) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Whether an event is one of them.
    pub fn takes(&self, event: &Event) -> bool {
        let among = |some: &Option<Vec<String>>, is: Option<&str>| {
            some.as_ref().is_none_or(|some| is.is_some_and(|is| some.iter().any(|one| one == is)))
        };
        let same = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
        self.since_ms.is_none_or(|since| event.at_ms >= since)
            && self.until_ms.is_none_or(|until| event.at_ms < until)
            && among(&self.kinds, Some(event.kind.as_str()))
            && among(&self.keys, event.key.as_deref())
            && among(&self.subjects, event.subject.as_ref().map(SubjectTag::as_str))
            && same(&self.column, &event.column)
            && same(&self.actor, &event.actor)
    }
}

/// Uses of a data key that are alike, as the log of events has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyUse {
    /// In hex.
    pub key: String,
    /// `seal`, `open` or `key-used`.
    pub kind: String,
    /// As the policy spells it.
    pub column: Option<String>,
    pub actor: Option<String>,
    pub source: Option<String>,
    /// Values, or calls to a key service.
    pub count: u64,
    /// The first and the last of them, in milliseconds since 1970.
    pub first_ms: i64,
    pub last_ms: i64,
}

/// The kinds of events that are uses of a data key.
pub(super) const USES: [&str; 3] = [EventKind::Seal.as_str(), EventKind::Open.as_str(), EventKind::KeyUsed.as_str()];

/// A word in a row that this program does not know: refused, as everything unknown.
pub(super) fn unknown_word(what: &str) -> Error {
    Error::new(Code::StateTampered, format!("the catalog holds a {what} that this program does not know"))
}
