//! Opening a policy: what is made, what is missing, what is refused at the door; and who may change a ring.

mod common;

use std::sync::Arc;

use common::{World, code, open, seal, set_mode, who};
use enfold::catalog::EventQuery;
use enfold::events::EventKind;
use enfold::kms::{MemoryKms, MemoryState};
use enfold::policy::{Mode, Policy, Variables};
use enfold::state::OperatorKey;
use enfold::{Code, Enfold, Form, Part, PayloadType, Place};
use proptest::prelude::*;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));

/// A policy over files of its own, as a person would write it.
fn on_files(dir: &std::path::Path, environment: &str, more: &str) -> Policy {
    let text = format!(
        r#"
environment = "{environment}"
[database]
url = "sqlite:app.db"
[events]
file = "events.jsonl"
catalog = true
[rings.main]
id = "main"
roots = ["local:dev.key"]
scope = "column"
[tables.users.columns.email]
id = "users.email"
ring = "main"
{more}
"#
    );
    enfold::policy::parse(&text, &dir.join("enfold.toml"), &Variables::default()).unwrap()
}

#[tokio::test]
async fn development_makes_what_is_missing_and_a_second_process_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(dir.path().join("app.db")).unwrap().execute_batch("CREATE TABLE users (email)").unwrap();
    let policy = on_files(dir.path(), "development", "");
    let first = Enfold::open(policy.clone()).await.unwrap();
    set_mode(&first, "users.email", Mode::Kms).await;
    let stored = seal(&first.column("users.email").unwrap(), Place::none(), "ann").await.unwrap();
    first.flush().await.unwrap();
    let second = Enfold::open(policy).await.unwrap();
    let email = second.column("users.email").unwrap();
    assert_eq!(email.mode().await.unwrap(), Mode::Kms);
    assert_eq!(open(&email, Place::none(), &stored).await.unwrap(), "ann");
    second.flush().await.unwrap();
    let kinds = |events: Vec<enfold::events::Event>| events.into_iter().map(|e| e.kind).collect::<Vec<_>>();
    let in_catalog = kinds(second.catalog().events(&EventQuery::newest(100)).await.unwrap());
    let lines = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
    let in_file = lines.lines().map(|l| enfold::events::Event::from_json(l).unwrap()).rev().collect();
    assert_eq!(in_catalog, kinds(in_file), "both sinks hold the same");
    for kind in [EventKind::KeyMade, EventKind::Seal, EventKind::KeyUsed, EventKind::Open] {
        assert!(in_catalog.contains(&kind), "{kind:?} in {in_catalog:?}");
    }
}

#[tokio::test]
async fn a_database_that_is_not_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(Enfold::open(on_files(dir.path(), "development", "")).await), Code::DatabaseUnavailable);
    assert!(!dir.path().join("app.db").exists());
}

#[tokio::test]
async fn staging_makes_nothing_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(dir.path().join("app.db")).unwrap().execute_batch("CREATE TABLE users (email)").unwrap();
    let refused = Enfold::open(on_files(dir.path(), "staging", "")).await.err().unwrap();
    assert_eq!(refused.code(), Code::CatalogVersion);
    assert!(refused.hints().any(|h| h.contains("enfold init")));
    assert!(!dir.path().join("dev.key").exists() && !dir.path().join("enfold-operator.key").exists());
}

#[tokio::test]
async fn without_the_operators_public_key_nothing_is_trusted() {
    let world = World::new();
    world.operators().await;
    std::fs::remove_file(world.dir.path().join("enfold-operator.key")).unwrap();
    assert_eq!(code(world.application().await), Code::OperatorKeyMissing);
}

#[tokio::test]
async fn an_application_that_pins_the_public_key_needs_no_key_file_and_cannot_sign() {
    let world = World::new();
    world.operators().await;
    let key = world.operator_key();
    let path = world.dir.path().join("enfold-operator.key");
    std::fs::remove_file(&path).unwrap();
    let pinned = enfold::policy::format_operator_key(&key.public_key());
    let policy = world.policy(&format!("{}\n[trust]\noperator_key = \"{pinned}\"\n", common::POLICY));
    let app = world.builder_for(policy.clone()).build().await.unwrap();
    assert_eq!(code(app.operator().map(|_| ())), Code::OperatorKeyMissing);
    // Another key than the pinned one signs nothing either.
    OperatorKey::init(&path).unwrap();
    let app = world.builder_for(policy.clone()).build().await.unwrap();
    assert_eq!(code(app.operator().map(|_| ())), Code::OperatorKeyMissing);
    let app = world.builder_for(policy).operator_key(key).build().await.unwrap();
    assert!(app.operator().unwrap().set_mode("users.email", Mode::Hybrid).await.is_ok());
}

