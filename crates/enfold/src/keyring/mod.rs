//! A key ring: which data key seals, which opens, and whether either may.
//!
//! The ring believes three things only: the state that the operators signed, rows whose MAC is right under the key that
//! this state commits to, and key services that the policy names. What the catalog says beyond that is refused and
//! reported. It looks at its state each second; a process that cannot look stops after `max_unseen`.
//!
//! The path of a call: [`KeyRing::view`] (the state, no I/O while it is fresh), then [`KeyRing::current`] or
//! [`KeyRing::by_id`] (the cache, no I/O on a hit). What a column found on it lately is [`Near`].

mod concerns;
mod customers;
mod former;
mod health;
mod layers;
mod live;
mod make;
mod many;
mod near;
mod records;
mod refresh;
mod repair;
mod rewrap;
pub(crate) mod roots;
mod rows;
mod scope;
mod seen;
mod self_test;
mod shared;
mod word;
mod wraps;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use enfold_core::{KeyId, Part};
use tracing::Instrument as _;

use crate::cache::{Cache, Fetched};
use crate::catalog::{Catalog, DataKeyRow, KeyStatus, Purpose};
use crate::clock::Clock;
use crate::events::{Event, Events};
use crate::kms::{EncryptionContext, TenantTag};
use crate::metrics::RingMetrics;
use crate::policy::RingPolicy;
use crate::shared_cache::SharedCache;
use crate::traces::span;
use crate::{Code, Error, Result};

pub use concerns::{Concern, ConcernAbout};
pub(crate) use customers::{CustomerKey, Customers, ToSign, uuid};
pub use former::Leaving;
pub use health::{RootHealth, Tried};
pub(crate) use live::LiveKey;
pub(crate) use many::BATCHES_AT_ONCE;
pub(crate) use near::{Found, Near, Way};
pub use repair::Repaired;
pub use rewrap::{RewrapOptions, RewrapPlan, Rewrapped, RootCalls};
pub(crate) use roots::Roots;
pub(crate) use rows::RowKey;
pub use scope::ScopeId;
pub(crate) use scope::{index_generation, index_id, tenant_tag};
pub(crate) use seen::{Trusted, View};
pub use self_test::SelfTest;
pub use wraps::{CustomerWraps, RingWraps, RootWraps};

/// Rows in one question to the catalog.
const PAGE: u32 = 500;

/// See the module's head.
pub(crate) struct KeyRing {
    /// As the policy calls it.
    pub(crate) name: String,
    pub(crate) policy: RingPolicy,
    pub(crate) roots: Roots,
    customers: Customers,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) events: Arc<Events>,
    seen: seen::Seen,
    /// Which data key a scope seals with, by the epoch that says so. An entry of another epoch is never asked for.
    pointers: Arc<Cache<(u64, Purpose, ScopeId), KeyId>>,
    keys: Arc<Cache<KeyId, LiveKey>>,
    /// Where this ring's processes share what they unwrapped.
    shared: Option<Arc<SharedCache>>,
    /// A data key was made here while a root key did not answer.
    wraps_missing: AtomicBool,
    /// What [`Self::former`] found last.
    former: tokio::sync::Mutex<Option<former::KnownFormer>>,
    /// What this process said last of the state that it goes by.
    word: word::Word,
}

impl KeyRing {
    pub(crate) fn new(
        name: &str,
        policy: RingPolicy,
        roots: Roots,
        catalog: Arc<dyn Catalog>,
        events: Arc<Events>,
        clock: Arc<dyn Clock>,
        trusted: Trusted,
    ) -> Self {
        let pointers = Cache::new(policy.cache, Arc::clone(&clock));
        let keys = Cache::new(policy.cache, Arc::clone(&clock));
        let seen = seen::Seen::new(trusted, clock);
        Self {
            name: name.to_owned(),
            policy,
            roots,
            customers: Customers::default(),
            catalog,
            events,
            seen,
            pointers,
            keys,
            shared: None,
            wraps_missing: AtomicBool::new(false),
            former: tokio::sync::Mutex::default(),
            word: word::Word::default(),
        }
    }

    /// Leaves data keys to other processes, and takes theirs.
    pub(crate) fn sharing(self, shared: Option<Arc<SharedCache>>) -> Self {
        Self { shared, ..self }
    }

    /// Says in the catalog by which state it goes, under this name.
    pub(crate) fn speaking_as(self, process: &str, application: Option<&(String, String)>) -> Self {
        Self { word: word::Word::of(process, application), ..self }
    }

    /// With the root keys that customers hold.
    pub(crate) fn with_customers(self, customers: Customers) -> Self {
        Self { customers, ..self }
    }

    /// The ring's id, which is bound into everything.
    pub(crate) fn id(&self) -> &str {
        &self.policy.id
    }

    /// The data key that seals in a scope, made if the scope has none yet.
    pub(crate) async fn current(
        self: &Arc<Self>,
        view: &Arc<View>,
        purpose: Purpose,
        scope: &ScopeId,
    ) -> Result<Arc<LiveKey>> {
        let pointer = (view.state.epoch, purpose, scope.clone());
        let fetch = || {
            let (ring, view, scope) = (Arc::clone(self), Arc::clone(view), scope.clone());
            async move { ring.find_or_make(&view, purpose, &scope).await.map(Fetched::now) }
        };
        let id = *self.pointers.get(&pointer, fetch).await?;
        let key = self.by_id(view, id).await?;
        Ok(key)
    }

