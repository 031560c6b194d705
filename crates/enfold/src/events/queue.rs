//! The queue between callers and sinks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tracing::Instrument as _;

use super::chain::{Chain, Entry};
use super::summed::Summed;
use super::tally::{Counter, Tally};
use super::{CallContext, Event, EventKind, SignedCheckpoint, Sink, SinkStanding};
use crate::traces::span;
use crate::{Code, Error, Result};

/// How many events may wait for the sinks.
pub const CAPACITY: usize = 8192;
/// How many are handed to a sink at once.
const BATCH: usize = 512;
/// How long an event waits for company.
const LINGER: Duration = Duration::from_millis(200);
/// From how many on callers wait for room.
const CROWDED: usize = CAPACITY / 2;
/// And for how long at the most: a sink that hangs holds nobody up for longer.
const FOR_ROOM: Duration = Duration::from_millis(250);

/// The queue between callers and sinks. See the module's head.
pub struct Events {
    sinks: Vec<Arc<dyn Sink>>,
    queue: Mutex<Queue>,
    /// Whether nobody has an answer before its event is written: what waits is bounded by the calls that wait, then.
    before_answer: bool,
    lost: AtomicU64,
    /// All that ever were.
    lost_in_all: AtomicU64,
    /// How many of [`Queue::taken_in`] are with every sink.
    written: AtomicU64,
    wake: tokio::sync::Notify,
    /// Whether more waits than ought to. Changed under the lock of `queue` alone.
    crowded: AtomicBool,
    /// Told when that is over.
    room: tokio::sync::Notify,
    /// Whether there is a background task whose last writing went well: then there will be room.
    taking: AtomicBool,
    /// One writer at a time keeps the chain.
    writing: tokio::sync::Mutex<Writing>,
    summed: Summed,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// How many it ever took in.
    taken_in: u64,
}

/// What is being written. A batch has its place in the chain, so it stays what it is until every sink has it.
#[derive(Default)]
struct Writing {
    chain: Option<Chain>,
    batch: Vec<Entry>,
    /// How many sinks have it, in their order.
    sinks_done: usize,
    /// What [`Events::written`] is when they all have it.
    upto: u64,
    /// Of each sink, how many lines of those that it lost an event has told of.
    told: Vec<u64>,
}

#[allow(clippy::large_enum_variant, reason = "a box would cost each event an allocation, and the queue is bounded")]
enum Waiting {
    Event(Event),
    Tally { at_ms: i64, tally: Arc<Tally> },
}

impl Waiting {
    /// As an event: nothing is counted into it any more.
    fn settle(self) -> Event {
        match self {
            Self::Event(event) => event,
            Self::Tally { at_ms, tally } => tally.to_event(at_ms),
        }
    }
}

