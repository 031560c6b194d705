use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::Code;
use crate::clock::ManualClock;

const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    clock: Arc<ManualClock>,
    cache: Arc<Cache<u32, usize>>,
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Option<Error>>>,
    /// How old what the source brings is.
    age: Duration,
}

impl Scene {
    fn new(stale: Duration, max_keys: usize) -> Self {
        let limits = CachePolicy {
            ttl: 100 * SECOND,
            stale_if_error: stale,
            max_keys,
            max_unseen: 30 * SECOND,
            shared: false,
            max_uses: None,
            max_bytes: None,
        };
        let clock = Arc::new(ManualClock::new());
        let cache = Cache::new(limits, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { clock, cache, asked: Arc::default(), answer: Arc::default(), age: Duration::ZERO }
    }

    /// The source answers with how often it was asked, or with the error that was set.
    async fn get(&self, key: u32) -> Result<usize> {
        let fetch = || {
            let (asked, answer, age) = (Arc::clone(&self.asked), Arc::clone(&self.answer), self.age);
            async move {
                let asked = asked.fetch_add(1, Ordering::SeqCst) + 1;
                // Others get a chance to ask as well, if nothing holds them.
                tokio::task::yield_now().await;
                match answer.lock().unwrap().clone() {
                    Some(error) => Err(error),
                    None => Ok(Fetched { value: asked, age }),
                }
            }
        };
        self.cache.get(&key, fetch).await.map(|v| *v)
    }

    fn source_fails(&self, code: Option<Code>) {
        *self.answer.lock().unwrap() = code.map(|c| Error::new(c, "the source failed"));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_thousand_concurrent_misses_ask_once() {
    let scene = Scene::new(Duration::ZERO, 10);
    let calls = (0..1000).map(|_| scene.get(1));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.into_iter().all(|a| a.unwrap() == 1));
    assert_eq!(scene.asked(), 1);
    let counted = CacheMetrics { misses: 1000, fetches: 1, entries: 1, ..CacheMetrics::default() };
    assert_eq!(scene.cache.metrics(), counted);
    scene.get(1).await.unwrap();
    assert_eq!(scene.cache.metrics(), CacheMetrics { hits: 1, ..counted });
}

#[tokio::test]
async fn a_thousand_concurrent_misses_that_fail_ask_once() {
    let scene = Scene::new(Duration::ZERO, 10);
    scene.source_fails(Some(Code::KmsUnavailable));
    let answers = futures_util::future::join_all((0..1000).map(|_| scene.get(1))).await;
    assert!(answers.into_iter().all(|a| a.is_err()));
    assert_eq!(scene.asked(), 1);
}

/// Fetches together: each key's value is how many were asked for with it. Odd keys have no answer.
async fn fill(scene: &Scene, keys: &[u32]) {
    let asked = Arc::clone(&scene.asked);
    let fetch = |keys: Vec<u32>| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::task::yield_now().await;
            keys.iter().map(|key| key.is_multiple_of(2).then(|| Ok(Fetched::now(keys.len())))).collect()
        }
    };
    scene.cache.fill(keys, fetch).await;
}

#[tokio::test]
async fn what_is_missing_of_many_is_asked_for_together_and_what_had_no_answer_again() {
    let scene = Scene::new(Duration::ZERO, 10);
    scene.get(2).await.unwrap();
    fill(&scene, &[2, 4, 6, 7]).await;
    assert_eq!(scene.asked(), 2);
    assert_eq!((scene.get(4).await.unwrap(), scene.get(6).await.unwrap()), (3, 3));
    assert_eq!(scene.asked(), 2);
    assert!(!scene.cache.lock().slots.contains_key(&7) && scene.cache.known(&7).unwrap().is_none());
    assert!(!scene.cache.lock().slots.contains_key(&7), "what nobody has takes no room");
    assert_eq!(scene.get(7).await.unwrap(), 3, "the third question");
    fill(&scene, &[2, 4, 6, 7]).await;
    assert_eq!(scene.asked(), 3, "nothing is missing");
}

