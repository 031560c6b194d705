//! Values that come one at a time: they find what their neighbours found, and all that ends a data key ends that too.

mod common;

use std::time::Duration;

use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::events::EventKind;
use enfold::policy::Mode;
use enfold::{CallContext, Code, Column, Enfold, Form, Part, PayloadType, Place};
use enfold_core::{Envelope, KeyId, text};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

async fn column(world: &World) -> (Enfold, Column) {
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    (enfold, email)
}

/// Seals and opens often enough that both find what was found before.
async fn warm(email: &Column, place: Place<'_>) -> Vec<u8> {
    let mut stored = Vec::new();
    for _ in 0..3 {
        stored = seal(email, place, "ann").await.unwrap();
        assert_eq!(open(email, place, &stored).await.unwrap(), "ann");
    }
    stored
}

fn key(stored: &[u8]) -> KeyId {
    let envelope = text::decode(std::str::from_utf8(stored).unwrap()).unwrap();
    Envelope::parse(&envelope).unwrap().key_id()
}

#[tokio::test]
async fn single_values_have_the_key_of_their_tenant_and_open_only_in_their_place() {
    let world = World::new();
    let (enfold, email) = column(&world).await;
    let (acme, other) = (warm(&email, ACME).await, warm(&email, OTHER).await);
    assert_ne!(key(&acme), key(&other));
    assert_eq!(key(&acme), key(&seal(&email, ACME, "bob").await.unwrap()));
    assert_eq!(code(open(&email, OTHER, &acme).await), Code::OpenFailed);
    assert_eq!(code(seal(&email, Place::none(), "ann").await), Code::BindingIncomplete);
    // Another handle of the column knows it too; another column has the tenant's key and a place of its own.
    let again = enfold.column("users.email").unwrap();
    assert_eq!(key(&acme), key(&seal(&again, ACME, "bob").await.unwrap()));
    let name = enfold.column("users.name").unwrap();
    let at = Place { row: &[Part::Int(1)], ..ACME };
    assert_eq!(code(open(&name, at, &acme).await), Code::OpenFailed);
}

#[tokio::test]
async fn a_disable_ends_a_key_that_single_values_use_within_a_second() {
    let world = World::new();
    let (enfold, email) = column(&world).await;
    let stored = warm(&email, ACME).await;
    let application = world.application().await.unwrap();
    let theirs = application.column("users.email").unwrap();
    warm(&theirs, ACME).await;
    enfold.operator().unwrap().disable("main", key(&stored), &who()).await.unwrap();
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KeyDisabled, "the operators' own process at once");
    world.next_look();
    assert_eq!(code(open(&theirs, ACME, &stored).await), Code::KeyDisabled);
    assert_eq!(code(seal(&theirs, ACME, "bob").await), Code::KeyDisabled);
    enfold.operator().unwrap().enable("main", key(&stored), &who()).await.unwrap();
    world.next_look();
    assert_eq!(open(&theirs, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_rotation_and_a_change_of_mode_reach_single_values_within_a_second() {
    let world = World::new();
    let (enfold, email) = column(&world).await;
    let stored = warm(&email, ACME).await;
    let application = world.application().await.unwrap();
    let theirs = application.column("users.email").unwrap();
    warm(&theirs, ACME).await;
    let scope = world.catalog.key("ring-main", key(&stored)).await.unwrap().unwrap().scope;
    enfold.operator().unwrap().rotate("main", &scope.parse().unwrap(), &who()).await.unwrap();
    world.next_look();
    let newer = seal(&theirs, ACME, "bob").await.unwrap();
    assert_ne!(key(&newer), key(&stored));
    assert_eq!(open(&theirs, ACME, &stored).await.unwrap(), "ann", "the older one opens still");

    set_mode(&enfold, "users.email", Mode::Legacy).await;
    world.next_look();
    assert_eq!(seal(&theirs, ACME, "bob").await.unwrap(), b"bob");
}

#[tokio::test]
async fn a_key_that_single_values_use_ends_with_its_time_and_is_refreshed_before() {
    let world = World::new();
    let (_, email) = column(&world).await;
    let stored = warm(&email, ACME).await;
    let before = world.kms.calls().unwrap;
    world.clock.advance(Duration::from_secs(241));
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    while world.kms.calls().unwrap == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.kms.calls().unwrap, before + 1, "one refresh, which nobody waited for");
    world.kms.set_state(enfold::kms::MemoryState::TimedOut);
    world.clock.advance(Duration::from_secs(301));
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KmsUnavailable);
}