impl Events {
    /// Starts the background task where a tokio runtime is current; without one, [`Self::flush`] writes.
    pub fn start(sinks: Vec<Arc<dyn Sink>>, before_answer: bool) -> Arc<Self> {
        let events = Arc::new(Self {
            sinks,
            queue: Mutex::default(),
            before_answer,
            lost: AtomicU64::new(0),
            lost_in_all: AtomicU64::new(0),
            written: AtomicU64::new(0),
            wake: tokio::sync::Notify::new(),
            crowded: AtomicBool::new(false),
            room: tokio::sync::Notify::new(),
            taking: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
            summed: Summed::default(),
        });
        if !events.sinks.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            events.taking.store(true, Ordering::Relaxed);
            runtime.spawn(write_until_gone(Writer(Arc::downgrade(&events))));
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
        debug_assert_eq!(EventKind::stray(&event), None, "{} is given a field that its kind has not", event.kind);
        if matches!(event.kind, EventKind::Refused | EventKind::Denied | EventKind::SealFailed | EventKind::OpenFailed)
        {
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

    /// Adds a data event to those of its minute that differ in nothing but when and why they came. It is written when the minute
    /// is over.
    pub(crate) fn sum(&self, event: Event) {
        if self.is_heard() {
            self.queue_all(self.summed.add(event));
        }
    }

    /// `count` is asked for how much is lost where there is no room.
    fn queue(&self, what: Waiting, count: impl FnOnce() -> u64) {
        let mut queue = self.lock();
        if queue.waiting.len() >= CAPACITY && !self.before_answer {
            let lost = count().max(1);
            self.lost.fetch_add(lost, Ordering::Relaxed);
            self.lost_in_all.fetch_add(lost, Ordering::Relaxed);
            return;
        }
        queue.push(what);
        if [1, BATCH, CROWDED].contains(&queue.waiting.len()) {
            self.wake.notify_one();
        }
        self.crowded.store(queue.waiting.len() >= CROWDED, Ordering::Relaxed);
    }

    fn queue_all(&self, events: Vec<Event>) {
        for event in events {
            let count = event.count;
            self.queue(Waiting::Event(event), || count);
        }
    }

    /// Where the policy wants events written before anybody has an answer, waits until those that were handed over so far are with
    /// every sink. Callers that wait at once are written at once. Otherwise waits for room, if more events come than are written.
    pub(crate) async fn before_answer(&self) -> Result<()> {
        if !self.before_answer || !self.is_heard() {
            // What times the wait belongs to a runtime; a caller without one goes on.
            if self.is_crowded() && tokio::runtime::Handle::try_current().is_ok() {
                tokio::time::timeout(FOR_ROOM, self.until_there_is_room()).await.ok();
            }
            return Ok(());
        }
        let upto = self.lock().taken_in;
        if self.written.load(Ordering::Acquire) >= upto {
            return Ok(());
        }
        self.written_to(upto).instrument(span!("write events", "queue")).await
    }

    async fn written_to(&self, upto: u64) -> Result<()> {
        let mut writing = self.writing.lock().await;
        while self.written.load(Ordering::Acquire) < upto {
            self.write_batch(&mut writing).await.map_err(|error| {
                Error::new(Code::EventsUnwritten, "cannot answer before the event of the call is written")
                    .cause(error.to_string())
                    .hint("the policy wants it so (`events.before_answer`); the call may be made again")
            })?;
        }
        Ok(())
    }

    async fn until_there_is_room(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if !self.is_crowded() {
                return;
            }
            room.await;
        }
    }

    /// Whether more waits than ought to, and is being written.
    fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) && self.taking.load(Ordering::Relaxed)
    }

    /// Says whether the background task's last writing went well.
    fn take_or_not(&self, taking: bool) {
        self.taking.store(taking, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Writes what waits, to every sink, also what is still being summed. An error leaves it waiting.
    pub async fn flush(&self) -> Result<()> {
        self.queue_all(self.summed.take());
        self.write().await
    }

    /// As [`Self::flush`], and has sinks that hand on later do so, for `within` at most: for the end of the program.
    pub async fn settle(&self, within: Duration) -> Result<()> {
        self.flush().await?;
        futures_util::future::join_all(self.sinks.iter().map(|sink| sink.settle(within))).await;
        // What was given up is an event, too.
        self.write().await
    }

    async fn write(&self) -> Result<()> {
        let mut writing = self.writing.lock().await;
        while self.write_batch(&mut writing).await? {}
        Ok(())
    }

    /// False where nothing waits.
    async fn write_batch(&self, writing: &mut Writing) -> Result<bool> {
        if writing.batch.is_empty() && !self.next_batch(writing)? {
            return Ok(false);
        }
        while let Some(sink) = self.sinks.get(writing.sinks_done) {
            sink.write(&writing.batch).await?;
            writing.sinks_done += 1;
        }
        writing.batch.clear();
        self.written.store(writing.upto, Ordering::Release);
        Ok(true)
    }

    /// Takes what waits into the chain, as much as is written at once.
    fn next_batch(&self, writing: &mut Writing) -> Result<bool> {
        self.account_for_lost();
        self.account_for_undelivered(writing);
        // A copy of the process begins a chain of its own.
        let chain = match writing.chain.take_if(|chain| chain.is_ours()) {
            Some(chain) => writing.chain.insert(chain),
            None => writing.chain.insert(Chain::begin()?),
        };
        let (waiting, upto) = self.take();
        // Encoded and hashed with the lock given back: callers wait for it.
        writing.batch = waiting.into_iter().map(|waits| chain.add(waits.settle())).collect::<Result<_>>()?;
        (writing.upto, writing.sinks_done) = (upto, 0);
        Ok(!writing.batch.is_empty())
    }

    fn take(&self) -> (Vec<Waiting>, u64) {
        let mut queue = self.lock();
        let taken = queue.take(BATCH);
        let crowded = queue.waiting.len() >= CROWDED;
        if self.crowded.swap(crowded, Ordering::Relaxed) && !crowded {
            self.room.notify_waiters();
        }
        taken
    }

    /// Hands a checkpoint to every sink.
    pub(crate) async fn note(&self, checkpoint: &SignedCheckpoint) -> Result<()> {
        for sink in &self.sinks {
            sink.note(checkpoint).await?;
        }
        Ok(())
    }

    /// How many were lost and not yet written down as lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many were lost since there is this queue.
    pub(crate) fn lost_in_all(&self) -> u64 {
        self.lost_in_all.load(Ordering::Relaxed)
    }

    /// How many wait to be handed to the sinks; a batch that is with them does not.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Turns the count of lost events into an event, once there is room for it.
    fn account_for_lost(&self) {
        let mut queue = self.lock();
        if queue.waiting.len() < CAPACITY {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(target: "enfold::events", lost, "events were lost: the sinks could not keep up");
                queue.push(Waiting::Event(Event::new(EventKind::Lost, lost)));
            }
        }
    }

    /// Turns what sinks lost of what they were given into events. Those are given to the same sinks, so it waits until they have room.
    fn account_for_undelivered(&self, writing: &mut Writing) {
        writing.told.resize(self.sinks.len(), 0);
        for (sink, told) in self.sinks.iter().zip(&mut writing.told) {
            let Some(standing) = sink.standing().filter(|standing| standing.has_room && standing.lost > *told) else {
                continue;
            };
            let event = Event::new(EventKind::Undelivered, standing.lost - *told);
            *told = standing.lost;
            self.lock().push(Waiting::Event(event.detail(format!("{} `{}`", standing.kind, standing.sink))));
        }
    }

    /// How the sinks do that hand on later.
    pub(crate) fn standing(&self) -> Vec<SinkStanding> {
        self.sinks.iter().filter_map(|sink| sink.standing()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code under this lock panics half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn push(&mut self, what: Waiting) {
        self.waiting.push_back(what);
        self.taken_in += 1;
    }

    /// Gives away the first, `most` at the most, and how many were given away by now.
    fn take(&mut self, most: usize) -> (Vec<Waiting>, u64) {
        let some = self.waiting.len().min(most);
        let taken = self.waiting.drain(..some).collect();
        (taken, self.taken_in - self.waiting.len() as u64)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let waiting = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner).waiting.len();
        let unwritten = waiting + self.writing.get_mut().batch.len();
        if unwritten > 0 {
            tracing::warn!(target: "enfold::events", unwritten, "events were not written: flush before the program ends");
        }
    }
}

/// The background task's side of the queue. When it ends, with its runtime or with the last handle, nobody waits for it any more.
struct Writer(Weak<Events>);

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(events) = self.0.upgrade() {
            events.take_or_not(false);
        }
    }
}

