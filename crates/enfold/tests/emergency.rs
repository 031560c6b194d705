//! Access in emergencies: who may say what when, and what somebody who can write to the catalog gets out of it.

mod common;

use std::time::Duration;

use common::{World, code};
use enfold::access::{Emergency, Grant, NewEmergency, NewServiceKey, Role, Standing, Within};
use enfold::catalog::StoredEmergency;
use enfold::events::{CallContext, EventKind};
use enfold::{Code, Enfold, Result};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A process of a service, whose policy says this of emergencies.
async fn process(world: &World, emergency: &str) -> Enfold {
    let text = format!("{}\n[service.emergency]\n{emergency}", common::POLICY);
    world.builder_for(world.policy(&text)).prepare().build().await.unwrap()
}

fn by(actor: &str) -> CallContext {
    CallContext::new(actor, format!("says {actor}"))
}

async fn ask(process: &Enfold, actor: &str) -> Emergency {
    let wanted = NewEmergency { lasts: HOUR, within: Within::default() };
    process.ask_emergency(&wanted, &by(actor)).await.unwrap()
}

async fn used(process: &Enfold, id: &str, actor: &str) -> Result<Emergency> {
    process.use_emergency(id, "POST /x", &by(actor)).await
}

fn kinds(world: &World) -> Vec<EventKind> {
    let events = world.sink.0.lock().unwrap();
    events.iter().filter(|event| event.emergency.is_some()).map(|event| event.kind).collect()
}

#[tokio::test]
async fn one_is_asked_for_approved_by_somebody_else_used_ended_and_reviewed_by_somebody_else() {
    let world = World::new();
    let process = process(&world, "").await;
    let id = ask(&process, "ann").await.id;
    assert_eq!(code(used(&process, &id, "ann").await), Code::PermissionDenied, "it waits");
    assert_eq!(
        code(process.decide_emergency(&id, true, &by("ann")).await),
        Code::PermissionDenied,
        "nobody approves their own"
    );
    let silent = CallContext { actor: Some("bob".to_owned()), ..CallContext::default() };
    assert_eq!(code(process.decide_emergency(&id, true, &silent).await), Code::Usage, "every word has a reason");
    assert_eq!(code(process.review_emergency(&id, &by("bob")).await), Code::Usage, "nothing was done yet");
    process.decide_emergency(&id, true, &by("bob")).await.unwrap();
    assert_eq!(code(process.decide_emergency(&id, false, &by("eve")).await), Code::Usage, "it is decided");
    assert_eq!(code(used(&process, &id, "bob").await), Code::PermissionDenied, "it is ann's alone");
    let first = used(&process, &id, "ann").await.unwrap();
    assert!(first.used_ms.is_some());
    assert_eq!(used(&process, &id, "ann").await.unwrap(), first, "the first use alone changes it");
    process.end_emergency(&id, &by("bob")).await.unwrap();
    assert_eq!(code(used(&process, &id, "ann").await), Code::PermissionDenied);
    assert_eq!(
        code(process.review_emergency(&id, &by("ann")).await),
        Code::PermissionDenied,
        "nobody reviews their own"
    );
    let reviewed = process.review_emergency(&id, &by("carl")).await.unwrap();
    assert_eq!(process.standing_of(&reviewed), Standing::Reviewed);
    assert_eq!(code(process.review_emergency(&id, &by("bob")).await), Code::Usage, "once is enough");
    process.flush().await.unwrap();
    use EventKind::{EmergencyApproved, EmergencyAsked, EmergencyEnded, EmergencyReviewed, EmergencyUsed};
    let wanted = [EmergencyAsked, EmergencyApproved, EmergencyUsed, EmergencyUsed, EmergencyEnded, EmergencyReviewed];
    assert_eq!(kinds(&world), wanted);
}

