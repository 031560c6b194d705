//! What a process did so far, as data: [`Enfold::metrics`](crate::Enfold::metrics). Whoever exports it names the figures
//! as its readers want them; `docs/reference/figures.md` is made from the comments here.
//!
//! Counts begin with the process's [`Enfold`](crate::Enfold), and only go up. Nothing here can hold a key, a value or a
//! tenant: the texts are URIs of root keys, the policy's names of rings and classes, and words of closed sets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::events::SinkStanding;
use crate::kms::{Figures, LATENCY_BOUNDS_MS, Standing};
use crate::shared_cache::SharedCacheFigures;

mod operations;

pub use operations::DURATION_BOUNDS_US;
pub(crate) use operations::{Operations, Series, Work};

/// Everything that is counted.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Metrics {
    /// Milliseconds: the inclusive upper bounds of all `latency` figures, each of which has one count more than there are
    /// bounds, for calls that took longer.
    pub latency_bounds_ms: [u64; LATENCY_BOUNDS_MS.len()],
    /// Microseconds: the inclusive upper bounds of all `durations`, each of which has one count more.
    pub duration_bounds_us: [u64; DURATION_BOUNDS_US.len()],
    /// Sealing and opening, for each class of the policy's columns.
    pub operations: Vec<OperationMetrics>,
    /// A root key of the policy each, in the order of their URIs.
    pub root_keys: Vec<RootKeyMetrics>,
    /// A ring of the policy each, in the order of their names.
    pub rings: Vec<RingMetrics>,
    /// The Redis that processes share; absent where the policy has none.
    pub shared_cache: Option<SharedCacheMetrics>,
    /// Events that were lost and not yet written down as lost.
    pub lost_events: u64,
    /// Events that were lost, all of them together.
    pub lost_events_in_all: u64,
    /// Events that wait to be written.
    pub waiting_events: u64,
    /// A receiver of the policy's `events.sinks` each.
    pub sinks: Vec<SinkStanding>,
}

/// What was done with values of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OperationMetrics {
    /// `seal` or `open`.
    pub operation: &'static str,
    /// As the policy says it of the column; empty for columns of none, and for values that live in no column.
    pub class: String,
    /// Values that were done.
    pub succeeded: u64,
    /// Values that were not, by the word of the error's code.
    pub failed: BTreeMap<&'static str, u64>,
    /// Seconds: how long all calls took together, a batch being one call. Of single values that need no look at the catalog or
    /// at a key service one in 16 is timed, and counts for 16.
    #[schemars(with = "f64")]
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Calls by how long they took: `duration_bounds_us` are the upper bounds, and the last count has none.
    pub durations: [u64; DURATION_BOUNDS_US.len() + 1],
}

/// What was asked of a root key's service.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RootKeyMetrics {
    /// Its URI, without the way there.
    pub root: String,
    /// What kind of key service it is in: `aws-kms`, `gcp-kms`, `azure-kv`, `vault`, `pkcs11`, `local` or `memory`.
    pub provider: &'static str,
    /// By the word of the operation (`wrap`, `unwrap`, `generate`, `describe`, …); those that were never called are absent.
    pub operations: BTreeMap<&'static str, Figures>,
    /// Requests that were sent again because the failure before might pass.
    pub retries: u64,
    /// Requests that were given up with a failure that might pass: no try, no time or no budget was left.
    pub given_up: u64,
    /// Calls that were held back to stay below the rate of the limit.
    pub limit_waits: u64,
    /// Seconds: for how long, all of them together.
    #[schemars(with = "f64")]
    #[serde(rename = "limit_waited_seconds", serialize_with = "seconds")]
    pub limit_waited: Duration,
    /// Whether the service is asked at present.
    pub breaker: BreakerMetrics,
}

/// Whether somebody is asked who did not answer.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct BreakerMetrics {
    /// `answers`, `left-alone` for a while, or `on-trial`: one call goes through to see.
    pub state: &'static str,
    /// Seconds until it is asked again, where it is left alone; otherwise zero.
    #[schemars(with = "f64")]
    #[serde(rename = "asked_again_in_seconds", serialize_with = "seconds")]
    pub asked_again_in: Duration,
    /// How often it was given up for a while, a look in vain included.
    pub left_alone: u64,
    /// Calls that were refused here meanwhile, and not made.
    pub not_asked: u64,
}