    /// The data key that an envelope names.
    pub(crate) async fn by_id(self: &Arc<Self>, view: &Arc<View>, id: KeyId) -> Result<Arc<LiveKey>> {
        let fetch = || {
            let (ring, view) = (Arc::clone(self), Arc::clone(view));
            async move { ring.fetch(&view, id).await }
        };
        let mut key = self.keys.get(&id, fetch).await?;
        if key.is_spent(&self.policy.cache) {
            // Also in an outage: a key that has reached its limits is not served stale.
            self.keys.evict_this(&id, &key);
            key = self.keys.get(&id, fetch).await?;
        }
        if key.is_current(&view.state) {
            return Ok(key);
        }
        // The operators decided something about this key after it was fetched: it is fetched again under their word,
        // and nothing is served stale in its place.
        self.keys.evict(&id);
        self.keys.get(&id, fetch).await
    }

    /// What stands for a tenant outside the application.
    pub(crate) fn tenant(&self, view: &View, tenant: Part<'_>) -> TenantTag {
        view.rows.tenant(tenant)
    }

    /// Reports what is refused, and hands it on.
    pub(crate) fn refuse(&self, error: Error) -> Error {
        if error.code().retry() == crate::error::Retry::Never {
            self.events.emit(Event::refused(&error).ring(self.id()));
        }
        error
    }

    /// Looks at every data-key row of the ring; no key service is asked. One error for each that is not as it was made.
    pub(crate) async fn check_rows(&self) -> Result<Vec<Error>> {
        let view = self.view().await?;
        let (mut wrong, mut after) = (Vec::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in &page {
                wrong.extend(self.believe_now(&view, row).await.err());
            }
        }
        Ok(wrong)
    }

    /// The ring's data keys a page at a time, from the first on; `None` after the last.
    pub(crate) async fn next_rows(&self, after: &mut Option<KeyId>) -> Result<Option<Vec<DataKeyRow>>> {
        let page = self.catalog.keys(self.id(), *after, PAGE).await?;
        *after = page.last().map(|row| row.id);
        Ok(after.map(|_| page))
    }

    /// The time of day, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> i64 {
        self.seen.unix_ms()
    }

    pub(crate) fn metrics(&self) -> RingMetrics {
        RingMetrics { ring: self.name.clone(), data_keys: self.keys.metrics(), scopes: self.pointers.metrics() }
    }

    /// Throws every key away: for hooks after a VM snapshot was restored.
    pub(crate) fn forget(&self) {
        self.pointers.clear();
        self.keys.clear();
    }

    /// What a data key's wraps by the ring's root keys are bound to.
    pub(crate) fn context(&self, row: &DataKeyRow) -> Result<EncryptionContext> {
        let context = self.bound_to(row)?;
        match row.customer {
            None => Ok(context),
            // So that a layer key never passes for the data key, whatever becomes of the row.
            Some(_) => context.with(EncryptionContext::LAYER, "ours"),
        }
    }

    /// What everything about a data key is bound to.
    fn bound_to(&self, row: &DataKeyRow) -> Result<EncryptionContext> {
        let context = EncryptionContext::new()
            .with(EncryptionContext::RING, &row.ring)?
            .with(EncryptionContext::DATA_KEY, &row.id.to_string())?;
        let context = match row.purpose {
            Purpose::Seal => context,
            other => context.with(EncryptionContext::PURPOSE, other.as_str())?,
        };
        scope::into_context(&row.scope, context)?.with_labels(&self.policy.labels)
    }

    async fn fetch(self: &Arc<Self>, view: &Arc<View>, id: KeyId) -> Result<Fetched<LiveKey>> {
        let row = self.catalog.key(self.id(), id).instrument(span!("catalog", "database")).await?;
        let row = row.ok_or_else(|| self.not_found(id))?;
        let entries = self.entries_for(view, &row).await;
        let unanswered = || Err(Error::new(Code::Internal, "a data key that was to be unlocked had no answer"));
        Box::pin(self.unlock(view, entries.as_ref(), vec![Ok(row)])).await.pop().unwrap_or_else(unanswered)
    }

    /// Whether a row may be believed, by the newest state where the one in hand says no: the row may be of a state that
    /// was published a moment ago, and nobody is accused before that was asked.
    pub(crate) async fn believe_now(&self, view: &Arc<View>, row: &DataKeyRow) -> Result<(Arc<View>, KeyStatus)> {
        let error = match self.believe(view, row) {
            Ok(status) => return Ok((Arc::clone(view), status)),
            Err(error) => error,
        };
        self.look().await?;
        let newer = self.view().await?;
        if newer.state.epoch == view.state.epoch {
            return Err(error);
        }
        let status = self.believe(&newer, row)?;
        Ok((newer, status))
    }

    /// Whether a row may be believed, and what the operators say of its key.
    fn believe(&self, view: &View, row: &DataKeyRow) -> Result<KeyStatus> {
        view.rows.verify(row)?;
        let signed = view.state.status(row)?;
        // A row of a tenant that is being destroyed may have been made while that was signed: nobody is accused of it.
        if row.status < signed && signed < KeyStatus::Destroying {
            return Err(Error::new(
                Code::StateTampered,
                format!("data key `{}` was made {} by hand", row.id, row.status.as_str()),
            )
            .cause(format!("the operators signed that it is {}", signed.as_str()))
            .hint("an old row was put back: restore the present one, or publish the ring's state again"));
        }
        // A row that says less than the signed state was changed by its operators a moment ago, or by somebody who
        // could as well have deleted it: the weaker word holds.
        Ok(signed.max(row.status))
    }

    pub(crate) fn not_found(&self, id: KeyId) -> Error {
        Error::new(Code::KeyNotFound, format!("there is no data key `{id}` in ring `{}`", self.name)).hint(
            "the value was sealed with another catalog, or the key's row was deleted: restore the catalog's backup",
        )
    }
}
