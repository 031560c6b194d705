//! Former data keys: those that values leave when they are re-encrypted.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use enfold_core::KeyId;
use serde::{Deserialize, Serialize};

use super::{KeyRing, index_generation, tenant_tag};
use crate::Result;
use crate::catalog::{DataKeyRow, KeyStatus, Purpose, RootKey};
use crate::policy::{RecordWrap, Scope};

/// Which former data keys values are to leave. By default all of them: every data key that does not seal any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leaving {
    /// Only this version of each scope's data key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// Only data keys that were made before this moment, in milliseconds since 1970. An envelope does not say when it was
    /// sealed, its data key's row says when that was made: every value sealed before the moment is under such a key, if
    /// the key was rotated since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_before_ms: Option<i64>,
    /// Only data keys of these tenants, by their tags ([`crate::Enfold::tenant_scope`]); of all where it is empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tenants: BTreeSet<String>,
}

impl Leaving {
    /// Whether it is about every former data key.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    fn takes(&self, row: &DataKeyRow) -> bool {
        self.version.is_none_or(|version| row.version == version)
            && self.made_before_ms.is_none_or(|moment| row.created_ms < moment)
            && (self.tenants.is_empty() || tenant_tag(&row.scope).is_some_and(|tag| self.tenants.contains(tag)))
    }
}

/// What was found by one state: while that holds, no data key becomes a former one.
pub(super) struct KnownFormer {
    epoch: u64,
    leaving: Leaving,
    keys: Arc<HashSet<KeyId>>,
}

impl KeyRing {
    /// Whether every record has a data key of its own that a root key wraps: then the ring itself has none that seals.
    pub(crate) fn has_key_in_every_record(&self) -> bool {
        (self.policy.scope, self.policy.record_wrap) == (Scope::Record, RecordWrap::Kms)
    }

    /// The former data keys of the ring, by its newest state. Of a ring whose records are wrapped by the key service itself,
    /// the ids of root keys that are written no more.
    ///
    /// Those that are being destroyed, or were, are left out: what they sealed is to be unreadable, and no re-encryption changes that.
    ///
    /// # Errors
    /// `StateTampered` for a row that cannot be believed: left out, its values would count as re-encrypted.
    pub(crate) async fn former(&self, leaving: &Leaving) -> Result<Arc<HashSet<KeyId>>> {
        let mut known = self.former.lock().await;
        let view = self.view().await?;
        if let Some(known) = known.as_ref().filter(|k| k.epoch == view.state.epoch && k.leaving == *leaving) {
            return Ok(Arc::clone(&known.keys));
        }
        let (mut keys, mut after) = (HashSet::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in page.iter().filter(|row| row.purpose == Purpose::Seal && leaving.takes(row)) {
                let (_, status) = self.believe_now(&view, row).await?;
                if status != KeyStatus::Active && status < KeyStatus::Destroying {
                    keys.insert(row.id);
                }
            }
        }
        if leaving.is_all() && self.has_key_in_every_record() {
            self.refresh_names().await?;
            let now = self.roots.first()?.id();
            keys.extend(self.catalog.roots().await?.iter().flat_map(RootKey::ids).filter(|id| *id != now));
        }
        let keys = Arc::new(keys);
        *known = Some(KnownFormer { epoch: view.state.epoch, leaving: leaving.clone(), keys: Arc::clone(&keys) });
        Ok(keys)
    }

    /// Keys of a blind index's generations that live no more, and are not disabled.
    pub(crate) async fn former_index_keys(&self, index: &str) -> Result<Vec<KeyId>> {
        let view = self.view().await?;
        let Some(state) = view.state.indexes.get(index) else { return Ok(Vec::new()) };
        let lives = |generation| std::iter::once(&state.now).chain(&state.next).any(|r| r.generation == generation);
        let (mut keys, mut after) = (Vec::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in page.iter().filter(|row| row.purpose == Purpose::Index) {
                if index_generation(&row.scope, index).is_some_and(|generation| !lives(generation))
                    && view.state.status(row)? < KeyStatus::Disabled
                {
                    keys.push(row.id);
                }
            }
        }
        Ok(keys)
    }
}
