//! Sinks that hand events on over a network. Nobody waits for them: what they are given waits in a queue of their own, of which one task
//! sends the first until the receiver has it. So one loop decides what happens when a receiver is slow, away or says no, and a receiver
//! (`webhook.rs`, `otlp.rs`, `syslog.rs`) is left with putting lines into its protocol.
//!
//! What a receiver takes, it may be given twice, where its answer was lost: an entry's writer and number tell it.

mod otlp;
mod post;
mod syslog;
mod webhook;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{Entry, EventKind, SignedCheckpoint, Sink, SinkStanding};
use crate::kms::jitter;
use crate::policy::{SinkKind, SinkPolicy};
use crate::{Code, Error, Result};

/// Lines that are sent at once, and their bytes: what a receiver takes for a small request.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 512 << 10;
/// Between tries. Each pause may be twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A line of the log on its way.
#[derive(Clone, Debug)]
struct Line {
    text: Arc<str>,
    /// The entry's kind; none of a checkpoint.
    kind: Option<EventKind>,
}

/// Somebody who takes lines.
#[async_trait]
trait Receiver: Send {
    /// Sends lines, of which there is one at least, and says how many arrived, from the first on: one at least, or it is an error.
    async fn send(&mut self, lines: &[Line]) -> std::result::Result<Arrived, Missed>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Arrived {
    lines: usize,
    /// Of these, how many the receiver said that it did not keep.
    refused: u64,
}

impl Arrived {
    fn all(lines: &[Line]) -> Self {
        Self { lines: lines.len(), refused: 0 }
    }
}

/// Why nothing arrived, in words that are safe to log.
#[derive(Debug, PartialEq, Eq)]
enum Missed {
    /// It may arrive later, not before the pause that the receiver asked for.
    Later(String, Duration),
    /// The receiver will not take these lines, or not so many.
    Refused(String),
}

impl Missed {
    fn later(why: impl Into<String>) -> Self {
        Self::Later(why.into(), Duration::ZERO)
    }
}

/// See the module's head.
pub(super) struct RemoteSink {
    post: Arc<Post>,
    /// Only these kinds are sent, and no checkpoints, which vouch for whole chains; empty: everything is.
    kinds: BTreeSet<EventKind>,
    sender: AbortHandle,
}

/// What waits, and how it goes.
struct Post {
    name: String,
    kind: SinkKind,
    most: usize,
    waiting: Mutex<VecDeque<Line>>,
    /// Something waits that did not.
    more: Notify,
    /// Somebody waits for the end: pauses are over.
    hurry: Notify,
    /// Nothing waits.
    empty: Notify,
    delivered: AtomicU64,
    /// When some were; 0 before any.
    delivered_ms: AtomicI64,
    lost: AtomicU64,
    missed: AtomicU64,
    failing: AtomicBool,
}

/// Opens the sink of this name. It connects to nothing yet, but what it needs of files must be there.
pub(super) fn open(name: &str, policy: &SinkPolicy) -> Result<Arc<dyn Sink>> {
    let receiver: Box<dyn Receiver> = match policy.kind {
        SinkKind::Webhook => Box::new(webhook::Webhook::open(policy)?),
        SinkKind::Otlp => Box::new(otlp::Otlp::open(policy)?),
        SinkKind::Syslog => Box::new(syslog::Syslog::open(policy)?),
    };
    RemoteSink::start(name, policy, receiver).map(|sink| Arc::new(sink) as Arc<dyn Sink>)
}

impl RemoteSink {
    fn start(name: &str, policy: &SinkPolicy, receiver: Box<dyn Receiver>) -> Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| {
            Error::new(Code::Internal, format!("cannot send events to `{name}` outside of a tokio runtime"))
        })?;
        let post = Arc::new(Post {
            name: name.to_owned(),
            kind: policy.kind,
            most: policy.queue,
            waiting: Mutex::default(),
            more: Notify::new(),
            hurry: Notify::new(),
            empty: Notify::new(),
            delivered: AtomicU64::new(0),
            delivered_ms: AtomicI64::new(0),
            lost: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        });
        let sender = runtime.spawn(Arc::clone(&post).send_all(receiver)).abort_handle();
        Ok(Self { post, kinds: policy.kinds.clone(), sender })
    }
}

#[async_trait]
impl Sink for RemoteSink {
    /// Never waits and never fails: what finds no room is counted.
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        let wanted = batch.iter().filter(|entry| self.kinds.is_empty() || self.kinds.contains(&entry.event.kind));
        self.post.take(wanted.map(|entry| Line { text: entry.line().into(), kind: Some(entry.event.kind) }));
        Ok(())
    }

    async fn note(&self, checkpoint: &SignedCheckpoint) -> Result<()> {
        if self.kinds.is_empty() {
            self.post.take([Line { text: checkpoint.to_line().into(), kind: None }]);
        }
        Ok(())
    }

    fn standing(&self) -> Option<SinkStanding> {
        let post = &self.post;
        let waiting = post.lock().len();
        Some(SinkStanding {
            sink: post.name.clone(),
            kind: post.kind.as_str(),
            waiting: waiting as u64,
            has_room: waiting < post.most,
            delivered: post.delivered.load(Relaxed),
            delivered_ms: Some(post.delivered_ms.load(Relaxed)).filter(|at| *at > 0),
            lost: post.lost.load(Relaxed),
            missed: post.missed.load(Relaxed),
            failing: post.failing.load(Relaxed),
        })
    }

    async fn settle(&self, within: Duration) {
        tokio::time::timeout(within, self.post.emptied()).await.ok();
        self.post.give_up();
    }
}

