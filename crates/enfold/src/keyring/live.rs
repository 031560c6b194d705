//! A data key made ready for use: what the cache holds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use enfold_core::index::{BlindIndex, IndexSpec};
use enfold_core::{DataKey, KeyId, Opener, RecordSealer, Salt, Sealer};

use super::roots;
use crate::catalog::{DataKeyRow, KeyStatus, Purpose};
use crate::kms::KeyMaterial;
use crate::policy;
use crate::state::RingState;
use crate::{Code, Error, Result};

/// A data key in the clear, with everything that was derived from it. It cannot be printed, is shared behind an `Arc` and
/// wiped with the last one.
pub(crate) struct LiveKey {
    /// The row without its wraps: enough to ask the signed state about it again.
    row: DataKeyRow,
    status: KeyStatus,
    /// The epoch by which `status` was last found right.
    epoch: AtomicU64,
    /// Values that were sealed, opened or looked up since the key service gave it out, and bytes that were sealed.
    uses: AtomicU64,
    bytes: AtomicU64,
    ready: Ready,
}

enum Ready {
    Seal(Box<Sealing>),
    Index { key: DataKey, index: OnceLock<Box<BlindIndex>> },
    Cache(KeyMaterial),
}

struct Sealing {
    shared: Sealer,
    each: Sealer,
    record: RecordSealer,
    opener: Opener,
}

impl LiveKey {
    pub(crate) fn new(mut row: DataKeyRow, status: KeyStatus, epoch: u64, key: DataKey) -> Result<Self> {
        let failed = |e| crate::core_error(e, "cannot make a data key ready");
        let ready = match row.purpose {
            Purpose::Seal => Ready::Seal(Box::new(Sealing {
                shared: Sealer::new(&key, row.id).map_err(failed)?,
                each: Sealer::with_salt(&key, row.id, Salt::Each).map_err(failed)?,
                record: RecordSealer::new(&key, row.id),
                opener: Opener::new(&key, row.id),
            })),
            Purpose::Index => Ready::Index { key, index: OnceLock::new() },
            Purpose::Cache => Ready::Cache(roots::material(&key)),
            Purpose::Rows => return Err(wrong_purpose(&row)),
        };
        // Of a customer's layer its root key is asked about again, so only what was wrapped goes.
        row.wraps = Vec::new();
        if let Some(layer) = &mut row.customer {
            (layer.wrapped, layer.sealed) = (Vec::new(), Vec::new());
        }
        let (uses, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { row, status, epoch: AtomicU64::new(epoch), uses, bytes, ready })
    }

    pub(crate) fn id(&self) -> KeyId {
        self.row.id
    }

    pub(crate) fn version(&self) -> u32 {
        self.row.version
    }

    /// Whether what was true of this key when it was fetched is true under the state as it is now. Where it was found right by
    /// a newer state than the caller has at hand, that one counts: the older does not know of a version that was announced since.
    /// A row that is refused as it was fetched may be another by now: a customer's root key was replaced, for one.
    pub(crate) fn is_current(&self, state: &RingState) -> bool {
        if self.epoch.load(Ordering::Relaxed) >= state.epoch {
            return true;
        }
        let same = state.status(&self.row).is_ok_and(|status| status == self.status);
        if same {
            self.epoch.store(state.epoch, Ordering::Relaxed);
        }
        same
    }

    /// Counts what is about to be done with this key: values, and bytes of plaintext that are sealed. Where nothing is
    /// limited nothing is counted: threads would take the counters from each other for every value.
    pub(crate) fn spend(&self, limits: &policy::CachePolicy, values: usize, bytes: usize) {
        let count = |most: Option<u64>, spent: &AtomicU64, more: usize| {
            if most.is_some() {
                spent.fetch_add(more as u64, Ordering::Relaxed);
            }
        };
        count(limits.max_uses, &self.uses, values);
        count(limits.max_bytes, &self.bytes, bytes);
    }

    /// Whether the key service has to be asked before it is used again.
    pub(crate) fn is_spent(&self, limits: &policy::CachePolicy) -> bool {
        let reached =
            |most: Option<u64>, spent: &AtomicU64| most.is_some_and(|most| spent.load(Ordering::Relaxed) >= most);
        reached(limits.max_uses, &self.uses) || reached(limits.max_bytes, &self.bytes)
    }

    /// To seal values by reference to this key.
    pub(crate) fn sealer(&self, salt: policy::Salt) -> Result<&Sealer> {
        let sealing = self.sealing()?;
        Ok(match salt {
            policy::Salt::Shared => &sealing.shared,
            policy::Salt::Each => &sealing.each,
        })
    }

    /// To seal values under data keys of their own that this key wraps.
    pub(crate) fn record_sealer(&self) -> Result<&RecordSealer> {
        Ok(&self.sealing()?.record)
    }

    pub(crate) fn opener(&self) -> Result<&Opener> {
        match &self.ready {
            Ready::Seal(sealing) => Ok(&sealing.opener),
            _ => Err(wrong_purpose(&self.row)),
        }
    }

    /// The blind index that this key is for. Its scope names the index, so it is always the same one.
    pub(crate) fn index(&self, spec: &IndexSpec) -> Result<&BlindIndex> {
        let Ready::Index { key, index } = &self.ready else { return Err(wrong_purpose(&self.row)) };
        if let Some(index) = index.get() {
            return Ok(index);
        }
        let made = BlindIndex::new(key, self.row.id, spec.clone())
            .map_err(|e| crate::core_error(e, format!("cannot use the index `{}`", spec.name)))?;
        Ok(index.get_or_init(|| Box::new(made)))
    }

    /// To seal and open entries of the shared cache.
    pub(crate) fn entries(&self) -> Result<&KeyMaterial> {
        match &self.ready {
            Ready::Cache(key) => Ok(key),
            _ => Err(wrong_purpose(&self.row)),
        }
    }

    fn sealing(&self) -> Result<&Sealing> {
        match &self.ready {
            Ready::Seal(sealing) if self.status == KeyStatus::Active => Ok(sealing),
            Ready::Seal(_) => Err(Error::new(
                Code::KeyDisabled,
                format!("data key `{}` is {} and seals no more", self.row.id, self.status.as_str()),
            )),
            _ => Err(wrong_purpose(&self.row)),
        }
    }
}

/// Keys of one purpose are never used for another, whatever an envelope names.
fn wrong_purpose(row: &DataKeyRow) -> Error {
    Error::new(Code::OpenFailed, format!("data key `{}` seals no values", row.id))
        .cause(format!("its purpose is `{}`", row.purpose.as_str()))
}
