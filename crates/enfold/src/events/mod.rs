//! Events: what was done with keys and values, by whom, and what was refused.
//!
//! An [`Event`] never holds a value, a key or a tenant: names, ids and counts only. Callers hand events to [`Events`],
//! which never waits: it keeps a bounded number and a background task writes them to the [`Sink`]s in batches. When
//! more come than can be written, the surplus is counted, and the count is itself written as an event: nothing is lost
//! without a trace. Values that come one at a time are counted (`tally.rs`), so that a caller pays for an event once a
//! second and not for each. A later version makes the written log tamper-evident.

mod catalog;
mod jsonl;
mod tally;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Code, Error, Result};

pub use catalog::CatalogSink;
pub use jsonl::JsonLinesSink;
use tally::Tally;
pub(crate) use tally::{Counter, Origin};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// Values were sealed.
    Seal,
    /// Values were opened.
    Open,
    /// A data key was made and stored.
    KeyMade,
    /// A data key was unwrapped: a key service was asked.
    KeyUsed,
    /// A new version of a data key seals from now on.
    KeyRotated,
    /// A data key was disabled: it neither seals nor opens.
    KeyDisabled,
    /// It was enabled again.
    KeyEnabled,
    /// Data keys were given other wraps; `count` says how many.
    KeysRewrapped,
    /// A root key was registered, rotated, retired, disabled, taken back or restored; `detail` says which and what.
    RootKey,
    /// The rules of a blind index were signed, or a generation of it was begun, took over or was given up; `detail` says which
    /// and what.
    Index,
    /// Rows were deleted by a rule of the policy; `count` says how many, `detail` which.
    RowsPruned,
    /// Values under versions below one do not open any more; `detail` says which scope and version.
    MinimumSet,
    /// Data keys are to be destroyed, and do nothing meanwhile; `detail` says whose.
    DestructionAnnounced,
    /// That was taken back.
    DestructionCancelled,
    /// They were destroyed.
    KeysDestroyed,
    /// Something was refused; `code` says why.
    Refused,
    /// Events were lost because sinks could not keep up; `count` says how many.
    Lost,
}

impl EventKind {
    /// The word that stands in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
            Self::KeyMade => "key-made",
            Self::KeyUsed => "key-used",
            Self::KeyRotated => "key-rotated",
            Self::KeyDisabled => "key-disabled",
            Self::KeyEnabled => "key-enabled",
            Self::KeysRewrapped => "keys-rewrapped",
            Self::RootKey => "root-key",
            Self::Index => "index",
            Self::RowsPruned => "rows-pruned",
            Self::MinimumSet => "minimum-set",
            Self::DestructionAnnounced => "destruction-announced",
            Self::DestructionCancelled => "destruction-cancelled",
            Self::KeysDestroyed => "keys-destroyed",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Who calls, why, and on whose behalf. All parts are the caller's word; a policy can require them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallContext {
    pub actor: Option<String>,
    pub reason: Option<String>,
    pub request_id: Option<String>,
    /// Where the call came from: an address, a service, a job.
    pub source: Option<String>,
}

impl CallContext {
    /// A context that says who asks and why.
    pub fn new(actor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), reason: Some(reason.into()), ..Self::default() }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970; of the first value, where it stands for several.
    pub at_ms: i64,
    pub kind: EventKind,
    /// The ring's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<String>,
    /// The column as the policy spells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The data key's id, where one is concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How many values (or lost events) this line stands for.
    pub count: u64,
    /// The error's code, where something was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The error's line or what was done, which holds no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Event {
    /// An event of now.
    pub fn new(kind: EventKind, count: u64) -> Self {
        Self {
            at_ms: jiff::Timestamp::now().as_millisecond(),
            kind,
            ring: None,
            column: None,
            key: None,
            count,
            code: None,
            detail: None,
            actor: None,
            reason: None,
            request_id: None,
            source: None,
        }
    }

    /// A refusal, in the words of the error.
    pub fn refused(error: &Error) -> Self {
        let mut event = Self::new(EventKind::Refused, 1);
        event.code = Some(error.code().word().to_owned());
        event.detail = Some(error.to_string());
        event
    }

    #[must_use]
    pub fn ring(mut self, ring: &str) -> Self {
        self.ring = Some(ring.to_owned());
        self
    }

    /// What was done, in words that hold no value.
    #[must_use]
    pub fn detail(mut self, says: impl Into<String>) -> Self {
        self.detail = Some(says.into());
        self
    }

    #[must_use]
    pub fn column(mut self, column: &str) -> Self {
        self.column = Some(column.to_owned());
        self
    }

    #[must_use]
    pub fn key(mut self, key: enfold_core::KeyId) -> Self {
        self.key = Some(key.to_string());
        self
    }

    #[must_use]
    pub fn context(mut self, context: &CallContext) -> Self {
        self.actor.clone_from(&context.actor);
        self.reason.clone_from(&context.reason);
        self.request_id.clone_from(&context.request_id);
        self.source.clone_from(&context.source);
        self
    }

    /// One line, without a line break: JSON escapes those of the caller's words.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The reverse of [`Self::to_json`].
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|_| Error::new(Code::StateTampered, "the log holds a line that is not one of its events"))
    }
}