#[tokio::test]
async fn whoever_asked_takes_it_back_or_ends_it_and_nobody_else_does_in_their_place() {
    let world = World::new();
    let process = process(&world, "").await;
    for approved in [false, true] {
        let id = ask(&process, "ann").await.id;
        if approved {
            process.decide_emergency(&id, true, &by("bob")).await.unwrap();
        }
        assert_eq!(code(process.withdraw_emergency(&id, &by("bob")).await), Code::PermissionDenied);
        let ended = process.withdraw_emergency(&id, &by("ann")).await.unwrap();
        let stands = if approved { Standing::Open } else { Standing::Lapsed };
        assert_eq!(process.standing_of(&ended), stands);
        assert_eq!(code(used(&process, &id, "ann").await), Code::PermissionDenied);
        assert_eq!(code(process.withdraw_emergency(&id, &by("ann")).await), Code::Usage, "once is enough");
    }
}

#[tokio::test]
async fn each_process_goes_by_the_last_word_at_once() {
    let world = World::new();
    let (one, other) = (process(&world, "").await, process(&world, "").await);
    let id = ask(&one, "ann").await.id;
    other.decide_emergency(&id, true, &by("bob")).await.unwrap();
    used(&one, &id, "ann").await.unwrap();
    other.end_emergency(&id, &by("bob")).await.unwrap();
    assert_eq!(code(used(&one, &id, "ann").await), Code::PermissionDenied);
}

#[tokio::test]
async fn of_many_who_decide_at_once_one_does() {
    let world = World::new();
    let process = process(&world, "").await;
    let id = ask(&process, "ann").await.id;
    let decide = |n: usize| {
        let (process, id) = (process.clone(), id.clone());
        async move { process.decide_emergency(&id, n.is_multiple_of(2), &by(&format!("approver {n}"))).await }
    };
    let decided = futures_util::future::join_all((0..8).map(decide)).await;
    assert_eq!(decided.iter().filter(|decided| decided.is_ok()).count(), 1);
    let left = process.emergency(&id).await.unwrap();
    assert!(left.approved.is_some() != left.denied.is_some());
}

#[test]
fn one_that_nobody_decides_lapses_and_one_that_is_over_is_open() {
    let stands = |emergency: &Emergency, approval, after: Duration| {
        emergency.standing(approval, emergency.asked.at_ms + i64::try_from(after.as_millis()).unwrap())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new();
        let process = process(&world, "").await;
        let mut emergency = ask(&process, "ann").await;
        assert_eq!(stands(&emergency, true, 23 * HOUR), Standing::Waiting);
        assert_eq!(stands(&emergency, true, 24 * HOUR), Standing::Lapsed);
        // Where the policy has nobody approve, it is in force from the beginning.
        assert_eq!(stands(&emergency, false, HOUR - Duration::from_millis(1)), Standing::InForce);
        assert_eq!(stands(&emergency, false, HOUR), Standing::Open);
        emergency = process.decide_emergency(&emergency.id, true, &by("bob")).await.unwrap();
        let late = emergency.approved.as_ref().unwrap().at_ms - emergency.asked.at_ms;
        let late = Duration::from_millis(u64::try_from(late).unwrap());
        assert_eq!(stands(&emergency, true, late + HOUR - Duration::from_millis(1)), Standing::InForce);
        assert_eq!(stands(&emergency, true, late + HOUR), Standing::Open);
        let denied = ask(&process, "ann").await.id;
        let denied = process.decide_emergency(&denied, false, &by("bob")).await.unwrap();
        assert_eq!(stands(&denied, true, HOUR), Standing::Denied);
    });
}

