//! Rotation: new data-key versions seal from now on, the ones before open as they did.

mod planned;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use enfold_core::{KeyId, Part};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::catalog::{DataKeyRow, Inserted, Purpose};
use crate::column::Column;
use crate::events::{CallContext, Event, EventKind};
use crate::handle::Enfold;
use crate::keyring::{KeyRing, Leaving, ScopeId, View};
use crate::operator::{Operator, with_status};
use crate::policy::Scope;
use crate::{Code, Error, Result};

pub use self::planned::RotationPlan;

/// New data keys that are made at once.
const AT_ONCE: usize = 16;

/// One scope's data key, rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    pub scope: ScopeId,
    /// The version that sealed until now and its key. The key is none where nothing was ever sealed in the scope, and where every
    /// record has one of its own, wrapped by a key service: those can only be left by re-encrypting.
    pub previous_version: u32,
    pub previous_key: Option<KeyId>,
    /// The version that seals from now on.
    pub version: u32,
    pub key: KeyId,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// Whose data keys are rotated.
#[derive(Clone, Copy)]
pub enum Whose<'a> {
    /// Every scope of the ring that has a data key.
    Everybody,
    /// These tenants', in a ring of scope `tenant`.
    Tenants(&'a [Part<'a>]),
}

impl Enfold {
    /// The scope of a tenant's data key in a ring of scope `tenant`.
    pub async fn tenant_scope(&self, ring: &str, tenant: Part<'_>) -> Result<ScopeId> {
        let ring = self.ring(ring)?;
        if ring.policy.scope != Scope::Tenant {
            return Err(Error::new(
                Code::Usage,
                format!("no tenant has a data key of its own in ring `{}`", ring.name),
            )
            .hint("leave the tenant out: its values are under data keys that others use as well"));
        }
        let view = ring.view().await?;
        Ok(ScopeId::tenant(&ring.tenant(&view, tenant)))
    }
}

impl Enfold {
    /// The scopes that `whose` names, in their order: those in which something seals.
    pub(crate) async fn scopes_of(&self, ring: &Arc<KeyRing>, whose: Whose<'_>) -> Result<Vec<ScopeId>> {
        ring.look().await?;
        let view = ring.view().await?;
        let Whose::Tenants(tenants) = whose else { return ring.sealing_scopes(&view).await };
        let mut scopes = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            scopes.push(self.tenant_scope(&ring.name, *tenant).await?);
        }
        scopes.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        scopes.dedup();
        ring.require_keys(&view, &scopes).await?;
        Ok(scopes)
    }

    /// Data keys of a ring that seal no more, narrowed. Nothing is unwrapped.
    pub async fn former_keys(&self, ring: &str, leaving: &Leaving) -> Result<Arc<HashSet<KeyId>>> {
        self.ring(ring)?.former(leaving).await
    }
}

impl Column {
    /// The data keys that its values are to leave in a re-encryption: former ones of its ring. Nothing is unwrapped.
    pub async fn former_keys(&self, leaving: &Leaving) -> Result<Arc<HashSet<KeyId>>> {
        self.ring().former(leaving).await
    }
}

impl Operator {
    /// Makes a new version of each data key that `whose` names and has it seal from now on, in every process within a second;
    /// the former ones open and seal no more. All of them in one new state, or none. In the order of their scopes.
    ///
    /// Of a ring whose records are wrapped by the key service itself, every record is meant: see [`Rotated::previous_key`].
    ///
    /// # Errors
    /// `Busy` where somebody else rotated one of them meanwhile; `KeyNotFound` for a tenant that has no data key yet.
    pub async fn rotate_many(&self, ring: &str, whose: Whose<'_>, context: &CallContext) -> Result<Vec<Rotated>> {
        let ring = self.enfold.ring(ring)?;
        ring.look().await?;
        if matches!(whose, Whose::Everybody) && ring.has_key_in_every_record() {
            return told(ring, 1, context, async || Ok(vec![self.renew_records(ring, context).await?])).await;
        }
        let scopes = self.enfold.scopes_of(ring, whose).await?;
        self.rotate_scopes(ring, &scopes, context).await
    }

