//! `Enfold::metrics` over a whole library: the figures of every part come out, and no name that must not.
//!
//! What moves each figure of a part stands beside that part: `cache.rs`, `kms/breaker.rs`, `kms/limit.rs`,
//! `kms/meter.rs`, `kms/retry.rs`, `shared_cache/mod.rs`.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{World, code, open, seal, set_mode};
use enfold::events::{Event, EventKind};
use enfold::kms::MemoryState;
use enfold::metrics::{CacheMetrics, Metrics};
use enfold::policy::Mode;
use enfold::{Code, Column, Enfold, Part, Place};

/// A process that has opened a value of tenant `acme`, and that value.
async fn opened(world: &World) -> (Enfold, Column, Vec<u8>) {
    let operators = world.operators().await;
    set_mode(&operators, "users.email", Mode::Kms).await;
    let place = Place::tenant(Part::Text("acme"));
    let stored = seal(&operators.column("users.email").unwrap(), place, "ada@example.com").await.unwrap();
    let process = world.application().await.unwrap();
    let email = process.column("users.email").unwrap();
    open(&email, place, &stored).await.unwrap();
    (process, email, stored)
}

fn data_keys(metrics: &Metrics) -> CacheMetrics {
    metrics.rings.iter().find(|ring| ring.ring == "main").unwrap().data_keys
}

#[tokio::test]
async fn a_value_that_is_opened_again_is_a_hit_and_no_call() {
    let world = World::new();
    let (process, email, stored) = opened(&world).await;
    let before = process.metrics();
    assert_eq!(
        before.rings.iter().map(|r| r.ring.as_str()).collect::<Vec<_>>(),
        ["columns", "direct", "main", "records", "wide"]
    );
    let counted = CacheMetrics { misses: 1, fetches: 1, entries: 1, ..CacheMetrics::default() };
    assert_eq!(data_keys(&before), counted);
    let [root] = &before.root_keys[..] else { panic!("one root key") };
    assert_eq!(
        (root.root.as_str(), root.operations["unwrap"].succeeded),
        ("memory:root", root.operations["unwrap"].calls)
    );
    assert_eq!(root.operations["unwrap"].latency.iter().sum::<u64>(), root.operations["unwrap"].calls);

    for _ in 0..10 {
        open(&email, Place::tenant(Part::Text("acme")), &stored).await.unwrap();
    }
    let after = process.metrics();
    assert_eq!(data_keys(&after), CacheMetrics { hits: 10, ..counted });
    assert_eq!(after.root_keys, before.root_keys, "no key service was asked");
}

#[tokio::test]
async fn sealing_looks_up_the_scope_and_then_the_key() {
    let world = World::new();
    let (process, email, _) = opened(&world).await;
    let place = Place::tenant(Part::Text("acme"));
    for _ in 0..3 {
        seal(&email, place, "ada@example.com").await.unwrap();
    }
    let metrics = process.metrics();
    let main = metrics.rings.iter().find(|ring| ring.ring == "main").unwrap();
    assert_eq!((main.scopes.misses, main.scopes.hits, main.data_keys.hits), (1, 2, 3));
}

#[tokio::test]
async fn values_are_counted_by_what_was_done_and_by_class_and_calls_by_how_long_they_took() {
    let world = World::new();
    let (_, _, stored) = opened(&world).await;
    let text = common::POLICY.replace("id = \"users.email\"\n", "id = \"users.email\"\nclass = \"email\"\n");
    let process = world.builder_for(world.policy(&text)).build().await.unwrap();
    let (email, acme) = (process.column("users.email").unwrap(), Place::tenant(Part::Text("acme")));
    open(&email, acme, &stored).await.unwrap();
    let counted = |operation: &str| {
        let all = process.metrics().operations;
        all.into_iter().find(|series| series.operation == operation && !series.class.is_empty()).expect("a class")
    };
    assert_eq!((counted("open").class.as_str(), counted("open").succeeded, counted("seal").succeeded), ("email", 1, 0));
    for _ in 0..20 {
        open(&email, acme, &stored).await.unwrap();
    }
    open(&email, Place::tenant(Part::Text("other")), &stored).await.unwrap_err();
    seal(&email, acme, "grace@example.com").await.unwrap();
    let (opened, sealed) = (counted("open"), counted("seal"));
    assert_eq!((opened.succeeded, opened.failed), (21, BTreeMap::from([("open-failed", 1)])));
    // The first, one that stands for sixteen of the twenty, and the one that failed.
    assert_eq!((opened.durations.iter().sum::<u64>(), sealed.durations.iter().sum::<u64>()), (18, 1));
    assert_eq!(sealed.succeeded, 1);
}

