//! The root keys of a ring: every data key is wrapped under each of them, and any one opens it.
//!
//! Asked first is the one that answered last time and is nearest, by how long its calls took lately; the policy's order
//! decides between those that are about equally near, and among those of which nothing is known.
//!
//! One that the operators retired still unwraps and wraps nothing new; one that they disabled is not called.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use enfold_core::{DataKey, KeyId, danger};

use crate::catalog::{RootKey, Wrap};
use crate::clock::Clock;
use crate::error::Retry;
use crate::kms::{
    self, EncryptionContext, KeyManagementService, KeyManagementServiceExt, KeyMaterial, UnwrapRequest, WrapRequest,
    WrappedKey, recorded,
};
use crate::state::RootState;
use crate::{Code, Error, Result};

/// How long a measured latency is believed: then the root key is taken for near once more, and measured by the call.
const MEASURED_FOR: Duration = Duration::from_secs(300);

/// Only these are ever called, whatever a row of the catalog names.
pub(crate) struct Roots {
    ring: String,
    providers: Vec<Provider>,
    /// Wraps that a new data key needs before it is used.
    min_wraps: usize,
    clock: Arc<dyn Clock>,
}

pub(crate) struct Provider {
    /// The catalog's ids of the root key, which inline envelopes carry: the one that is written, then others that open.
    ids: Mutex<Vec<KeyId>>,
    pub(crate) kms: Arc<dyn KeyManagementService>,
    /// What the operators signed, as the newest state that was seen has it: a [`RootState`].
    state: AtomicU8,
    seen: Mutex<Seen>,
}

/// What the calls to a root key were like.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// Of those that were answered, the newest counting half; and when.
    latency: Option<(Duration, Duration)>,
    /// The last call failed for a reason that may pass.
    failed: bool,
}

/// The wraps of a new data key.
pub(crate) struct Wrapped {
    pub(crate) wraps: Vec<Wrap>,
    /// Root keys that did not answer: their wraps are to be made later.
    pub(crate) missing: usize,
}

impl Provider {
    pub(crate) fn new(ids: Vec<KeyId>, kms: Arc<dyn KeyManagementService>) -> Self {
        Self { ids: Mutex::new(ids), kms, state: AtomicU8::new(RootState::Active as u8), seen: Mutex::default() }
    }

    pub(crate) fn uri(&self) -> &str {
        self.kms.uri().as_str()
    }

    pub(crate) fn id(&self) -> KeyId {
        // The catalog gives every root key one.
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)[0]
    }

    fn is_called(&self, id: KeyId) -> bool {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    pub(crate) fn state(&self) -> RootState {
        match self.state.load(Ordering::Relaxed) {
            state if state == RootState::Active as u8 => RootState::Active,
            state if state == RootState::Retired as u8 => RootState::Retired,
            _ => RootState::Disabled,
        }
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one call and remembers what it was like.
    async fn call<T>(&self, clock: &dyn Clock, call: impl Future<Output = Result<T>>) -> Result<T> {
        let began = clock.now();
        let answer = call.await;
        self.saw(answer.as_ref().err(), Some(clock.now().saturating_sub(began)), clock.now());
        answer
    }

    /// As [`KeyManagementService::wrap`], an answer for each.
    pub(super) async fn wrap_many(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        let answers = self.kms.wrap(requests).await;
        if answers.len() == requests.len() {
            return answers;
        }
        requests.iter().map(|_| Err(kms::wrong_count(self.kms.uri()))).collect()
    }

    /// As [`KeyManagementService::unwrap`], an answer for each, and remembers what the call was like. How long a batch takes
    /// says nothing of how near the root key is.
    pub(super) async fn unwrap(&self, clock: &dyn Clock, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        if let [request] = requests {
            return vec![self.call(clock, self.kms.unwrap_one(request.wrapped, request.context)).await];
        }
        let mut answers = self.kms.unwrap(requests).await;
        if answers.len() != requests.len() {
            answers = requests.iter().map(|_| Err(kms::wrong_count(self.kms.uri()))).collect();
        }
        let failed =
            answers.iter().all(Result::is_err).then(|| answers.iter().find_map(|a| a.as_ref().err())).flatten();
        self.saw(failed, None, clock.now());
        answers
    }

    fn saw(&self, failed: Option<&Error>, took: Option<Duration>, now: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.failed = failed.is_some_and(|error| error.code().retry() == Retry::Later);
        if let (None, Some(took)) = (failed, took) {
            seen.latency = Some((seen.latency.map_or(took, |(before, _)| (before + took) / 2), now));
        }
    }
}

/// A data key to be unwrapped.
pub(crate) struct Wanted<'a> {
    pub(crate) wraps: &'a [Wrap],
    pub(crate) context: &'a EncryptionContext,
}

impl Roots {
    pub(crate) fn new(ring: &str, providers: Vec<Provider>, min_wraps: usize, clock: Arc<dyn Clock>) -> Self {
        Self { ring: ring.to_owned(), providers, min_wraps, clock }
    }

