//! Making data keys: stored before anything is sealed with them, once whoever else tries.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use tracing::Instrument as _;

use enfold_core::{DataKey, KeyId};

use super::{KeyRing, LiveKey, ScopeId, View};
use crate::catalog::{DataKeyRow, Inserted, KeyStatus, Purpose};
use crate::events::{Event, EventKind};
use crate::kms::KeyManagementService;
use crate::traces::span;
use crate::{Code, Error, Result};

/// How often a data key that lost against a publication is stored again.
const TRIES: u32 = 5;

impl KeyRing {
    /// The id of the data key that seals in a scope. The first version is made here; later ones are the operators' to
    /// announce, so one that they announced and that is not there was taken away.
    pub(super) async fn find_or_make(
        self: &Arc<Self>,
        view: &Arc<View>,
        purpose: Purpose,
        scope: &ScopeId,
    ) -> Result<KeyId> {
        let version = view.state.sealing_version(purpose, scope.as_str());
        if let Some(row) = self
            .catalog
            .key_version(self.id(), purpose, scope.as_str(), version)
            .instrument(span!("catalog", "database"))
            .await?
        {
            // The row decides which key is fetched, so it is believed no more than any other.
            self.believe_now(view, &row).await?;
            return Ok(row.id);
        }
        if version > 1 {
            return Err(Error::new(
                Code::KeyNotFound,
                format!("version {version} of a data key of ring `{}` is not in the catalog", self.name),
            )
            .cause("the operators signed that it seals")
            .hint("restore the catalog's backup; nothing was sealed"));
        }
        let view = &self.view_to_make(view, scope).await?;
        self.may_be_made(view, purpose, scope)?;
        let (row, key) = self.draft(view, purpose, scope, version).await?;
        match self.store(&row).await? {
            Inserted::Made => {
                self.events.emit(Event::new(EventKind::KeyMade, 1).ring(self.id()).data_key(&row));
                let id = row.id;
                let entries = self.entries_for(view, &row).await;
                self.to_shared(entries.as_ref(), &row, &self.context(&row)?, &key).await;
                self.keys.put(&id, LiveKey::new(row, KeyStatus::Active, view.state.epoch, key)?);
                Ok(id)
            }
            Inserted::Exists(theirs) => {
                self.believe_now(view, &theirs).await?;
                Ok(theirs.id)
            }
        }
    }

    /// No data key is made for whom it would be destroyed.
    pub(crate) fn may_be_made(&self, view: &View, purpose: Purpose, scope: &ScopeId) -> Result<()> {
        let Some(destruction) = view.state.destruction(purpose, scope.as_str()) else { return Ok(()) };
        let (code, is) = match destruction.done_ms {
            Some(_) => (Code::KeyDestroyed, "were destroyed"),
            None => (Code::KeyDisabled, "are being destroyed"),
        };
        Err(Error::new(code, format!("the data keys of scope `{scope}` of ring `{}` {is}", self.name))
            .cause("no new one is made in their place"))
    }

    /// The state by which a new data key of a scope is made: the newest, where the one in hand and the policy do not agree
    /// about the tenant's own root key, for it may have been signed a moment ago.
    async fn view_to_make(&self, view: &Arc<View>, scope: &ScopeId) -> Result<Arc<View>> {
        if self.customer_of(view, scope.as_str()).is_err() {
            self.look().await?;
            return self.view().await;
        }
        Ok(Arc::clone(view))
    }

    /// Stores a new data key. One with a customer's layer is stored by the very state that says whose it is to be, so that a
    /// root key that was signed away wraps nothing that comes after it.
    pub(crate) async fn store(&self, row: &DataKeyRow) -> Result<Inserted> {
        let Some(layer) = &row.customer else { return self.catalog.insert_key(row, None).await };
        for _ in 0..TRIES {
            self.look().await?;
            let view = self.view().await?;
            let signed = self.customer_of(&view, &row.scope)?;
            if signed.is_none_or(|kms| kms.uri().as_str() != layer.root) {
                break;
            }
            match self.catalog.insert_key(row, Some(view.state.epoch)).await {
                Err(error) if error.code() == Code::Busy => {}
                stored => return stored,
            }
        }
        Err(Error::new(
            Code::Busy,
            format!("cannot store a data key of ring `{}` under its tenant's root key", self.name),
        )
        .cause("others publish states of the ring: another root key may have taken its place")
        .hint("nothing was sealed; try again"))
    }

    /// A new data key, wrapped and authenticated, not yet stored.
    pub(crate) async fn draft(
        &self,
        view: &View,
        purpose: Purpose,
        scope: &ScopeId,
        version: u32,
    ) -> Result<(DataKeyRow, DataKey)> {
        let customer = self.customer_of(view, scope.as_str())?;
        let (mut row, key) = self.wrapped(purpose, scope, version, customer).await?;
        view.rows.tag(&mut row);
        Ok((row, key))
    }

    /// A new data key, wrapped under every root key, and under that of `customer` where there is one. Its row has no MAC
    /// yet.
    pub(crate) async fn wrapped(
        &self,
        purpose: Purpose,
        scope: &ScopeId,
        version: u32,
        customer: Option<&dyn KeyManagementService>,
    ) -> Result<(DataKeyRow, DataKey)> {
        let failed = |e| crate::core_error(e, "cannot make a data key");
        let key = DataKey::generate().map_err(failed)?;
        let mut row = DataKeyRow {
            id: KeyId::random().map_err(failed)?,
            ring: self.id().to_owned(),
            purpose,
            scope: scope.to_string(),
            version,
            status: KeyStatus::Active,
            created_ms: self.seen.unix_ms(),
            wraps: Vec::new(),
            customer: None,
            mac: Vec::new(),
        };
        let wrapped = match customer {
            None => self.roots.wrap(&key, &self.context(&row)?).await?,
            Some(customer) => self.wrap_with(customer, &mut row, &key).await?,
        };
        row.wraps = wrapped.wraps;
        if wrapped.missing > 0 {
            self.wraps_missing.store(true, Ordering::Relaxed);
        }
        Ok((row, key))
    }
}
