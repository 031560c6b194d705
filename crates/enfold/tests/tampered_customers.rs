//! What somebody changes by hand about the data keys of a tenant that holds a root key is refused and reported: on SQLite
//! and on Postgres alike.

mod common;
#[path = "common/hand.rs"]
mod hand;

use std::sync::Arc;

use common::{POLICY, World, code, open, seal, set_mode};
use enfold::catalog::{DataKeyRow, Purpose};
use enfold::kms::{EncryptionContext, KeyManagementServiceExt, MemoryKms, WrappedKey};
use enfold::policy::Mode;
use enfold::{Builder, Code, Column, Enfold, Part, Place};
use hand::Hand;

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const GLOBEX: Place<'static> = Place::tenant(Part::Text("globex"));

const CUSTOMERS: &str = "
[rings.main.tenants.acme]
customer_key = \"memory:acme\"
[rings.main.tenants.globex]
customer_key = \"memory:globex\"
";

/// Two tenants that hold root keys.
struct Scene {
    world: World,
    acme: Arc<MemoryKms>,
    globex: Arc<MemoryKms>,
    operators: Enfold,
    email: Column,
    hand: Hand,
}

fn process(world: &World, policy: &str, customers: [&Arc<MemoryKms>; 2]) -> Builder {
    let builder = world.builder_for(world.policy(policy));
    customers.into_iter().fold(builder, |builder, kms| builder.provider(Arc::clone(kms) as _))
}

impl Scene {
    async fn over((world, hand): (World, Hand)) -> Self {
        let memory = |name| Arc::new(MemoryKms::new(name).unwrap());
        let (acme, globex) = (memory("acme"), memory("globex"));
        let builder = process(&world, &format!("{POLICY}{CUSTOMERS}"), [&acme, &globex]);
        let operators = builder.prepare().build().await.unwrap();
        set_mode(&operators, "users.email", Mode::Kms).await;
        let email = operators.column("users.email").unwrap();
        Self { world, acme, globex, operators, email, hand }
    }

    async fn sign(&self) {
        self.operators.operator().unwrap().sign_customers("main").await.unwrap();
    }

    /// A process of an application, which starts now.
    async fn application(&self) -> enfold::Result<Enfold> {
        process(&self.world, &format!("{POLICY}{CUSTOMERS}"), [&self.acme, &self.globex]).build().await
    }

    async fn rows(&self) -> Vec<DataKeyRow> {
        let keys = self.world.catalog.keys("ring-main", None, 100).await.unwrap();
        keys.into_iter().filter(|row| row.purpose == Purpose::Seal).collect()
    }

    /// The row whose customer's root key is given.
    async fn row_of(&self, root: &str) -> DataKeyRow {
        let of = |row: &DataKeyRow| row.customer.as_ref().is_some_and(|layer| layer.root == root);
        self.rows().await.into_iter().find(of).unwrap()
    }

    async fn update(&self, row: &DataKeyRow, set: &str) {
        let id = self.hand.hex(row.id.as_bytes());
        self.hand.change(&format!("UPDATE @data_keys SET {set} WHERE ring = 'ring-main' AND id = {id}")).await;
    }

    /// A new process refuses, reports it, and `doctor` finds the one row.
    async fn refused(&self, stored: &[u8]) {
        let enfold = self.application().await.unwrap();
        let error = open(&enfold.column("users.email").unwrap(), ACME, stored).await.unwrap_err();
        assert_eq!(error.code(), Code::StateTampered, "{error}");
        assert_eq!(self.world.refusals(&enfold).await, ["state-tampered"]);
        assert_eq!(enfold.check_catalog().await.unwrap().len(), 1);
    }
}

on_both! {
    a_layer_taken_away
    a_layer_taken_away_with_a_wrap_of_somebody_elses_in_the_place_of_ours
    another_customers_root_key_put_in
    another_data_keys_layer_put_in
    an_authenticated_row_without_the_layer_put_back
    a_signed_customer_taken_out_of_the_state
    a_state_of_before_put_back
    a_layer_key_does_not_pass_for_the_data_key
}