#[tokio::test]
async fn what_somebody_else_is_fetching_is_left_to_them() {
    let scene = Scene::new(Duration::ZERO, 10);
    let mut other = Box::pin(scene.get(2));
    assert!(futures_util::poll!(&mut other).is_pending());
    fill(&scene, &[2, 4]).await;
    assert_eq!(scene.get(4).await.unwrap(), 1, "it was asked for alone");
    assert_eq!(other.await.unwrap(), 1, "and the other's own question was answered");
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn many_that_are_due_are_refreshed_together_and_nobody_waits() {
    let scene = Scene::new(Duration::ZERO, 10);
    fill(&scene, &[2, 4]).await;
    scene.clock.advance(80 * SECOND);
    fill(&scene, &[2, 4]).await;
    assert_eq!(scene.asked(), 2);
    while scene.cache.ticket(&4).unwrap().1.value(scene.clock.now()).is_none() {
        tokio::task::yield_now().await;
    }
    assert!(scene.cache.ticket(&2).unwrap().1.is_good(scene.clock.now()));
    assert_eq!(scene.asked(), 2);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_the_flight_to_the_next() {
    let scene = Scene::new(Duration::ZERO, 10);
    let mut first = Box::pin(scene.get(1));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut second = Box::pin(scene.get(1));
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await.unwrap(), 2);
}

#[tokio::test]
async fn an_entry_ends_with_its_time() {
    let scene = Scene::new(Duration::ZERO, 10);
    assert_eq!(scene.get(1).await.unwrap(), 1);
    scene.clock.advance(79 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 1);
    assert_eq!(scene.asked(), 1);
    scene.clock.advance(21 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 2);
}

#[tokio::test]
async fn what_was_fetched_at_second_hand_ends_when_its_first_hand_does() {
    let scene = Scene { age: 60 * SECOND, ..Scene::new(Duration::ZERO, 10) };
    assert_eq!(scene.get(1).await.unwrap(), 1);
    scene.clock.advance(19 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 1);
    scene.clock.advance(21 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 2, "100 s after the key service was asked, whoever asked it");
}

#[tokio::test]
async fn a_refresh_begins_before_the_end_and_nobody_waits_for_it() {
    let scene = Scene::new(Duration::ZERO, 10);
    scene.get(1).await.unwrap();
    scene.clock.advance(80 * SECOND);
    // All get the old value at once; one of them began the refresh.
    for _ in 0..10 {
        assert_eq!(scene.get(1).await.unwrap(), 1);
    }
    while scene.get(1).await.unwrap() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(scene.asked(), 2);
    assert_eq!((scene.cache.metrics().refreshes, scene.cache.metrics().fetches), (1, 1));
    scene.clock.advance(79 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 2, "the new value's time began with the refresh");
}

#[test]
fn without_a_runtime_the_caller_refreshes_itself() {
    let scene = Scene::new(Duration::ZERO, 10);
    let now = |future| {
        let mut future = Box::pin(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            if let std::task::Poll::Ready(done) = Future::poll(std::pin::Pin::new(&mut future), &mut context) {
                break done;
            }
        }
    };
    assert_eq!(now(scene.get(1)).unwrap(), 1);
    scene.clock.advance(80 * SECOND);
    assert_eq!(now(scene.get(1)).unwrap(), 1);
    assert_eq!(now(scene.get(1)).unwrap(), 2);
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_leaves_the_entry_until_the_limit() {
    let scene = Scene::new(50 * SECOND, 10);
    scene.get(1).await.unwrap();
    scene.source_fails(Some(Code::KmsUnavailable));
    scene.clock.advance(149 * SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 1);
    assert_eq!(scene.get(1).await.unwrap(), 1, "served without asking again at once");
    assert_eq!(scene.asked(), 2);
    let counted = scene.cache.metrics();
    assert_eq!((counted.stale, counted.misses, counted.failures, counted.hits), (2, 2, 1, 0));
    scene.clock.advance(SECOND);
    assert_eq!(scene.get(1).await.unwrap_err().code(), Code::KmsUnavailable);
}

#[tokio::test]
async fn without_a_stale_limit_the_entry_ends_with_its_time_even_in_an_outage() {
    let scene = Scene::new(Duration::ZERO, 10);
    scene.get(1).await.unwrap();
    scene.source_fails(Some(Code::KmsUnavailable));
    scene.clock.advance(100 * SECOND);
    assert_eq!(scene.get(1).await.unwrap_err().code(), Code::KmsUnavailable);
}

#[tokio::test]
async fn a_refusal_ends_the_entry_at_once_and_nothing_stale_is_served() {
    let scene = Scene::new(1000 * SECOND, 10);
    scene.get(1).await.unwrap();
    for code in [Code::KeyDisabled, Code::KmsAccessDenied, Code::StateTampered] {
        scene.source_fails(Some(code));
        scene.clock.advance(101 * SECOND);
        assert_eq!(scene.get(1).await.unwrap_err().code(), code);
        scene.source_fails(Some(Code::KmsUnavailable));
        scene.clock.advance(2 * SECOND);
        assert_eq!(scene.get(1).await.unwrap_err().code(), Code::KmsUnavailable, "the entry is gone");
        scene.source_fails(None);
        scene.clock.advance(2 * SECOND);
        scene.get(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_second() {
    let scene = Scene::new(Duration::ZERO, 10);
    scene.source_fails(Some(Code::KeyNotFound));
    assert!(scene.get(1).await.is_err());
    scene.source_fails(None);
    assert!(scene.get(1).await.is_err());
    assert_eq!(scene.asked(), 1);
    let counted = CacheMetrics { refused: 1, misses: 1, fetches: 1, failures: 1, ..CacheMetrics::default() };
    assert_eq!(scene.cache.metrics(), counted);
    scene.clock.advance(SECOND);
    assert_eq!(scene.get(1).await.unwrap(), 2);
}

#[tokio::test]
async fn the_least_recently_used_entry_makes_room() {
    let scene = Scene::new(Duration::ZERO, 3);
    for key in [1, 2, 3] {
        scene.get(key).await.unwrap();
    }
    scene.get(1).await.unwrap();
    scene.get(4).await.unwrap();
    assert_eq!(scene.cache.lock().slots.len(), 3);
    assert_eq!(scene.asked(), 4);
    for key in [1, 3, 4] {
        scene.get(key).await.unwrap();
    }
    assert_eq!(scene.asked(), 4, "1, 3 and 4 stayed");
    scene.get(2).await.unwrap();
    assert_eq!(scene.asked(), 5, "2 made room");
    assert_eq!((scene.cache.metrics().evictions, scene.cache.metrics().entries), (2, 3));
}

#[tokio::test]
async fn failures_are_bounded_like_entries() {
    let scene = Scene::new(Duration::ZERO, 3);
    scene.source_fails(Some(Code::KeyNotFound));
    for key in 0..100 {
        scene.get(key).await.unwrap_err();
    }
    assert!(scene.cache.lock().slots.len() <= 3);
}

#[tokio::test]
async fn an_entry_can_be_thrown_away() {
    let scene = Scene::new(1000 * SECOND, 10);
    scene.get(1).await.unwrap();
    scene.cache.evict(&1);
    scene.source_fails(Some(Code::KmsUnavailable));
    assert!(scene.get(1).await.is_err(), "nothing stale is left of it");
    scene.source_fails(None);
    scene.cache.put(&2, 77);
    assert_eq!(scene.get(2).await.unwrap(), 77);
    scene.cache.clear();
    assert_ne!(scene.get(2).await.unwrap(), 77);
}

#[tokio::test]
async fn a_ticket_finds_the_entry_until_it_is_due_for_a_refresh() {
    let scene = Scene { age: 60 * SECOND, ..Scene::new(1000 * SECOND, 10) };
    assert!(scene.cache.ticket(&1).is_none());
    scene.get(1).await.unwrap();
    let (value, ticket) = scene.cache.ticket(&1).unwrap();
    assert!(Arc::ptr_eq(&value, &ticket.value(scene.clock.now()).unwrap()));
    scene.clock.advance(19 * SECOND);
    assert!(ticket.value(scene.clock.now()).is_some());
    scene.clock.advance(SECOND);
    assert!(ticket.value(scene.clock.now()).is_none(), "80 s after the key service was asked");
}

#[tokio::test]
async fn a_ticket_ends_with_its_entry_and_keeps_nothing_alive() {
    type End = (&'static str, fn(&Scene));
    let ends: [End; 5] = [
        ("evicted", |scene| scene.cache.evict(&1)),
        ("evicted as itself", |scene| scene.cache.evict_this(&1, &scene.cache.ticket(&1).unwrap().0)),
        ("replaced", |scene| drop(scene.cache.put(&1, 77))),
        ("cleared", |scene| scene.cache.clear()),
        ("forked", |scene| scene.cache.inner.lock().unwrap().mark.of_another_process()),
    ];
    for (how, end) in ends {
        let scene = Scene::new(1000 * SECOND, 10);
        scene.get(1).await.unwrap();
        let (value, ticket) = scene.cache.ticket(&1).unwrap();
        end(&scene);
        drop(scene.cache.lock());
        assert!(!ticket.is_good(scene.clock.now()), "{how}");
        let weak = Arc::downgrade(&value);
        drop(value);
        assert!(weak.upgrade().is_none(), "{how}");
    }
}

#[tokio::test]
async fn a_ticket_of_another_process_finds_nothing() {
    let scene = Scene::new(1000 * SECOND, 10);
    scene.get(1).await.unwrap();
    let (_, mut ticket) = scene.cache.ticket(&1).unwrap();
    ticket.ours.of_an_earlier_copy();
    assert!(ticket.value(scene.clock.now()).is_none());
}

#[tokio::test]
async fn what_is_used_by_its_ticket_does_not_make_room() {
    let scene = Scene::new(Duration::ZERO, 3);
    for key in [1, 2, 3] {
        scene.get(key).await.unwrap();
    }
    let (_, ticket) = scene.cache.ticket(&1).unwrap();
    assert!(ticket.is_good(scene.clock.now()));
    scene.get(4).await.unwrap();
    assert!(ticket.is_good(scene.clock.now()), "2 made room");
    scene.get(1).await.unwrap();
    assert_eq!(scene.asked(), 4);
}

#[tokio::test]
async fn a_forked_or_wiped_process_starts_empty() {
    let scene = Scene::new(1000 * SECOND, 10);
    scene.get(1).await.unwrap();
    scene.cache.inner.lock().unwrap().mark.of_another_process();
    assert_eq!(scene.get(1).await.unwrap(), 2);
    scene.cache.inner.lock().unwrap().mark.wiped();
    assert_eq!(scene.get(1).await.unwrap(), 3);
}