#[tokio::test]
async fn a_key_that_single_values_use_is_asked_for_again_after_its_uses() {
    let world = World::new();
    let policy = POLICY.replacen("[rings.wide]", "[rings.main.cache]\nmax_uses = 10\n\n[rings.wide]", 1);
    let enfold = world.builder_for(world.policy(&policy)).prepare().build().await.unwrap();
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    for _ in 0..10 {
        seal(&email, ACME, "ann").await.unwrap();
    }
    let before = world.kms.calls().unwrap;
    for _ in 0..30 {
        seal(&email, ACME, "ann").await.unwrap();
    }
    assert_eq!(world.kms.calls().unwrap - before, 3);
}

#[tokio::test]
async fn keys_that_were_forgotten_are_asked_for_again() {
    let world = World::new();
    let (enfold, email) = column(&world).await;
    let stored = warm(&email, ACME).await;
    let before = world.kms.calls().unwrap;
    enfold.forget_keys();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    assert_eq!(world.kms.calls().unwrap, before + 1);
}

#[tokio::test]
async fn a_call_without_the_context_that_the_policy_wants_is_refused_every_time() {
    let world = World::new();
    let policy = format!("{POLICY}\n[context]\nrequire_actor = true\n");
    let enfold = world.builder_for(world.policy(&policy)).prepare().build().await.unwrap();
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    let stored = warm(&email, ACME).await;
    let nobody = CallContext::default();
    let sealed = email.seal(&nobody, &ACME, Form::Text, PayloadType::Text, b"ann").await;
    assert_eq!(code(sealed), Code::ContextRequired);
    assert_eq!(code(email.open(&nobody, &ACME, Form::Text, &stored).await), Code::ContextRequired);
}

#[tokio::test]
async fn single_values_are_counted_in_events_by_caller() {
    let world = World::new();
    let (enfold, email) = column(&world).await;
    let stored = warm(&email, ACME).await;
    enfold.flush().await.unwrap();
    world.sink.0.lock().unwrap().clear();
    let bob = CallContext { request_id: Some("r-1".into()), ..CallContext::new("bob", "support") };
    for n in 0..100 {
        let caller = if n % 4 == 0 { &bob } else { &who() };
        email.seal(caller, &ACME, Form::Text, PayloadType::Text, b"ann").await.unwrap();
    }
    for _ in 0..7 {
        email.open(&bob, &ACME, Form::Text, &stored).await.unwrap();
    }
    enfold.flush().await.unwrap();
    let events = world.sink.0.lock().unwrap();
    let count = |kind: EventKind, actor: &str| -> u64 {
        let of = events.iter().filter(|event| event.kind == kind && event.actor.as_deref() == Some(actor));
        of.inspect(|event| {
            assert_eq!((event.ring.as_deref(), event.column.as_deref()), (Some("ring-main"), Some("users.email")));
            assert_eq!(event.key, Some(key(&stored).to_string()));
            assert_eq!(event.request_id.as_deref(), (actor == "bob").then_some("r-1"));
        })
        .map(|event| event.count)
        .sum()
    };
    assert_eq!((count(EventKind::Seal, "bob"), count(EventKind::Seal, "test")), (25, 75));
    assert_eq!(count(EventKind::Open, "bob"), 7);
    let opened = events.iter().filter(|event| event.kind == EventKind::Open).count();
    assert_eq!(opened, 1, "one caller's values in one event");
}
