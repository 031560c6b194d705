//! Data events that are summed by the minute.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Event, EventKind};

const MINUTE_MS: i64 = 60_000;
/// Sums at once. More callers and data keys than that are written before their minute is over.
const MOST: usize = 4096;

/// One event for each kind, ring, column, data key, endpoint, actor, source and code of a minute.
#[derive(Default)]
pub(super) struct Summed(Mutex<Sums>);

#[derive(Default)]
struct Sums {
    minute: i64,
    events: HashMap<Same, Event>,
}

/// What events of one sum share.
#[derive(PartialEq, Eq, Hash)]
struct Same {
    kind: EventKind,
    ring: Option<String>,
    column: Option<String>,
    key: Option<String>,
    endpoint: Option<String>,
    actor: Option<String>,
    source: Option<String>,
    code: Option<String>,
    emergency: Option<String>,
}

impl Summed {
    /// Adds an event to the others of its minute. What of earlier minutes is over comes back.
    pub(super) fn add(&self, event: Event) -> Vec<Event> {
        let mut sums = self.lock();
        let over = sums.over(event.at_ms, MOST - 1);
        let event = Event { reason: None, request_id: None, subject: None, ..event };
        let same = Same {
            kind: event.kind,
            ring: event.ring.clone(),
            column: event.column.clone(),
            key: event.key.clone(),
            endpoint: event.endpoint.clone(),
            actor: event.actor.clone(),
            source: event.source.clone(),
            code: event.code.clone(),
            emergency: event.emergency.clone(),
        };
        let count = event.count;
        sums.events.entry(same).and_modify(|sum| sum.count += count).or_insert(event);
        over
    }

    /// What of earlier minutes than this is over.
    pub(super) fn over(&self) -> Vec<Event> {
        self.lock().over(jiff::Timestamp::now().as_millisecond(), MOST)
    }

    /// All of it, whether its minute is over or not.
    pub(super) fn take(&self) -> Vec<Event> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Sums> {
        // A sum that a panic left behind is a sum.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sums {
    fn over(&mut self, now_ms: i64, most: usize) -> Vec<Event> {
        let minute = now_ms.div_euclid(MINUTE_MS);
        if minute == self.minute && self.events.len() <= most {
            return Vec::new();
        }
        self.minute = minute;
        self.take()
    }

    fn take(&mut self) -> Vec<Event> {
        let mut events: Vec<Event> = self.events.drain().map(|(_, event)| event).collect();
        events.sort_by_key(|event| event.at_ms);
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::CallContext;

    fn event(at_ms: i64, actor: &str, count: u64) -> Event {
        let context = CallContext { request_id: Some(format!("r-{at_ms}")), ..CallContext::new(actor, "nightly") };
        Event { at_ms, ..Event::new(EventKind::Open, count).column("users.email").context(&context) }
    }

    #[test]
    fn events_of_one_actor_and_minute_are_one_with_their_count() {
        let summed = Summed::default();
        for (at_ms, actor) in [(60_000, "ann"), (60_001, "bob"), (119_999, "ann")] {
            assert!(summed.add(event(at_ms, actor, 10)).is_empty());
        }
        let over = summed.add(event(120_000, "ann", 1));
        let said = over.iter().map(|e| (e.at_ms, e.actor.as_deref().unwrap(), e.count)).collect::<Vec<_>>();
        assert_eq!(said, [(60_000, "ann", 20), (60_001, "bob", 10)]);
        // Words that differ between the calls are none of the sum's.
        assert!(over.iter().all(|e| e.reason.is_none() && e.request_id.is_none()));
        assert_eq!(summed.take().iter().map(|e| e.count).sum::<u64>(), 1);
    }

    #[test]
    fn more_callers_than_are_kept_lose_nothing() {
        let summed = Summed::default();
        let calls = 2 * MOST + 3;
        let mut written: u64 = 0;
        for n in 0..calls {
            written += summed.add(event(60_000, &format!("caller {n}"), 1)).iter().map(|e| e.count).sum::<u64>();
            assert!(summed.lock().events.len() <= MOST);
        }
        written += summed.take().iter().map(|e| e.count).sum::<u64>();
        assert_eq!(written, calls as u64);
    }
}
