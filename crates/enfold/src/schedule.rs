//! The policy's schedule: which data keys are due to be rotated, and rotating them once whoever else tries.

use std::collections::{BTreeMap, HashMap};

use enfold_core::KeyId;
use serde::Serialize;

use crate::Result;
use crate::catalog::{KeyStatus, Purpose};
use crate::events::CallContext;
use crate::handle::Enfold;
use crate::keyring::{KeyRing, ScopeId};
use crate::operator::Operator;
use crate::policy::Window;
use crate::rotation::Rotated;

/// When a data key is due, by its ring's cadence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Due {
    /// The scope, as the catalog spells it.
    pub scope: String,
    /// The version that seals.
    pub version: u32,
    /// Milliseconds since 1970.
    pub due_ms: i64,
}

/// What the schedule says of one ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingSchedule {
    /// The policy's name of the ring.
    pub ring: String,
    /// Whether workers act on it.
    pub enabled: bool,
    /// How old a data key becomes before it is due, in milliseconds.
    pub cadence_ms: i64,
    /// Data keys that seal, and when each is due; soonest first.
    pub keys: Vec<Due>,
}

/// The data keys that seal in a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKeys {
    /// The policy's name of the ring.
    pub ring: String,
    pub data_keys: usize,
    /// When the oldest of them was made, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

impl RingSchedule {
    /// Those that are due at this moment, in milliseconds since 1970.
    pub fn due(&self, now_ms: i64) -> &[Due] {
        &self.keys[..self.keys.partition_point(|key| key.due_ms <= now_ms)]
    }

    /// Those of them that have been due for longer than a tenth of the cadence: nobody seems to see to it.
    pub fn overdue(&self, now_ms: i64) -> &[Due] {
        self.due(now_ms.saturating_sub(self.cadence_ms / 10))
    }
}

/// A data key that seals no more, and opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormerKey {
    /// In hex where it is written down.
    #[serde(serialize_with = "as_text")]
    pub id: KeyId,
    /// The scope, as the catalog spells it.
    pub scope: String,
    pub version: u32,
    /// When the next version was made, in milliseconds since 1970.
    pub since_ms: i64,
    /// When its grace period is over.
    pub due_ms: i64,
}

/// The former data keys of a ring that may be disabled some day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingGrace {
    /// The policy's name of the ring.
    pub ring: String,
    /// Those that open, the one whose grace period is over first before the others.
    pub keys: Vec<FormerKey>,
    /// Whether workers disable what is past it.
    pub enabled: bool,
    #[serde(skip)]
    window: Option<Window>,
}

impl RingGrace {
    /// Those whose grace period is over at this moment, in milliseconds since 1970.
    pub fn due(&self, now_ms: i64) -> &[FormerKey] {
        &self.keys[..self.keys.partition_point(|key| key.due_ms <= now_ms)]
    }

    /// Whether workers disable them at this moment.
    pub fn acts(&self, now_ms: i64) -> bool {
        self.enabled && self.window.is_none_or(|window| window.holds(now_ms))
    }
}

