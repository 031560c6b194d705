//! What somebody changes in the catalog by hand is refused and reported: on SQLite and on Postgres alike.

mod common;
#[path = "common/hand.rs"]
mod hand;

use common::{World, code, open, seal, set_mode, who};
use enfold::catalog::Purpose;
use enfold::kms::{EncryptionContext, KeyManagementServiceExt, KeyMaterial};
use enfold::policy::Mode;
use enfold::state::OperatorKey;
use enfold::{Code, Column, Enfold, Part, Place, ScopeId};
use hand::Hand;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

struct Scene {
    world: World,
    operators: Enfold,
    email: Column,
    hand: Hand,
}

impl Scene {
    async fn over((world, hand): (World, Hand)) -> Self {
        let operators = world.operators().await;
        set_mode(&operators, "users.email", Mode::Kms).await;
        set_mode(&operators, "users.name", Mode::Hybrid).await;
        let email = operators.column("users.email").unwrap();
        Self { world, operators, email, hand }
    }

    async fn change(&self, sql: &str) {
        self.hand.change(sql).await;
    }

    fn hex(&self, bytes: &[u8]) -> String {
        self.hand.hex(bytes)
    }

    /// Edits the stored document as text.
    async fn edit_state(&self, from: &str, to: &str) {
        let state = self.state().await;
        let text = String::from_utf8(state.document).unwrap();
        assert!(text.contains(from), "{text}");
        let document = self.hex(text.replace(from, to).as_bytes());
        self.change(&format!("UPDATE @ring_states SET document = {document} WHERE ring = 'ring-main'")).await;
    }

    async fn state(&self) -> enfold::catalog::SignedState {
        let states = self.world.catalog.states().await.unwrap();
        states.into_iter().find(|s| s.ring == "ring-main").unwrap()
    }

    /// The tenant's row whose version is given.
    async fn row(&self, version: u32) -> enfold::catalog::DataKeyRow {
        let keys = self.world.catalog.keys("ring-main", None, 100).await.unwrap();
        keys.into_iter().find(|k| k.purpose == Purpose::Seal && k.version == version).unwrap()
    }

    /// What a process that runs already and one that starts now make of it.
    async fn refused_by_both(&self, expected: Code) {
        self.world.next_look();
        assert_eq!(code(seal(&self.email, ACME, "x").await), expected, "a running process");
        assert_eq!(code(self.world.application().await), expected, "a new process");
        let reported = self.world.refusals(&self.operators).await;
        assert!(reported.iter().any(|c| c == expected.word()), "{reported:?}");
    }

    /// A new process starts, and then may not open this value.
    async fn refused_on_use(&self, stored: &[u8], expected: Code) {
        let enfold = self.world.application().await.unwrap();
        let email = enfold.column("users.email").unwrap();
        let error = open(&email, ACME, stored).await.unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
        let reported = self.world.refusals(&enfold).await;
        assert!(reported.iter().any(|c| c == expected.word()), "{reported:?}");
    }
}

on_both! {
    a_mode_lowered
    a_column_map_swapped
    a_column_under_another_id_in_the_policy
    a_version_swapped
    a_wrap_swapped
    a_wrap_made_by_somebody_else
    an_older_epoch
    a_retired_key_made_active
    a_retired_row_replayed
    an_unsigned_state
    a_state_signed_by_somebody_else
    a_state_taken_away
    a_row_key_swapped
    a_key_that_somebody_else_put_in
}

async fn a_mode_lowered(scene: Scene) {
    scene.edit_state("\"mode\":\"kms\"", "\"mode\":\"legacy\"").await;
    scene.refused_by_both(Code::StateTampered).await;
}

async fn a_column_map_swapped(scene: Scene) {
    scene.edit_state("\"id\":\"users.email\"", "\"id\":\"users.name\"").await;
    scene.refused_by_both(Code::StateTampered).await;
}

async fn a_column_under_another_id_in_the_policy(scene: Scene) {
    let swapped = common::POLICY.replace("id = \"users.email\"", "id = \"users.mail\"");
    let builder = scene.world.builder_for(scene.world.policy(&swapped));
    assert_eq!(code(builder.build().await), Code::StateTampered);
    assert_eq!(scene.world.refused(), ["state-tampered"]);
}

