//! The signed state of a key ring: what nobody but the operators may decide.
//!
//! Whoever can write to the database must not be able to weaken it. So which mode a column is in, which version of a
//! data key seals, what is disabled or destroyed, and which key authenticates the ring's rows stand in one document
//! for each ring, signed with Ed25519 by the operators' key. Applications hold only the public key. The document has an
//! epoch that only grows: a process refuses one older than it has seen, and the policy can pin a least one.
//!
//! The encoding is JSON in one spelling: fields in the order of the types below, maps and sets in the order of their
//! keys, no blanks. What is signed is `enfold/v1 ring state`, a zero byte, and those bytes; a document that does not
//! re-encode to itself is refused, so that two readers cannot read two things in it.
//!
//! What the signature does not prevent: whoever can write to the database can withhold a newer state from a process
//! that has not seen it, replay a whole old database to one that pins no `min_epoch`, and delete.

mod destruction;
mod indexes;
mod operator;
mod root_rotations;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use enfold_core::KeyId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalog::{DataKeyRow, KeyStatus, Purpose, SignedState};
use crate::keyring::tenant_tag;
use crate::policy::Mode;
use crate::{Code, Error, Result};

pub use destruction::{Destruction, Subject};
pub use indexes::{IndexRules, IndexState};
pub use operator::OperatorKey;
pub use root_rotations::{RootClaim, RootRotation};

/// Put before the document when it is signed, so that the operators' key signs nothing else by accident.
const DOMAIN: &[u8] = b"enfold/v1 ring state\0";
const FORMAT: u32 = 1;

/// The document. See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingState {
    format: u32,
    /// The ring's id.
    pub ring: String,
    /// From 1; each publication adds one.
    pub epoch: u64,
    /// What authenticates the ring's data-key rows.
    pub rows: RowAuthority,
    /// Where the ring's columns are, by the name that the policy gives them, and their modes. A column that is not named
    /// is in mode `legacy`: nothing in it was sealed yet.
    pub columns: BTreeMap<String, ColumnState>,
    /// Scopes that were rotated: which version seals. In all others it is version 1.
    pub sealing: BTreeMap<String, Sealing>,
    pub disabled: BTreeSet<KeyRef>,
    pub destroyed: BTreeSet<KeyRef>,
    /// Tenants that hold a root key of their own, by the tag that stands for the tenant. Left out where there are none, as
    /// programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub customers: BTreeMap<String, CustomerState>,
    /// Root keys of the ring that are not active, by their URIs. Left out where there are none, as programs of before
    /// write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots: BTreeMap<String, RootState>,
    /// Blind indexes whose rules were signed, by the ids of their columns and their names; of all others the policy's rules
    /// hold, and generation 1. Left out where there are none, as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub indexes: BTreeMap<String, IndexState>,
    /// Root keys that a schedule has seen to, or is about to, by their URIs; of one that several rings name in the state of the
    /// first alone. Left out where there are none, as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub root_rotations: BTreeMap<String, RootRotation>,
    /// Whose data keys are being destroyed, or were. Left out where there are none, as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub destructions: BTreeMap<Subject, Destruction>,
    /// Of a scope the least version that opens. Left out where there is none, as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub minimums: BTreeMap<String, u32>,
}

/// What a ring does with one of its root keys, whatever the key service would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootState {
    /// Wraps new data keys, and unwraps.
    #[default]
    Active,
    /// Unwraps, wraps no more.
    Retired,
    /// Does neither: it is not called.
    Disabled,
}

impl RootState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Disabled => "disabled",
        }
    }
}

/// The root key that a tenant holds: every data key of the tenant needs it besides ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomerState {
    /// Its URI.
    pub key: String,
    /// Data keys of the tenant that were made before: they alone may be without it.
    pub bare: BTreeSet<KeyRef>,
    /// URIs of those whose place it takes: data keys may have the layer of one of them still. Left out where there are none,
    /// as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub former: BTreeSet<String>,
}

impl CustomerState {
    /// Whether a data key of the tenant may have the layer of this root key.
    pub fn admits(&self, root: &str) -> bool {
        self.key == root || self.former.contains(root)
    }
}