#[tokio::test]
async fn the_policy_says_how_long_and_whether_somebody_approves() {
    let world = World::new();
    let free = process(&world, "approval = false\nlongest = \"30m\"").await;
    for (minutes, fits) in [(0, false), (1, true), (30, true), (31, false)] {
        let wanted = NewEmergency { lasts: Duration::from_secs(60 * minutes), within: Within::default() };
        assert_eq!(free.ask_emergency(&wanted, &by("ann")).await.is_ok(), fits, "{minutes} minutes");
    }
    let wanted = NewEmergency { lasts: Duration::from_secs(60), within: Within::default() };
    let silent = CallContext { reason: Some("  ".to_owned()), ..by("ann") };
    assert_eq!(code(free.ask_emergency(&wanted, &silent).await), Code::Usage);
    let id = free.ask_emergency(&wanted, &by("ann")).await.unwrap().id;
    used(&free, &id, "ann").await.unwrap();
    // A policy that is stricter now is so for what was asked before.
    let strict = process(&world, "").await;
    assert_eq!(code(used(&strict, &id, "ann").await), Code::PermissionDenied);
}

#[test]
fn what_is_asked_for_narrows_what_the_role_may_and_never_widens_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new();
        let process = process(&world, "").await;
        let set = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        let within = Within { tenants: set(&["acme", "other"]), classes: None, columns: set(&["users.email"]) };
        let wanted = NewEmergency { lasts: HOUR, within };
        let emergency = process.ask_emergency(&wanted, &by("ann")).await.unwrap();
        let held = Grant { tenants: set(&["acme", "third"]), classes: set(&["email"]), ..Grant::of(Role::Emergency) };
        let narrow = emergency.narrow(&held);
        assert_eq!(narrow.tenants, set(&["acme"]));
        assert_eq!((narrow.classes, narrow.columns), (set(&["email"]), set(&["users.email"])));
    });
}

#[tokio::test]
async fn whoever_can_write_to_the_catalog_gets_no_access_out_of_it() {
    let world = World::new();
    let process = process(&world, "").await;
    let id = ask(&process, "ann").await.id;
    let waiting = world.catalog.emergency(&id).await.unwrap().unwrap();
    // Says that bob approved.
    let text = String::from_utf8(waiting.document.clone()).unwrap();
    let approved =
        text.replace("\"within\":{}", "\"within\":{},\"approved\":{\"by\":\"bob\",\"at_ms\":1,\"reason\":\"r\"}");
    assert_ne!(text, approved);
    put(&world, StoredEmergency { document: approved.into_bytes(), ..waiting.clone() }).await;
    assert_eq!(code(used(&process, &id, "ann").await), Code::StateTampered);
    // An approved one of somebody else's, under this id.
    let other = ask(&process, "eve").await.id;
    process.decide_emergency(&other, true, &by("bob")).await.unwrap();
    let theirs = world.catalog.emergency(&other).await.unwrap().unwrap();
    put(&world, StoredEmergency { id: id.clone(), ..theirs.clone() }).await;
    assert_eq!(code(used(&process, &id, "eve").await), Code::StateTampered);
    // One that is broken hides no other.
    let listed = process.emergencies().await.unwrap();
    assert_eq!(listed.iter().filter(|(_, emergency)| emergency.is_ok()).count(), 1);
    // What was ended is put back as it was.
    process.end_emergency(&other, &by("bob")).await.unwrap();
    put(&world, theirs).await;
    assert_eq!(code(used(&process, &other, "eve").await), Code::StateRolledBack);
}

/// As somebody does who may write to the table.
async fn put(world: &World, row: StoredEmergency) {
    let there = world.catalog.emergency(&row.id).await.unwrap().unwrap().revision;
    assert!(world.catalog.put_emergency(&row, Some(there)).await.unwrap());
}

#[tokio::test]
async fn no_service_key_has_emergencies() {
    let world = World::new();
    let operators = world.operators().await;
    let expires_ms = i64::MAX;
    let wanted =
        NewServiceKey { name: "k".into(), grants: vec![Grant::of(Role::Emergency)], expires_ms, instead: false };
    let made = operators.operator().unwrap().make_service_key(&wanted, &by("ann")).await;
    assert_eq!(made.map(|_| ()).map_err(|error| error.code()), Err(Code::Usage));
    assert!(operators.access_list(0).await.unwrap().keys.is_empty());
}
