//! A tenant's own root key: both it and ours are needed, and nobody else is touched when the customer withdraws it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::catalog::{DataKeyRow, KeyStatus, Purpose};
use enfold::kms::{MemoryKms, MemoryState};
use enfold::policy::{Mode, Policy};
use enfold::{Code, CustomerWraps, Enfold, Part, Place, Tried};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));
/// The cache's life in a policy that says nothing else.
const LIFE: Duration = Duration::from_secs(300);

const CUSTOMER: &str = "\n[rings.main.tenants.acme]\ncustomer_key = \"memory:acme\"\n";

/// A world in which the tenant `acme` may hold a root key, and others theirs.
struct Scene {
    world: World,
    acme: Arc<MemoryKms>,
    second: Arc<MemoryKms>,
}

impl Scene {
    fn new() -> Self {
        let memory = |name| Arc::new(MemoryKms::new(name).unwrap());
        Self { world: World::new(), acme: memory("acme"), second: memory("second") }
    }

    fn policy(&self, text: &str) -> Policy {
        self.world.policy(text)
    }

    /// A new process, with nothing in its cache.
    async fn process(&self, text: &str) -> Enfold {
        let builder = self.world.builder_for(self.policy(text));
        let builder = builder.provider(Arc::clone(&self.acme) as _).provider(Arc::clone(&self.second) as _);
        builder.prepare().build().await.unwrap()
    }

    /// A process of the operators, where the customer's key is in the policy and signed.
    async fn signed(&self, more: &str) -> Enfold {
        let enfold = self.process(&format!("{POLICY}{CUSTOMER}{more}")).await;
        set_mode(&enfold, "users.email", Mode::Kms).await;
        enfold.operator().unwrap().sign_customers("main").await.unwrap();
        enfold
    }

    async fn rows(&self, purpose: Purpose) -> Vec<DataKeyRow> {
        let rows = self.world.catalog.keys("ring-main", None, 100).await.unwrap();
        rows.into_iter().filter(|row| row.purpose == purpose).collect()
    }

    async fn epoch(&self) -> u64 {
        let states = self.world.catalog.states().await.unwrap();
        states.iter().find(|state| state.ring == "ring-main").unwrap().epoch
    }
}

async fn customers(enfold: &Enfold) -> Vec<CustomerWraps> {
    enfold.wraps().await.unwrap().into_iter().find(|ring| ring.ring == "main").unwrap().customers
}

#[tokio::test]
async fn a_customer_who_withdraws_a_root_key_stops_that_tenant_and_nobody_else() {
    let scene = Scene::new();
    let enfold = scene.signed("").await;
    let email = enfold.column("users.email").unwrap();
    let (ann, bob) = (seal(&email, ACME, "ann").await.unwrap(), seal(&email, OTHER, "bob").await.unwrap());
    let found = email.index_to_store(&who(), "eq", &ACME, "ann").await.unwrap();
    assert!(scene.rows(Purpose::Index).await[0].customer.is_some(), "the index key of the tenant needs it as well");

    for withdrawn in [MemoryState::Disabled, MemoryState::Denied, MemoryState::PendingDeletion] {
        scene.acme.set_state(withdrawn);
        assert_eq!(open(&email, ACME, &ann).await.unwrap(), "ann", "it is in the cache");
        scene.world.clock.advance(LIFE);
        let error = open(&email, ACME, &ann).await.unwrap_err();
        assert_eq!(error.code(), Code::CustomerKeyRefused);
        assert!(error.causes().any(|cause| cause.contains("memory:acme")), "{error:?}");
        assert_eq!(code(seal(&email, ACME, "x").await), Code::CustomerKeyRefused);
        assert_eq!(code(email.index_to_store(&who(), "eq", &ACME, "ann").await), Code::CustomerKeyRefused);
        assert_eq!(open(&email, OTHER, &bob).await.unwrap(), "bob");
        seal(&email, OTHER, "x").await.unwrap();

        scene.acme.set_state(MemoryState::Enabled);
        scene.world.next_look();
        assert_eq!(open(&email, ACME, &ann).await.unwrap(), "ann", "it came back");
        assert_eq!(email.index_to_store(&who(), "eq", &ACME, "ann").await.unwrap(), found);
    }
    scene.acme.set_state(MemoryState::Deleted);
    scene.world.clock.advance(LIFE);
    assert_eq!(code(open(&email, ACME, &ann).await), Code::CustomerKeyRefused);
    assert_eq!(open(&email, OTHER, &bob).await.unwrap(), "bob");
    let reported = scene.world.refusals(&enfold).await;
    assert!(reported.iter().all(|code| code == "customer-key-refused"), "{reported:?}");
}