/// What a ring holds in memory.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RingMetrics {
    /// The policy's name of the ring.
    pub ring: String,
    /// Data keys, by id: a miss asks the catalog and a key service.
    pub data_keys: CacheMetrics,
    /// Which data key seals in a scope (of a tenant, of a column): a miss asks the catalog.
    pub scopes: CacheMetrics,
}

/// A cache, and how whoever asked it was answered: each look-up counts as one of `hits`, `stale`, `refused` and `misses`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CacheMetrics {
    /// Answered from memory, within the entry's life.
    pub hits: u64,
    /// Answered from memory past the entry's life, because the source had just failed; so is, besides as a miss, whoever
    /// asked the source and was given what was there before.
    pub stale: u64,
    /// Answered with the failure of a moment ago.
    pub refused: u64,
    /// Had to wait for the source, whether they asked it or waited for who did.
    pub misses: u64,
    /// Questions to the source that somebody waited for. Below `misses` by as many as waited for another's.
    pub fetches: u64,
    /// Questions to the source ahead of an entry's end, for which nobody waited.
    pub refreshes: u64,
    /// Questions to the source, of both kinds, that failed or were refused.
    pub failures: u64,
    /// Entries that made room for others: the cache is too small for what is used at the same time.
    pub evictions: u64,
    /// Entries held at present, those past their life included.
    pub entries: u64,
}

/// The Redis that processes share.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SharedCacheMetrics {
    #[serde(flatten)]
    pub figures: SharedCacheFigures,
    /// Whether it is asked at present.
    pub breaker: BreakerMetrics,
}

/// A figure that goes up. It orders nothing, so it costs an addition and no more.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Parts that threads share among them, so that two of them seldom write to the same memory for every value.
pub(crate) const PARTS: usize = 4;

/// The part of this thread.
pub(crate) fn part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PART: usize = NEXT.fetch_add(1, Ordering::Relaxed) % PARTS;
    }
    PART.with(|part| *part)
}

/// A [`Counter`] for what every value counts.
#[derive(Default)]
pub(crate) struct Spread([Apart; PARTS]);

/// In a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Apart(Counter);

impl Spread {
    pub(crate) fn one(&self) {
        self.0[part()].0.one();
    }

    /// As [`Self::one`], and says whether it is the last of `n` that were counted in this thread's part.
    fn one_in(&self, n: u64) -> bool {
        self.0[part()].0.0.fetch_add(1, Ordering::Relaxed) % n == n - 1
    }

    fn read(&self) -> u64 {
        self.0.iter().map(|part| part.0.read()).sum()
    }
}

/// [`CacheMetrics`] while it is counted.
#[derive(Default)]
pub(crate) struct CacheCounters {
    pub(crate) hits: Spread,
    pub(crate) stale: Counter,
    pub(crate) refused: Counter,
    pub(crate) misses: Counter,
    pub(crate) fetches: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) failures: Counter,
    pub(crate) evictions: Counter,
}

impl CacheCounters {
    pub(crate) fn read(&self, entries: usize) -> CacheMetrics {
        CacheMetrics {
            hits: self.hits.read(),
            stale: self.stale.read(),
            refused: self.refused.read(),
            misses: self.misses.read(),
            fetches: self.fetches.read(),
            refreshes: self.refreshes.read(),
            failures: self.failures.read(),
            evictions: self.evictions.read(),
            entries: entries as u64,
        }
    }
}

impl BreakerMetrics {
    pub(crate) fn new(standing: Standing, left_alone: u64, not_asked: u64) -> Self {
        let (state, asked_again_in) = match standing {
            Standing::Answers => ("answers", Duration::ZERO),
            Standing::LeftAlone(left) => ("left-alone", left),
            Standing::OnTrial => ("on-trial", Duration::ZERO),
        };
        Self { state, asked_again_in, left_alone, not_asked }
    }
}

/// A duration as a number of seconds.
pub(crate) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests;
