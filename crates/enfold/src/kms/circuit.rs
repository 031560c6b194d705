//! When somebody that does not answer is left alone, and when one call goes through to see.
//!
//! The rule behind the [`Breaker`](super::Breaker) of a key service, and behind the shared cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::breaker::{BreakerOptions, Standing};
use super::retry::jitter;
use crate::clock::Clock;
use crate::metrics::{BreakerMetrics, Counter};

/// Counts failures in a row.
pub(crate) struct Circuit {
    clock: Arc<dyn Clock>,
    options: BreakerOptions,
    state: Mutex<State>,
    left_alone: Counter,
    not_asked: Counter,
}

#[derive(Default)]
struct State {
    /// Failed calls in a row.
    failures: u32,
    /// Pauses in a row.
    pauses: u32,
    /// Not before then, once enough calls failed.
    closed_until: Option<Duration>,
    trial: bool,
}

/// What may happen to a call.
pub(crate) enum Admitted<'a> {
    Freely,
    /// To see whether the service answers again.
    OnTrial(Trial<'a>),
    NotFor(Duration),
}

/// A call on trial whose caller gives up leaves the trial to the next.
pub(crate) struct Trial<'a>(&'a Circuit);

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.0.state().trial = false;
    }
}

impl Circuit {
    pub(crate) fn new(options: BreakerOptions, clock: Arc<dyn Clock>) -> Self {
        Self { clock, options, state: Mutex::default(), left_alone: Counter::default(), not_asked: Counter::default() }
    }

    pub(crate) fn metrics(&self) -> BreakerMetrics {
        BreakerMetrics::new(self.standing(), self.left_alone.read(), self.not_asked.read())
    }

    pub(crate) fn standing(&self) -> Standing {
        let now = self.clock.now();
        match self.state().closed_until {
            None => Standing::Answers,
            Some(until) if now < until => Standing::LeftAlone(until - now),
            Some(_) => Standing::OnTrial,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code under this lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn admit(&self) -> Admitted<'_> {
        let admitted = self.ask();
        if matches!(admitted, Admitted::NotFor(_)) {
            self.not_asked.one();
        }
        admitted
    }

    fn ask(&self) -> Admitted<'_> {
        let now = self.clock.now();
        let mut state = self.state();
        match state.closed_until {
            None => Admitted::Freely,
            Some(until) if now < until => Admitted::NotFor(until - now),
            // Whoever is on trial ends soon, by the deadline of the retries below.
            Some(_) if state.trial => Admitted::NotFor(self.options.first_pause),
            Some(_) => {
                state.trial = true;
                Admitted::OnTrial(Trial(self))
            }
        }
    }

    /// What came of a call that was admitted.
    pub(crate) fn learn(&self, failed: bool) {
        let now = self.clock.now();
        let mut state = self.state();
        if !failed {
            *state = State::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        let trial = std::mem::take(&mut state.trial);
        // Calls that were on their way when it closed say nothing new.
        if trial || (state.closed_until.is_none() && state.failures >= self.options.failures) {
            let pause = self.options.first_pause.saturating_mul(1_u32.checked_shl(state.pauses).unwrap_or(u32::MAX));
            let pause = pause.min(self.options.longest_pause);
            state.pauses = state.pauses.saturating_add(1);
            // At least half of it, and not the same for every process that was cut off with this one.
            state.closed_until = Some(now + pause / 2 + jitter(pause / 2));
            self.left_alone.one();
        }
    }
}