    /// Gives the root key that wraps the data keys of records another id beside those that it has. An envelope names its root
    /// key by id, so those of before are told from those of now, and a re-encryption can give each of them a data key anew.
    /// Nothing else tells them apart: each has a key of its own.
    async fn renew_records(&self, ring: &Arc<KeyRing>, context: &CallContext) -> Result<Rotated> {
        let id = KeyId::random().map_err(|e| crate::core_error(e, "cannot name a root key"))?;
        let root = ring.catalog.restore_root(ring.roots.first()?.uri(), id).await?;
        // Processes take ids in with a new state; who meets one before looks it up.
        self.refresh(&ring.name).await?;
        ring.events.emit(Event::new(EventKind::KeyRotated, 1).ring(ring.id()).key(id, None).context(context));
        let version = u32::try_from(root.ids().len()).unwrap_or(u32::MAX);
        Ok(Rotated {
            scope: ScopeId::record(),
            previous_version: version - 1,
            previous_key: None,
            version,
            key: id,
            at_ms: ring.unix_ms(),
        })
    }

    /// As [`Self::rotate_many`], one scope, which need not have a data key yet.
    pub async fn rotate(&self, ring: &str, scope: &ScopeId, context: &CallContext) -> Result<Rotated> {
        let ring = self.enfold.ring(ring)?;
        ring.look().await?;
        let mut rotated = self.rotate_scopes(ring, std::slice::from_ref(scope), context).await?;
        rotated.pop().ok_or_else(|| Error::new(Code::Internal, "a rotation made no data key"))
    }

    async fn rotate_scopes(
        &self,
        ring: &Arc<KeyRing>,
        scopes: &[ScopeId],
        context: &CallContext,
    ) -> Result<Vec<Rotated>> {
        let view = ring.view().await?;
        let version = |scope: &ScopeId| view.state.sealing_version(Purpose::Seal, scope.as_str());
        let scopes: Vec<(ScopeId, u32)> = scopes.iter().map(|scope| (scope.clone(), version(scope))).collect();
        self.rotate_from(ring, &scopes, None, context).await
    }

    /// Rotates scopes, each from the version with which it was found to seal. The new versions count as made at `made_ms`,
    /// where it is given: for whoever goes by another clock than this machine's.
    ///
    /// # Errors
    /// `Busy` where one seals with another version by now: then nothing was rotated.
    pub(crate) async fn rotate_from(
        &self,
        ring: &Arc<KeyRing>,
        scopes: &[(ScopeId, u32)],
        made_ms: Option<i64>,
        context: &CallContext,
    ) -> Result<Vec<Rotated>> {
        told(ring, scopes.len(), context, async || self.rotate_them(ring, scopes, made_ms, context).await).await
    }

    async fn rotate_them(
        &self,
        ring: &Arc<KeyRing>,
        scopes: &[(ScopeId, u32)],
        made_ms: Option<i64>,
        context: &CallContext,
    ) -> Result<Vec<Rotated>> {
        let view = ring.view().await?;
        let view = &*view;
        let make: Vec<_> = scopes.iter().map(|(scope, from)| ring.next_version(view, scope, *from, made_ms)).collect();
        let rows: Vec<DataKeyRow> = stream::iter(make).buffered(AT_ONCE).try_collect().await?;
        let before = |row: &DataKeyRow| (row.scope.clone(), row.version - 1);
        let wanted: Vec<(String, u32)> = rows.iter().map(before).collect();
        let mut former = BTreeMap::new();
        for some in wanted.chunks(1_000) {
            for row in ring.catalog.key_versions(ring.id(), Purpose::Seal, some).await? {
                former.insert(row.scope.clone(), row);
            }
        }
        let ids: Vec<KeyId> = former.values().map(|row| row.id).collect();
        self.change_keys(ring, &ids, |view, former| {
            let mut state = view.state.clone();
            for row in &rows {
                if state.sealing_version(Purpose::Seal, &row.scope) != row.version - 1 {
                    return Err(rotated_meanwhile(&row.scope));
                }
                state.set_sealing(row);
            }
            // Retired, or disabled if it was.
            let retired = former.iter().map(|row| with_status(view, row, state.status(row)?));
            let retired = retired.collect::<Result<_>>()?;
            Ok((state, retired))
        })
        .await?;
        let say = |kind, row: &DataKeyRow| {
            ring.events.emit(Event::new(kind, 1).ring(ring.id()).data_key(row).context(context));
        };
        let rotated = rows.iter().zip(scopes).map(|(row, (scope, _))| {
            let former = former.get(&row.scope);
            say(EventKind::KeyRotated, row);
            former.into_iter().for_each(|former| say(EventKind::KeyRetired, former));
            Rotated {
                scope: scope.clone(),
                previous_version: row.version - 1,
                previous_key: former.map(|row| row.id),
                version: row.version,
                key: row.id,
                at_ms: ring.unix_ms(),
            }
        });
        Ok(rotated.collect())
    }
}

