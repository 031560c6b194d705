//! Room for so many connections at a time: where there is none left, the one on which nothing was asked for longest makes room.
//!
//! So clients that open connections and say nothing, or next to nothing, keep nobody from being served: whoever sends a whole
//! request in the time in which they open as many connections as there is room for has it answered. A connection on which a
//! request is being answered is never given up for another.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Room that connections share.
pub(super) struct Room {
    slots: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

/// Connections on which nothing is asked, by the order in which they became so.
#[derive(Default)]
struct Idle {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// How many want a place that is not there.
    wanted: usize,
}

struct Waiting {
    since: Instant,
    given_up: Arc<Notify>,
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { slots: Arc::new(Semaphore::new(most)), idle: Mutex::default() })
    }

    /// A place for a connection, which is idle to begin with. Where none is left another makes room; where on each of them
    /// something is asked, it comes when one ends.
    pub(super) async fn place(self: &Arc<Self>) -> Place {
        let slot = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => {
                let _wanted = Wanted::in_room(self);
                let slot = Arc::clone(&self.slots).acquire_owned().await;
                slot.unwrap_or_else(|_| unreachable!("the room is never closed"))
            }
        };
        let given_up = Arc::new(Notify::new());
        let turn = Mutex::new(Turn { at: self.lock().wait(&given_up), asked: 0 });
        Place { room: Arc::clone(self), given_up, turn, _slot: slot }
    }

    /// Gives up connections that have been idle for as long: on those that wait for a request the headers' time has long been over,
    /// so what is left are those whose client does not read its answer.
    pub(super) fn give_up_older_than(&self, age: Duration) {
        let mut idle = self.lock();
        while let Some(first) = idle.waiting.first_entry().filter(|first| first.get().since.elapsed() > age) {
            first.remove().given_up.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        // Nothing under this lock panics half-way through a change.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn wait(&mut self, given_up: &Arc<Notify>) -> u64 {
        let at = self.next;
        self.next += 1;
        self.waiting.insert(at, Waiting { since: Instant::now(), given_up: Arc::clone(given_up) });
        if self.wanted > 0 {
            self.give_up_first();
        }
        at
    }

    fn give_up_first(&mut self) {
        if let Some((_, first)) = self.waiting.pop_first() {
            first.given_up.notify_one();
        }
    }
}

/// Somebody who waits for a place that another connection has: the first of those that are idle, or the next that is.
struct Wanted<'a>(&'a Room);

impl<'a> Wanted<'a> {
    fn in_room(room: &'a Room) -> Self {
        let mut idle = room.lock();
        idle.wanted += 1;
        idle.give_up_first();
        Self(room)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted -= 1;
    }
}

/// A connection's place. It is free again when this and all that is asked on it has gone.
pub(super) struct Place {
    room: Arc<Room>,
    given_up: Arc<Notify>,
    turn: Mutex<Turn>,
    _slot: OwnedSemaphorePermit,
}

/// Where a connection stands among those that are idle, and how much is asked on it.
struct Turn {
    at: u64,
    asked: usize,
}

impl Place {
    /// Comes when the connection is to make room for another.
    pub(super) async fn given_up(&self) {
        loop {
            self.given_up.notified().await;
            // A request may have come meanwhile: then it is answered first.
            if self.turn().asked == 0 {
                return;
            }
        }
    }

    /// A request on it, until its answer has been handed over whole.
    pub(super) fn asked(self: &Arc<Self>) -> Answering {
        let mut turn = self.turn();
        if turn.asked == 0 {
            self.room.lock().waiting.remove(&turn.at);
        }
        turn.asked += 1;
        Answering(Arc::clone(self))
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let at = self.turn().at;
        self.room.lock().waiting.remove(&at);
    }
}

/// A request that is being answered.
pub(super) struct Answering(Arc<Place>);

impl Answering {
    /// The answer's body, which is being answered until it has been handed over or given up.
    pub(super) fn until_the_end_of(self, body: Body) -> Body {
        Body::new(Answer { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut turn = self.0.turn();
        turn.asked -= 1;
        if turn.asked == 0 {
            turn.at = self.0.room.lock().wait(&self.0.given_up);
        }
    }
}

struct Answer {
    body: Body,
    _answering: Answering,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        future.now_or_never()
    }

    #[test]
    fn the_one_that_was_idle_longest_makes_room_and_none_that_is_answered() {
        let room = Room::new(3);
        let [first, second, third] = [(); 3].map(|()| Arc::new(now(room.place()).expect("there is room")));
        // The first is asked something and answered; the second is idle for longest, but is being answered.
        drop(first.asked());
        let answering = second.asked();
        let mut wanted = Box::pin(room.place());
        assert!(wanted.as_mut().now_or_never().is_none());
        assert!(now(third.given_up()).is_some(), "it gives way");
        assert!(now(first.given_up()).is_none() && now(second.given_up()).is_none());
        drop(third);
        let fourth = Arc::new(now(wanted).expect("there is room again"));
        // A place is wanted while all are asked something, and for the first it is the moment of a request.
        let mut wanted = Box::pin(room.place());
        assert!(wanted.as_mut().now_or_never().is_none());
        let (of_first, of_fourth) = (first.asked(), fourth.asked());
        assert!(now(first.given_up()).is_none(), "it was to give way, and answers first");
        let body = answering.until_the_end_of(Body::from("an answer"));
        assert!(now(second.given_up()).is_none(), "its answer is not handed over");
        drop(body);
        assert!(now(second.given_up()).is_some(), "the next that is idle gives way");
        drop(second);
        assert!(now(wanted).is_some());
        drop((of_first, of_fourth));
        assert!(now(first.given_up()).is_none() && now(fourth.given_up()).is_none(), "nobody wants more");
    }

    #[test]
    fn what_is_idle_for_too_long_is_given_up_and_what_has_gone_is_forgotten() {
        let room = Room::new(2);
        let [idle, asked] = [(); 2].map(|()| Arc::new(now(room.place()).expect("there is room")));
        let answering = asked.asked();
        room.give_up_older_than(Duration::from_secs(60));
        assert!(now(idle.given_up()).is_none());
        room.give_up_older_than(Duration::ZERO);
        assert!(now(idle.given_up()).is_some() && now(asked.given_up()).is_none());
        drop((idle, answering, asked));
        assert!(room.lock().waiting.is_empty());
        assert_eq!(room.slots.available_permits(), 2);
    }
}