async fn a_layer_taken_away(scene: Scene) {
    scene.sign().await;
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row_of("memory:acme").await;
    scene.update(&row, "customer_root = NULL, customer_wrapped = NULL, customer_sealed = NULL").await;
    scene.refused(&stored).await;
}

/// Whoever may use our root key wraps a key of theirs for the bare row.
async fn a_layer_taken_away_with_a_wrap_of_somebody_elses_in_the_place_of_ours(scene: Scene) {
    scene.sign().await;
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row_of("memory:acme").await;
    let theirs = scene.world.kms.generate_one(&context(&row)).await.unwrap();
    let (id, wrapped) = (scene.hand.hex(row.id.as_bytes()), scene.hand.hex(theirs.wrapped.as_bytes()));
    scene.hand.change(&format!("UPDATE @data_key_wraps SET wrapped = {wrapped} WHERE key_id = {id}")).await;
    scene.update(&row, "customer_root = NULL, customer_wrapped = NULL, customer_sealed = NULL").await;
    scene.refused(&stored).await;
}

async fn another_customers_root_key_put_in(scene: Scene) {
    scene.sign().await;
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row_of("memory:acme").await;
    let theirs = scene.globex.generate_one(&context(&row)).await.unwrap();
    let wrapped = scene.hand.hex(theirs.wrapped.as_bytes());
    scene.update(&row, &format!("customer_root = 'memory:globex', customer_wrapped = {wrapped}")).await;
    scene.refused(&stored).await;
    assert_eq!(scene.globex.calls().unwrap, 1, "once, when it was signed");
}

async fn another_data_keys_layer_put_in(scene: Scene) {
    scene.sign().await;
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    seal(&scene.email, GLOBEX, "bob").await.unwrap();
    let layer = scene.row_of("memory:globex").await.customer.unwrap();
    let (wrapped, sealed) = (scene.hand.hex(&layer.wrapped), scene.hand.hex(&layer.sealed));
    let set = format!("customer_root = 'memory:globex', customer_wrapped = {wrapped}, customer_sealed = {sealed}");
    scene.update(&scene.row_of("memory:acme").await, &set).await;
    scene.refused(&stored).await;
}

