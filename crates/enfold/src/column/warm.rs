//! Fetching data keys before they are asked for.

use std::sync::Arc;

use enfold_core::{KeyId, Part};
use futures_util::stream::{self, StreamExt};

use super::{Column, Place};
use crate::keyring::{BATCHES_AT_ONCE, ScopeId, View};
use crate::policy::Scope;
use crate::{Code, Error, Result};

impl Column {
    /// Fetches the data keys that seal for these tenants, in batches where the key service has them: for a process that
    /// starts and knows whom it will serve. A result for each, in order: the id of the data key, or `None` for a tenant for
    /// whom none was made yet; none is made here. Values under a tenant's older data keys ask for those when they are
    /// opened.
    ///
    /// No more than the ring's `max_keys` stay, for as long as the ring's cache keeps a key. Only where the ring's scope is
    /// `tenant` is there a data key for each tenant.
    pub async fn warm(&self, tenants: &[Part<'_>]) -> Vec<Result<Option<KeyId>>> {
        match self.seat.ring.view().await {
            Ok(view) => self.warm_by(&view, tenants).await,
            Err(error) => tenants.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn warm_by(&self, view: &Arc<View>, tenants: &[Part<'_>]) -> Vec<Result<Option<KeyId>>> {
        let ring = &self.seat.ring;
        let scope = |tenant: &Part<'_>| {
            self.seat.check_tenant(&Place::tenant(*tenant))?;
            if ring.policy.scope != Scope::Tenant {
                return Err(Error::new(
                    Code::BindingIncomplete,
                    format!("cannot fetch data keys for `{}`", self.seat.name),
                )
                .cause(format!("ring `{}` has none for each tenant", ring.name)));
            }
            Ok(ScopeId::tenant(&ring.tenant(view, *tenant)))
        };
        let scopes: Vec<Result<ScopeId>> = tenants.iter().map(scope).collect();
        let batches: Vec<_> = scopes.chunks(ring.batch()).map(|some| self.warm_some(view, some)).collect();
        let batches: Vec<_> = stream::iter(batches).buffered(BATCHES_AT_ONCE).collect().await;
        batches.into_iter().flatten().collect()
    }

    async fn warm_some(&self, view: &Arc<View>, scopes: &[Result<ScopeId>]) -> Vec<Result<Option<KeyId>>> {
        let ring = &self.seat.ring;
        let sound: Vec<ScopeId> = scopes.iter().flatten().cloned().collect();
        let mut found = ring.load_current(view, &sound).await.into_iter();
        let mut results = Vec::with_capacity(scopes.len());
        for scope in scopes {
            results.push(match scope {
                Err(error) => Err(error.clone()),
                Ok(_) => match found.next() {
                    Some(Ok(Some(id))) => ring.by_id(view, id).await.map(|key| Some(key.id())),
                    Some(other) => other,
                    None => Err(Error::new(Code::Internal, "a tenant of a batch had no result")),
                },
            });
        }
        results
    }
}
