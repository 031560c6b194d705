//! A small honest cache for what a key service and a catalog say.
//!
//! What it promises, each with a test by that name below:
//! - It is bounded: the least recently used entry goes when another needs its room.
//! - An entry is used for `ttl` and no longer, unless the source cannot be reached: then for `stale_if_error` more. A
//!   source that answers with a refusal ends the entry at once.
//! - Whoever holds a value may end it (a key that has reached its limit of uses), and then it is not served stale either.
//! - One flight for each key: however many callers miss at once, one of them asks.
//! - From four fifths of `ttl` on, one caller begins a refresh and nobody waits for it (where a tokio runtime is
//!   current; without one that caller waits).
//! - A failure is remembered for a second, so that a source that is down is not asked by everybody.
//! - A process that was forked throws everything away: keys, salts and budgets are never shared with the parent.
//! - Whoever was given a value may keep a [`Ticket`] and find it again with it, without the lock, for as long as the cache
//!   would have given it without a second thought. A ticket keeps nothing alive.
//!
//! A hit costs one lock, one hash look-up and one question for the process id. Finding the entry to evict costs a walk
//! over all of them, which is small beside the key-service call that made the room necessary.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tracing::Instrument as _;

use crate::clock::Clock;
use crate::error::Retry;
use crate::forkmark::ForkMark;
use crate::metrics::{CacheCounters, CacheMetrics};
use crate::policy::CachePolicy;
use crate::traces::span;
use crate::{Error, Result};

/// How long a failure answers for its key.
const NEGATIVE: Duration = Duration::from_secs(1);

/// The share of an entry's life after which it is refreshed.
pub(crate) const REFRESH: f32 = 0.8;

/// See the module's head.
pub(crate) struct Cache<K, V> {
    limits: CachePolicy,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner<K, V>>,
    counters: CacheCounters,
}

struct Inner<K, V> {
    slots: HashMap<K, Slot<V>>,
    mark: ForkMark,
    /// Counts uses, to tell which entry was used least recently.
    tick: u64,
}

struct Slot<V> {
    held: Option<Held<V>>,
    failed: Option<Failed>,
    refreshing: bool,
    used: u64,
    flight: Arc<tokio::sync::Mutex<()>>,
}

struct Held<V> {
    value: Arc<V>,
    since: Duration,
    /// How old it was then.
    aged: Duration,
    mark: Arc<Mark>,
}

impl<V> Held<V> {
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since) + self.aged
    }
}

/// However an entry ends, its tickets end with it.
impl<V> Drop for Held<V> {
    fn drop(&mut self) {
        self.mark.ended.store(true, Ordering::Release);
    }
}

/// What an entry and its tickets tell each other.
#[derive(Default)]
struct Mark {
    ended: AtomicBool,
    /// A ticket was used since the cache last looked for the entry that was used least recently.
    used: AtomicBool,
}

/// A way back to an entry: see [`Cache::ticket`].
pub(crate) struct Ticket<V> {
    value: Weak<V>,
    /// When the entry is due for a refresh: from then on the cache is to be asked.
    until: Duration,
    mark: Arc<Mark>,
    ours: ForkMark,
}

impl<V> Ticket<V> {
    /// The value, unless the cache would look twice by now.
    pub(crate) fn value(&self, now: Duration) -> Option<Arc<V>> {
        self.is_good(now).then(|| self.value.upgrade()).flatten()
    }

    /// Whether the cache would still give this very value without a second thought. Counts as a use of it.
    pub(crate) fn is_good(&self, now: Duration) -> bool {
        let good = now < self.until && !self.mark.ended.load(Ordering::Acquire) && self.ours.is_ours_as_watched();
        // Written once and not each time, so that threads do not take the memory from each other.
        if good && !self.mark.used.load(Ordering::Relaxed) {
            self.mark.used.store(true, Ordering::Relaxed);
        }
        good
    }
}

/// What a source brought, and how long ago the key service said so: somebody else may have asked it.
pub(crate) struct Fetched<V> {
    pub(crate) value: V,
    pub(crate) age: Duration,
}

