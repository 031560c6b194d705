//! A small honest cache for what a key service and a catalog say.
//!
//! What it promises, each with a test by that name below:
//! - It is bounded: the least recently used entry goes when another needs its room.
//! - An entry is used for `ttl` and no longer, unless the source cannot be reached: then for `stale_if_error` more. A
//!   source that answers with a refusal ends the entry at once.
//! - One flight for each key: however many callers miss at once, one of them asks.
//! - From four fifths of `ttl` on, one caller begins a refresh and nobody waits for it (where a tokio runtime is
//!   current; without one that caller waits).
//! - A failure is remembered for a second, so that a source that is down is not asked by everybody.
//! - A process that was forked throws everything away: keys, salts and budgets are never shared with the parent.
//!
//! A hit costs one lock, one hash look-up and one question for the process id. Finding the entry to evict costs a walk
//! over all of them, which is small beside the key-service call that made the room necessary.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::error::Retry;
use crate::forkmark::ForkMark;
use crate::policy::CachePolicy;
use crate::{Error, Result};

/// How long a failure answers for its key.
const NEGATIVE: Duration = Duration::from_secs(1);

/// See the module's head.
pub(crate) struct Cache<K, V> {
    limits: CachePolicy,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner<K, V>>,
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
}

struct Failed {
    error: Error,
    until: Duration,
}

/// What the cache knows without asking anybody.
enum Known<V> {
    Hit(Arc<V>),
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
        Arc::new(Self { limits, clock, inner: Mutex::new(inner) })
    }

    /// The value of `key`, from here or from `fetch`.
    pub(crate) async fn get<F>(self: &Arc<Self>, key: &K, fetch: impl FnOnce() -> F) -> Result<Arc<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let flight = match self.look(key) {
            Known::Hit(value) => return Ok(value),
            Known::Refused(error) => return Err(error),
            Known::Refresh(value) => {
                self.refresh(key.clone(), fetch()).await;
                return Ok(value);
            }
            Known::Miss(flight) => flight,
        };
        let _flight = flight.lock().await;
        // A second look: whoever flew first may have brought it.
        match self.look(key) {
            Known::Hit(value) => return Ok(value),
            Known::Refused(error) => return Err(error),
            Known::Refresh(_) | Known::Miss(_) => {}
        }
        let result = fetch().await;
        self.settle(key, result)
    }

    /// Puts a value in that was made, not fetched.
    pub(crate) fn put(&self, key: &K, value: V) -> Arc<V> {
        let value = Arc::new(value);
        self.hold(key, Arc::clone(&value));
        value
    }

    /// Throws one entry away.
    pub(crate) fn evict(&self, key: &K) {
        if let Some(slot) = self.lock().slots.get_mut(key) {
            slot.held = None;
        }
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
        let slot = inner.slots.entry(key.clone()).or_insert_with(|| Slot {
            held: None,
            failed: None,
            refreshing: false,
            used: tick,
            flight: Arc::default(),
        });
        slot.used = tick;
        let failed = slot.failed.as_ref().filter(|f| now < f.until);
        if let Some(held) = &slot.held {
            let age = now.saturating_sub(held.since);
            let value = Arc::clone(&held.value);
            if age < limits.ttl {
                let due = age >= limits.ttl.mul_f32(0.8) && failed.is_none() && !slot.refreshing;
                if due {
                    slot.refreshing = true;
                    return Known::Refresh(value);
                }
                return Known::Hit(value);
            }
            if failed.is_some() && age < limits.ttl + limits.stale_if_error {
                return Known::Hit(value);
            }
        }
        match failed {
            Some(failed) => Known::Refused(failed.error.clone()),
            None => Known::Miss(Arc::clone(&slot.flight)),
        }
    }

    /// Refreshes without making the caller wait, where somebody else can do the work.
    async fn refresh(self: &Arc<Self>, key: K, fetch: impl Future<Output = Result<V>> + Send + 'static) {
        let cache = Arc::clone(self);
        let work = async move {
            let result = fetch.await;
            // A refused refresh is seen by the next caller; this one was given what was valid when it asked.
            cache.settle(&key, result).ok();
            if let Some(slot) = cache.lock().slots.get_mut(&key) {
                slot.refreshing = false;
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(work)),
            Err(_) => work.await,
        }
    }

    /// Takes in what a fetch brought.
    fn settle(&self, key: &K, result: Result<V>) -> Result<Arc<V>> {
        let error = match result {
            Ok(value) => {
                let value = Arc::new(value);
                self.hold(key, Arc::clone(&value));
                return Ok(value);
            }
            Err(error) => error,
        };
        let now = self.clock.now();
        let mut inner = self.lock();
        let Some(slot) = inner.slots.get_mut(key) else { return Err(error) };
        slot.failed = Some(Failed { error: error.clone(), until: now + NEGATIVE });
        if error.code().retry() == Retry::Never {
            slot.held = None;
        }
        let limit = self.limits.ttl + self.limits.stale_if_error;
        match &slot.held {
            Some(held) if now.saturating_sub(held.since) < limit => Ok(Arc::clone(&held.value)),
            _ => Err(error),
        }
    }

    fn hold(&self, key: &K, value: Arc<V>) {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let slot = inner.slots.entry(key.clone()).or_insert_with(|| Slot {
            held: None,
            failed: None,
            refreshing: false,
            used: tick,
            flight: Arc::default(),
        });
        slot.held = Some(Held { value, since: now });
        slot.failed = None;
        slot.used = tick;
        while inner.slots.len() > self.limits.max_keys.max(1) {
            // A slot with a flight is left alone: its waiters must find each other there.
            let oldest = inner.slots.iter().filter(|(k, s)| *k != key && Arc::strong_count(&s.flight) == 1);
            let Some(oldest) = oldest.min_by_key(|(_, s)| s.used).map(|(k, _)| k.clone()) else { return };
            inner.slots.remove(&oldest);
        }
    }
}