async fn a_version_swapped(scene: Scene) {
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let first = scene.row(1).await;
    scene.operators.operator().unwrap().rotate("main", &scope(&first.scope), &who()).await.unwrap();
    let second = scene.row(2).await;
    for (id, version) in [(first.id, 9), (second.id, 1), (first.id, 2)] {
        let id = scene.hex(id.as_bytes());
        scene.change(&format!("UPDATE @data_keys SET version = {version} WHERE id = {id}")).await;
    }
    scene.refused_on_use(&stored, Code::StateTampered).await;
}

async fn a_wrap_swapped(scene: Scene) {
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let ours = scene.row(1).await;
    seal(&scene.email, OTHER, "bob").await.unwrap();
    let keys = scene.world.catalog.keys("ring-main", None, 100).await.unwrap();
    let theirs = keys.into_iter().find(|k| k.purpose == Purpose::Seal && k.id != ours.id).unwrap();
    let (id, wrapped) = (scene.hex(ours.id.as_bytes()), scene.hex(&theirs.wraps[0].wrapped));
    scene.change(&format!("UPDATE @data_key_wraps SET wrapped = {wrapped} WHERE key_id = {id}")).await;
    scene.refused_on_use(&stored, Code::StateTampered).await;
}

/// The root key lets anybody with the right wrap; here somebody wraps a key of theirs for our row, context and all.
async fn a_wrap_made_by_somebody_else(scene: Scene) {
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row(1).await;
    let (_, tag) = row.scope.split_once('@').unwrap();
    let context = EncryptionContext::new()
        .with(EncryptionContext::RING, "ring-main")
        .and_then(|c| c.with(EncryptionContext::SCOPE, "tenant"))
        .and_then(|c| c.with(EncryptionContext::DATA_KEY, &row.id.to_string()))
        .and_then(|c| c.with(EncryptionContext::TENANT, tag))
        .and_then(|c| c.with("data_class", "personal"))
        .unwrap();
    let genuine = enfold::kms::WrappedKey::new(row.wraps[0].wrapped.clone()).unwrap();
    assert!(scene.world.kms.unwrap_one(&genuine, &context).await.is_ok(), "the context is the right one");
    let theirs = scene.world.kms.wrap_one(&KeyMaterial::generate().unwrap(), &context).await.unwrap();
    let (id, wrapped) = (scene.hex(row.id.as_bytes()), scene.hex(theirs.as_bytes()));
    scene.change(&format!("UPDATE @data_key_wraps SET wrapped = {wrapped} WHERE key_id = {id}")).await;
    scene.refused_on_use(&stored, Code::StateTampered).await;
}

async fn an_older_epoch(scene: Scene) {
    let old = scene.state().await;
    set_mode(&scene.operators, "users.name", Mode::Kms).await;
    let newer = scene.state().await.epoch;
    let (document, signature) = (scene.hex(&old.document), scene.hex(&old.signature));
    let sql = "UPDATE @ring_states SET epoch =";
    let sql = format!("{sql} {}, document = {document}, signature = {signature} WHERE ring = 'ring-main'", old.epoch);
    scene.change(&sql).await;
    scene.world.next_look();
    assert_eq!(code(seal(&scene.email, ACME, "x").await), Code::StateRolledBack, "a running process");
    // A new process cannot know, unless the epoch is pinned where the database's owner cannot reach.
    let pinned = format!("{}\n[trust]\nmin_epoch = {newer}\n", common::POLICY);
    let pinned = scene.world.builder_for(scene.world.policy(&pinned)).build().await;
    assert_eq!(code(pinned), Code::StateRolledBack, "a new process");
    let reported = scene.world.refusals(&scene.operators).await;
    assert_eq!(reported, ["state-rolled-back", "state-rolled-back", "state-rolled-back"]);
}

async fn a_retired_key_made_active(scene: Scene) {
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let first = scene.row(1).await;
    scene.operators.operator().unwrap().rotate("main", &scope(&first.scope), &who()).await.unwrap();
    let id = scene.hex(first.id.as_bytes());
    assert!(scene.operators.check_catalog().await.unwrap().is_empty());
    scene.change(&format!("UPDATE @data_keys SET status = 'active' WHERE id = {id}")).await;
    let found = scene.operators.check_catalog().await.unwrap();
    assert_eq!(found.len(), 1, "`doctor` finds the one row");
    assert!(found[0].message().contains(&first.id.to_string()));
    scene.refused_on_use(&stored, Code::StateTampered).await;
}