impl<V> Fetched<V> {
    pub(crate) fn now(value: V) -> Self {
        Self { value, age: Duration::ZERO }
    }
}

struct Failed {
    error: Error,
    until: Duration,
}

impl<V> Slot<V> {
    fn empty() -> Self {
        Self { held: None, failed: None, refreshing: false, used: 0, flight: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash, V> Inner<K, V> {
    /// Evicts the least recently used until the bound holds. A slot with a flight is left alone, because its waiters must
    /// find each other there, and so is `key`, which is being filled.
    fn make_room(&mut self, key: &K, max_keys: usize, counters: &CacheCounters) {
        if self.slots.len() <= max_keys.max(1) {
            return;
        }
        for slot in self.slots.values_mut() {
            if slot.held.as_ref().is_some_and(|held| held.mark.used.swap(false, Ordering::Relaxed)) {
                slot.used = self.tick;
            }
        }
        while self.slots.len() > max_keys.max(1) {
            let idle = self.slots.iter().filter(|(k, s)| *k != key && Arc::strong_count(&s.flight) == 1);
            let Some(oldest) = idle.min_by_key(|(_, s)| s.used).map(|(k, _)| k.clone()) else { return };
            self.slots.remove(&oldest);
            counters.evictions.one();
        }
    }
}

/// What the cache knows without asking anybody.
enum Known<V> {
    Hit(Arc<V>),
    /// Past its life, while the source fails.
    Stale(Arc<V>),
    /// A hit, and this caller is the one to refresh it.
    Refresh(Arc<V>),
    Refused(Error),
    Miss(Arc<tokio::sync::Mutex<()>>),
}

impl<K, V> Cache<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    pub(crate) fn new(limits: CachePolicy, clock: Arc<dyn Clock>) -> Arc<Self> {
        let inner = Inner { slots: HashMap::new(), mark: ForkMark::new(), tick: 0 };
        Arc::new(Self { limits, clock, inner: Mutex::new(inner), counters: CacheCounters::default() })
    }

    /// How whoever asked was answered so far.
    pub(crate) fn metrics(&self) -> CacheMetrics {
        let entries = self.lock().slots.values().filter(|slot| slot.held.is_some()).count();
        self.counters.read(entries)
    }

    /// The value of `key`, from here or from `fetch`.
    pub(crate) async fn get<F>(self: &Arc<Self>, key: &K, fetch: impl FnOnce() -> F) -> Result<Arc<V>>
    where
        F: Future<Output = Result<Fetched<V>>> + Send + 'static,
    {
        let flight = match self.look(key) {
            Known::Hit(value) => {
                self.counters.hits.one();
                return Ok(value);
            }
            Known::Stale(value) => {
                self.counters.stale.one();
                return Ok(value);
            }
            Known::Refused(error) => {
                self.counters.refused.one();
                return Err(error);
            }
            Known::Refresh(value) => {
                self.counters.hits.one();
                self.counters.refreshes.one();
                let fetch = fetch();
                self.refresh(vec![key.clone()], async move { vec![Some(fetch.await)] }).await;
                return Ok(value);
            }
            Known::Miss(flight) => flight,
        };
        self.counters.misses.one();
        self.wait(key, &flight, fetch).instrument(span!("data key", "cache")).await
    }

    /// Waits for whoever fetches the value of `key` now, or fetches it.
    async fn wait<F>(
        self: &Arc<Self>,
        key: &K,
        flight: &tokio::sync::Mutex<()>,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<V>>
    where
        F: Future<Output = Result<Fetched<V>>> + Send + 'static,
    {
        let _flight = flight.lock().await;
        // A second look: whoever flew first may have brought it.
        match self.look(key) {
            Known::Hit(value) => return Ok(value),
            Known::Stale(value) => {
                self.counters.stale.one();
                return Ok(value);
            }
            Known::Refused(error) => return Err(error),
            Known::Refresh(_) | Known::Miss(_) => {}
        }
        self.counters.fetches.one();
        let result = fetch().await;
        let failed = result.is_err();
        let settled = self.settle(key, result);
        if failed && settled.is_ok() {
            self.counters.stale.one();
        }
        settled
    }

    /// Brings in together those of `keys` that [`Self::get`] would ask for one by one. What `fetch` has no answer for
    /// (`None`) is left to be asked for, and what somebody else is fetching is left to them: nobody waits for another's
    /// flight while others wait for theirs.
    pub(crate) async fn fill<F>(self: &Arc<Self>, keys: &[K], fetch: impl Fn(Vec<K>) -> F)
    where
        F: Future<Output = Vec<Option<Result<Fetched<V>>>>> + Send + 'static,
    {
        let (mut missing, mut flights, mut due) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let mut known = self.look(key);
            let mut flying = None;
            if let Known::Miss(flight) = known {
                let Ok(flight) = flight.try_lock_owned() else { continue };
                flying = Some(flight);
                // A second look: whoever flew first may have brought it.
                known = self.look(key);
            }
            match known {
                Known::Hit(_) | Known::Stale(_) | Known::Refused(_) => {}
                Known::Refresh(_) => due.push(key.clone()),
                Known::Miss(_) => {
                    missing.push(key.clone());
                    flights.extend(flying);
                }
            }
        }
        if !due.is_empty() {
            self.counters.refreshes.add(due.len() as u64);
            self.refresh(due.clone(), fetch(due)).await;
        }
        if !missing.is_empty() {
            self.counters.fetches.add(missing.len() as u64);
            let fetch = fetch(missing.clone()).instrument(span!("data keys", "cache", values = missing.len()));
            let results = fetch.await;
            self.settle_many(&missing, results);
            drop(flights);
            missing.iter().for_each(|key| self.drop_if_empty(key));
        }
    }

    /// A ticket was as good as a hit.
    pub(crate) fn found_by_ticket(&self) {
        self.counters.hits.one();
    }

    /// Puts a value in that was made, not fetched.
    pub(crate) fn put(&self, key: &K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.hold(key, Arc::clone(&value), Duration::ZERO);
        value
    }

    /// What [`Self::get`] would say now without asking anybody; `None` where it would ask.
    pub(crate) fn known(&self, key: &K) -> Result<Option<Arc<V>>> {
        match self.look(key) {
            Known::Hit(value) | Known::Stale(value) => Ok(Some(value)),
            // Somebody who waits for nothing refreshes nothing: the next caller does.
            Known::Refresh(value) => {
                if let Some(slot) = self.lock().slots.get_mut(key) {
                    slot.refreshing = false;
                }
                Ok(Some(value))
            }
            Known::Refused(error) => Err(error),
            Known::Miss(flight) => {
                drop(flight);
                self.drop_if_empty(key);
                Ok(None)
            }
        }
    }

    /// A slot that nobody filled and nobody flies for takes no room.
    fn drop_if_empty(&self, key: &K) {
        let mut inner = self.lock();
        let empty =
            |slot: &Slot<V>| slot.held.is_none() && slot.failed.is_none() && Arc::strong_count(&slot.flight) == 1;
        if inner.slots.get(key).is_some_and(empty) {
            inner.slots.remove(key);
        }
    }

    /// What the cache holds for `key`, with a ticket to it, where it would give it without a second thought.
    pub(crate) fn ticket(&self, key: &K) -> Option<(Arc<V>, Ticket<V>)> {
        let inner = self.lock();
        let held = inner.slots.get(key)?.held.as_ref()?;
        let until = held.since + self.limits.ttl.mul_f32(REFRESH).saturating_sub(held.aged);
        let (value, mark) = (Arc::downgrade(&held.value), Arc::clone(&held.mark));
        Some((Arc::clone(&held.value), Ticket { value, until, mark, ours: ForkMark::new() }))
    }

    /// Throws one entry away.
    pub(crate) fn evict(&self, key: &K) {
        if let Some(slot) = self.lock().slots.get_mut(key) {
            slot.held = None;
        }
    }

    /// Throws a value away, unless another has taken its place meanwhile.
    pub(crate) fn evict_this(&self, key: &K, value: &Arc<V>) {
        if let Some(slot) = self.lock().slots.get_mut(key)
            && slot.held.as_ref().is_some_and(|held| Arc::ptr_eq(&held.value, value))
        {
            slot.held = None;
        }
    }

    /// What it holds a value of.
    pub(crate) fn held(&self) -> Vec<K> {
        self.lock().slots.iter().filter(|(_, slot)| slot.held.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// Throws everything away: for a hook that runs after a VM snapshot was restored, and when an epoch was refused.
    pub(crate) fn clear(&self) {
        self.lock().slots.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V>> {
        // No code under this lock panics half-way through a change.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.mark.is_ours() {
            inner.slots.clear();
            inner.mark = ForkMark::new();
        }
        inner
    }

    fn look(&self, key: &K) -> Known<V> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let limits = &self.limits;
        let slot = inner.slots.entry(key.clone()).or_insert_with(Slot::empty);
        slot.used = tick;
        let failed = slot.failed.as_ref().filter(|f| now < f.until);
        if let Some(held) = &slot.held {
            let age = held.age(now);
            let value = Arc::clone(&held.value);
            if age < limits.ttl {
                let due = age >= limits.ttl.mul_f32(REFRESH) && failed.is_none() && !slot.refreshing;
                if due {
                    slot.refreshing = true;
                    return Known::Refresh(value);
                }
                return Known::Hit(value);
            }
            if failed.is_some() && age < limits.ttl + limits.stale_if_error {
                return Known::Stale(value);
            }
        }
        match failed {
            Some(failed) => Known::Refused(failed.error.clone()),
            None => Known::Miss(Arc::clone(&slot.flight)),
        }
    }

    /// Refreshes without making the caller wait, where somebody else can do the work.
    async fn refresh(
        self: &Arc<Self>,
        keys: Vec<K>,
        fetch: impl Future<Output = Vec<Option<Result<Fetched<V>>>>> + Send + 'static,
    ) {
        let cache = Arc::clone(self);
        let work = async move {
            let results = fetch.await;
            // A refused refresh is seen by the next caller; this one was given what was valid when it asked.
            cache.settle_many(&keys, results);
            let mut inner = cache.lock();
            for key in &keys {
                if let Some(slot) = inner.slots.get_mut(key) {
                    slot.refreshing = false;
                }
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(work)),
            Err(_) => work.await,
        }
    }

    fn settle_many(&self, keys: &[K], results: Vec<Option<Result<Fetched<V>>>>) {
        for (key, result) in keys.iter().zip(results) {
            if let Some(result) = result {
                // Whoever asks for this key is told.
                self.settle(key, result).ok();
            }
        }
    }

    /// Takes in what a fetch brought.
    fn settle(&self, key: &K, result: Result<Fetched<V>>) -> Result<Arc<V>> {
        let error = match result {
            Ok(Fetched { value, age }) => {
                let value = Arc::new(value);
                self.hold(key, Arc::clone(&value), age);
                return Ok(value);
            }
            Err(error) => error,
        };
        self.counters.failures.one();
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(key) else { return Err(error) };
        slot.failed = Some(Failed { error: error.clone(), until: now + NEGATIVE });
        if error.code().retry() == Retry::Never {
            slot.held = None;
        }
        let limit = self.limits.ttl + self.limits.stale_if_error;
        let stale = slot.held.as_ref().filter(|held| held.age(now) < limit);
        let stale = stale.map(|held| Arc::clone(&held.value));
        inner.make_room(key, self.limits.max_keys, &self.counters);
        stale.ok_or(error)
    }

    fn hold(&self, key: &K, value: Arc<V>, aged: Duration) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let slot = inner.slots.entry(key.clone()).or_insert_with(Slot::empty);
        slot.held = Some(Held { value, since: now, aged, mark: Arc::default() });
        slot.failed = None;
        // A refresh that was given up with its runtime must not prevent the next one.
        slot.refreshing = false;
        slot.used = tick;
        inner.make_room(key, self.limits.max_keys, &self.counters);
    }
}

#[cfg(test)]
mod tests;
