//! A deterministic executor: one thread, a virtual clock, tasks polled in an order that the seed decides.
//!
//! Tasks wait only through [`Clock::sleep`], so a poll that is pending says when it wants to be polled again. A task
//! can be stopped for a while (a machine that hangs) or dropped (a machine that dies) between any two of its steps.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use enfold_testkit::rng::Rng;

#[derive(Default)]
struct Time {
    now: Duration,
    /// The earliest moment that the task being polled waits for.
    wake: Option<Duration>,
}

/// The virtual clock that tasks and executor share.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<Mutex<Time>>);

impl Clock {
    pub(super) fn now(&self) -> Duration {
        self.0.lock().unwrap().now
    }

    pub(super) fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { clock: self.clone(), until: self.now() + duration }
    }
}

pub(super) struct Sleep {
    clock: Clock,
    until: Duration,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        let mut time = self.clock.0.lock().unwrap();
        if time.now >= self.until {
            return Poll::Ready(());
        }
        time.wake = Some(time.wake.map_or(self.until, |w| w.min(self.until)));
        Poll::Pending
    }
}

type Job<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

struct Task<'a, T> {
    name: usize,
    job: Job<'a, T>,
    wake: Duration,
}

/// Runs tasks that each end with a `T`.
pub(super) struct Executor<'a, T> {
    clock: Clock,
    tasks: Vec<Task<'a, T>>,
}

impl<'a, T> Executor<'a, T> {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, tasks: Vec::new() }
    }

    /// Starts a task under a name of the caller's.
    pub(super) fn spawn(&mut self, name: usize, after: Duration, job: impl Future<Output = T> + 'a) {
        self.tasks.push(Task { name, job: Box::pin(job), wake: self.clock.now() + after });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Kills the task of that name between two of its steps.
    pub(super) fn kill(&mut self, name: usize) -> bool {
        let before = self.tasks.len();
        self.tasks.retain(|task| task.name != name);
        self.tasks.len() < before
    }

    /// Keeps the task from running for `duration`.
    pub(super) fn stop(&mut self, name: usize, duration: Duration) {
        let until = self.clock.now() + duration;
        for task in self.tasks.iter_mut().filter(|task| task.name == name) {
            task.wake = task.wake.max(until);
        }
    }

    /// Polls one task that is due, moving the clock on when none is. Gives what the task ended with, if it did.
    pub(super) fn step(&mut self, rng: &mut Rng) -> Option<(usize, T)> {
        let now = {
            let mut time = self.clock.0.lock().unwrap();
            let earliest = self.tasks.iter().map(|task| task.wake).min()?;
            time.now = time.now.max(earliest);
            time.wake = None;
            time.now
        };
        let due: Vec<usize> = (0..self.tasks.len()).filter(|&i| self.tasks[i].wake <= now).collect();
        let chosen = due[rng.index(due.len())];
        let polled = self.tasks[chosen].job.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(value) => {
                let task = self.tasks.swap_remove(chosen);
                Some((task.name, value))
            }
            Poll::Pending => {
                let wake = self.clock.0.lock().unwrap().wake.take();
                self.tasks[chosen].wake = wake.expect("a task waits for the clock and nothing else");
                None
            }
        }
    }
}