/// Where events end up.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Writes a batch, whole or not at all: after an error the same batch comes again.
    async fn write(&self, batch: &[Event]) -> Result<()>;
}

/// How many events may wait for the sinks.
pub const CAPACITY: usize = 8192;
/// How many are handed to a sink at once.
const BATCH: usize = 512;
/// How long an event waits for company.
const LINGER: Duration = Duration::from_millis(200);

/// The queue between callers and sinks. See the module's head.
pub struct Events {
    sinks: Vec<Arc<dyn Sink>>,
    waiting: Mutex<VecDeque<Waiting>>,
    lost: AtomicU64,
    wake: tokio::sync::Notify,
    /// One writer at a time keeps batches in order.
    writing: tokio::sync::Mutex<()>,
}

#[allow(clippy::large_enum_variant, reason = "a box would cost each event an allocation, and the queue is bounded")]
enum Waiting {
    Event(Event),
    Tally { at_ms: i64, tally: Arc<Tally> },
}

impl Waiting {
    /// As an event, which it stays: nothing is counted into it any more.
    fn settle(&mut self) -> Event {
        let event = match self {
            Self::Event(event) => return event.clone(),
            Self::Tally { at_ms, tally } => tally.to_event(*at_ms),
        };
        *self = Self::Event(event.clone());
        event
    }
}

impl Events {
    /// Starts the background task where a tokio runtime is current; without one, [`Self::flush`] writes.
    pub fn start(sinks: Vec<Arc<dyn Sink>>) -> Arc<Self> {
        let events = Arc::new(Self {
            sinks,
            waiting: Mutex::new(VecDeque::new()),
            lost: AtomicU64::new(0),
            wake: tokio::sync::Notify::new(),
            writing: tokio::sync::Mutex::new(()),
        });
        if !events.sinks.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(write_until_gone(Arc::downgrade(&events)));
        }
        events
    }

    /// Whether anybody listens: what would be thrown away need not be built.
    pub fn is_heard(&self) -> bool {
        !self.sinks.is_empty()
    }

    /// Takes an event over without waiting. Where nobody listens it is gone at once, but a refusal is in the program's log
    /// in every case.
    pub fn emit(&self, event: Event) {
        if event.kind == EventKind::Refused {
            let (code, detail) = (event.code.as_deref(), event.detail.as_deref());
            tracing::warn!(target: "enfold::events", ring = event.ring, column = event.column, code, detail, "refused");
        }
        if self.is_heard() {
            let count = event.count;
            self.queue(Waiting::Event(event), || count);
        }
    }

    /// Counts a single value, at `now` by the caller's clock.
    pub(crate) fn count(&self, counter: &Counter, context: &CallContext, now: Duration) {
        if self.is_heard()
            && let Some(tally) = counter.count(context, now)
        {
            let at_ms = jiff::Timestamp::now().as_millisecond();
            self.queue(Waiting::Tally { at_ms, tally: Arc::clone(&tally) }, || tally.close());
        }
    }

    /// `count` is asked for how much is lost where there is no room.
    fn queue(&self, what: Waiting, count: impl FnOnce() -> u64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= CAPACITY {
            self.lost.fetch_add(count().max(1), Ordering::Relaxed);
            return;
        }
        waiting.push_back(what);
        if waiting.len() == 1 || waiting.len() == BATCH {
            self.wake.notify_one();
        }
    }

    /// Writes what waits, to every sink. An error leaves it waiting.
    pub async fn flush(&self) -> Result<()> {
        let _writing = self.writing.lock().await;
        loop {
            self.account_for_lost();
            let batch: Vec<Event> = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.iter_mut().take(BATCH).map(Waiting::settle).collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            for sink in &self.sinks {
                sink.write(&batch).await?;
            }
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..batch.len());
        }
    }

    /// How many were lost and not yet written down as lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Turns the count of lost events into an event, once there is room for it.
    fn account_for_lost(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < CAPACITY {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(target: "enfold::events", lost, "events were lost: the sinks could not keep up");
                waiting.push_back(Waiting::Event(Event::new(EventKind::Lost, lost)));
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let unwritten = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner).len();
        if unwritten > 0 {
            tracing::warn!(target: "enfold::events", unwritten, "events were not written: flush before the program ends");
        }
    }
}