/// The key that authenticates rows, by what commits to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowAuthority {
    pub key: KeyRef,
    /// In hex. See [`enfold_core::mac::RowMac::check_value`].
    pub check: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnState {
    /// The policy's id. A policy that gives this column another one is refused.
    pub id: String,
    pub mode: Mode,
    /// In mode `hybrid`: readers that values of the column may need, by the policy's names, until the operators sign that
    /// none does. A policy that lacks one is refused, for it would take their values for plaintext. Left out where there are
    /// none, as programs of before write it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reads: BTreeSet<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    pub version: u32,
    pub key: KeyRef,
}

/// A data key's id in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef(pub KeyId);

impl RingState {
    /// The first state of a ring: no columns, nothing rotated.
    pub fn new(ring: &str, rows: RowAuthority) -> Self {
        Self {
            format: FORMAT,
            ring: ring.to_owned(),
            epoch: 1,
            rows,
            columns: BTreeMap::new(),
            sealing: BTreeMap::new(),
            disabled: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            customers: BTreeMap::new(),
            roots: BTreeMap::new(),
            indexes: BTreeMap::new(),
            root_rotations: BTreeMap::new(),
            destructions: BTreeMap::new(),
            minimums: BTreeMap::new(),
        }
    }

    /// What the ring does with a root key of its policy.
    pub fn root(&self, uri: &str) -> RootState {
        self.roots.get(uri).copied().unwrap_or_default()
    }

    /// The mode of a column that the policy says has this id. Refuses when the operators signed another id for it.
    pub fn mode(&self, column: &str, id: &str) -> Result<Mode> {
        match self.columns.get(column) {
            None => Ok(Mode::Legacy),
            Some(state) if state.id == id => Ok(state.mode),
            Some(state) => Err(Error::new(
                Code::StateTampered,
                format!("the policy gives `{column}` another id than the signed column map"),
            )
            .cause(format!("the policy says `{id}`, the operators signed `{}`", state.id))
            .hint("an id never changes: put the signed one back into enfold.toml")),
        }
    }

    /// The readers that values of a column may need.
    pub fn reads(&self, column: &str) -> impl Iterator<Item = &str> {
        self.columns.get(column).into_iter().flat_map(|state| &state.reads).map(String::as_str)
    }

    /// Which version of a scope seals.
    pub fn sealing_version(&self, purpose: Purpose, scope: &str) -> u32 {
        self.sealing.get(&scope_key(purpose, scope)).map_or(1, |s| s.version)
    }

    /// What the operators decided about a data key. Refuses a version that they have not announced, another key
    /// than the one they announced for its version, and one that lacks its customer's layer or has another.
    pub fn status(&self, row: &DataKeyRow) -> Result<KeyStatus> {
        let id = KeyRef(row.id);
        let destruction = self.destruction(row.purpose, &row.scope);
        // Whatever layer it had: a customer's root key that was replaced since is not looked for on what nobody opens any more.
        if self.destroyed.contains(&id) || destruction.is_some_and(|destruction| destruction.done_ms.is_some()) {
            return Ok(KeyStatus::Destroyed);
        }
        self.check_layer(row)?;
        if destruction.is_some() {
            return Ok(KeyStatus::Destroying);
        }
        if self.disabled.contains(&id) || self.is_below_minimum(row) {
            return Ok(KeyStatus::Disabled);
        }
        let announced = self.sealing.get(&scope_key(row.purpose, &row.scope));
        let sealing = announced.map_or(1, |s| s.version);
        match row.version.cmp(&sealing) {
            std::cmp::Ordering::Less => Ok(KeyStatus::Retired),
            std::cmp::Ordering::Equal if announced.is_none_or(|s| s.key == id) => Ok(KeyStatus::Active),
            _ => Err(Error::new(
                Code::StateTampered,
                format!("version {} of data key `{}` is not the one that the operators signed", row.version, row.id),
            )),
        }
    }

    fn is_below_minimum(&self, row: &DataKeyRow) -> bool {
        let least = self.minimums.get(&row.scope).filter(|_| row.purpose == Purpose::Seal);
        least.is_some_and(|least| row.version < *least)
    }