    /// Wraps a data key under every root key at the same time. Where some cannot be reached now their wraps are left
    /// out, if there are `min_wraps` without them: sealing survives the outage of a key service. A root key that refuses
    /// is an error, because it would be missed later.
    pub(crate) async fn wrap(&self, key: &DataKey, context: &EncryptionContext) -> Result<Wrapped> {
        let active = self.active();
        if active.is_empty() {
            return Err(Error::new(Code::KmsKeyDisabled, self.doing("wrap"))
                .cause("the operators retired or disabled every root key of the ring")
                .hint("`enfold keys set-root URI active` takes it back, where the operators' key is"));
        }
        let (wraps, missed) = self.wrap_under(active, key, context).await?;
        if wraps.len() < self.min_wraps {
            if missed.is_empty() {
                return Err(Error::new(Code::KmsKeyDisabled, self.doing("wrap")).cause(format!(
                    "{} of its root keys are active, and `min_wraps` is {}",
                    wraps.len(),
                    self.min_wraps
                )));
            }
            let error = self.nobody("wrap", missed);
            return Err(match wraps.len() {
                0 => error,
                n => error.cause(format!("{n} of its root keys wrapped it, and `min_wraps` is {}", self.min_wraps)),
            });
        }
        let missing = missed.len();
        for error in missed {
            tracing::warn!(target: "enfold::keyring", ring = self.ring, "a new data key has no wrap by one root key: {error}");
        }
        Ok(Wrapped { wraps, missing })
    }

    /// Wraps by those active root keys of the policy that have not wrapped a data key yet; `None` where none is missing. Gives
    /// all wraps, old and new, and how many are still missing.
    pub(crate) async fn complete(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<Option<Wrapped>> {
        let missing: Vec<&Provider> =
            self.active().into_iter().filter(|p| !wraps.iter().any(|wrap| wrap.root == p.uri())).collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let key = self.unwrap(wraps, context).await?;
        let (mut all, missed) = self.wrap_under(missing, &key, context).await?;
        all.extend_from_slice(wraps);
        all.sort_by(|a, b| a.root.cmp(&b.root));
        Ok(Some(Wrapped { wraps: all, missing: missed.len() }))
    }

    /// The wraps in the catalog's order, and the failures that may pass.
    async fn wrap_under(
        &self,
        providers: Vec<&Provider>,
        key: &DataKey,
        context: &EncryptionContext,
    ) -> Result<(Vec<Wrap>, Vec<Error>)> {
        let material = material(key);
        let calls = providers.iter().map(|p| p.call(&*self.clock, p.kms.wrap_one(&material, context)));
        let (mut wraps, mut missed) = (Vec::with_capacity(providers.len()), Vec::new());
        for (provider, answer) in providers.iter().zip(join_all(calls).await) {
            match answer {
                Ok(wrapped) => wraps.push(Wrap { root: provider.uri().to_owned(), wrapped: wrapped.into_bytes() }),
                Err(error) if error.code().retry() == Retry::Later => missed.push(error),
                Err(error) => return Err(error.while_doing(self.doing("wrap"))),
            }
        }
        // The catalog gives them back in this order, and the row's MAC is over them in order.
        wraps.sort_by(|a, b| a.root.cmp(&b.root));
        Ok((wraps, missed))
    }

    /// Unwraps by the first root key that answers, the nearest first. One that has not wrapped the data key itself may be
    /// able to open another's wrap (a replica of a multi-region key).
    pub(crate) async fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        let unanswered = || Err(Error::new(Code::Internal, "a data key that was to be unwrapped had no answer"));
        self.unwrap_many(&[Wanted { wraps, context }]).await.pop().unwrap_or_else(unanswered)
    }

