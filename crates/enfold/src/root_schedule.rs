//! The policy's schedule for root keys: which of them are due for a new version, and seeing to it once whoever else tries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enfold_core::KeyId;
use serde::Serialize;

use crate::events::CallContext;
use crate::keyring::{KeyRing, RewrapOptions, Rewrapped};
use crate::kms::{KeyDescription, KeyManagementServiceExt, KeyUri};
use crate::operator::Operator;
use crate::policy::Window;
use crate::state::{RootClaim, RootRotation, RootState};
use crate::{Code, Enfold, Error, Result};

/// How long a claim stands still before another process takes it over: longer than a key service takes to answer, and than a
/// rewrap takes between two looks at whether to go on.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// When a root key is due for a new version, by the cadence of one ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RootDue {
    /// The policy's name of the ring.
    pub ring: String,
    /// Its URI.
    pub root: String,
    /// Whether workers act on it.
    pub enabled: bool,
    /// How old its newest version becomes before it is due, in milliseconds.
    pub cadence_ms: i64,
    /// Milliseconds since 1970. A root key that nobody has rotated yet counts from when the ring was made.
    pub due_ms: i64,
    /// Its service has no versions of a key, so that another key has to take its place, by hand.
    pub by_hand: bool,
    /// Its service gives it versions by itself.
    pub by_service: bool,
    /// A process sees to it now.
    pub under_way: bool,
    #[serde(skip)]
    window: Option<Window>,
}

impl RootDue {
    pub fn is_due(&self, now_ms: i64) -> bool {
        self.due_ms <= now_ms
    }

    /// It has been due for longer than a tenth of the cadence: nobody seems to see to it.
    pub fn is_overdue(&self, now_ms: i64) -> bool {
        self.due_ms <= now_ms.saturating_sub(self.cadence_ms / 10)
    }

    fn is_to_be_done(&self, now_ms: i64) -> bool {
        self.is_due(now_ms) && self.window.is_none_or(|window| window.holds(now_ms))
    }
}

/// A root key that was seen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRotated {
    /// Its URI.
    pub root: String,
    /// Its service had made the new version by itself, or somebody who died before the data keys followed.
    pub made_before: bool,
    /// Data keys that were wrapped again, over all rings.
    pub rewrapped: u64,
}

/// Claims of others, and since when this process has seen each.
#[derive(Default)]
pub(crate) struct SeenClaims(Mutex<HashMap<String, (RootClaim, Duration)>>);

impl SeenClaims {
    /// Whether the very same claim has stood for long enough.
    fn is_abandoned(&self, root: &str, claim: &RootClaim, now: Duration) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(root) {
            Some((known, since)) if known == claim => now.saturating_sub(*since) >= PATIENCE,
            _ => {
                seen.insert(root.to_owned(), (claim.clone(), now));
                false
            }
        }
    }
}

impl Enfold {
    /// Every root key of a ring whose policy has a cadence for its root keys, by ring and in the policy's order. No key service
    /// is asked.
    pub async fn root_schedule(&self) -> Result<Vec<RootDue>> {
        let mut all = Vec::new();
        for ring in self.0.rings.values() {
            let rotation = &ring.policy.rotation.roots;
            let Some(cadence) = rotation.cadence else { continue };
            let cadence_ms = i64::try_from(cadence.as_millis()).unwrap_or(i64::MAX);
            let view = ring.view().await?;
            for provider in ring.roots.all().iter().filter(|p| view.state.root(p.uri()) == RootState::Active) {
                let known = self.root_rotation(provider.uri()).await?;
                all.push(RootDue {
                    ring: ring.name.clone(),
                    root: provider.uri().to_owned(),
                    enabled: rotation.enabled,
                    cadence_ms,
                    due_ms: known.at_ms.saturating_add(cadence_ms),
                    by_hand: provider.kms.rotator().is_none(),
                    by_service: known.by_service,
                    under_way: known.claim.is_some(),
                    window: rotation.window,
                });
            }
        }
        Ok(all)
    }

    /// The ring in whose state the rotation of a root key is signed: the first of those that name it.
    fn home_of(&self, root: &str) -> Result<&Arc<KeyRing>> {
        let names = |ring: &&Arc<KeyRing>| ring.roots.all().iter().any(|provider| provider.uri() == root);
        self.0
            .rings
            .values()
            .find(names)
            .ok_or_else(|| Error::new(Code::KmsUriInvalid, format!("`{root}` is not a root key of the policy")))
    }

