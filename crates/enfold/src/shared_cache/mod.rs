//! A cache of data keys that the processes of one application share, outside of all of them.
//!
//! It spares a process that starts, or that meets a tenant for the first time, the call to the key service that another
//! process made a moment ago. What lies there is sealed under a key of the ring (`entry.rs`), and is believed no more than
//! a row of the catalog: an entry that was changed, swapped or taken from elsewhere is refused, counted, and the key service
//! is asked. Whatever else is wrong with the cache costs its deadline and nothing more: no error comes from here.
//!
//! Not here: which keys may be used at all (the signed state, asked before), how long (the ring's cache).

pub(crate) mod entry;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::Clock;
use crate::kms::{Admitted, BreakerOptions, Circuit};
use crate::metrics::SharedCacheMetrics;
use crate::policy::SharedCachePolicy;
use crate::{Code, Error, Result};

/// Where entries lie, by name.
#[async_trait]
pub(crate) trait Entries: Send + Sync {
    /// `None` where there is no entry of that name.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Keeps an entry for `life` and no longer.
    async fn put(&self, name: &str, entry: &[u8], life: Duration) -> Result<()>;

    /// Deletes entries, whether they are there or not.
    async fn remove(&self, names: &[String]) -> Result<()>;

    /// Whether the server writes what it holds to a disk.
    async fn on_disk(&self) -> Result<OnDisk>;
}

/// What a cache server says of its own persistence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// It writes nothing.
    No,
    /// It writes snapshots (`save`), a log of changes (`appendonly`), or both.
    Yes(Vec<String>),
    /// It may not be asked.
    NotTold,
}

/// What the shared cache did for this process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SharedCacheFigures {
    /// Data keys that came from it: so many calls to a key service were spared.
    pub hits: u64,
    /// Data keys that it did not have.
    pub misses: u64,
    /// Entries that were not what this program put there.
    pub refused: u64,
    /// Questions that it did not answer, or not in time. It is left alone for a while after some of them.
    pub failed: u64,
}

/// The shared cache as it was found, for `doctor`.
#[derive(Clone, Debug)]
pub struct SharedCacheHealth {
    /// `HOST:PORT`.
    pub server: String,
    pub on_disk: Result<OnDisk>,
}

/// See the module's head.
pub(crate) struct SharedCache {
    entries: Arc<dyn Entries>,
    server: String,
    deadline: Duration,
    circuit: Circuit,
    hits: AtomicU64,
    misses: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl SharedCache {
    /// Connects to nothing yet.
    pub(crate) fn open(policy: &SharedCachePolicy, clock: Arc<dyn Clock>) -> Result<Arc<Self>> {
        Ok(Self::over(entries(policy)?, &policy.server(), policy.timeout, clock))
    }

    fn over(entries: Arc<dyn Entries>, server: &str, deadline: Duration, clock: Arc<dyn Clock>) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self {
            entries,
            server: server.to_owned(),
            deadline,
            circuit: Circuit::new(BreakerOptions::default(), clock),
            hits: zero(),
            misses: zero(),
            refused: zero(),
            failed: zero(),
        })
    }

    pub(crate) async fn get(&self, name: &str) -> Option<Vec<u8>> {
        let found = self.within(self.entries.get(name)).await?;
        if found.is_none() {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    pub(crate) async fn put(&self, name: &str, entry: &[u8], life: Duration) {
        self.within(self.entries.put(name, entry, life)).await;
    }

    /// Deletes entries that nobody may find any more.
    ///
    /// # Errors
    /// `DatabaseUnavailable` where the server did not say that it has.
    pub(crate) async fn remove(&self, names: &[String]) -> Result<()> {
        self.within(self.entries.remove(names)).await.ok_or_else(|| {
            Error::new(Code::DatabaseUnavailable, "cannot delete data keys from the shared cache")
                .hint("run it again when the shared cache answers: what was done stays")
        })
    }

    pub(crate) fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry that is too old to be used.
    pub(crate) fn count_miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> SharedCacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SharedCacheFigures {
            hits: read(&self.hits),
            misses: read(&self.misses),
            refused: read(&self.refused),
            failed: read(&self.failed),
        }
    }

    pub(crate) fn metrics(&self) -> SharedCacheMetrics {
        SharedCacheMetrics { figures: self.figures(), breaker: self.circuit.metrics() }
    }

    pub(crate) async fn health(&self) -> SharedCacheHealth {
        let on_disk =
            match tokio::time::timeout(self.deadline.max(Duration::from_secs(1)), self.entries.on_disk()).await {
                Ok(told) => told,
                Err(_) => Err(late()),
            };
        SharedCacheHealth { server: self.server.clone(), on_disk }
    }

    /// An answer, if there is one in time and the server was not given up for the moment.
    async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Option<T> {
        // A connection lives in a runtime, and so does the deadline.
        tokio::runtime::Handle::try_current().ok()?;
        let trial = match self.circuit.admit() {
            Admitted::NotFor(_) => return None,
            Admitted::Freely => None,
            Admitted::OnTrial(trial) => Some(trial),
        };
        let answer = tokio::time::timeout(self.deadline, call).await.unwrap_or_else(|_| Err(late()));
        self.circuit.learn(answer.is_err());
        drop(trial);
        answer
            .inspect_err(|error| {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: "enfold::cache", "the shared cache is not used: {error}");
            })
            .ok()
    }
}