impl Drop for RemoteSink {
    fn drop(&mut self) {
        self.sender.abort();
        self.post.give_up();
    }
}

impl Post {
    fn take(&self, lines: impl IntoIterator<Item = Line>) {
        let mut waiting = self.lock();
        for line in lines {
            if waiting.len() < self.most {
                waiting.push_back(line);
            } else {
                self.lost.fetch_add(1, Relaxed);
            }
        }
        self.more.notify_one();
    }

    async fn send_all(self: Arc<Self>, mut receiver: Box<dyn Receiver>) {
        let (mut most, mut failures) = (BATCH, 0);
        loop {
            let lines = self.first(most).await;
            match receiver.send(&lines).await {
                Ok(arrived) => {
                    self.arrived(arrived);
                    (most, failures) = (BATCH, 0);
                }
                // Half of them are tried next, until the one that it does not take is alone.
                Err(Missed::Refused(_)) if lines.len() > 1 => most = lines.len() / 2,
                Err(Missed::Refused(why)) => {
                    self.missed(failures, &format!("an event was refused, and is not sent again: {why}"));
                    self.arrived(Arrived { lines: 1, refused: 1 });
                    self.pause(failures, Duration::ZERO).await;
                    (most, failures) = (BATCH, failures + 1);
                }
                Err(Missed::Later(why, least)) => {
                    self.missed(failures, &why);
                    self.pause(failures, least).await;
                    // The same lines once more, so that a receiver that has them after all can tell.
                    (most, failures) = (lines.len(), failures + 1);
                }
            }
        }
    }

    /// The first that wait, when there are any. They wait on until they have arrived.
    async fn first(&self, most: usize) -> Vec<Line> {
        loop {
            {
                let waiting = self.lock();
                let mut bytes = 0;
                let fits = |line: &&Line| {
                    bytes += line.text.len();
                    bytes <= BATCH_BYTES
                };
                let mut lines: Vec<Line> = waiting.iter().take(most).take_while(fits).cloned().collect();
                if lines.is_empty() {
                    // One that is larger than all that is sent at once goes alone.
                    lines.extend(waiting.front().cloned());
                }
                if !lines.is_empty() {
                    return lines;
                }
            }
            self.more.notified().await;
        }
    }

    fn arrived(&self, arrived: Arrived) {
        let mut waiting = self.lock();
        // Fewer, where they were given up meanwhile.
        let lines = arrived.lines.min(waiting.len());
        waiting.drain(..lines);
        let refused = arrived.refused.min(lines as u64);
        self.delivered.fetch_add(lines as u64 - refused, Relaxed);
        self.lost.fetch_add(refused, Relaxed);
        if refused < lines as u64 {
            self.delivered_ms.store(jiff::Timestamp::now().as_millisecond(), Relaxed);
        }
        let recovered = refused < lines as u64 && self.failing.swap(false, Relaxed);
        if waiting.is_empty() {
            self.empty.notify_waiters();
        }
        drop(waiting);
        if recovered {
            tracing::info!(target: "enfold::events", sink = self.name, "the receiver of events takes them again");
        }
    }

    fn missed(&self, failures: u32, why: &str) {
        self.missed.fetch_add(1, Relaxed);
        self.failing.store(true, Relaxed);
        // Once it is known, each pause doubles, and with it the time between lines of the program's log.
        let waiting = self.lock().len();
        tracing::warn!(target: "enfold::events", sink = self.name, waiting, tries = failures + 1, "events are not delivered: {why}");
    }

    async fn pause(&self, failures: u32, least: Duration) {
        let longest = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE);
        let pause = least.min(LONGEST_PAUSE) + longest / 2 + jitter(longest / 2);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.hurry.notified() => {}
        }
    }

    async fn emptied(&self) {
        loop {
            let empty = self.empty.notified();
            if self.lock().is_empty() {
                return;
            }
            self.hurry.notify_one();
            empty.await;
        }
    }

    /// What waits is lost.
    fn give_up(&self) {
        let left = std::mem::take(&mut *self.lock()).len();
        if left > 0 {
            self.lost.fetch_add(left as u64, Relaxed);
            tracing::warn!(target: "enfold::events", sink = self.name, undelivered = left, "events were not delivered before the program ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Line>> {
        // No code under this lock panics half-way through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