#[tokio::test]
async fn a_customers_root_key_that_does_not_answer_is_an_outage_up_to_the_stale_limit() {
    let scene = Scene::new();
    let enfold = scene.signed("[rings.main.cache]\nstale_if_error = \"10m\"\n").await;
    let email = enfold.column("users.email").unwrap();
    let ann = seal(&email, ACME, "ann").await.unwrap();
    scene.acme.set_state(MemoryState::TimedOut);
    scene.world.clock.advance(LIFE * 3 - Duration::from_secs(1));
    assert_eq!(open(&email, ACME, &ann).await.unwrap(), "ann");
    scene.world.clock.advance(Duration::from_secs(2));
    assert_eq!(code(open(&email, ACME, &ann).await), Code::KmsUnavailable);
}

/// What was withdrawn is not served stale because our own root key happens not to answer.
#[tokio::test]
async fn a_customers_refusal_ends_the_stale_window_whatever_our_root_key_does() {
    let scene = Scene::new();
    let enfold = scene.signed("[rings.main.cache]\nstale_if_error = \"10m\"\n").await;
    let email = enfold.column("users.email").unwrap();
    let ann = seal(&email, ACME, "ann").await.unwrap();
    scene.world.kms.set_state(MemoryState::TimedOut);
    scene.world.clock.advance(LIFE);
    assert_eq!(open(&email, ACME, &ann).await.unwrap(), "ann", "an outage of ours alone");
    scene.acme.set_state(MemoryState::Disabled);
    scene.world.clock.advance(Duration::from_secs(60));
    assert_eq!(code(open(&email, ACME, &ann).await), Code::CustomerKeyRefused);
}

