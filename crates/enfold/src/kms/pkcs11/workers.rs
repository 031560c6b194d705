//! Threads that may block: a call into a module returns when the token has answered, which may be never.
//!
//! Each thread has something of its own that it works with (`D`: a session), made anew with the thread and dropped with
//! it. Threads are started as they are wanted, up to a bound, and stay until the pool is dropped. They are not the
//! runtime's: a runtime waits for its blocking calls before it ends, and one that hangs would keep the process. A call
//! that nobody waits for any more is not begun.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::forkmark::ForkMark;

/// See the module's head.
pub(super) struct Workers<D: 'static> {
    pool: Mutex<Pool<D>>,
    most: NonZeroUsize,
}

struct Pool<D> {
    /// A fork leaves the threads behind, and with them whatever they had locked.
    mark: ForkMark,
    shared: Arc<Shared<D>>,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    InTime,
    /// The system gives no thread for it.
    WithoutThread,
}

type Job<D> = Box<dyn FnOnce(&mut D) + Send>;

struct Shared<D> {
    state: Mutex<State<D>>,
    wake: Condvar,
}

struct State<D> {
    jobs: VecDeque<Job<D>>,
    idle: usize,
    threads: usize,
    closed: bool,
}

impl<D: Default + 'static> Workers<D> {
    pub(super) fn new(most: NonZeroUsize) -> Self {
        Self { pool: Mutex::new(Pool::new()), most }
    }

    /// Has a thread do `work`, and waits for it no longer than `within`, the time before it is begun included.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&mut D) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (answer, answered) = oneshot::channel();
        self.submit(Box::new(move |own| {
            if !answer.is_closed() {
                // Whoever waited may have gone meanwhile; the answer is dropped, and wiped if it is a key.
                drop(answer.send(work(own)));
            }
        }))?;
        match tokio::time::timeout(within, answered).await {
            Ok(Ok(done)) => Ok(done),
            // It ended without an answer, or never came to it.
            Ok(Err(_)) | Err(_) => Err(Unanswered::InTime),
        }
    }

    fn submit(&self, job: Job<D>) -> Result<(), Unanswered> {
        let shared = self.shared();
        let mut state = shared.lock();
        state.jobs.push_back(job);
        if state.jobs.len() > state.idle && state.threads < self.most.get() {
            let theirs = Arc::clone(&shared);
            let started = thread::Builder::new().name("enfold-pkcs11".to_owned()).spawn(move || theirs.work());
            match started {
                Ok(_) => state.threads += 1,
                Err(_) if state.threads == 0 => {
                    state.jobs.pop_back();
                    return Err(Unanswered::WithoutThread);
                }
                // Those that are there will come to it.
                Err(_) => {}
            }
        }
        drop(state);
        shared.wake.notify_one();
        Ok(())
    }

    fn shared(&self) -> Arc<Shared<D>> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if !pool.mark.is_ours() {
            *pool = Pool::new();
        }
        Arc::clone(&pool.shared)
    }
}

impl<D> Drop for Workers<D> {
    fn drop(&mut self) {
        let pool = self.pool.get_mut().unwrap_or_else(PoisonError::into_inner);
        if pool.mark.is_ours() {
            pool.shared.lock().closed = true;
            pool.shared.wake.notify_all();
        }
    }
}

impl<D> Pool<D> {
    fn new() -> Self {
        let state = State { jobs: VecDeque::new(), idle: 0, threads: 0, closed: false };
        Self { mark: ForkMark::new(), shared: Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() }) }
    }
}

impl<D> Shared<D> {
    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Default> Shared<D> {
    /// The life of a thread.
    fn work(&self) {
        let mut own = D::default();
        while let Some(job) = self.next() {
            // What a job left half done that panicked is not worked with again.
            if panic::catch_unwind(AssertUnwindSafe(|| job(&mut own))).is_err() {
                own = D::default();
            }
        }
    }

    /// Waits for a job; `None` when there will be no more.
    fn next(&self) -> Option<Job<D>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn two() -> Workers<usize> {
        Workers::new(NonZeroUsize::new(2).unwrap())
    }

    #[tokio::test]
    async fn never_more_threads_than_the_bound_and_each_keeps_what_is_its_own() {
        let workers = two();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let job = || {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            workers.run(SOON, move |own: &mut usize| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // The other thread gets its turn while this one is busy.
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                *own += 1;
                (format!("{:?}", thread::current().id()), *own)
            })
        };
        let mut counts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (id, count) in join_all((0..200).map(|_| job())).await.into_iter().map(Result::unwrap) {
            counts.entry(id).or_default().push(count);
        }
        assert!((1..=2).contains(&counts.len()), "{:?}", counts.keys());
        assert!(most.load(Ordering::SeqCst) <= 2);
        for mut counted in counts.into_values() {
            counted.sort_unstable();
            assert_eq!(counted, (1..=counted.len()).collect::<Vec<_>>(), "its own is there at the next job");
        }
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_one_that_nobody_waits_for_is_not_begun() {
        let workers = two();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let begun = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let held = Arc::clone(&held);
            // It comes back when the other end is gone.
            let hangs = move |_: &mut usize| held.lock().unwrap().recv().is_err();
            assert_eq!(workers.run(Duration::from_millis(20), hangs).await, Err(Unanswered::InTime));
        }
        let counted = Arc::clone(&begun);
        let waits = workers.run(Duration::from_millis(20), move |_: &mut usize| counted.fetch_add(1, Ordering::SeqCst));
        assert_eq!(waits.await, Err(Unanswered::InTime), "both threads hang");
        drop(release);
        assert_eq!(workers.run(SOON, |_: &mut usize| 7).await, Ok(7), "they are back");
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_call_that_panics_costs_no_thread_and_leaves_nothing_of_its_own() {
        let workers = Workers::<usize>::new(NonZeroUsize::MIN);
        let panics = |own: &mut usize| -> usize {
            *own = 5;
            panic::resume_unwind(Box::new(()))
        };
        for _ in 0..3 {
            assert_eq!(workers.run(SOON, panics).await, Err(Unanswered::InTime));
            assert_eq!(workers.run(SOON, |own: &mut usize| *own).await, Ok(0));
        }
    }

    #[tokio::test]
    async fn after_a_fork_there_are_other_threads() {
        let workers = two();
        let first = workers.run(SOON, |own: &mut usize| std::mem::replace(own, 5)).await;
        assert_eq!(first, Ok(0));
        workers.pool.lock().unwrap().mark.of_another_process();
        assert_eq!(workers.run(SOON, |own: &mut usize| *own).await, Ok(0), "not the one that holds 5");
    }

    #[tokio::test]
    async fn threads_end_with_the_pool() {
        let workers = two();
        workers.run(SOON, |_: &mut usize| ()).await.unwrap();
        let shared = Arc::downgrade(&workers.shared());
        drop(workers);
        let gone = async {
            while shared.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, gone).await.unwrap();
    }
}
