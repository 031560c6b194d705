//! Refusals, for the log of events: who, what, and from where; by the minute, and no more of them than a log can take.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use enfold::Error;
use enfold::events::Event;

use super::Caller;
use crate::Shared;
use crate::api::Call;

const MINUTE_MS: i64 = 60_000;
/// Events of a minute. What is beyond them is counted as well, in one that does not say of whom: anybody can ask and be refused, from
/// as many addresses as they have.
const MOST: usize = 1_000;

/// What the events of this minute tell apart.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<(i64, HashSet<[Option<String>; 5]>)>);

impl Refusals {
    /// The event as it is written down.
    fn bounded(&self, event: Event) -> Event {
        let minute = event.at_ms.div_euclid(MINUTE_MS);
        // Nothing under this lock panics half-way through a change.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != minute {
            *seen = (minute, HashSet::new());
        }
        let Event { code, actor, source, endpoint, column, .. } = &event;
        let of = [code, actor, source, endpoint, column].map(Option::clone);
        if seen.1.contains(&of) || seen.1.len() < MOST {
            seen.1.insert(of);
            return event;
        }
        Event { actor: None, source: None, endpoint: None, column: None, ..event }
    }
}

impl Shared {
    /// Has the log of events say that somebody was refused so many things; `column` is left out where the policy has none of this
    /// name: it is the caller's word.
    pub(crate) fn note_refusal(
        &self,
        error: &Error,
        call: &Call,
        caller: Option<&Caller>,
        column: Option<&str>,
        count: u64,
    ) {
        let mut event = Event::refused(error).endpoint(call.endpoint()).context(&call.context_of(caller));
        event.count = count;
        let policy = self.enfold.policy();
        let is_known = |column: &&str| policy.column(column).is_some() || policy.values.contains_key(*column);
        if let Some(column) = column.filter(is_known) {
            event = event.column(column);
        }
        self.enfold.log_summed(self.refusals.bounded(event));
    }
}

#[cfg(test)]
mod tests {
    use enfold::Code;
    use enfold::events::CallContext;

    use super::*;

    fn refused(at_ms: i64, source: usize) -> Event {
        let context = CallContext { source: Some(source.to_string()), ..CallContext::default() };
        let error = Error::new(Code::Unauthenticated, "nobody knows who asks");
        Event { at_ms, ..Event::refused(&error).endpoint("GET unknown").context(&context) }
    }

    #[test]
    fn a_flood_from_everywhere_is_no_more_than_so_many_events_a_minute() {
        let refusals = Refusals::default();
        let told = |at_ms, source| refusals.bounded(refused(at_ms, source)).source;
        let all: HashSet<_> = (0..10 * MOST).map(|source| told(60_000, source)).collect();
        assert_eq!(all.len(), MOST + 1);
        assert!(all.contains(&None), "the others are counted together");
        assert_eq!(told(119_999, 7).as_deref(), Some("7"), "who was there first stays told apart");
        assert_eq!(told(120_000, 10 * MOST), Some((10 * MOST).to_string()), "and each minute begins anew");
    }
}