    async fn root_rotation(&self, root: &str) -> Result<RootRotation> {
        let home = self.home_of(root)?;
        match home.view().await?.state.root_rotations.get(root) {
            Some(known) => Ok(known.clone()),
            None => Ok(RootRotation { at_ms: home.made_ms().await?, by_service: false, claim: None }),
        }
    }
}

impl KeyRing {
    /// When the ring was made, by the row that authenticates all others.
    async fn made_ms(&self) -> Result<i64> {
        let view = self.view().await?;
        let id = view.state.rows.key.0;
        let row = self.catalog.key(self.id(), id).await?.ok_or_else(|| self.not_found(id))?;
        view.rows.verify(&row)?;
        Ok(row.created_ms)
    }
}

impl Operator {
    /// Sees to the root keys that are due at `now_ms` (milliseconds since 1970), where the ring's schedule for them is enabled
    /// and its window holds the moment: a new version in the key service, unless that makes them by itself, then the data keys
    /// of every ring that names the root key wrapped by it. A result for each that was seen to here. `go_on` is asked while
    /// data keys are wrapped.
    ///
    /// Any number of processes may try: one has the claim, which is signed before the key service is asked.
    pub async fn rotate_due_roots(
        &self,
        now_ms: i64,
        context: &CallContext,
        go_on: &(dyn Fn(&Rewrapped) -> bool + Sync),
    ) -> Result<Vec<(String, Result<RootRotated>)>> {
        let mut all: Vec<(String, Result<RootRotated>)> = Vec::new();
        for due in self.enfold.root_schedule().await? {
            // Another ring's cadence may have had it a moment ago.
            if !due.enabled || due.by_hand || all.iter().any(|(root, _)| *root == due.root) {
                continue;
            }
            match self.see_to(&due, now_ms, context, go_on).await {
                Ok(None) => {}
                Ok(Some(rotated)) => all.push((due.root, Ok(rotated))),
                Err(error) => all.push((due.root, Err(error))),
            }
        }
        Ok(all)
    }

    /// Signs that a root key has a new version since `now_ms`, where a schedule asks for that.
    pub(crate) async fn note_root_rotation(&self, root: &str, now_ms: i64) -> Result<()> {
        let scheduled = self.enfold.root_schedule().await?.iter().any(|due| due.root == root);
        if !scheduled {
            return Ok(());
        }
        self.sign_rotation(root, |known| Ok(RootRotation { at_ms: now_ms, by_service: false, ..known })).await
    }

    async fn see_to(
        &self,
        due: &RootDue,
        now_ms: i64,
        context: &CallContext,
        go_on: &(dyn Fn(&Rewrapped) -> bool + Sync),
    ) -> Result<Option<RootRotated>> {
        let root = &due.root;
        let Some(mut claim) = self.claim(due, now_ms).await? else { return Ok(None) };
        let mut made_before = claim.made;
        if !claim.made {
            match self.make_version(root, &claim, context).await {
                Ok(made) => made_before = !made,
                Err(error) => {
                    // Nothing is known to have been made: it is due as before.
                    self.sign_claimed(root, &claim, |known| RootRotation { claim: None, ..known }).await.ok();
                    return Err(error);
                }
            }
            let made = RootClaim { made: true, ..claim.clone() };
            let by_service = self.rotates_itself(root).await;
            let next = made.clone();
            self.sign_claimed(root, &claim, move |_| RootRotation {
                at_ms: now_ms,
                by_service,
                claim: Some(next.clone()),
            })
            .await?;
            claim = made;
        }
        let rewrapped = self.follow(root, context, go_on).await?;
        self.sign_claimed(root, &claim, |known| RootRotation { claim: None, ..known }).await?;
        Ok(Some(RootRotated { root: root.clone(), made_before, rewrapped }))
    }

