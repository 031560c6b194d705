//! Data keys in batches: from rows of the catalog to keys, and what a batch of values will ask for, asked for together.

use std::collections::HashMap;
use std::sync::Arc;
use tracing::Instrument as _;

use enfold_core::{DataKey, KeyId};
use futures_util::future::join;
use futures_util::stream::{self, StreamExt};

use super::roots::Wanted;
use super::shared::Entries;
use super::{KeyRing, LiveKey, ScopeId, View};
use crate::cache::Fetched;
use crate::catalog::{DataKeyRow, KeyStatus, Purpose};
use crate::events::{Event, EventKind};
use crate::kms::EncryptionContext;
use crate::traces::span;
use crate::{Code, Error, Result};

/// Data keys that are fetched in one question to the catalog and one request to a key service: what one call to a
/// transit engine takes.
const BATCH: usize = 150;
/// Such batches that are under way at once.
pub(crate) const BATCHES_AT_ONCE: usize = 4;
/// Questions to the shared cache that are under way at once.
const AT_ONCE: usize = 16;

/// A row that is as it was made, of a key that may be used.
struct Allowed {
    row: DataKeyRow,
    status: KeyStatus,
    view: Arc<View>,
    context: EncryptionContext,
}

impl KeyRing {
    /// How many data keys to ask [`Self::load`] for at once: no more than stay in the cache until they are used.
    pub(crate) fn batch(&self) -> usize {
        (self.policy.cache.max_keys / BATCHES_AT_ONCE).clamp(1, BATCH)
    }

    /// Fetches together those of these data keys that are not in the cache: [`KeyRing::by_id`] finds them there, or why
    /// not.
    pub(crate) async fn load(self: &Arc<Self>, view: &Arc<View>, ids: &[KeyId]) {
        // Asked for before any flight begins: who fetches waits for nobody else's.
        let entries = self.entries(view).await;
        let fetch = |ids: Vec<KeyId>| {
            let (ring, view, entries) = (Arc::clone(self), Arc::clone(view), entries.clone());
            async move { ring.fetch_many(&view, entries.as_ref(), &ids).await.into_iter().map(Some).collect() }
        };
        self.keys.fill(ids, fetch).await;
    }

    /// Fetches together the data keys that seal in these scopes, of those that have one: [`KeyRing::current`] finds them.
    /// None is made. Gives their ids.
    pub(crate) async fn load_current(
        self: &Arc<Self>,
        view: &Arc<View>,
        scopes: &[ScopeId],
    ) -> Vec<Result<Option<KeyId>>> {
        let pointers: Vec<_> = scopes.iter().map(|scope| (view.state.epoch, Purpose::Seal, scope.clone())).collect();
        let fetch = |wanted: Vec<(u64, Purpose, ScopeId)>| {
            let (ring, view) = (Arc::clone(self), Arc::clone(view));
            async move {
                let scopes: Vec<ScopeId> = wanted.into_iter().map(|(_, _, scope)| scope).collect();
                ring.find_current(&view, &scopes).await
            }
        };
        self.pointers.fill(&pointers, fetch).await;
        let found: Vec<Result<Option<KeyId>>> =
            pointers.iter().map(|pointer| self.pointers.known(pointer).map(|id| id.map(|id| *id))).collect();
        let ids: Vec<KeyId> = found.iter().flatten().flatten().copied().collect();
        self.load(view, &ids).await;
        found
    }

    async fn find_current(
        self: &Arc<Self>,
        view: &Arc<View>,
        scopes: &[ScopeId],
    ) -> Vec<Option<Result<Fetched<KeyId>>>> {
        let version = |scope: &ScopeId| view.state.sealing_version(Purpose::Seal, scope.as_str());
        let wanted: Vec<(String, u32)> = scopes.iter().map(|scope| (scope.to_string(), version(scope))).collect();
        let rows = match self
            .catalog
            .key_versions(self.id(), Purpose::Seal, &wanted)
            .instrument(span!("catalog", "database"))
            .await
        {
            Ok(rows) => rows,
            Err(error) => return scopes.iter().map(|_| Some(Err(error.clone()))).collect(),
        };
        let mut found = Vec::with_capacity(scopes.len());
        for scope in scopes {
            let row = rows.iter().find(|row| row.scope == scope.as_str());
            found.push(match row {
                // The row decides which key is fetched, so it is believed no more than any other.
                Some(row) => Some(self.believe_now(view, row).await.map(|_| Fetched::now(row.id))),
                None => None,
            });
        }
        found
    }

