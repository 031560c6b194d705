//! By how much the clock of a service differs from ours, as the `Date` of its answers has it (RFC 9110, section 6.6.1).

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};

/// No answer with a date came yet.
const NOT_TOLD: i64 = i64::MIN;
/// A `Date` has no fraction: the service's clock is at it, or up to a second past it.
const FRACTION_MS: i64 = 999;

/// The difference at the last answer.
pub(super) struct ServiceClock(AtomicI64);

impl Default for ServiceClock {
    fn default() -> Self {
        Self(AtomicI64::new(NOT_TOLD))
    }
}

impl ServiceClock {
    /// An answer came at `now`. One without a date that can be read says nothing.
    pub(super) fn saw(&self, date: Option<&str>, now: Timestamp) {
        if let Some(date) = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok()) {
            let ahead = ahead(date.as_millisecond(), now.as_millisecond());
            self.0.store(ahead, Ordering::Relaxed);
        }
    }

    /// By how much the service is ahead of us at least; behind us where it is negative.
    pub(super) fn skew(&self) -> Option<SignedDuration> {
        let ahead = self.0.load(Ordering::Relaxed);
        (ahead != NOT_TOLD).then(|| SignedDuration::from_millis(ahead))
    }
}

fn ahead(date: i64, now: i64) -> i64 {
    let least = date.saturating_sub(now);
    let most = least.saturating_add(FRACTION_MS);
    if least > 0 { least } else { most.min(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skew(date: &str) -> Option<i128> {
        let clock = ServiceClock::default();
        // 784111777 seconds after 1970 is the example of RFC 9110, section 5.6.7, and here it is half a second later.
        clock.saw(Some(date), Timestamp::from_millisecond(784_111_777_500).unwrap());
        clock.skew().map(|skew| skew.as_millis())
    }

    #[test]
    fn the_date_of_an_answer_is_compared_to_its_second() {
        assert_eq!(skew("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert_eq!(skew("Sun, 06 Nov 1994 08:50:37 GMT"), Some(59_500), "ahead");
        assert_eq!(skew("Sun, 06 Nov 1994 08:48:37 GMT"), Some(-59_501), "behind");
    }

    #[test]
    fn an_answer_without_a_date_that_can_be_read_leaves_what_was_known() {
        assert_eq!(skew("yesterday"), None);
        let clock = ServiceClock::default();
        let now = Timestamp::from_second(784_111_837).unwrap();
        clock.saw(Some("Sun, 06 Nov 1994 08:49:37 GMT"), now);
        clock.saw(None, now);
        clock.saw(Some("Sun, 99 Nov 1994"), now);
        assert_eq!(clock.skew(), Some(SignedDuration::from_millis(-59_001)));
    }
}
