//! Crypto-shredding in the signed state: whose data keys are to be destroyed, when, and that it was done.
//!
//! It names a tenant, by the tag that stands for it, or the whole ring, and not data keys: one that somebody makes meanwhile is
//! meant too, and a tenant that was destroyed gets no new one.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RingState;
use crate::catalog::Purpose;
use crate::keyring::tenant_tag;

/// Whose data keys are destroyed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Subject(String);

const RING: &str = "ring";

impl Subject {
    /// Every data key of the ring. What authenticates its rows stays: it opens no value, and without it nobody could tell
    /// what was destroyed.
    pub fn ring() -> Self {
        Self(RING.to_owned())
    }

    /// Those of one tenant, its index keys among them.
    pub(crate) fn tenant(tag: &str) -> Self {
        Self(tag.to_owned())
    }

    /// The tag that stands for the tenant; none where it is the ring.
    pub fn tag(&self) -> Option<&str> {
        (self.0 != RING).then_some(self.0.as_str())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a data key of this purpose and scope is one of them.
    pub(crate) fn holds(&self, purpose: Purpose, scope: &str) -> bool {
        match self.tag() {
            None => purpose != Purpose::Rows,
            Some(tag) => tenant_tag(scope) == Some(tag),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag() {
            None => f.write_str("the ring"),
            Some(tag) => write!(f, "tenant {tag}"),
        }
    }
}

/// A destruction that was announced, or was done. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destruction {
    pub asked_ms: i64,
    /// Until then it can be taken back, and nothing is destroyed.
    pub due_ms: i64,
    /// When the operators signed that it is done. From then on wraps are deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_ms: Option<i64>,
    /// Who asked for it, and why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For how long backups of the catalog are kept, in milliseconds, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups_ms: Option<i64>,
}

impl RingState {
    /// The destruction that a data key of this purpose and scope falls under: one that was done before one that waits.
    pub fn destruction(&self, purpose: Purpose, scope: &str) -> Option<&Destruction> {
        let meant = self.destructions.iter().filter(|(subject, _)| subject.holds(purpose, scope));
        meant.map(|(_, destruction)| destruction).max_by_key(|destruction| destruction.done_ms.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "00112233445566778899aabbccddeeff";
    const OTHER: &str = "ffeeddccbbaa99887766554433221100";

    #[test]
    fn a_tenants_destruction_means_its_data_keys_and_index_keys_and_nobody_elses() {
        let tenant = Subject::tenant(TAG);
        assert!(tenant.holds(Purpose::Seal, &format!("tenant@{TAG}")));
        assert!(tenant.holds(Purpose::Index, &format!("index:u1/eq@{TAG}")));
        assert!(!tenant.holds(Purpose::Seal, &format!("tenant@{OTHER}")));
        assert!(!tenant.holds(Purpose::Index, "index:u1/eq"), "an index across tenants");
        assert!(!tenant.holds(Purpose::Rows, "rows") && !tenant.holds(Purpose::Cache, "cache"));
        let ring = Subject::ring();
        assert!(ring.holds(Purpose::Seal, "ring") && ring.holds(Purpose::Index, "index:u1/eq"));
        assert!(ring.holds(Purpose::Cache, "cache") && !ring.holds(Purpose::Rows, "rows"));
        assert_eq!((ring.tag(), tenant.tag()), (None, Some(TAG)));
    }
}