async fn write_until_gone(writer: Writer) {
    let mut failures: u32 = 0;
    loop {
        {
            let Some(events) = writer.0.upgrade() else { return };
            // Wakes for an event, and now and then to see whether the handle is gone or a minute over.
            tokio::time::timeout(Duration::from_secs(1), events.wake.notified()).await.ok();
            if failures == 0 && events.waiting() < BATCH {
                tokio::time::timeout(LINGER, events.wake.notified()).await.ok();
            }
        }
        if failures > 0 {
            tokio::time::sleep(LINGER * (1 << failures.min(6))).await;
        }
        let Some(events) = writer.0.upgrade() else { return };
        events.queue_all(events.summed.over());
        let written = events.write().await;
        events.take_or_not(written.is_ok());
        match written {
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
    use async_trait::async_trait;

    use super::super::Origin;
    use super::*;

    #[derive(Default)]
    struct Recorder {
        written: Mutex<Vec<Entry>>,
        broken: AtomicBool,
        hangs: AtomicBool,
    }

    #[async_trait]
    impl Sink for Recorder {
        async fn write(&self, batch: &[Entry]) -> Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(Error::new(Code::FileFailed, "the sink is broken"));
            }
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            self.written.lock().unwrap().extend_from_slice(batch);
            Ok(())
        }
    }

    fn without_runtime() -> (Arc<Recorder>, Arc<Events>) {
        let sink = Arc::new(Recorder::default());
        let events = Events::start(vec![Arc::clone(&sink) as Arc<dyn Sink>], false);
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
        assert_eq!((last.event.kind, last.event.count), (EventKind::Lost, 30));
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
        Counter::new(EventKind::Open, &origin, enfold_core::KeyId::from_bytes([7; 16]), 1)
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
        let counts = sink.written.lock().unwrap().iter().map(|e| e.event.count).collect::<Vec<_>>();
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

    /// With a background task.
    fn with_runtime() -> (Arc<Recorder>, Arc<Events>) {
        let sink = Arc::new(Recorder::default());
        let events = Events::start(vec![Arc::clone(&sink) as Arc<dyn Sink>], false);
        (sink, events)
    }

    #[tokio::test(start_paused = true)]
    async fn callers_wait_for_room_while_the_sinks_take_what_comes() {
        let (sink, events) = with_runtime();
        let caller = async || {
            for _ in 0..CAPACITY {
                events.emit(Event::new(EventKind::Open, 1));
                events.before_answer().await.unwrap();
            }
        };
        futures_util::future::join_all((0..4).map(|_| caller())).await;
        events.flush().await.unwrap();
        assert_eq!((sink.written.lock().unwrap().len(), events.lost_in_all()), (4 * CAPACITY, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_hangs_holds_a_caller_up_for_a_moment_and_one_that_fails_not_at_all() {
        let (sink, events) = with_runtime();
        let waited = async |events: &Events| {
            let began = tokio::time::Instant::now();
            events.before_answer().await.unwrap();
            began.elapsed()
        };
        let fill = |events: &Events| (0..2 * CROWDED).for_each(|_| events.emit(Event::new(EventKind::Open, 1)));
        sink.hangs.store(true, Ordering::Relaxed);
        fill(&events);
        assert!((FOR_ROOM..2 * FOR_ROOM).contains(&waited(&events).await));

        let (sink, events) = with_runtime();
        sink.broken.store(true, Ordering::Relaxed);
        fill(&events);
        waited(&events).await;
        assert_eq!(waited(&events).await, Duration::ZERO, "it has failed by now");
    }

    #[test]
    fn nobody_waits_for_a_background_task_that_ended_with_its_runtime() {
        let runtime =
            || tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let first = runtime();
        let (_, events) = first.block_on(async { with_runtime() });
        drop(first);
        runtime().block_on(async {
            (0..CAPACITY).for_each(|_| events.emit(Event::new(EventKind::Open, 1)));
            let began = tokio::time::Instant::now();
            events.before_answer().await.unwrap();
            assert_eq!(began.elapsed(), Duration::ZERO);
        });
    }

    #[tokio::test]
    async fn each_sink_has_each_entry_once_however_often_another_fails() {
        let (first, second) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
        let sinks = [&first, &second].map(|sink| Arc::clone(sink) as Arc<dyn Sink>);
        let events = Events::start(sinks.to_vec(), false);
        second.broken.store(true, Ordering::Relaxed);
        for count in 1..=3 {
            events.emit(Event::new(EventKind::Seal, count));
            assert!(events.flush().await.is_err());
        }
        second.broken.store(false, Ordering::Relaxed);
        events.flush().await.unwrap();
        let written = first.written.lock().unwrap().clone();
        assert_eq!(written, *second.written.lock().unwrap());
        assert_eq!(written.iter().map(|e| (e.seq, e.event.count)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3)]);
        assert!(written.windows(2).all(|pair| pair[1].previous == pair[0].hash()));
    }

    #[tokio::test]
    async fn nobody_has_an_answer_before_its_event_is_written_where_the_policy_says_so() {
        let sink = Arc::new(Recorder::default());
        let events = Events::start(vec![Arc::clone(&sink) as Arc<dyn Sink>], true);
        sink.broken.store(true, Ordering::Relaxed);
        // Nothing is thrown away either: whoever was refused an answer finds the event in the log.
        for _ in 0..CAPACITY + 1 {
            events.emit(Event::new(EventKind::Open, 1));
        }
        assert_eq!(events.before_answer().await.unwrap_err().code(), Code::EventsUnwritten);
        sink.broken.store(false, Ordering::Relaxed);
        events.before_answer().await.unwrap();
        assert_eq!(sink.written.lock().unwrap().len(), CAPACITY + 1);
        assert_eq!(events.lost(), 0);
    }

    #[tokio::test]
    async fn callers_that_wait_at_once_find_their_events_written() {
        let sink = Arc::new(Recorder::default());
        let events = Events::start(vec![Arc::clone(&sink) as Arc<dyn Sink>], true);
        let call = async |n: u64| {
            events.emit(Event::new(EventKind::Open, n));
            events.before_answer().await.unwrap();
            assert!(sink.written.lock().unwrap().iter().any(|entry| entry.event.count == n));
        };
        futures_util::future::join_all((1..=1000).map(call)).await;
        assert_eq!(sink.written.lock().unwrap().len(), 1000);
    }

    #[test]
    fn what_is_summed_is_written_when_the_program_ends() {
        let (sink, events) = without_runtime();
        for _ in 0..3 {
            events.sum(Event::new(EventKind::Seal, 100).context(&CallContext::new("enfold worker", "re-encrypt")));
        }
        futures_util::future::FutureExt::now_or_never(events.flush()).unwrap().unwrap();
        let written = sink.written.lock().unwrap();
        assert_eq!(written.iter().map(|e| (e.event.kind, e.event.count)).collect::<Vec<_>>(), [(EventKind::Seal, 300)]);
    }
}
