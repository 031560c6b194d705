//! Data keys as people look at them: what the catalog holds, and whether it may be believed. No key service is asked.

use enfold_core::KeyId;

use crate::catalog::{KeyStatus, Purpose};
use crate::{Enfold, Error, Result};

/// A data key on record.
#[derive(Clone, Debug)]
pub struct DataKeyRecord {
    pub id: KeyId,
    /// The ring's name.
    pub ring: String,
    pub purpose: Purpose,
    /// What it covers; a tenant as a keyed hash.
    pub scope: String,
    pub version: u32,
    /// The weaker of what the row says and what the operators signed.
    pub status: KeyStatus,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    pub wraps: Vec<WrapRecord>,
    /// The customer's root key that is needed besides, where there is one.
    pub customer: Option<String>,
    /// Why the row is refused: it is not as it was made.
    pub refused: Option<Error>,
}

/// A wrap of a data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapRecord {
    /// The root key's URI.
    pub root: String,
    /// The version of the root key that made it, or the key behind an alias, where the wrap names it.
    pub made_by: Option<String>,
}

impl Enfold {
    /// Data keys of a ring in the order of their ids, beginning after `after`.
    pub async fn data_keys(&self, ring: &str, after: Option<KeyId>, limit: u32) -> Result<Vec<DataKeyRecord>> {
        self.ring(ring)?.records(after, limit).await
    }

    /// The data key of this id, in whichever ring of the policy it is.
    pub async fn data_key(&self, id: KeyId) -> Result<Option<DataKeyRecord>> {
        for ring in self.0.rings.values() {
            if let Some(row) = self.0.catalog.key(ring.id(), id).await? {
                return ring.record(&row).await.map(Some);
            }
        }
        Ok(None)
    }
}
