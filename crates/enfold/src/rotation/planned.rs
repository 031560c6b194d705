//! A rotation that is done once, however often it is asked for: it says first from which versions it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Rotated, Whose, rotated_meanwhile};
use crate::catalog::{Purpose, RootKey};
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::{KeyRing, ScopeId, View};
use crate::operator::Operator;
use crate::{Code, Error, Result};

/// From which version each scope is rotated. It can be kept, and says nothing that a state does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationPlan {
    /// The ring, by the policy's name.
    ring: String,
    from: BTreeMap<String, u32>,
}

impl Operator {
    /// What [`Self::rotate_many`] would do now. Nothing is changed.
    pub async fn plan_rotation(&self, ring: &str, whose: Whose<'_>) -> Result<RotationPlan> {
        let ring = self.enfold.ring(ring)?;
        ring.look().await?;
        let from = if matches!(whose, Whose::Everybody) && ring.has_key_in_every_record() {
            BTreeMap::from([(ScopeId::record().to_string(), version(&record_root(ring).await?))])
        } else {
            let scopes = self.enfold.scopes_of(ring, whose).await?;
            let view = ring.view().await?;
            let from = |scope: ScopeId| {
                let version = view.state.sealing_version(Purpose::Seal, scope.as_str());
                (scope.to_string(), version)
            };
            scopes.into_iter().map(from).collect()
        };
        Ok(RotationPlan { ring: ring.name.clone(), from })
    }

    /// Does what a plan says, as [`Self::rotate_many`]. What seals with a later version already is left as it is, and told as
    /// rotated: whoever was interrupted before it had an answer can ask again.
    ///
    /// Where somebody else rotated one of the scopes since the plan, that was it: what a plan wants is another version than the one
    /// that it names.
    pub async fn rotate_planned(&self, plan: &RotationPlan, context: &CallContext) -> Result<Vec<Rotated>> {
        let ring = self.enfold.ring(&plan.ring)?;
        ring.look().await?;
        if let Some(from) = plan.from.get(ScopeId::record().as_str()).filter(|_| ring.has_key_in_every_record()) {
            return Ok(vec![self.renew_records_from(ring, *from, context).await?]);
        }
        let view = ring.view().await?;
        let (mut to_do, mut done) = (Vec::new(), Vec::new());
        for (scope, from) in &plan.from {
            let now = view.state.sealing_version(Purpose::Seal, scope);
            let planned = (scope.parse::<ScopeId>()?, *from);
            if now > *from { done.push(planned) } else { to_do.push(planned) }
        }
        let mut rotated =
            if to_do.is_empty() { Vec::new() } else { self.rotate_from(ring, &to_do, None, context).await? };
        for (scope, from) in done {
            rotated.push(rotated_before(ring, &view, scope, from, context).await?);
        }
        rotated.sort_unstable_by(|a, b| a.scope.as_str().cmp(b.scope.as_str()));
        Ok(rotated)
    }

    async fn renew_records_from(&self, ring: &Arc<KeyRing>, from: u32, context: &CallContext) -> Result<Rotated> {
        let root = record_root(ring).await?;
        let ids = root.ids();
        // The newest is the first.
        let made = ids.len().checked_sub(from as usize + 1).and_then(|at| ids.get(at));
        let Some(id) = made else { return self.renew_records(ring, context).await };
        // Whoever was interrupted may not have come to it.
        self.refresh(&ring.name).await?;
        note(ring, *id, None, context);
        Ok(Rotated {
            scope: ScopeId::record(),
            previous_version: from,
            previous_key: None,
            version: from + 1,
            key: *id,
            at_ms: ring.unix_ms(),
        })
    }
}

/// The root key that wraps the data keys of records, and its version: how many ids it has had.
async fn record_root(ring: &Arc<KeyRing>) -> Result<RootKey> {
    let uri = ring.roots.first()?.uri();
    let known = ring.catalog.roots().await?.into_iter().find(|root| root.uri == uri);
    known
        .ok_or_else(|| Error::new(Code::KmsKeyNotFound, "the catalog has no record of the root key that wraps records"))
}

fn version(root: &RootKey) -> u32 {
    u32::try_from(root.ids().len()).unwrap_or(u32::MAX)
}

/// What a rotation that was done before came to.
async fn rotated_before(
    ring: &Arc<KeyRing>,
    view: &View,
    scope: ScopeId,
    from: u32,
    context: &CallContext,
) -> Result<Rotated> {
    let row = async |version| ring.catalog.key_version(ring.id(), Purpose::Seal, scope.as_str(), version).await;
    let made = row(from + 1).await?.ok_or_else(|| rotated_meanwhile(scope.as_str()))?;
    view.rows.verify(&made)?;
    let previous_key = row(from).await?.map(|row| row.id);
    note(ring, made.id, Some(made.version), context);
    Ok(Rotated {
        previous_version: from,
        previous_key,
        version: made.version,
        key: made.id,
        at_ms: made.created_ms,
        scope,
    })
}

/// The event of whoever was interrupted may be lost: better it is there twice than not at all.
fn note(ring: &KeyRing, key: enfold_core::KeyId, version: Option<u32>, context: &CallContext) {
    let event = Event::new(EventKind::KeyRotated, 1).ring(ring.id()).key(key, version).context(context);
    ring.events.emit(event.detail("asked for again, and found done"));
}