/// A row that was made before, with a MAC that is right, and that was hidden when the operators signed: its MAC says
/// nothing of the customer, the signed state does.
async fn an_authenticated_row_without_the_layer_put_back(scene: Scene) {
    let before = process(&scene.world, POLICY, [&scene.acme, &scene.globex]).build().await.unwrap();
    let stored = seal(&before.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    let row = scene.rows().await.remove(0);
    scene.hand.change("CREATE TABLE kept AS SELECT * FROM @data_keys WHERE purpose = 'seal'").await;
    scene.hand.change("CREATE TABLE kept_wraps AS SELECT * FROM @data_key_wraps").await;
    scene.hand.change("DELETE FROM @data_key_wraps WHERE key_id IN (SELECT id FROM kept)").await;
    scene.hand.change("DELETE FROM @data_keys WHERE id IN (SELECT id FROM kept)").await;
    scene.sign().await;
    scene.hand.change("INSERT INTO @data_keys SELECT * FROM kept").await;
    scene
        .hand
        .change("INSERT INTO @data_key_wraps SELECT * FROM kept_wraps WHERE key_id IN (SELECT id FROM kept)")
        .await;
    assert!(scene.rows().await.contains(&row), "it is as it was");
    scene.refused(&stored).await;
    let email = scene.application().await.unwrap().column("users.email").unwrap();
    assert_eq!(code(seal(&email, ACME, "x").await), Code::StateTampered);

    // Only the operators can let it open again, and then another one seals.
    let signed = scene.operators.operator().unwrap().sign_customers("main").await.unwrap();
    assert_eq!((signed.admitted, signed.made.len()), (vec![row.id], 1));
    let email = scene.application().await.unwrap().column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    let sealed = seal(&email, ACME, "x").await.unwrap();
    scene.acme.set_state(enfold::kms::MemoryState::Disabled);
    let email = scene.application().await.unwrap().column("users.email").unwrap();
    assert_eq!(code(open(&email, ACME, &sealed).await), Code::CustomerKeyRefused);
}

async fn a_signed_customer_taken_out_of_the_state(scene: Scene) {
    scene.sign().await;
    let states = scene.world.catalog.states().await.unwrap();
    let state = states.into_iter().find(|state| state.ring == "ring-main").unwrap();
    let text = String::from_utf8(state.document).unwrap();
    let (kept, _) = text.split_once(",\"customers\":").unwrap();
    let document = scene.hand.hex(format!("{kept}}}").as_bytes());
    scene.hand.change(&format!("UPDATE @ring_states SET document = {document} WHERE ring = 'ring-main'")).await;
    scene.world.next_look();
    assert_eq!(code(seal(&scene.email, ACME, "x").await), Code::StateTampered, "a running process");
    assert_eq!(code(scene.application().await), Code::StateTampered, "a new process");
}

/// The state as it was before the customer was signed is an older epoch; a process that cannot know that refuses the row.
async fn a_state_of_before_put_back(scene: Scene) {
    let states = scene.world.catalog.states().await.unwrap();
    let old = states.into_iter().find(|state| state.ring == "ring-main").unwrap();
    scene.sign().await;
    let stored = seal(&scene.email, ACME, "ann").await.unwrap();
    let (document, signature) = (scene.hand.hex(&old.document), scene.hand.hex(&old.signature));
    let set = format!("epoch = {}, document = {document}, signature = {signature}", old.epoch);
    scene.hand.change(&format!("UPDATE @ring_states SET {set} WHERE ring = 'ring-main'")).await;
    scene.world.next_look();
    assert_eq!(code(open(&scene.email, ACME, &stored).await), Code::StateRolledBack, "a running process");
    let fresh = scene.application().await.unwrap().column("users.email").unwrap();
    assert_eq!(code(open(&fresh, ACME, &stored).await), Code::StateTampered, "a new process");
    // Nor does it make a data key without the customer for a tenant whose policy names one.
    assert_eq!(code(seal(&fresh, GLOBEX, "x").await), Code::CustomerKeyMismatch);
}

/// Even if everything else were believed: our key service does not give the layer key out for a bare row.
async fn a_layer_key_does_not_pass_for_the_data_key(scene: Scene) {
    scene.sign().await;
    seal(&scene.email, ACME, "ann").await.unwrap();
    let row = scene.row_of("memory:acme").await;
    let (ours, theirs) =
        (WrappedKey::new(row.wraps[0].wrapped.clone()), row.customer.as_ref().unwrap().wrapped.clone());
    let (ours, theirs) = (ours.unwrap(), WrappedKey::new(theirs).unwrap());
    let bare = context(&row);
    assert_eq!(code(scene.world.kms.unwrap_one(&ours, &bare).await), Code::WrapInvalid);
    assert_eq!(code(scene.acme.unwrap_one(&theirs, &bare).await), Code::WrapInvalid);
    let layer = |of: &str| context(&row).with(EncryptionContext::LAYER, of).unwrap();
    assert!(scene.world.kms.unwrap_one(&ours, &layer("ours")).await.is_ok());
    assert!(scene.acme.unwrap_one(&theirs, &layer("customer")).await.is_ok());
    assert_eq!(code(scene.acme.unwrap_one(&theirs, &layer("ours")).await), Code::WrapInvalid);
}

/// That of a data key which needs our root key alone.
fn context(row: &DataKeyRow) -> EncryptionContext {
    let (_, tag) = row.scope.split_once('@').unwrap();
    let pairs = [
        (EncryptionContext::RING, "ring-main"),
        (EncryptionContext::SCOPE, "tenant"),
        (EncryptionContext::DATA_KEY, &row.id.to_string()),
        (EncryptionContext::TENANT, tag),
        ("data_class", "personal"),
    ];
    pairs.into_iter().fold(EncryptionContext::new(), |context, (name, value)| context.with(name, value).unwrap())
}
