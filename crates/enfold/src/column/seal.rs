//! Sealing a batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use enfold_core::{Binding, DataKey, OwnedPart, Part, SealItem, record, stored};
use futures_util::stream::{self, StreamExt};

use super::{Bindings, Column, SealRequest, Seat, before, check_context};
use crate::catalog::Purpose;
use crate::events::{CallContext, EventKind};
use crate::keyring::roots::material;
use crate::keyring::{LiveKey, ScopeId, View, Way};
use crate::kms::{EncryptionContext, WrapRequest};
use crate::policy::{Mode, RecordWrap, Scope};
use crate::traces::span;
use crate::{Code, Error, Result, core_error};

/// Groups of a batch whose data keys are made at once.
const AT_ONCE: usize = 16;

/// Seals one value under a data key that sealed another of the same column and tenant a moment ago; with when it began, by
/// the clock of the process's keys.
pub(super) fn again(column: &Column, context: &CallContext, request: &SealRequest<'_>) -> Option<(Vec<u8>, Duration)> {
    let seat = &*column.seat;
    check_context(&column.enfold, seat, context).ok()?;
    seat.check(&request.place).ok()?;
    let binding = seat.binding(&seat.bound(request.place));
    let found = seat.near.sealing.find(&seat.ring, seat.key_of(&binding))?;
    if found.mode() == Mode::Legacy && !column.conversion {
        return None;
    }
    let item = item(seat, &binding, request);
    found.key.spend(&seat.ring.policy.cache, 1, request.value.len());
    let sealed = match seat.ring.policy.scope {
        Scope::Record => found.key.record_sealer().ok()?.seal(item.binding, item.payload, item.padding, item.plaintext),
        _ => found.key.sealer(seat.salt).ok()?.seal(item.binding, item.payload, item.padding, item.plaintext),
    };
    let stored = stored::encode(request.form, sealed.ok()?);
    column.done_one(&found, context);
    Some((stored, found.at))
}

/// `Err` is for what concerns all values alike.
pub(super) async fn seal_many(
    column: &Column,
    context: &CallContext,
    requests: &[SealRequest<'_>],
) -> Result<Vec<Result<Vec<u8>>>> {
    let (view, mode) = column.enter(context).await?;
    if mode == Mode::Legacy && !column.conversion {
        return before::write_many(column, context, requests).await;
    }
    let batch = Batch {
        column,
        context,
        view,
        mode,
        requests,
        bindings: Bindings::of(&column.seat, requests.iter().map(|r| r.place)),
    };
    let mut results: Vec<Option<Result<Vec<u8>>>> = Vec::new();
    results.resize_with(requests.len(), || None);
    let mut good = Vec::with_capacity(requests.len());
    for (at, request) in requests.iter().enumerate() {
        match column.seat.check(&request.place) {
            Ok(()) => good.push(at),
            Err(error) => results[at] = Some(Err(error)),
        }
    }
    let groups = batch.by_scope(good);
    for some in groups.chunks(column.seat.ring.batch()) {
        batch.load(some).await;
        // What is not there yet is made, a few at a time.
        let seal: Vec<_> = some.iter().map(|(tenant, items)| batch.seal_group(*tenant, items)).collect();
        let sealed: Vec<_> = stream::iter(seal).buffered(AT_ONCE).collect().await;
        for ((_, items), sealed) in some.iter().zip(sealed) {
            let sealed = sealed.unwrap_or_else(|error| items.iter().map(|_| Err(error.clone())).collect());
            for (at, result) in items.iter().zip(sealed) {
                results[*at] = Some(result.map(|envelope| stored::encode(requests[*at].form, envelope)));
            }
        }
    }
    let missing = || Err(Error::new(Code::Internal, "a value of a batch had no result"));
    Ok(results.into_iter().map(|r| r.unwrap_or_else(missing)).collect())
}

struct Batch<'a> {
    column: &'a Column,
    context: &'a CallContext,
    view: Arc<View>,
    mode: Mode,
    requests: &'a [SealRequest<'a>],
    bindings: Bindings,
}

/// What the key service's context of a record's key says of its tenant.
fn tenant_of(scope: Scope, wrap: RecordWrap) -> bool {
    scope == Scope::Tenant || (scope == Scope::Record && wrap == RecordWrap::Kms)
}

