//! Keeps calls to a key service under a rate, so that a job of ours does not use up the quota of an account.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Instrument as _;

use super::around::{Around, Request};
use super::service::KeyManagementService;
use crate::error::Result;
use crate::metrics::Counter;
use crate::traces::span;

/// Lets requests through at a rate; each item of a batch counts. Whoever comes too early waits, in the order of arrival.
pub struct Limit {
    inner: Arc<dyn KeyManagementService>,
    per_second: NonZeroU32,
    bucket: Mutex<Bucket>,
    waits: Counter,
    waited_us: Counter,
}

impl Limit {
    /// `per_second` requests in the long run, and as many at once after a second of rest.
    pub fn new(inner: Arc<dyn KeyManagementService>, per_second: NonZeroU32) -> Self {
        let bucket = Mutex::new(Bucket::new(per_second, Instant::now()));
        Self { inner, per_second, bucket, waits: Counter::default(), waited_us: Counter::default() }
    }

    /// Requests, in the long run.
    pub fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    /// Calls that were held back.
    pub fn waits(&self) -> u64 {
        self.waits.read()
    }

    /// For how long they were, all of them together.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_us.read())
    }

    fn reserve(&self, items: usize) -> Duration {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).reserve(items, Instant::now())
    }
}

impl Around for Limit {
    fn inner(&self) -> &Arc<dyn KeyManagementService> {
        &self.inner
    }

    async fn around<R: Request>(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let wait = self.reserve(requests.len());
        if !wait.is_zero() {
            tokio::time::sleep(wait).instrument(span!("rate limit", "queue")).await;
            self.waits.one();
            self.waited_us.add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        }
        R::send(&*self.inner, requests).await
    }
}

/// Holds the moment at which everything let through so far is paid for.
struct Bucket {
    each: Duration,
    burst: Duration,
    paid_at: Instant,
}

impl Bucket {
    fn new(per_second: NonZeroU32, now: Instant) -> Self {
        let burst = Duration::from_secs(1);
        Self { each: burst / per_second.get(), burst, paid_at: now }
    }

    /// Books `items` and says how long their sender must wait.
    fn reserve(&mut self, items: usize, now: Instant) -> Duration {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        // Rest is saved up for one second, no longer.
        let idle_since = now.checked_sub(self.burst).unwrap_or(now);
        self.paid_at = self.paid_at.max(idle_since) + self.each.saturating_mul(items);
        self.paid_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt, MemoryKms};

    #[test]
    fn a_second_of_rest_lets_a_second_of_requests_through_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU32::new(10).unwrap(), start);
        let later = start + Duration::from_secs(100);
        assert_eq!(bucket.reserve(10, later), Duration::ZERO);
        assert_eq!(bucket.reserve(1, later), Duration::from_millis(100));
    }

    #[test]
    fn the_long_run_rate_is_kept_whatever_the_batches() {
        let start = Instant::now();
        let mut bucket = Bucket::new(NonZeroU32::new(100).unwrap(), start);
        let mut now = start;
        for batch in [1, 7, 300, 2, 90] {
            now += bucket.reserve(batch, now);
        }
        assert_eq!(now - start, Duration::from_millis(4000));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_counted_with_the_time() {
        let limit = Limit::new(Arc::new(MemoryKms::new("a").unwrap()), NonZeroU32::new(1).unwrap());
        let context = EncryptionContext::new();
        limit.generate_one(&context).await.unwrap();
        let (waits, waited) = (limit.waits(), limit.waited());
        limit.generate_one(&context).await.unwrap();
        assert_eq!(limit.waits(), waits + 1);
        // Only the sleep takes no time here: the bucket goes by the machine's clock.
        assert!(limit.waited() > waited);
    }

    #[tokio::test]
    async fn calls_pass_through_it() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let limit = Limit::new(memory.clone(), NonZeroU32::new(1_000_000).unwrap());
        let made = limit.generate_one(&EncryptionContext::new()).await.unwrap();
        let opened = limit.unwrap_one(&made.wrapped, &EncryptionContext::new()).await.ok().unwrap();
        assert_eq!(opened.expose(), made.key.expose());
        assert_eq!(memory.calls().unwrap, 1);
    }
}