    /// Whoever can have a row made that is authenticated (a process with a policy of its own, for one) must not be able to
    /// leave the customer out, nor to put another in.
    fn check_layer(&self, row: &DataKeyRow) -> Result<()> {
        let signed = tenant_tag(&row.scope).and_then(|tag| self.customers.get(tag));
        let refused = |what: &str, cause: String| {
            Error::new(Code::StateTampered, format!("data key `{}` {what}", row.id)).cause(cause)
        };
        match (signed, &row.customer) {
            (None, None) => Ok(()),
            (Some(signed), Some(layer)) if signed.admits(&layer.root) => Ok(()),
            (Some(signed), None) if signed.bare.contains(&KeyRef(row.id)) => Ok(()),
            (Some(signed), None) => Err(refused(
                "lacks the layer of its tenant's own root key",
                format!("the operators signed that it needs `{}` as well", signed.key),
            )
            .hint("find out which process made it, and with which policy; `enfold keys customers --sign` admits it, and has another seal")),
            (Some(signed), Some(layer)) => Err(refused(
                "has the layer of another root key than its tenant's",
                format!("the operators signed `{}`, and it names `{}`", signed.key, layer.root),
            )
            .hint("restore its row from a backup of the catalog")
            .hint("if another took its place a moment ago, `former_customer_keys` and `enfold keys customers --sign` admit it again")),
            (None, Some(layer)) => Err(refused(
                "has the layer of a customer's root key",
                format!("the operators have not signed that `{}` is its tenant's", layer.root),
            )
            .hint("an old ring state was put back, or a row of another catalog: restore the present ones")),
        }
    }

    pub(crate) fn set_sealing(&mut self, row: &DataKeyRow) {
        let sealing = Sealing { version: row.version, key: KeyRef(row.id) };
        self.sealing.insert(scope_key(row.purpose, &row.scope), sealing);
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|_| Error::new(Code::Internal, "cannot encode a ring state"))
    }

    fn decode(document: &[u8]) -> Option<Self> {
        let state: Self = serde_json::from_slice(document).ok()?;
        (state.format == FORMAT && state.encode().is_ok_and(|again| again == document)).then_some(state)
    }

    /// Reads a state that `trusted` signed for `ring`, no older than `least`.
    pub fn verify(stored: &SignedState, ring: &str, trusted: &[u8; 32], least: u64) -> Result<Self> {
        let tampered = |why: &str| {
            Error::new(Code::StateTampered, format!("the state of ring `{ring}` is not one that its operators signed"))
                .cause(why.to_owned())
                .hint("find out who changed the catalog; `enfold doctor` shows what differs")
                .hint("restore the catalog's ring state from a backup, or have the operators publish it again")
        };
        if stored.signature.is_empty() {
            return Err(tampered("it has no signature"));
        }
        UnparsedPublicKey::new(&ED25519, trusted)
            .verify(&signed_bytes(&stored.document), &stored.signature)
            .map_err(|_| tampered("its signature is not by the operators' key that is trusted here"))?;
        let state = Self::decode(&stored.document).ok_or_else(|| {
            tampered("it is signed, and not in the form that this program knows")
                .hint("a newer `enfold` may have published it: upgrade this one")
        })?;
        if state.ring != ring {
            return Err(tampered("it was signed for another ring"));
        }
        if state.epoch < least {
            return Err(Error::new(Code::StateRolledBack, format!("the state of ring `{ring}` is an older one"))
                .cause(format!("it has epoch {}, and {least} was seen or is pinned", state.epoch))
                .hint("an old backup was restored, or somebody put an old state back: publish a newer one"));
        }
        Ok(state)
    }
}

fn signed_bytes(document: &[u8]) -> Vec<u8> {
    [DOMAIN, document].concat()
}

fn scope_key(purpose: Purpose, scope: &str) -> String {
    format!("{} {scope}", purpose.as_str())
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for KeyRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| serde::de::Error::custom("not a key id"))
    }
}

#[cfg(test)]
mod tests;