#[tokio::test]
async fn an_outage_shows_as_failures_stale_answers_and_a_service_that_is_left_alone() {
    let world = World::new();
    let text = common::POLICY.replace(
        "labels = { data_class = \"personal\" }",
        "labels = { data_class = \"personal\" }\ncache = { ttl = \"100s\", stale_if_error = \"1h\" }",
    );
    let (_, _, stored) = opened(&world).await;
    let process = world.builder_for(world.policy(&text)).build().await.unwrap();
    let email = process.column("users.email").unwrap();
    let acme = Place::tenant(Part::Text("acme"));
    open(&email, acme, &stored).await.unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    world.clock.advance(Duration::from_secs(101));
    open(&email, acme, &stored).await.unwrap();
    open(&email, acme, &stored).await.unwrap();
    let metrics = process.metrics();
    let counted = data_keys(&metrics);
    assert_eq!((counted.stale, counted.failures, counted.misses), (2, 1, 2));
    let root = &metrics.root_keys[0];
    assert_eq!(root.operations["unwrap"].failed, BTreeMap::from([("kms-unavailable", 3)]), "each try counts");
    assert_eq!((root.retries, root.given_up, root.breaker.state), (2, 1, "answers"));

    // Failures are remembered for a second, so each of these asks again, until the breaker's pause, which is drawn at random,
    // is longer than that.
    let breaker = || process.metrics().root_keys[0].breaker.clone();
    while breaker().not_asked == 0 {
        world.clock.advance(Duration::from_millis(1100));
        open(&email, acme, &stored).await.unwrap();
    }
    let breaker = breaker();
    assert_eq!((breaker.state, breaker.left_alone > 0), ("left-alone", true));
    assert!(!breaker.asked_again_in.is_zero());
}

#[tokio::test(start_paused = true)]
async fn the_log_is_told_once_a_minute_how_the_caches_did() {
    let world = World::new();
    let (_, _, stored) = opened(&world).await;
    let process = world.watching(world.policy(common::POLICY)).build().await.unwrap();
    let email = process.column("users.email").unwrap();
    let acme = Place::tenant(Part::Text("acme"));
    let minute = async |opens: usize| {
        for _ in 0..opens {
            open(&email, acme, &stored).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(61)).await;
        process.flush().await.unwrap();
        std::mem::take(&mut *world.sink.0.lock().unwrap())
    };
    let counted = data_keys(&process.metrics());
    assert_eq!((counted.hits, counted.misses), (0, 0));
    let told = |events: Vec<Event>| -> Vec<(EventKind, u64)> {
        let all = events.iter().map(|event| (event.kind, event.count));
        all.filter(|(kind, _)| matches!(kind, EventKind::CacheHit | EventKind::CacheMiss)).collect()
    };
    let first = told(minute(3).await);
    let counted = data_keys(&process.metrics());
    assert_eq!(first, [(EventKind::CacheHit, counted.hits), (EventKind::CacheMiss, counted.misses)]);
    assert!(counted.hits > 0 && counted.misses > 0);
    // What was told is not told again, and nothing is said of a minute in which nothing was looked for.
    assert_eq!(told(minute(0).await), []);
    let further = told(minute(2).await);
    let now = data_keys(&process.metrics());
    assert_eq!(further, [(EventKind::CacheHit, now.hits - counted.hits)]);
}

#[tokio::test]
async fn no_tenant_no_value_and_no_key_is_in_it() {
    let world = World::new();
    let (process, email, stored) = opened(&world).await;
    let other = open(&email, Place::tenant(Part::Text("other-tenant")), &stored).await;
    assert_eq!(code(other), Code::OpenFailed);
    let text = serde_json::to_string(&process.metrics()).unwrap();
    for hidden in ["acme", "other-tenant", "ada@example.com", "personal"] {
        assert!(!text.contains(hidden), "{text}");
    }
    let keys = world.catalog.keys("ring-main", None, 100).await.unwrap();
    assert!(!keys.is_empty() && keys.iter().all(|key| !text.contains(&key.id.to_string())), "{text}");
}