impl<'a> Batch<'a> {
    /// Values by the tenant whose key seals them; all together where keys are not a tenant's.
    fn by_scope(&self, items: Vec<usize>) -> Vec<(Option<Part<'a>>, Vec<usize>)> {
        let policy = &self.column.seat.ring.policy;
        if !tenant_of(policy.scope, policy.record_wrap) {
            return if items.is_empty() { Vec::new() } else { vec![(None, items)] };
        }
        let mut groups: Vec<(Option<Part<'a>>, Vec<usize>)> = Vec::new();
        let mut at_tenant: HashMap<Option<OwnedPart>, usize> = HashMap::new();
        for item in items {
            let tenant = self.requests[item].place.tenant;
            // Most batches are one tenant's: the last group is asked before the map.
            if let Some((last, group)) = groups.last_mut()
                && *last == tenant
            {
                group.push(item);
                continue;
            }
            let at = *at_tenant.entry(tenant.map(|t| t.to_owned())).or_insert(groups.len());
            match groups.get_mut(at) {
                Some((_, group)) => group.push(item),
                None => groups.push((tenant, vec![item])),
            }
        }
        groups
    }

    /// Has the data keys of several tenants fetched together, so that each group finds its own.
    async fn load(&self, groups: &[(Option<Part<'_>>, Vec<usize>)]) {
        let seat = &*self.column.seat;
        if groups.len() < 2 || seat.ring.policy.scope != Scope::Tenant {
            return;
        }
        let is_far = |items: &[usize]| {
            let by = items.first().map(|at| seat.key_of(self.bindings.get(*at)));
            by.is_some_and(|by| seat.near.sealing.find(&seat.ring, by).is_none())
        };
        let scope = |tenant: Part<'_>| ScopeId::tenant(&seat.ring.tenant(&self.view, tenant));
        let far = groups.iter().filter(|(_, items)| is_far(items)).filter_map(|(tenant, _)| tenant.map(scope));
        let far: Vec<ScopeId> = far.collect();
        if far.len() > 1 {
            seat.ring.load_current(&self.view, &far).await;
        }
    }

    async fn seal_group(&self, tenant: Option<Part<'_>>, items: &[usize]) -> Result<Vec<Result<Vec<u8>>>> {
        let ring = &self.column.seat.ring;
        if ring.has_key_in_every_record() {
            return self.seal_records_by_root(tenant, items).await;
        }
        let key = self.key_for(tenant, items).await?;
        let bytes = items.iter().map(|at| self.requests[*at].value.len()).sum();
        key.spend(&ring.policy.cache, items.len(), bytes);
        let crypto = span!("seal", "crypto", values = items.len()).entered();
        let sealed = if ring.policy.scope == Scope::Record {
            let sealer = key.record_sealer()?;
            let seal = |item: SealItem<'_>| sealer.seal(item.binding, item.payload, item.padding, item.plaintext);
            items.iter().map(|at| seal(self.item(*at))).collect()
        } else {
            let batch = items.iter().map(|at| self.item(*at)).collect::<Vec<_>>();
            key.sealer(self.column.seat.salt)?.seal_many(&batch)
        };
        drop(crypto);
        let count = sealed.iter().filter(|r| r.is_ok()).count();
        self.column.done(EventKind::Seal, count, Some((key.id(), Some(key.version()))), self.context);
        Ok(sealed.into_iter().map(|r| r.map_err(|e| self.failed(e))).collect())
    }

    /// The data key that seals the values of a group.
    async fn key_for(&self, tenant: Option<Part<'_>>, items: &[usize]) -> Result<Arc<LiveKey>> {
        let seat = &*self.column.seat;
        let (ring, by) = (&seat.ring, items.first().map_or(&[][..], |at| seat.key_of(self.bindings.get(*at))));
        if let Some(found) = seat.near.sealing.find(ring, by) {
            return Ok(found.key);
        }
        let scope = match ring.policy.scope {
            Scope::Record => ScopeId::record(),
            Scope::Ring => ScopeId::ring(),
            Scope::Column => ScopeId::column(&seat.id),
            Scope::Tenant => {
                let tenant = tenant.ok_or_else(|| {
                    Error::new(Code::BindingIncomplete, format!("cannot choose a key for `{}`", seat.name))
                        .cause(format!("ring `{}` has a data key for each tenant, and none was given", ring.name))
                })?;
                ScopeId::tenant(&ring.tenant(&self.view, tenant))
            }
        };
        let key = ring.current(&self.view, Purpose::Seal, &scope).await?;
        let counter = seat.counter(EventKind::Seal, &key);
        let way = Way { view: &self.view, mode: self.mode, key: &key, counter };
        ring.keep_sealing(&seat.near, by, &scope, way);
        Ok(key)
    }

    /// A data key for every value, wrapped by the root key: one request to the key service for each.
    async fn seal_records_by_root(&self, tenant: Option<Part<'_>>, items: &[usize]) -> Result<Vec<Result<Vec<u8>>>> {
        let ring = &self.column.seat.ring;
        let context = self.column.record_context(&self.view, tenant)?;
        let keys: Vec<DataKey> =
            items.iter().map(|_| DataKey::generate()).collect::<Result<_, _>>().map_err(|e| self.failed(e))?;
        let materials = keys.iter().map(material).collect::<Vec<_>>();
        let wanted = materials.iter().map(|key| WrapRequest { key, context: &context }).collect::<Vec<_>>();
        let root = ring.roots.first()?;
        let id = root.id();
        let wrapped = root.kms.wrap(&wanted).await;
        let seal = |((at, key), wrapped): ((&usize, &DataKey), Result<crate::kms::WrappedKey>)| {
            let wrapped = wrapped?;
            record::seal_with(key, id, wrapped.as_bytes(), &self.item(*at)).map_err(|e| self.failed(e))
        };
        let sealed = items.iter().zip(&keys).zip(wrapped).map(seal).collect::<Vec<_>>();
        let count = sealed.iter().filter(|r| r.is_ok()).count();
        self.column.done(EventKind::Seal, count, Some((id, None)), self.context);
        Ok(sealed)
    }

    fn item(&self, at: usize) -> SealItem<'_> {
        item(&self.column.seat, self.bindings.get(at), &self.requests[at])
    }

    fn failed(&self, error: enfold_core::Error) -> Error {
        core_error(error, format!("cannot seal a value of `{}`", self.column.seat.name))
    }
}

fn item<'a>(seat: &Seat, binding: &'a Binding, request: &SealRequest<'a>) -> SealItem<'a> {
    SealItem { binding, payload: request.payload, padding: seat.padding, plaintext: request.value }
}

impl Column {
    /// What a record's wrapped key is bound to at the key service. It has no id of its own: the envelope carries it.
    pub(super) fn record_context(&self, view: &View, tenant: Option<Part<'_>>) -> Result<EncryptionContext> {
        let ring = &self.seat.ring;
        let context = EncryptionContext::new()
            .with(EncryptionContext::RING, ring.id())?
            .with(EncryptionContext::SCOPE, "record")?;
        let context = match tenant {
            Some(tenant) => context.with_tenant(&ring.tenant(view, tenant))?,
            None => context,
        };
        context.with_labels(&ring.policy.labels)
    }
}
