//! Data keys of this ring in the shared cache.
//!
//! An entry is used until four fifths of the ring's cache life have passed since the key service gave its key out, whoever
//! asked it; the rest of that life it may be used in this process's own cache. So a key is in use no longer than without
//! the shared cache, and the process that refreshes asks the key service. Nothing here is an error: what does not work is
//! left to the key service.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use enfold_core::{DataKey, KeyId};

use super::{KeyRing, LiveKey, ScopeId, View, roots};
use crate::cache::REFRESH;
use crate::catalog::{DataKeyRow, Purpose};
use crate::kms::EncryptionContext;
use crate::shared_cache::SharedCache;
use crate::shared_cache::entry::{self, Opened};
use crate::{Code, Error, Result};

/// The key for entries comes through the very paths that ask for one.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The shared cache, with the key that its entries are sealed under.
#[derive(Clone)]
pub(super) struct Entries {
    cache: Arc<SharedCache>,
    key: Arc<LiveKey>,
}

impl KeyRing {
    /// A data key that another process of the group unwrapped, and how long ago.
    pub(super) async fn find_shared(
        &self,
        entries: Option<&Entries>,
        row: &DataKeyRow,
        context: &EncryptionContext,
    ) -> Option<(DataKey, Duration)> {
        let Entries { cache, key } = entries.filter(|_| is_shared(row))?;
        let found = cache.get(&name(key.id(), row.id)).await?;
        match entry::open(key.entries().ok()?, &found, context, jiff::Timestamp::now()) {
            Opened::Key(key, age) if age < self.entry_life() => {
                cache.count_hit();
                Some((roots::data_key(key), age))
            }
            Opened::Key(..) => {
                cache.count_miss();
                None
            }
            Opened::Refused => {
                cache.count_refused();
                self.refuse(
                    Error::new(Code::WrapInvalid, format!("an entry of the shared cache is not data key `{}`", row.id))
                        .cause("it was changed, or put there by somebody else; the key service is asked instead"),
                );
                None
            }
        }
    }

    /// Leaves a data key that the key service just gave out, or that was just made, to the other processes.
    pub(super) async fn to_shared(
        &self,
        entries: Option<&Entries>,
        row: &DataKeyRow,
        context: &EncryptionContext,
        key: &DataKey,
    ) {
        let Some(Entries { cache, key: sealing }) = entries.filter(|_| is_shared(row)) else { return };
        let sealed = sealing
            .entries()
            .and_then(|sealing| entry::seal(sealing, &roots::material(key), context, jiff::Timestamp::now()));
        match sealed {
            Ok(sealed) => cache.put(&name(sealing.id(), row.id), &sealed, self.entry_life()).await,
            Err(error) => tracing::warn!(target: "enfold::cache", ring = self.name, "cannot share a data key: {error}"),
        }
    }

    /// Deletes the entries of data keys, under whichever of `entries` they are sealed.
    pub(crate) async fn remove_shared(&self, entries: &[KeyId], rows: &[DataKeyRow]) -> Result<()> {
        let Some(cache) = &self.shared else { return Ok(()) };
        for some in rows.chunks(500) {
            let names: Vec<String> =
                entries.iter().flat_map(|entries| some.iter().map(|row| name(*entries, row.id))).collect();
            if !names.is_empty() {
                cache.remove(&names).await?;
            }
        }
        Ok(())
    }

    /// As [`Self::entries`], for one data key, which may be one that is not shared.
    pub(super) async fn entries_for(self: &Arc<Self>, view: &Arc<View>, row: &DataKeyRow) -> Option<Entries> {
        if is_shared(row) { self.entries(view).await } else { None }
    }

    /// The cache and the key for its entries, where this ring uses one.
    pub(super) fn entries<'a>(self: &'a Arc<Self>, view: &'a Arc<View>) -> Boxed<'a, Option<Entries>> {
        Box::pin(async move {
            let cache = self.shared.as_ref().filter(|_| !self.entry_life().is_zero())?;
            match self.current(view, Purpose::Cache, &ScopeId::cache()).await {
                Ok(key) => Some(Entries { cache: Arc::clone(cache), key }),
                Err(error) => {
                    tracing::info!(target: "enfold::cache", ring = self.name, "the shared cache is not used: {error}");
                    None
                }
            }
        })
    }

    fn entry_life(&self) -> Duration {
        self.policy.cache.ttl.mul_f32(REFRESH)
    }
}

/// The key for entries cannot lie under itself, and the one that authenticates rows comes before all others.
fn is_shared(row: &DataKeyRow) -> bool {
    // In the shared cache a data key is under our root keys alone, so one that needs its customer's is never there.
    !matches!(row.purpose, Purpose::Cache | Purpose::Rows) && row.customer.is_none()
}

/// Names nothing that the catalog does not: two ids.
fn name(entries: KeyId, key: KeyId) -> String {
    format!("enfold:1:{entries}:{key}")
}
