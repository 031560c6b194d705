//! Blind indexes: what a lookup compares with instead of the value.

use std::sync::Arc;

use enfold_core::Part;
use enfold_core::index::IndexSpec;

use super::{Place, Seat, check_context};
use crate::catalog::Purpose;
use crate::events::CallContext;
use crate::handle::Enfold;
use crate::keyring::{ScopeId, View};
use crate::{Result, core_error};

/// The values of one row, or of one lookup, for each column that the index covers.
#[derive(Clone, Copy)]
pub struct IndexRequest<'a> {
    pub place: Place<'a>,
    /// In the order of the policy's `over`; for an index of one column, one.
    pub values: &'a [&'a str],
}

/// A blind index of a column or of a table. It works in every mode: an index is filled before the first value is sealed.
#[derive(Clone)]
pub struct Index {
    enfold: Enfold,
    seat: Arc<Seat>,
    spec: Arc<IndexSpec>,
}

impl Index {
    pub(crate) fn new(enfold: Enfold, seat: Seat, spec: IndexSpec) -> Self {
        Self::shared(enfold, Arc::new(seat), spec)
    }

    pub(super) fn shared(enfold: Enfold, seat: Arc<Seat>, spec: IndexSpec) -> Self {
        Self { enfold, seat, spec: Arc::new(spec) }
    }

    /// What is stored in the index column, or compared with it. A row with a NULL among the values has none.
    pub async fn compute(&self, context: &CallContext, place: &Place<'_>, values: &[&str]) -> Result<Vec<u8>> {
        super::only(self.compute_many(context, &[IndexRequest { place: *place, values }]).await)
    }

    /// As [`Self::compute`], many at once: a result for each, in order.
    pub async fn compute_many(&self, context: &CallContext, requests: &[IndexRequest<'_>]) -> Vec<Result<Vec<u8>>> {
        let results = self.try_compute(context, requests).await;
        super::report(&self.enfold, &self.seat, context, requests.len(), results)
    }

    async fn try_compute(&self, context: &CallContext, requests: &[IndexRequest<'_>]) -> Result<Vec<Result<Vec<u8>>>> {
        let view = self.enter(context).await?;
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(self.one(&view, request).await);
        }
        Ok(results)
    }

    async fn enter(&self, context: &CallContext) -> Result<Arc<View>> {
        check_context(&self.enfold, &self.seat, context)?;
        let view = self.seat.ring.view().await?;
        self.seat.mode(&view.state)?;
        Ok(view)
    }

    async fn one(&self, view: &Arc<View>, request: &IndexRequest<'_>) -> Result<Vec<u8>> {
        self.seat.check_tenant(&request.place)?;
        let ring = &self.seat.ring;
        let tenant: Option<Part<'_>> = if self.spec.cross_tenant { None } else { request.place.tenant };
        let tag = tenant.map(|t| ring.tenant(view, t));
        let scope = ScopeId::index(&self.spec.column_ids, &self.spec.name, tag.as_ref());
        let key = ring.current(view, Purpose::Index, &scope).await?;
        key.spend(&ring.policy.cache, 1, 0);
        let failed =
            |e| core_error(e, format!("cannot compute the index `{}` of `{}`", self.spec.name, self.seat.name));
        key.index(&self.spec)?.compute(tenant, request.values).map_err(failed)
    }
}
