//! Time as the cache and the epoch watch see it: a trait, so that tests move it instead of waiting.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A clock that never goes back. What its zero means is its own.
pub trait Clock: Send + Sync {
    fn now(&self) -> Duration;

    /// The time of day, in milliseconds since 1970: when a data key was made, and whether it is due to be rotated. It may go
    /// back.
    fn unix_ms(&self) -> i64 {
        jiff::Timestamp::now().as_millisecond()
    }
}

/// The machine's monotonic clock.
pub struct SystemClock(Instant);

impl SystemClock {
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Default)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