#[tokio::test]
async fn neither_root_key_opens_alone() {
    let scene = Scene::new();
    let stored = seal(&scene.signed("").await.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    let fresh = async || scene.process(&format!("{POLICY}{CUSTOMER}")).await.column("users.email").unwrap();
    let email = fresh().await;
    scene.world.kms.set_state(MemoryState::Disabled);
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KmsKeyDisabled);
    scene.world.kms.set_state(MemoryState::Enabled);
    scene.acme.set_state(MemoryState::Disabled);
    assert_eq!(code(open(&fresh().await, ACME, &stored).await), Code::CustomerKeyRefused);
    scene.acme.set_state(MemoryState::Enabled);
    assert_eq!(open(&fresh().await, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn data_keys_that_were_there_open_as_before_and_a_new_version_needs_both() {
    let scene = Scene::new();
    let before = scene.process(POLICY).await;
    set_mode(&before, "users.email", Mode::Kms).await;
    let email = before.column("users.email").unwrap();
    let (old, bob) = (seal(&email, ACME, "old").await.unwrap(), seal(&email, OTHER, "bob").await.unwrap());
    email.index_to_store(&who(), "eq", &ACME, "old").await.unwrap();

    // The policy is rolled out first: nothing changes yet for what is there.
    let policy = format!("{POLICY}{CUSTOMER}");
    let enfold = scene.process(&policy).await;
    let email = enfold.column("users.email").unwrap();
    seal(&email, ACME, "meanwhile").await.unwrap();
    assert!(!customers(&enfold).await[0].signed);

    let signed = enfold.operator().unwrap().sign_customers("main").await.unwrap();
    assert_eq!((signed.admitted.len(), signed.made.len()), (2, 1), "a key that seals, one of an index");
    let rows = scene.rows(Purpose::Seal).await;
    let of = |version| rows.iter().find(|row| row.scope.starts_with("tenant@") && row.version == version).unwrap();
    assert!(of(2).customer.is_some() && of(2).status == KeyStatus::Active && signed.made == [of(2).id]);
    let old_row = rows.iter().find(|row| row.scope == of(2).scope && row.version == 1).unwrap();
    assert!(old_row.customer.is_none() && old_row.status == KeyStatus::Retired);
    let new = seal(&email, ACME, "new").await.unwrap();
    let again = enfold.operator().unwrap().sign_customers("main").await.unwrap();
    assert_eq!((again.admitted.len(), again.made.len()), (0, 0), "nothing is left to do");

    let listed = customers(&enfold).await;
    assert_eq!((listed[0].tenant.as_str(), listed[0].root.as_str(), listed[0].signed), ("acme", "memory:acme", true));
    assert_eq!((listed[0].keys, listed[0].bare.len()), (1, 2));
    assert!(listed[0].bare.contains(&old_row.id));
    assert!(enfold.check_catalog().await.unwrap().is_empty());

    scene.acme.set_state(MemoryState::Disabled);
    let email = scene.process(&policy).await.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &old).await.unwrap(), "old");
    email.index_to_store(&who(), "eq", &ACME, "old").await.unwrap();
    assert_eq!(code(open(&email, ACME, &new).await), Code::CustomerKeyRefused);
    assert_eq!(open(&email, OTHER, &bob).await.unwrap(), "bob");
}

#[tokio::test]
async fn where_policy_and_signed_state_do_not_agree_no_data_key_is_made() {
    let scene = Scene::new();
    let policy = format!("{POLICY}{CUSTOMER}");
    let enfold = scene.process(&policy).await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    let error = seal(&email, ACME, "x").await.unwrap_err();
    assert_eq!(error.code(), Code::CustomerKeyMismatch, "named and not signed");
    assert!(error.hints().any(|hint| hint.contains("enfold keys customers --sign")), "{error:?}");
    seal(&email, OTHER, "bob").await.unwrap();
    assert_eq!(scene.rows(Purpose::Seal).await.len(), 1, "the other tenant's");

    // A process that runs already learns of the signature by itself.
    scene.process(&policy).await.operator().unwrap().sign_customers("main").await.unwrap();
    scene.world.next_look();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    assert!(scene.rows(Purpose::Seal).await.iter().any(|row| row.customer.is_some()));

    // One whose policy is another makes none without, and calls nothing that its policy does not name.
    let without = scene.process(POLICY).await.column("users.email").unwrap();
    let error = open(&without, ACME, &stored).await.unwrap_err();
    assert_eq!(error.code(), Code::CustomerKeyMismatch, "signed and not named");
    assert_eq!(code(without.index_to_store(&who(), "eq", &ACME, "ann").await), Code::CustomerKeyMismatch);
    assert!(scene.rows(Purpose::Index).await.is_empty());
    seal(&without, OTHER, "bob").await.unwrap();

    let another = scene.process(&policy.replace("memory:acme", "memory:second")).await;
    let email = another.column("users.email").unwrap();
    assert_eq!(
        code(email.index_to_store(&who(), "eq", &ACME, "ann").await),
        Code::CustomerKeyMismatch,
        "another was signed"
    );
    let refused = another.operator().unwrap().sign_customers("main").await;
    assert_eq!(code(refused), Code::CustomerKeyMismatch, "nor can another be signed");
    assert_eq!(scene.second.calls().unwrap, 1, "it was tried, and opened nothing");
}

#[tokio::test]
async fn a_customers_root_key_that_refuses_is_not_signed() {
    let scene = Scene::new();
    let enfold = scene.process(&format!("{POLICY}{CUSTOMER}")).await;
    let epoch = scene.epoch().await;
    scene.acme.set_state(MemoryState::Denied);
    let error = enfold.operator().unwrap().sign_customers("main").await.unwrap_err();
    assert_eq!(error.code(), Code::KmsAccessDenied);
    assert!(error.hints().any(|hint| hint == "nothing was changed"), "{error:?}");
    assert_eq!(scene.epoch().await, epoch);
    let found = enfold.root_keys(&enfold::CallContext::default()).await.unwrap();
    let of_acme: Vec<_> = found.iter().filter(|root| root.tenant.is_some()).collect();
    assert_eq!((of_acme.len(), of_acme[0].root.as_str()), (1, "memory:acme"));
    assert!(matches!(&of_acme[0].tried, Tried::NotWrapped(error) if error.code() == Code::KmsAccessDenied));
}

#[tokio::test]
async fn a_root_key_of_ours_gets_its_missing_wraps_without_the_customers() {
    let scene = Scene::new();
    let stored = seal(&scene.signed("").await.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    scene.acme.set_state(MemoryState::Disabled);
    let (asked, two) =
        (scene.acme.calls(), POLICY.replacen("[\"memory:root\"]", "[\"memory:root\", \"memory:second\"]", 1));
    let enfold = scene.process(&format!("{two}{CUSTOMER}")).await;
    let repaired = enfold.repair_wraps("main").await.unwrap();
    assert_eq!((repaired.incomplete, repaired.errors), (0, Vec::new()));
    assert!(scene.rows(Purpose::Seal).await.iter().all(|row| row.wraps.len() == 2));
    assert_eq!(scene.acme.calls(), asked, "the customer was not asked");

    // The wrap that was made without the customer is one by which the value opens with the customer.
    scene.acme.set_state(MemoryState::Enabled);
    let email = scene.process(&format!("{two}{CUSTOMER}")).await.column("users.email").unwrap();
    scene.world.kms.set_state(MemoryState::TimedOut);
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn an_index_that_crosses_tenants_needs_no_customer() {
    let scene = Scene::new();
    let crossing = POLICY.replacen("normalise =", "cross_tenant = true\nnormalise =", 1);
    let enfold = scene.process(&format!("{crossing}{CUSTOMER}")).await;
    enfold.operator().unwrap().sign_customers("main").await.unwrap();
    let email = enfold.column("users.email").unwrap();
    let one = email.index_to_store(&who(), "eq", &ACME, "ann").await.unwrap();
    assert_eq!(email.index_to_store(&who(), "eq", &OTHER, "ann").await.unwrap(), one);
    assert!(scene.rows(Purpose::Index).await.iter().all(|row| row.customer.is_none()));
}

/// The policy has nothing but text; columns have types.
#[tokio::test]
async fn a_tenant_is_meant_whether_its_column_holds_text_numbers_or_uuids() {
    const UUID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
    let bytes: [u8; 16] = 0x0f8f_ad5b_d9cb_469f_a165_7086_7728_950e_u128.to_be_bytes();
    let scene = Scene::new();
    let named = format!(
        "\n[rings.main.tenants.42]\ncustomer_key = \"memory:acme\"\n[rings.main.tenants.{UUID}]\ncustomer_key = \"memory:acme\"\n"
    );
    let enfold = scene.process(&format!("{POLICY}{named}")).await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    enfold.operator().unwrap().sign_customers("main").await.unwrap();
    let email = enfold.column("users.email").unwrap();
    for part in [Part::Text("42"), Part::Int(42), Part::Text(UUID), Part::Uuid(bytes)] {
        seal(&email, Place::tenant(part), "x").await.unwrap();
    }
    let rows = scene.rows(Purpose::Seal).await;
    assert!(rows.len() == 4 && rows.iter().all(|row| row.customer.is_some()));
    for part in [Part::Text("042"), Part::Int(43), Part::Bytes(b"42")] {
        seal(&email, Place::tenant(part), "x").await.unwrap();
    }
    assert_eq!(scene.rows(Purpose::Seal).await.iter().filter(|row| row.customer.is_none()).count(), 3);
}