    async fn fetch_many(
        self: &Arc<Self>,
        view: &Arc<View>,
        entries: Option<&Entries>,
        ids: &[KeyId],
    ) -> Vec<Result<Fetched<LiveKey>>> {
        let found = match self.catalog.keys_named(self.id(), ids).instrument(span!("catalog", "database")).await {
            Ok(found) => found,
            Err(error) => return ids.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut found: HashMap<KeyId, DataKeyRow> = found.into_iter().map(|row| (row.id, row)).collect();
        let rows = ids.iter().map(|id| found.remove(id).ok_or_else(|| self.not_found(*id))).collect();
        // In a box, as in `fetch`: what a column does is nested deep enough without what a miss needs.
        Box::pin(self.unlock(view, entries, rows)).await
    }

    /// From rows of the catalog to keys: each row is authenticated, the operators' word is asked, and a key service
    /// unwraps unless it lately did for another process.
    pub(super) async fn unlock(
        self: &Arc<Self>,
        view: &Arc<View>,
        entries: Option<&Entries>,
        rows: Vec<Result<DataKeyRow>>,
    ) -> Vec<Result<Fetched<LiveKey>>> {
        let mut results: Vec<Option<Result<Fetched<LiveKey>>>> = Vec::with_capacity(rows.len());
        let mut allowed = Vec::with_capacity(rows.len());
        for (at, row) in rows.into_iter().enumerate() {
            let row = match row {
                Ok(row) => self.allow(view, row).await,
                Err(error) => Err(error),
            };
            results.push(row.map(|row| allowed.push((at, row))).err().map(Err));
        }
        let shared: Vec<_> = allowed.iter().map(|(_, row)| self.find_shared(entries, &row.row, &row.context)).collect();
        let shared: Vec<_> = stream::iter(shared).buffered(AT_ONCE).collect().await;
        let mut asked = Vec::with_capacity(allowed.len());
        for ((at, row), shared) in allowed.into_iter().zip(shared) {
            match shared {
                Some((key, age)) => results[at] = Some(row.live(key).map(|value| Fetched { value, age })),
                None => asked.push((at, row)),
            }
        }
        let keys = self.unwrapped(&asked).await;
        let mut made = Vec::with_capacity(asked.len());
        for ((at, row), key) in asked.into_iter().zip(keys) {
            match key {
                Ok(key) => {
                    self.events.emit(Event::new(EventKind::KeyUsed, 1).ring(self.id()).data_key(&row.row));
                    made.push((at, row, key));
                }
                Err(error) => results[at] = Some(Err(error)),
            }
        }
        let left: Vec<_> =
            made.iter().map(|(_, row, key)| self.to_shared(entries, &row.row, &row.context, key)).collect();
        stream::iter(left).buffered(AT_ONCE).collect::<Vec<()>>().await;
        for (at, row, key) in made {
            results[at] = Some(row.live(key).map(Fetched::now));
        }
        let unanswered = || Err(Error::new(Code::Internal, "a data key of a batch had no result"));
        results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
    }

    /// A result for each, in order. A customer's key service is asked about each of its data keys by itself.
    async fn unwrapped(&self, rows: &[(usize, Allowed)]) -> Vec<Result<DataKey>> {
        let rows = || rows.iter().map(|(_, row)| row);
        let ours = rows().filter(|row| row.row.customer.is_none());
        let ours: Vec<_> = ours.map(|row| Wanted { wraps: &row.row.wraps, context: &row.context }).collect();
        let ours = async { if ours.is_empty() { Vec::new() } else { self.roots.unwrap_many(&ours).await } };
        let nested = rows().filter_map(|row| Some(self.unwrap_with(row.row.customer.as_ref()?, &row.row)));
        let nested = stream::iter(nested.collect::<Vec<_>>()).buffered(AT_ONCE).collect::<Vec<_>>();
        let (ours, nested) = join(ours, nested).await;
        let (mut ours, mut nested) = (ours.into_iter(), nested.into_iter());
        let unanswered = || Err(Error::new(Code::Internal, "a data key that was to be unwrapped had no answer"));
        let result = |row: &Allowed| if row.row.customer.is_none() { ours.next() } else { nested.next() };
        rows().map(result).map(|key| key.unwrap_or_else(unanswered)).collect()
    }

    async fn allow(&self, view: &Arc<View>, row: DataKeyRow) -> Result<Allowed> {
        let (view, status) = self.believe_now(view, &row).await?;
        let refused = match status {
            KeyStatus::Active | KeyStatus::Retired => None,
            KeyStatus::Disabled | KeyStatus::Destroying => Some(Code::KeyDisabled),
            KeyStatus::Destroyed => Some(Code::KeyDestroyed),
        };
        if let Some(code) = refused {
            return Err(Error::new(
                code,
                format!("data key `{}` of ring `{}` is {}", row.id, self.name, status.as_str()),
            ));
        }
        let context = self.context(&row)?;
        Ok(Allowed { row, status, view, context })
    }
}

impl Allowed {
    fn live(self, key: DataKey) -> Result<LiveKey> {
        LiveKey::new(self.row, self.status, self.view.state.epoch, key)
    }
}