    /// The right to see to it: none where it is not due, or another process has it.
    async fn claim(&self, due: &RootDue, now_ms: i64) -> Result<Option<RootClaim>> {
        let root = &due.root;
        self.enfold.home_of(root)?.look().await?;
        let known = self.enfold.root_rotation(root).await?;
        // As it is now: another process may have come to the end of it since the schedule was read.
        let due = RootDue { due_ms: known.at_ms.saturating_add(due.cadence_ms), ..due.clone() };
        let former = match &known.claim {
            Some(held) if self.enfold.0.claims.is_abandoned(root, held, self.enfold.0.clock.now()) => {
                Some(held.clone())
            }
            Some(_) => return Ok(None),
            None if due.is_to_be_done(now_ms) => None,
            None => return Ok(None),
        };
        let version = match &former {
            Some(former) => former.version,
            None => self.described(root).await.and_then(|about| about.versions).map(|versions| versions.newest),
        };
        let by = KeyId::random().map_err(|e| crate::core_error(e, "cannot name a claim"))?.to_string();
        let claim = RootClaim { by, version, made: former.is_some_and(|former| former.made) };
        let next = claim.clone();
        let seen = known.clone();
        let claimed = self.sign_rotation(root, move |now| {
            // A process that was quicker has changed it.
            if now == seen { Ok(RootRotation { claim: Some(next.clone()), ..now }) } else { Err(taken(root)) }
        });
        match claimed.await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.code() == Code::Busy => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a version was made here, and not before by somebody who died over it, nor by the service itself.
    async fn make_version(&self, root: &str, claim: &RootClaim, context: &CallContext) -> Result<bool> {
        let about = self.described(root).await;
        let newest = about.as_ref().and_then(|about| about.versions).map(|versions| versions.newest);
        let is_newer = claim.version.zip(newest).is_some_and(|(before, now)| now > before);
        if is_newer || about.is_some_and(|about| by_itself(&about)) {
            return Ok(false);
        }
        self.enfold.new_root_version(root, context).await.map(|_| true)
    }

    async fn rotates_itself(&self, root: &str) -> bool {
        self.described(root).await.is_some_and(|about| by_itself(&about))
    }

    /// A service that says nothing of its keys has nothing to say against a new version.
    async fn described(&self, root: &str) -> Option<KeyDescription> {
        let kms = self.enfold.0.registry.get(&root.parse::<KeyUri>().ok()?).ok()?;
        kms.describer()?.describe().await.ok()
    }

    /// Has the data keys of every ring that names the root key wrapped by its newest version.
    async fn follow(
        &self,
        root: &str,
        context: &CallContext,
        go_on: &(dyn Fn(&Rewrapped) -> bool + Sync),
    ) -> Result<u64> {
        let mut done = 0;
        for ring in self.enfold.0.rings.values() {
            let named = ring.roots.all().iter().any(|provider| provider.uri() == root);
            if !named || ring.view().await?.state.root(root) != RootState::Active {
                continue;
            }
            let options = RewrapOptions { to: Some(root.to_owned()), ..RewrapOptions::default() };
            let rewrapped = ring.rewrap(&options, context, go_on).await?;
            done += rewrapped.done;
            if let Some(stopped) = rewrapped.stopped {
                return Err(stopped);
            }
        }
        Ok(done)
    }

    /// As [`Self::sign_rotation`], as long as the claim is ours.
    async fn sign_claimed(
        &self,
        root: &str,
        claim: &RootClaim,
        next: impl Fn(RootRotation) -> RootRotation,
    ) -> Result<()> {
        let ours = |known: &RootRotation| known.claim.as_ref().is_some_and(|held| held.by == claim.by);
        self.sign_rotation(root, |known| if ours(&known) { Ok(next(known)) } else { Err(taken(root)) }).await
    }

    async fn sign_rotation(&self, root: &str, next: impl Fn(RootRotation) -> Result<RootRotation>) -> Result<()> {
        let home = self.enfold.home_of(root)?;
        let made_ms = home.made_ms().await?;
        self.change(home, |view| {
            let mut state = view.state.clone();
            let first = || RootRotation { at_ms: made_ms, by_service: false, claim: None };
            let known = state.root_rotations.get(root).cloned().unwrap_or_else(first);
            state.root_rotations.insert(root.to_owned(), next(known)?);
            Ok(state)
        })
        .await
    }
}

fn by_itself(about: &KeyDescription) -> bool {
    about.rotation.is_some_and(|rotation| rotation.period.is_some())
}

fn taken(root: &str) -> Error {
    Error::new(Code::Busy, format!("another process sees to the rotation of `{root}`"))
}