/// Says in the log that a rotation of so many scopes begins, and where it fails, why.
async fn told<T>(
    ring: &KeyRing,
    scopes: usize,
    context: &CallContext,
    rotate: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    if scopes == 0 {
        return rotate().await;
    }
    let say = |kind| Event::new(kind, scopes as u64).ring(ring.id()).context(context);
    ring.events.emit(say(EventKind::RotationStarted));
    let rotated = rotate().await;
    if let Err(error) = &rotated {
        ring.events.emit(say(EventKind::RotationFailed).because(error));
    }
    rotated
}

impl KeyRing {
    /// Scopes in which something seals, in their order: not those whose data keys are being destroyed.
    async fn sealing_scopes(&self, view: &View) -> Result<Vec<ScopeId>> {
        let (mut scopes, mut after) = (BTreeSet::new(), None);
        let seals = |row: &DataKeyRow| {
            row.purpose == Purpose::Seal && view.state.destruction(row.purpose, &row.scope).is_none()
        };
        while let Some(page) = self.next_rows(&mut after).await? {
            scopes.extend(page.into_iter().filter(seals).map(|row| row.scope));
        }
        scopes.into_iter().map(|scope| scope.parse()).collect()
    }

    /// Whoever misspells a tenant must not be told that its data key was rotated.
    async fn require_keys(&self, view: &View, scopes: &[ScopeId]) -> Result<()> {
        for scope in scopes {
            let version = view.state.sealing_version(Purpose::Seal, scope.as_str());
            if self.catalog.key_version(self.id(), Purpose::Seal, scope.as_str(), version).await?.is_none() {
                return Err(Error::new(
                    Code::KeyNotFound,
                    format!("a tenant that was named has no data key in ring `{}`", self.name),
                )
                .cause(format!("scope `{scope}`"))
                .hint("a number is spelled `int:7`, a UUID `uuid:…`; a tenant's first value makes its data key")
                .hint("nothing was changed"));
            }
        }
        Ok(())
    }

    /// Stores the next version of a scope's data key. It seals nothing before it is announced; one that was stored and never
    /// announced, by somebody who was interrupted here, is taken up.
    async fn next_version(&self, view: &View, scope: &ScopeId, from: u32, made_ms: Option<i64>) -> Result<DataKeyRow> {
        if view.state.sealing_version(Purpose::Seal, scope.as_str()) != from {
            return Err(rotated_meanwhile(scope.as_str()));
        }
        self.may_be_made(view, Purpose::Seal, scope)?;
        let next = from.checked_add(1).ok_or_else(|| Error::new(Code::Internal, "data-key versions are used up"))?;
        let (mut row, _) = self.draft(view, Purpose::Seal, scope, next).await?;
        if let Some(made_ms) = made_ms {
            row.created_ms = made_ms;
            view.rows.tag(&mut row);
        }
        match self.store(&row).await? {
            Inserted::Made => {
                self.events.emit(Event::new(EventKind::KeyMade, 1).ring(self.id()).data_key(&row));
                Ok(row)
            }
            Inserted::Exists(row) => {
                view.rows.verify(&row)?;
                Ok(row)
            }
        }
    }
}

fn rotated_meanwhile(scope: &str) -> Error {
    Error::new(Code::Busy, format!("scope `{scope}` was rotated by somebody else"))
        .hint("nothing was changed here; look at what seals now, and run the command again if it must")
}