fn late() -> Error {
    Error::new(Code::DatabaseUnavailable, "the shared cache did not answer in time")
}

#[cfg(feature = "redis")]
fn entries(policy: &SharedCachePolicy) -> Result<Arc<dyn Entries>> {
    Ok(Arc::new(redis::RedisEntries::open(policy)?))
}

#[cfg(not(feature = "redis"))]
fn entries(_: &SharedCachePolicy) -> Result<Arc<dyn Entries>> {
    Err(Error::new(Code::PolicyInvalid, "cannot use a shared cache")
        .cause("this program was built without Redis")
        .hint("build it with the feature `redis`, or take `shared_cache` out of the policy"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    /// Answers never, and counts how often it was asked.
    #[derive(Default)]
    struct Silent(AtomicU64);

    #[async_trait]
    impl Entries for Silent {
        async fn get(&self, _: &str) -> Result<Option<Vec<u8>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::future::pending().await
        }

        async fn put(&self, _: &str, _: &[u8], _: Duration) -> Result<()> {
            std::future::pending().await
        }

        async fn remove(&self, _: &[String]) -> Result<()> {
            std::future::pending().await
        }

        async fn on_disk(&self) -> Result<OnDisk> {
            std::future::pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_costs_its_deadline_a_few_times_and_is_then_left_alone() {
        let (clock, silent) = (Arc::new(ManualClock::new()), Arc::new(Silent::default()));
        let cache = SharedCache::over(silent.clone(), "silent", Duration::from_millis(100), clock.clone());
        for _ in 0..20 {
            assert_eq!(cache.get("a").await, None);
        }
        assert_eq!(silent.0.load(Ordering::Relaxed), 5, "the breaker's limit");
        assert_eq!(cache.figures(), SharedCacheFigures { failed: 5, ..SharedCacheFigures::default() });
        let breaker = cache.metrics().breaker;
        assert_eq!((breaker.state, breaker.left_alone, breaker.not_asked), ("left-alone", 1, 15));
        // After the pause one question goes through to see.
        clock.advance(Duration::from_secs(2));
        for _ in 0..5 {
            cache.get("a").await;
        }
        assert_eq!(silent.0.load(Ordering::Relaxed), 6);
        assert_eq!(cache.remove(&["a".to_owned()]).await.unwrap_err().code(), Code::DatabaseUnavailable);
        assert_eq!(cache.health().await.on_disk.unwrap_err().code(), Code::DatabaseUnavailable);
    }
}
