//! Blind indexes: what is stored beside a value, and what a lookup compares with instead of it.
//!
//! While an index is rotated two generations of it live: what is stored is then both in one, which the database takes apart
//! by the trigger that the rotation made, and a lookup has a value of each. So the application's statements stay as they
//! are, as long as they store what [`Index::to_store`] gives and compare with every value that [`Index::lookup`] gives.

use std::sync::Arc;

use enfold_core::Part;
use enfold_core::index::IndexSpec;

use super::{Place, Seat, check_context};
use crate::catalog::Purpose;
use crate::events::{CallContext, EventKind};
use crate::handle::Enfold;
use crate::keyring::{ScopeId, View, index_id};
use crate::{Code, Error, Result, core_error};

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
    /// By the policy's rules, which hold where none were signed.
    spec: Arc<IndexSpec>,
}

impl Index {
    pub(crate) fn new(enfold: Enfold, seat: Seat, spec: IndexSpec) -> Self {
        Self::shared(enfold, Arc::new(seat), spec)
    }

    pub(super) fn shared(enfold: Enfold, seat: Arc<Seat>, spec: IndexSpec) -> Self {
        Self { enfold, seat, spec: Arc::new(spec) }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.seat
    }

    pub(crate) fn policy_spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// What is stored in the index column. A row with a NULL among the values has none. Not for comparing: see
    /// [`Self::lookup`].
    pub async fn to_store(&self, context: &CallContext, place: &Place<'_>, values: &[&str]) -> Result<Vec<u8>> {
        super::only(self.to_store_many(context, &[IndexRequest { place: *place, values }]).await)
    }

    /// As [`Self::to_store`], many at once: a result for each, in order.
    pub async fn to_store_many(&self, context: &CallContext, requests: &[IndexRequest<'_>]) -> Vec<Result<Vec<u8>>> {
        let made = self.many(context, Generations::Living, requests).await;
        made.into_iter().map(|values| values.map(|values| values.concat())).collect()
    }

    /// What the index column holds of rows with these values: one of what is returned, which is one value, or two while the
    /// index is rotated. `column = ANY ($1)` on Postgres, `column IN (…)` elsewhere. Made for the statement at hand, not to be
    /// kept.
    pub async fn lookup(&self, context: &CallContext, place: &Place<'_>, values: &[&str]) -> Result<Vec<Vec<u8>>> {
        super::only(self.lookup_many(context, &[IndexRequest { place: *place, values }]).await)
    }

    /// As [`Self::lookup`], many at once: a result for each, in order.
    pub async fn lookup_many(&self, context: &CallContext, requests: &[IndexRequest<'_>]) -> Vec<Result<Vec<Vec<u8>>>> {
        self.many(context, Generations::Living, requests).await
    }

    /// As [`Self::lookup_many`], the values of one generation, for a job that fills a column with them.
    ///
    /// # Errors
    /// `Busy` where the generation does not live any more, or not yet.
    pub async fn of_generation_many(
        &self,
        context: &CallContext,
        generation: u16,
        requests: &[IndexRequest<'_>],
    ) -> Vec<Result<Vec<Vec<u8>>>> {
        self.many(context, Generations::One(generation), requests).await
    }

    async fn many(
        &self,
        context: &CallContext,
        which: Generations,
        requests: &[IndexRequest<'_>],
    ) -> Vec<Result<Vec<Vec<u8>>>> {
        let results = self.try_many(context, which, requests).await;
        super::report(&self.enfold, &self.seat, context, EventKind::Refused, requests.len(), results).await
    }

    async fn try_many(
        &self,
        context: &CallContext,
        which: Generations,
        requests: &[IndexRequest<'_>],
    ) -> Result<Vec<Result<Vec<Vec<u8>>>>> {
        let view = self.enter(context).await?;
        let specs = self.specs(&view, which)?;
        let mut results = Vec::with_capacity(requests.len());
        for request in requests {
            results.push(self.one(&view, &specs, request).await);
        }
        Ok(results)
    }

    async fn enter(&self, context: &CallContext) -> Result<Arc<View>> {
        check_context(&self.enfold, &self.seat, context)?;
        let view = self.seat.ring.view().await?;
        self.seat.mode(&view.state)?;
        Ok(view)
    }

    /// The generations that are meant, each by its own rules; the one in the index's column first.
    fn specs(&self, view: &View, which: Generations) -> Result<Vec<Arc<IndexSpec>>> {
        let signed = view.state.indexes.get(&index_id(&self.spec.column_ids, &self.spec.name));
        let living: Vec<Arc<IndexSpec>> = match signed {
            None => vec![Arc::clone(&self.spec)],
            Some(state) => {
                std::iter::once(&state.now).chain(&state.next).map(|rules| Arc::new(rules.spec(&self.spec))).collect()
            }
        };
        let meant = match which {
            Generations::Living => living,
            Generations::One(generation) => living.into_iter().filter(|spec| spec.generation == generation).collect(),
        };
        if meant.is_empty() {
            return Err(Error::new(
                Code::Busy,
                format!("the index `{}` of `{}` has no such generation now", self.spec.name, self.seat.name),
            )
            .cause("its rotation ended, or was given up, meanwhile")
            .hint("`enfold index list` says which generations live"));
        }
        Ok(meant)
    }

    async fn one(
        &self,
        view: &Arc<View>,
        specs: &[Arc<IndexSpec>],
        request: &IndexRequest<'_>,
    ) -> Result<Vec<Vec<u8>>> {
        self.seat.check_tenant(&request.place)?;
        let ring = &self.seat.ring;
        let mut values = Vec::with_capacity(specs.len());
        for spec in specs {
            let tenant: Option<Part<'_>> = if spec.cross_tenant { None } else { request.place.tenant };
            let tag = tenant.map(|t| ring.tenant(view, t));
            let key = ring.current(view, Purpose::Index, &ScopeId::index(spec, tag.as_ref())).await?;
            key.spend(&ring.policy.cache, 1, 0);
            let failed = |e| core_error(e, format!("cannot compute the index `{}` of `{}`", spec.name, self.seat.name));
            values.push(key.index(spec)?.compute(tenant, request.values).map_err(failed)?);
        }
        Ok(values)
    }
}

/// Of which generations values are made.
#[derive(Clone, Copy)]
enum Generations {
    /// All that live.
    Living,
    One(u16),
}