    /// As [`Self::unwrap`], many in one request to a root key: a result for each, in order. What one root key does not
    /// unwrap is asked of the next.
    pub(crate) async fn unwrap_many(&self, wanted: &[Wanted<'_>]) -> Vec<Result<DataKey>> {
        let mut keys: Vec<Option<DataKey>> = wanted.iter().map(|_| None).collect();
        let mut failed: Vec<Vec<Error>> = wanted.iter().map(|_| Vec::new()).collect();
        for provider in self.nearest_first() {
            let mut asked = Vec::new();
            for (at, wanted) in wanted.iter().enumerate().filter(|(at, _)| keys[*at].is_none()) {
                let own = wanted.wraps.iter().find(|w| w.root == provider.uri());
                let shared = || wanted.wraps.iter().find(|w| recorded::opens(provider.kms.uri(), &w.root, &w.wrapped));
                let Some(wrap) = own.or_else(shared) else { continue };
                match WrappedKey::new(wrap.wrapped.clone()) {
                    Ok(wrapped) => asked.push((at, wrapped)),
                    Err(error) => failed[at].push(error),
                }
            }
            if asked.is_empty() {
                continue;
            }
            let requests: Vec<UnwrapRequest<'_>> =
                asked.iter().map(|(at, wrapped)| UnwrapRequest { wrapped, context: wanted[*at].context }).collect();
            for ((at, _), answer) in asked.iter().zip(provider.unwrap(&*self.clock, &requests).await) {
                match answer {
                    Ok(key) => keys[*at] = Some(data_key(key)),
                    Err(error) => failed[*at].push(error),
                }
            }
        }
        let results = keys.into_iter().zip(failed).zip(wanted);
        results.map(|((key, failed), wanted)| key.ok_or_else(|| self.not_unwrapped(failed, wanted.wraps))).collect()
    }

    fn not_unwrapped(&self, failed: Vec<Error>, wraps: &[Wrap]) -> Error {
        let disabled = |wrap: &&Wrap| self.by_uri(&wrap.root).is_some_and(|p| p.state() == RootState::Disabled);
        if let Some(wrap) = wraps.iter().find(disabled).filter(|_| failed.is_empty()) {
            return Error::new(Code::KmsKeyDisabled, self.doing("unwrap"))
                .cause(format!("the operators disabled the root key `{}` of the ring", wrap.root))
                .hint(format!(
                    "`enfold keys set-root {} active` takes it back, where the operators' key is",
                    wrap.root
                ));
        }
        if failed.is_empty() {
            return Error::new(Code::KmsKeyNotFound, self.doing("unwrap"))
                .cause("none of its wraps is by a root key of the policy")
                .hint("put the root key that wrapped it back into the ring's `roots`, or rewrap");
        }
        self.nobody("unwrap", failed)
    }

    /// See the module's head.
    fn nearest_first(&self) -> Vec<&Provider> {
        let now = self.clock.now();
        let distance = |seen: Seen| match seen.latency {
            Some((latency, at)) if now.saturating_sub(at) < MEASURED_FOR => {
                // In doublings of a millisecond: what differs by less is equally near.
                u64::try_from(latency.as_millis()).unwrap_or(u64::MAX).checked_ilog2().map_or(0, |log| log + 1)
            }
            _ => 0,
        };
        let mut order: Vec<&Provider> = self.called().collect();
        // A stable sort: the policy's order remains where nothing else decides.
        order.sort_by_cached_key(|provider| {
            let seen = provider.seen();
            (seen.failed, distance(seen))
        });
        order
    }

    /// What calls are measured by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn all(&self) -> &[Provider] {
        &self.providers
    }

    /// Those that wrap new data keys, in the policy's order.
    pub(crate) fn active(&self) -> Vec<&Provider> {
        self.providers.iter().filter(|p| p.state() == RootState::Active).collect()
    }

    /// Those that may be called at all.
    pub(super) fn called(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter().filter(|p| p.state() != RootState::Disabled)
    }

    pub(super) fn by_uri(&self, uri: &str) -> Option<&Provider> {
        self.providers.iter().find(|p| p.uri() == uri)
    }

    /// The first active root key, which wraps the data keys of records.
    pub(crate) fn first(&self) -> Result<&Provider> {
        self.active().into_iter().next().ok_or_else(|| {
            Error::new(Code::KmsKeyDisabled, self.doing("wrap"))
                .cause("the operators retired or disabled every root key of the ring")
        })
    }

    /// The root key that an inline envelope names, if it may be called.
    pub(crate) fn by_id(&self, id: KeyId) -> Option<&Provider> {
        self.called().find(|p| p.is_called(id))
    }

    /// Takes in what the operators signed.
    pub(super) fn stand(&self, signed: &BTreeMap<String, RootState>) {
        for provider in &self.providers {
            let state = signed.get(provider.uri()).copied().unwrap_or_default();
            provider.state.store(state as u8, Ordering::Relaxed);
        }
    }

    /// Takes in by which ids the catalog knows them.
    pub(super) fn name(&self, known: &[RootKey]) {
        for provider in &self.providers {
            if let Some(root) = known.iter().find(|root| root.uri == provider.uri()) {
                *provider.ids.lock().unwrap_or_else(PoisonError::into_inner) = root.ids();
            }
        }
    }

    fn doing(&self, what: &str) -> String {
        format!("cannot {what} a data key of ring `{}`", self.ring)
    }

    /// Several failures as one: the most hopeful code, since one service that comes back is enough.
    fn nobody(&self, what: &str, mut failed: Vec<Error>) -> Error {
        let at = failed.iter().position(|e| e.code().retry() == Retry::Later).unwrap_or(0);
        let mut error = failed.swap_remove(at).while_doing(self.doing(what));
        for other in failed {
            error = error.cause(other.to_string());
        }
        error
    }
}

/// A data key on its way to a key service.
pub(crate) fn material(key: &DataKey) -> KeyMaterial {
    KeyMaterial::copy(danger::expose(key))
}

/// A data key on its way from one, which ends there.
pub(crate) fn data_key(mut material: KeyMaterial) -> DataKey {
    DataKey::from_bytes(material.expose_mut())
}

pub(super) fn is_same(a: &KeyMaterial, b: &KeyMaterial) -> bool {
    subtle::ConstantTimeEq::ct_eq(&a.expose()[..], &b.expose()[..]).into()
}

pub(super) fn opens_to_another(root: &str, id: KeyId) -> Error {
    Error::new(Code::WrapInvalid, format!("the wrap of data key `{id}` by `{root}` opens to another key"))
        .cause("it was compared with what the other wraps open to")
        .hint("its row was left as it was: restore it from a backup of the catalog")
}
