//! Counting single values instead of writing an event for each.
//!
//! Values that one caller seals one at a time under one data key are one event with their count, if they come within a
//! second: what an event says is the same for all of them. Another caller, reason, request or source is another event.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enfold_core::KeyId;

use super::{CallContext, Event, EventKind};

/// The longest time that one event stands for.
const AT_MOST: Duration = Duration::from_secs(1);

/// Where values come from that are counted, in the words of events.
pub(crate) struct Origin {
    /// The ring's id.
    pub(crate) ring: String,
    /// The column as the policy spells it.
    pub(crate) column: String,
}

/// An event that is still being counted. It waits in the queue from the first value on until it is written.
pub(super) struct Tally {
    kind: EventKind,
    origin: Arc<Origin>,
    key: KeyId,
    version: u32,
    context: CallContext,
    /// When its first value came, by the caller's clock.
    began: Duration,
    /// Zero once it was taken from the queue: nothing is counted into it any more.
    count: AtomicU64,
}

/// The tally that values of one kind, column and key were counted into last.
pub(crate) struct Counter {
    kind: EventKind,
    origin: Arc<Origin>,
    key: KeyId,
    version: u32,
    last: Mutex<Option<Arc<Tally>>>,
}

impl Counter {
    /// Of a data key in this version.
    pub(crate) fn new(kind: EventKind, origin: &Arc<Origin>, key: KeyId, version: u32) -> Self {
        Self { kind, origin: Arc::clone(origin), key, version, last: Mutex::default() }
    }

    /// One value as an event of its own.
    pub(crate) fn to_event(&self, context: &CallContext) -> Event {
        let event = Event::new(self.kind, 1);
        event.ring(&self.origin.ring).column(&self.origin.column).key(self.key, Some(self.version)).context(context)
    }

    pub(crate) fn kind(&self) -> EventKind {
        self.kind
    }

    /// Counts one value. A tally that it had to begin is given to the caller to be queued.
    pub(super) fn count(&self, context: &CallContext, now: Duration) -> Option<Arc<Tally>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|tally| tally.take_in(context, now)) {
            return None;
        }
        let (origin, context) = (Arc::clone(&self.origin), context.clone());
        let (kind, key, version, count) = (self.kind, self.key, self.version, AtomicU64::new(1));
        let tally = Tally { kind, origin, key, version, context, began: now, count };
        Some(Arc::clone(last.insert(Arc::new(tally))))
    }
}

impl Tally {
    /// Whether one more value could be counted into it.
    fn take_in(&self, context: &CallContext, now: Duration) -> bool {
        if now.saturating_sub(self.began) >= AT_MOST || self.context != *context {
            return false;
        }
        let mut count = self.count.load(Ordering::Relaxed);
        while count > 0 {
            match self.count.compare_exchange_weak(count, count + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(present) => count = present,
            }
        }
        false
    }

    /// Ends it: how many values it counted.
    pub(super) fn close(&self) -> u64 {
        self.count.swap(0, Ordering::Relaxed)
    }

    /// Ends it and says it as an event.
    pub(super) fn to_event(&self, at_ms: i64) -> Event {
        let event = Event { at_ms, ..Event::new(self.kind, self.close()) };
        event
            .ring(&self.origin.ring)
            .column(&self.origin.column)
            .key(self.key, Some(self.version))
            .context(&self.context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> Counter {
        let origin = Arc::new(Origin { ring: "ring-1".into(), column: "users.email".into() });
        Counter::new(EventKind::Seal, &origin, KeyId::from_bytes([7; 16]), 2)
    }

    #[test]
    fn values_of_one_caller_within_a_second_are_one_event() {
        let (counter, ann) = (counter(), CallContext::new("ann", "support"));
        let tally = counter.count(&ann, Duration::ZERO).unwrap();
        for ms in [1, 500, 999] {
            assert!(counter.count(&ann, Duration::from_millis(ms)).is_none());
        }
        let event = tally.to_event(42);
        assert_eq!((event.at_ms, event.kind, event.count), (42, EventKind::Seal, 4));
        assert_eq!((event.ring.as_deref(), event.column.as_deref()), (Some("ring-1"), Some("users.email")));
        assert_eq!((event.actor.as_deref(), event.reason.as_deref()), (Some("ann"), Some("support")));
        assert_eq!((event.key, event.key_version), (Some("07".repeat(16)), Some(2)));
    }

    #[test]
    fn another_second_and_any_other_word_of_the_caller_is_another_event() {
        let context = CallContext::new("ann", "support");
        let changed: [fn(&mut CallContext); 4] = [
            |c| c.actor = Some("bob".into()),
            |c| c.reason = None,
            |c| c.request_id = Some("r-1".into()),
            |c| c.source = Some("10.0.0.1".into()),
        ];
        for change in changed {
            let counter = counter();
            assert!(counter.count(&context, Duration::ZERO).is_some());
            let mut other = context.clone();
            change(&mut other);
            assert!(counter.count(&other, Duration::ZERO).is_some());
        }
        let counter = counter();
        assert!(counter.count(&context, Duration::ZERO).is_some());
        assert!(counter.count(&context, Duration::from_secs(1)).is_some());
    }

    #[test]
    fn nothing_is_counted_into_what_was_taken_from_the_queue() {
        let (counter, ann) = (counter(), CallContext::new("ann", "support"));
        let first = counter.count(&ann, Duration::ZERO).unwrap();
        assert_eq!(first.close(), 1);
        let second = counter.count(&ann, Duration::ZERO).unwrap();
        assert_eq!((first.close(), second.close()), (0, 1));
    }
}