async fn write_until_gone(events: Weak<Events>) {
    let mut failures: u32 = 0;
    loop {
        {
            let Some(events) = events.upgrade() else { return };
            // Wakes for an event, and now and then to see whether the handle is gone.
            tokio::time::timeout(Duration::from_secs(1), events.wake.notified()).await.ok();
        }
        tokio::time::sleep(LINGER * (1 << failures.min(6))).await;
        let Some(events) = events.upgrade() else { return };
        match events.flush().await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(target: "enfold::events", code = error.code().word(), "cannot write events: {error}");
                events.wake.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Recorder {
        written: Mutex<Vec<Event>>,
        broken: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl Sink for Recorder {
        async fn write(&self, batch: &[Event]) -> Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(Error::new(Code::FileFailed, "the sink is broken"));
            }
            self.written.lock().unwrap().extend_from_slice(batch);
            Ok(())
        }
    }

    fn without_runtime() -> (Arc<Recorder>, Arc<Events>) {
        let sink = Arc::new(Recorder::default());
        let events = Events::start(vec![Arc::clone(&sink) as Arc<dyn Sink>]);
        (sink, events)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_count_is_written() {
        let (sink, events) = without_runtime();
        for _ in 0..CAPACITY + 3 {
            events.emit(Event::new(EventKind::Seal, 10));
        }
        assert_eq!(events.lost(), 30);
        futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().unwrap();
        let written = sink.written.lock().unwrap();
        assert_eq!(written.len(), CAPACITY + 1);
        let last = written.last().unwrap();
        assert_eq!((last.kind, last.count), (EventKind::Lost, 30));
        assert_eq!(events.lost(), 0);
    }

    #[test]
    fn a_failed_batch_is_written_again_later() {
        let (sink, events) = without_runtime();
        events.emit(Event::new(EventKind::Open, 1));
        sink.broken.store(true, Ordering::Relaxed);
        assert!(futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().is_err());
        sink.broken.store(false, Ordering::Relaxed);
        futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().unwrap();
        assert_eq!(sink.written.lock().unwrap().len(), 1);
    }

    fn counter() -> Counter {
        let origin = Arc::new(Origin { ring: "ring-1".into(), column: "users.email".into() });
        Counter::new(EventKind::Open, &origin, enfold_core::KeyId::from_bytes([7; 16]))
    }

    #[test]
    fn single_values_are_counted_until_they_are_written_and_none_twice() {
        let ((sink, events), counter) = (without_runtime(), counter());
        let context = CallContext::new("ann", "support");
        let count = |n| (0..n).for_each(|_| events.count(&counter, &context, Duration::ZERO));
        count(3);
        sink.broken.store(true, Ordering::Relaxed);
        assert!(futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().is_err());
        // What comes while the batch waits to be written again belongs to the next.
        count(2);
        sink.broken.store(false, Ordering::Relaxed);
        futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().unwrap();
        count(1);
        futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().unwrap();
        let counts = sink.written.lock().unwrap().iter().map(|e| e.count).collect::<Vec<_>>();
        assert_eq!(counts, [3, 2, 1]);
    }

    #[test]
    fn single_values_that_find_no_room_are_counted_as_lost() {
        let ((_, events), counter) = (without_runtime(), counter());
        for _ in 0..CAPACITY {
            events.emit(Event::new(EventKind::Seal, 1));
        }
        for _ in 0..5 {
            events.count(&counter, &CallContext::new("ann", "support"), Duration::ZERO);
        }
        assert_eq!(events.lost(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn the_background_task_writes_without_being_asked() {
        let (sink, events) = without_runtime();
        events.emit(Event::new(EventKind::KeyMade, 1));
        while sink.written.lock().unwrap().is_empty() {
            tokio::time::advance(LINGER).await;
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_line_break_in_a_callers_word_does_not_make_a_second_line() {
        let context = CallContext::new("ann\n{\"kind\":\"seal\"}", "test");
        let event = Event::new(EventKind::Seal, 1).context(&context);
        assert!(!event.to_json().contains('\n'));
        assert_eq!(Event::from_json(&event.to_json()).unwrap(), event);
    }

    /// The catalog writes and reads the one, lines of JSON are the other.
    #[test]
    fn the_word_of_a_kind_is_the_one_that_it_is_read_by() {
        use EventKind::*;
        for kind in [
            Seal,
            Open,
            KeyMade,
            KeyUsed,
            KeyRotated,
            KeyDisabled,
            KeyEnabled,
            KeysRewrapped,
            RootKey,
            Index,
            RowsPruned,
            MinimumSet,
            DestructionAnnounced,
            DestructionCancelled,
            KeysDestroyed,
            Refused,
            Lost,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