fn as_text<S: serde::Serializer>(id: &KeyId, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Enfold {
    /// Every ring, with the former data keys that open there. No key service is asked.
    pub async fn graces(&self) -> Result<Vec<RingGrace>> {
        let mut rings = Vec::with_capacity(self.0.rings.len());
        for (name, ring) in &self.0.rings {
            let rotation = &ring.policy.rotation;
            let grace = i64::try_from(rotation.grace_period.as_millis()).unwrap_or(i64::MAX);
            let mut keys = ring.retired(grace).await?;
            keys.sort_by(|a, b| (a.due_ms, &a.scope, a.version).cmp(&(b.due_ms, &b.scope, b.version)));
            let enabled = rotation.enabled && rotation.cadence.is_some();
            rings.push(RingGrace { ring: name.clone(), keys, enabled, window: rotation.window });
        }
        Ok(rings)
    }

    /// Every ring, with how many data keys seal there and since when. No key service is asked.
    pub async fn sealing_keys(&self) -> Result<Vec<SealingKeys>> {
        let mut rings = Vec::with_capacity(self.0.rings.len());
        for (name, ring) in &self.0.rings {
            let made = ring.sealing_versions().await?;
            let oldest_ms = made.values().map(|(_, made)| *made).min();
            rings.push(SealingKeys { ring: name.clone(), data_keys: made.len(), oldest_ms });
        }
        Ok(rings)
    }

    /// Every ring that has a cadence, with the data keys that seal there. No key service is asked.
    pub async fn schedule(&self) -> Result<Vec<RingSchedule>> {
        let mut rings = Vec::new();
        for (name, ring) in &self.0.rings {
            let Some(cadence) = ring.policy.rotation.cadence else { continue };
            let cadence = i64::try_from(cadence.as_millis()).unwrap_or(i64::MAX);
            let made = ring.sealing_versions().await?;
            let due = |(scope, (version, made)): (String, (u32, i64))| Due {
                scope,
                version,
                due_ms: made.saturating_add(cadence),
            };
            let mut keys: Vec<Due> = made.into_iter().map(due).collect();
            keys.sort_by(|a, b| (a.due_ms, &a.scope).cmp(&(b.due_ms, &b.scope)));
            let enabled = ring.policy.rotation.enabled;
            rings.push(RingSchedule { ring: name.clone(), enabled, cadence_ms: cadence, keys });
        }
        Ok(rings)
    }

    /// Whether the operators' key is at hand.
    pub fn has_operator_key(&self) -> bool {
        self.operator().is_ok()
    }
}

impl Operator {
    /// Rotates what is due at `now_ms` (milliseconds since 1970), where the ring's schedule is enabled and its window holds
    /// the moment. Ring by ring, with what was rotated there.
    ///
    /// Any number of processes may try: a data key is rotated once, because each names the version that it found due. A new
    /// version counts as made at `now_ms`: by a clock of its own that is behind, it would be due again at once.
    ///
    /// # Errors
    /// `Busy` where another process was quicker with the ring that comes next.
    pub async fn rotate_due(&self, now_ms: i64, context: &CallContext) -> Result<Vec<(String, Vec<Rotated>)>> {
        let mut all = Vec::new();
        for schedule in self.enfold.schedule().await? {
            let ring = self.enfold.ring(&schedule.ring)?;
            let open = ring.policy.rotation.window.is_none_or(|window| window.holds(now_ms));
            let due = schedule.due(now_ms);
            if !schedule.enabled || !open || due.is_empty() {
                continue;
            }
            let mut scopes: Vec<(ScopeId, u32)> = Vec::with_capacity(due.len());
            for key in due {
                scopes.push((key.scope.parse()?, key.version));
            }
            all.push((schedule.ring.clone(), self.rotate_from(ring, &scopes, Some(now_ms), context).await?));
        }
        Ok(all)
    }
}

impl KeyRing {
    /// Data keys that open and seal no more. One whose next version was stored and never announced seals still.
    async fn retired(&self, grace_ms: i64) -> Result<Vec<FormerKey>> {
        let view = self.view().await?;
        let (mut retired, mut made, mut after) = (Vec::new(), HashMap::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in page.into_iter().filter(|row| row.purpose == Purpose::Seal) {
                made.insert((row.scope.clone(), row.version), row.created_ms);
                // A version that was not announced is none of them, whatever its row says.
                if row.version < view.state.sealing_version(Purpose::Seal, &row.scope) {
                    let (_, status) = self.believe_now(&view, &row).await?;
                    if status == KeyStatus::Retired {
                        retired.push((row.id, row.scope, row.version));
                    }
                }
            }
        }
        let former = retired.into_iter().filter_map(|(id, scope, version)| {
            let since_ms = *made.get(&(scope.clone(), version + 1))?;
            Some(FormerKey { id, scope, version, since_ms, due_ms: since_ms.saturating_add(grace_ms) })
        });
        Ok(former.collect())
    }

    /// Of each scope the version that seals, and when it was made. A version that was stored and not announced is none of
    /// them.
    async fn sealing_versions(&self) -> Result<BTreeMap<String, (u32, i64)>> {
        let view = self.view().await?;
        let (mut sealing, mut after) = (BTreeMap::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            for row in page.into_iter().filter(|row| row.purpose == Purpose::Seal) {
                let destroyed = view.state.destruction(row.purpose, &row.scope).is_some();
                if !destroyed && view.state.sealing_version(Purpose::Seal, &row.scope) == row.version {
                    sealing.insert(row.scope, (row.version, row.created_ms));
                }
            }
        }
        Ok(sealing)
    }
}
