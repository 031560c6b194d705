//! Which events are written of what, and what stands in them.

use enfold::events::{Event, EventKind, Outcome};
use enfold::kms::MemoryState;
use enfold::policy::Mode;
use enfold::{Place, ScopeId};

use super::common::{World, open, seal, set_mode, who};

fn written(world: &World) -> Vec<Event> {
    std::mem::take(&mut *world.sink.0.lock().unwrap())
}

fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn a_rotation_is_told_from_its_beginning_with_the_versions_of_its_data_keys() {
    let world = World::new();
    let process = world.operators().await;
    set_mode(&process, "notes.title", Mode::Hybrid).await;
    let title = process.column("notes.title").unwrap();
    seal(&title, Place::none(), "a title").await.unwrap();
    process.flush().await.unwrap();
    written(&world);
    let scope = "column:notes.title".parse::<ScopeId>().unwrap();
    let rotated = process.operator().unwrap().rotate("columns", &scope, &who()).await.unwrap();
    seal(&title, Place::none(), "a title").await.unwrap();
    process.flush().await.unwrap();
    let events = written(&world);
    let expected = [
        EventKind::RotationStarted,
        EventKind::KeyMade,
        EventKind::KeyRotated,
        EventKind::KeyRetired,
        EventKind::KeyUsed,
        EventKind::Seal,
    ];
    assert_eq!(kinds(&events), expected);
    let key = |event: &Event| (event.key.clone(), event.key_version);
    let (former, new) = (rotated.previous_key.unwrap().to_string(), rotated.key.to_string());
    assert_eq!(
        events.iter().skip(2).map(key).collect::<Vec<_>>(),
        [(Some(new.clone()), Some(2)), (Some(former), Some(1)), (Some(new.clone()), Some(2)), (Some(new), Some(2))]
    );
    assert!(events.iter().all(|event| event.result == Some(Outcome::Success)));
}

#[tokio::test]
async fn a_rotation_that_fails_says_why() {
    let world = World::new();
    let process = world.operators().await;
    world.kms.set_state(MemoryState::Denied);
    written(&world);
    let scope = "column:notes.title".parse::<ScopeId>().unwrap();
    let error = process.operator().unwrap().rotate("columns", &scope, &who()).await.unwrap_err();
    process.flush().await.unwrap();
    let events = written(&world);
    let failed = events.iter().find(|event| event.kind == EventKind::RotationFailed).unwrap();
    assert_eq!(failed.code.as_deref(), Some(error.code().word()));
    assert_ne!(failed.result, Some(Outcome::Success));
}

#[tokio::test]
async fn values_that_do_not_open_and_health_checks_are_told_with_how_they_went() {
    let world = World::new();
    let process = world.operators().await;
    set_mode(&process, "notes.title", Mode::Hybrid).await;
    set_mode(&process, "notes.text", Mode::Hybrid).await;
    let sealed = seal(&process.column("notes.text").unwrap(), Place::none(), "a text").await.unwrap();
    process.flush().await.unwrap();
    written(&world);
    open(&process.column("notes.title").unwrap(), Place::none(), &sealed).await.unwrap_err();
    let tested = process.self_test(&who()).await;
    let roots = process.root_keys(&who()).await.unwrap();
    process.flush().await.unwrap();
    let events = written(&world);
    assert_eq!((events[0].kind, events[0].result), (EventKind::OpenFailed, Some(Outcome::Failure)));
    assert_eq!(events[0].column.as_deref(), Some("notes.title"));
    let checks: Vec<_> = events.iter().filter(|event| event.kind == EventKind::HealthCheck).collect();
    assert_eq!(checks.len(), tested.len() + roots.len());
    assert!(checks.iter().all(|event| event.actor == who().actor && event.result == Some(Outcome::Success)));
}

#[tokio::test]
async fn what_may_pass_is_summed_by_the_minute_and_not_told_each_time() {
    let world = World::new();
    let process = world.operators().await;
    set_mode(&process, "notes.title", Mode::Hybrid).await;
    process.flush().await.unwrap();
    written(&world);
    world.kms.set_state(MemoryState::TimedOut);
    let title = process.column("notes.title").unwrap();
    for _ in 0..3 {
        seal(&title, Place::none(), "a title").await.unwrap_err();
    }
    process.flush().await.unwrap();
    let failed: Vec<_> = written(&world).into_iter().filter(|event| event.kind == EventKind::SealFailed).collect();
    assert_eq!(failed.iter().map(|event| event.count).collect::<Vec<_>>(), [3]);
    assert!(failed[0].code.is_some());
}