/// The whole row of an earlier day, with the MAC that was right then.
async fn a_retired_row_replayed(scene: Scene) {
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let first = scene.row(1).await;
    scene.operators.operator().unwrap().rotate("main", &scope(&first.scope), &who()).await.unwrap();
    let (id, mac) = (scene.hex(first.id.as_bytes()), scene.hex(&first.mac));
    scene.change(&format!("UPDATE @data_keys SET status = 'active', mac = {mac} WHERE id = {id}")).await;
    scene.refused_on_use(&stored, Code::StateTampered).await;
}

async fn an_unsigned_state(scene: Scene) {
    let nothing = scene.hex(b"");
    scene.change(&format!("UPDATE @ring_states SET signature = {nothing} WHERE ring = 'ring-main'")).await;
    scene.refused_by_both(Code::StateTampered).await;
}

async fn a_state_signed_by_somebody_else(scene: Scene) {
    let state = scene.state().await;
    let read = enfold::state::RingState::verify(&state, "ring-main", &scene.world.operator_key().public_key(), 0);
    let signature = OperatorKey::generate().unwrap().sign(&read.unwrap()).unwrap().signature;
    let signature = scene.hex(&signature);
    scene.change(&format!("UPDATE @ring_states SET signature = {signature} WHERE ring = 'ring-main'")).await;
    scene.refused_by_both(Code::StateTampered).await;
}

async fn a_state_taken_away(scene: Scene) {
    scene.change("DELETE FROM @ring_states WHERE ring = 'ring-main'").await;
    scene.world.next_look();
    assert_eq!(code(seal(&scene.email, ACME, "x").await), Code::StateTampered);
    assert_eq!(code(scene.world.application().await), Code::CatalogVersion, "a new process never saw one");
    assert!(scene.world.refusals(&scene.operators).await.contains(&"state-tampered".to_owned()));
}

/// Another key of the same ring in the place of the one that authenticates rows.
async fn a_row_key_swapped(scene: Scene) {
    seal(&scene.email, ACME, "ann").await.unwrap();
    let keys = scene.world.catalog.keys("ring-main", None, 100).await.unwrap();
    let rows = keys.iter().find(|k| k.purpose == Purpose::Rows).unwrap();
    let ours = scene.row(1).await;
    let (id, wrapped) = (scene.hex(rows.id.as_bytes()), scene.hex(&ours.wraps[0].wrapped));
    scene.change(&format!("UPDATE @data_key_wraps SET wrapped = {wrapped} WHERE key_id = {id}")).await;
    let refused = code(scene.world.application().await);
    assert_eq!(refused, Code::WrapInvalid, "the key service itself knows another context");
    assert_eq!(scene.world.refused(), ["wrap-invalid"]);
}

/// A tenant without a key yet: somebody puts one of theirs there first.
async fn a_key_that_somebody_else_put_in(scene: Scene) {
    seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row(1).await;
    let id = scene.hex(&[7; 16]);
    let from = format!("FROM @data_keys WHERE id = {}", scene.hex(row.id.as_bytes()));
    scene
        .change(&format!(
            "INSERT INTO @data_keys (ring, id, purpose, scope, version, status, created_ms, mac)
             SELECT ring, {id}, purpose, 'index:users.email/eq', version, status, created_ms, mac {from};
             UPDATE @data_keys SET purpose = 'index' WHERE id = {id}"
        ))
        .await;
    let cross = common::POLICY.replace("normalise =", "cross_tenant = true\nnormalise =");
    let enfold = scene.world.builder_for(scene.world.policy(&cross)).build().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    assert_eq!(code(email.index_to_store(&who(), "eq", &ACME, "ann").await), Code::StateTampered);
    assert_eq!(scene.world.refusals(&enfold).await, ["state-tampered"]);
}

/// A scope as it is spelled in the catalog.
fn scope(text: &str) -> ScopeId {
    text.parse().unwrap()
}
