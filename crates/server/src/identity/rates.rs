//! How often each caller may ask, by this process's own count: one who floods is slowed, and nobody else.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold::{Code, Error, Result};

/// What a caller may ask at once who has asked nothing for as long.
const BURST: Duration = Duration::from_secs(1);
/// Callers that are kept in mind; beyond them those who owe nothing are forgotten.
const MOST: usize = 10_000;

pub(crate) struct Rates {
    /// Between two requests, on average; none where nothing limits them.
    apart: Option<Duration>,
    /// By caller, the moment at which its requests so far would have come if they had come evenly (the generic cell rate
    /// algorithm, ITU-T I.371).
    due: Mutex<HashMap<String, Instant>>,
}

impl Rates {
    pub(crate) fn new(per_second: Option<NonZeroU32>) -> Self {
        Self { apart: per_second.map(|rate| Duration::from_secs(1) / rate.get()), due: Mutex::default() }
    }

    /// Counts a request, if the caller may ask it now.
    pub(crate) fn take(&self, caller: &str, now: Instant) -> Result<()> {
        let Some(apart) = self.apart else { return Ok(()) };
        // Nothing under this lock panics half-way through a change.
        let mut all = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST && !all.contains_key(caller) {
            all.retain(|_, due| *due > now);
        }
        let due = all.get(caller).map_or(now, |due| (*due).max(now));
        let early = (due + apart).saturating_duration_since(now + BURST);
        if early > Duration::ZERO {
            return Err(Error::new(Code::RateLimited, "the caller asks too often").try_again_after(early));
        }
        all.insert(caller.to_owned(), due + apart);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_asks_a_seconds_worth_at_once_and_then_evenly() {
        let (rates, now) = (Rates::new(NonZeroU32::new(4)), Instant::now());
        let asked = |caller, at: u64| rates.take(caller, now + Duration::from_millis(at));
        for _ in 0..4 {
            asked("one", 0).unwrap();
        }
        let refused = asked("one", 0).unwrap_err();
        assert_eq!((refused.code(), refused.again_after()), (Code::RateLimited, Some(Duration::from_millis(250))));
        assert!(asked("one", 249).is_err(), "a refusal costs nothing, and brings nothing");
        asked("one", 250).unwrap();
        assert!(asked("one", 250).is_err());
        asked("two", 250).unwrap();
        for _ in 0..4 {
            asked("one", 10_000).unwrap();
        }
        assert!(asked("one", 10_000).is_err(), "what was not asked is not saved for longer than a second");
    }

    #[test]
    fn without_a_rate_nobody_waits_and_callers_without_debts_are_forgotten() {
        let now = Instant::now();
        let free = Rates::new(None);
        (0..1_000).for_each(|_| free.take("one", now).unwrap());
        let rates = Rates::new(NonZeroU32::new(1));
        (0..MOST).for_each(|n| rates.take(&n.to_string(), now).unwrap());
        rates.take("late", now + Duration::from_secs(5)).unwrap();
        assert_eq!(rates.due.lock().unwrap().len(), 1);
    }
}