#[tokio::test]
async fn a_signed_mode_below_the_pinned_one_is_refused_and_reported() {
    let world = World::new();
    let operators = world.operators().await;
    let pinned =
        common::POLICY.replace("id = \"users.email\"", "id = \"users.email\"\nmode = \"kms\"\nmin_mode = \"hybrid\"");
    assert_eq!(code(world.builder_for(world.policy(&pinned)).build().await), Code::StateTampered);
    assert_eq!(world.refused(), ["state-tampered"]);
    set_mode(&operators, "users.email", Mode::Hybrid).await;
    assert!(world.builder_for(world.policy(&pinned)).build().await.is_ok());
}

#[tokio::test]
async fn processes_that_start_a_ring_together_agree_on_it() {
    let world = World::new();
    OperatorKey::init(&world.dir.path().join("enfold-operator.key")).unwrap();
    let starts = (0..8).map(|_| tokio::spawn(world.builder().prepare().build()));
    let mut sealed = Vec::new();
    for started in futures_util::future::join_all(starts).await {
        let enfold = started.unwrap().unwrap();
        let email = enfold.column("users.email").unwrap().for_conversion();
        sealed.push(seal(&email, ACME, "ann").await.unwrap());
    }
    let app = world.application().await.unwrap();
    for stored in sealed {
        assert_eq!(open(&app.column("users.email").unwrap(), ACME, &stored).await.unwrap(), "ann");
    }
}

#[tokio::test]
async fn operators_that_publish_together_lose_nothing_of_each_others() {
    let world = World::new();
    let enfold = world.operators().await;
    let publish = ["users.email", "users.name"].map(|column| {
        let enfold = enfold.clone();
        tokio::spawn(async move { enfold.operator().unwrap().set_mode(column, Mode::Hybrid).await.unwrap() })
    });
    futures_util::future::join_all(publish).await;
    for column in ["users.email", "users.name"] {
        assert_eq!(enfold.column(column).unwrap().mode().await.unwrap(), Mode::Hybrid);
    }
}

/// Two root keys: data keys survive the outage of either.
#[tokio::test]
async fn sealing_and_opening_survive_the_outage_of_one_key_service() {
    let world = World::new();
    let second = Arc::new(MemoryKms::new("second").unwrap());
    let two = common::POLICY.replacen("roots = [\"memory:root\"]", "roots = [\"memory:root\", \"memory:second\"]", 1);
    let start = || world.builder_for(world.policy(&two)).provider(Arc::clone(&second) as _);
    let operators = start().prepare().build().await.unwrap();
    set_mode(&operators, "users.email", Mode::Kms).await;
    let stored = seal(&operators.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    let email = operators.column("users.email").unwrap();
    operators.forget_keys();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    let other = Place::tenant(Part::Text("other"));
    let made = seal(&email, other, "bob").await.unwrap();
    world.kms.set_state(MemoryState::Enabled);
    operators.forget_keys();
    assert_eq!(open(&email, other, &made).await.unwrap(), "bob", "its one wrap is by the second root");
}

#[tokio::test]
async fn a_root_key_that_refuses_stops_the_making_of_a_key() {
    let world = World::new();
    let operators = world.operators().await;
    set_mode(&operators, "users.email", Mode::Kms).await;
    world.kms.set_state(MemoryState::Denied);
    let email = operators.column("users.email").unwrap();
    assert_eq!(code(seal(&email, ACME, "ann").await), Code::KmsAccessDenied);
    assert_eq!(world.refusals(&operators).await, ["kms-access-denied"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a user types comes back, in every mode that writes envelopes and in every form.
    #[test]
    fn what_is_sealed_comes_back(text in ".*|enf1:.*|enf[0-9]:-enf.*", kms in any::<bool>(), json in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let enfold = world.operators().await;
            set_mode(&enfold, "users.email", if kms { Mode::Kms } else { Mode::Hybrid }).await;
            let email = enfold.column("users.email").unwrap();
            let (form, value) = match json {
                true => (Form::Json, serde_json::to_string(&text).unwrap()),
                false => (Form::Text, text.clone()),
            };
            let stored = email.seal(&who(), &ACME, form, PayloadType::Text, value.as_bytes()).await.unwrap();
            assert!(stored.starts_with(if json { b"\"enf1:" } else { b"enf1:" }));
            let opened = email.open(&who(), &ACME, form, &stored).await.unwrap();
            assert_eq!(&opened.value[..], value.as_bytes());
        });
    }
}
