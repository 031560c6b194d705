//! The key ring as applications meet it: how often key services are asked, who makes a key, when a disable is in force.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{World, code, open, seal, set_mode, who};
use enfold::catalog::{Catalog, KeyStatus, Purpose};
use enfold::kms::MemoryState;
use enfold::policy::Mode;
use enfold::{Code, Form, Part, PayloadType, Place, SealRequest, Whose};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));

async fn hybrid(world: &World) {
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Hybrid).await;
}

/// The tenant's data keys.
async fn tenant_keys(world: &World) -> Vec<enfold::catalog::DataKeyRow> {
    let keys = world.catalog.keys("ring-main", None, 1000).await.unwrap();
    keys.into_iter().filter(|k| k.purpose == Purpose::Seal).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_concurrent_misses_make_one_call() {
    let world = World::new();
    hybrid(&world).await;
    let stored = {
        let enfold = world.application().await.unwrap();
        seal(&enfold.column("users.email").unwrap(), ACME, "ann").await.unwrap()
    };
    let enfold = world.application().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    let before = world.kms.calls();
    let opens = (0..1000).map(|_| {
        let (email, stored) = (email.clone(), stored.clone());
        tokio::spawn(async move { open(&email, ACME, &stored).await.unwrap() })
    });
    for opened in futures_util::future::join_all(opens).await {
        assert_eq!(opened.unwrap(), "ann");
    }
    assert_eq!(world.kms.calls().unwrap, before.unwrap + 1);
    assert_eq!(world.kms.calls().wrap, before.wrap);
}

#[tokio::test]
async fn a_hundred_thousand_seals_under_one_tenant_make_one_call() {
    let world = World::new();
    hybrid(&world).await;
    let enfold = world.application().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    let before = world.kms.calls();
    let request = SealRequest { place: ACME, form: Form::Bytes, payload: PayloadType::Text, value: b"ann@example.com" };
    let batch = vec![request; 1000];
    for _ in 0..100 {
        assert!(email.seal_many(&who(), &batch).await.iter().all(Result::is_ok));
    }
    let after = world.kms.calls();
    assert_eq!((after.wrap + after.unwrap + after.generate) - (before.wrap + before.unwrap + before.generate), 1);
    assert_eq!(tenant_keys(&world).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_make_a_key_at_once_use_one_of_them() {
    let world = World::new();
    hybrid(&world).await;
    let mut sealed = Vec::new();
    let mut making = Vec::new();
    for _ in 0..16 {
        let enfold = world.application().await.unwrap();
        let email = enfold.column("users.email").unwrap();
        making.push(tokio::spawn(async move { seal(&email, ACME, "ann").await.unwrap() }));
    }
    for made in making {
        sealed.push(made.await.unwrap());
    }
    assert_eq!(tenant_keys(&world).await.len(), 1);
    let enfold = world.application().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    for stored in sealed {
        assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    }
}

#[tokio::test]
async fn a_key_is_stored_before_anything_is_sealed_with_it() {
    let world = World::new();
    hybrid(&world).await;
    let enfold = world.application().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    assert_eq!(code(seal(&email, ACME, "ann").await), Code::KmsUnavailable);
    assert!(tenant_keys(&world).await.is_empty());
    world.kms.set_state(MemoryState::Enabled);
    world.clock.advance(Duration::from_secs(2));
    let stored = seal(&email, ACME, "ann").await.unwrap();
    let id = tenant_keys(&world).await[0].id;
    assert!(
        String::from_utf8(stored)
            .unwrap()
            .starts_with(&enfold_core::text::key_prefix(enfold_core::Kind::ByReference, id))
    );
}

#[tokio::test]
async fn a_rotated_key_opens_and_seals_no_more() {
    let world = World::new();
    hybrid(&world).await;
    let (operators, app) = (world.operators().await, world.application().await.unwrap());
    let email = app.column("users.email").unwrap();
    let old = seal(&email, ACME, "ann").await.unwrap();
    let first = tenant_keys(&world).await.remove(0);
    let rotated = operators.operator().unwrap().rotate("main", &first.scope.parse().unwrap(), &who()).await.unwrap();
    assert_eq!((rotated.previous_version, rotated.previous_key, rotated.version), (1, Some(first.id), 2));
    let second = rotated.key;
    world.next_look();
    let new = seal(&email, ACME, "ann").await.unwrap();
    let prefix = enfold_core::text::key_prefix(enfold_core::Kind::ByReference, second);
    assert!(String::from_utf8(new.clone()).unwrap().starts_with(&prefix));
    for stored in [&old, &new] {
        assert_eq!(open(&email, ACME, stored).await.unwrap(), "ann");
    }
    let rows = tenant_keys(&world).await;
    let status = |id| rows.iter().find(|k| k.id == id).unwrap().status;
    assert_eq!((status(first.id), status(second)), (KeyStatus::Retired, KeyStatus::Active));
}

#[tokio::test]
async fn a_disable_is_in_force_within_a_second_and_can_be_taken_back() {
    let world = World::new();
    hybrid(&world).await;
    let (operators, app) = (world.operators().await, world.application().await.unwrap());
    let email = app.column("users.email").unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    let id = tenant_keys(&world).await[0].id;
    operators.operator().unwrap().disable("main", id, &who()).await.unwrap();
    world.next_look();
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KeyDisabled);
    assert_eq!(code(seal(&email, ACME, "bob").await), Code::KeyDisabled);
    assert!(world.refusals(&app).await.contains(&"key-disabled".to_owned()));
    operators.operator().unwrap().enable("main", id, &who()).await.unwrap();
    world.next_look();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    assert!(seal(&email, ACME, "bob").await.is_ok());
}

#[tokio::test]
async fn a_disabled_key_is_not_served_stale_in_an_outage() {
    let world = World::new();
    let policy = common::POLICY.replace("[rings.wide]", "[rings.main.cache]\nstale_if_error = \"1h\"\n[rings.wide]");
    let operators = world.builder_for(world.policy(&policy)).prepare().build().await.unwrap();
    set_mode(&operators, "users.email", Mode::Hybrid).await;
    let app = world.builder_for(world.policy(&policy)).build().await.unwrap();
    let email = app.column("users.email").unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    world.clock.advance(Duration::from_secs(301));
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann", "an outage of the key service is survived");
    let id = tenant_keys(&world).await[0].id;
    operators.operator().unwrap().disable("main", id, &who()).await.unwrap();
    world.next_look();
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KeyDisabled);
}

#[tokio::test]
async fn an_outage_without_a_stale_window_stops_reads_after_the_cache_time() {
    let world = World::new();
    hybrid(&world).await;
    let app = world.application().await.unwrap();
    let email = app.column("users.email").unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    world.clock.advance(Duration::from_secs(299));
    assert!(open(&email, ACME, &stored).await.is_ok());
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KmsUnavailable);
}

#[tokio::test]
async fn a_key_service_that_takes_a_right_back_ends_the_key_with_the_cache_time() {
    let world = World::new();
    hybrid(&world).await;
    let app = world.application().await.unwrap();
    let email = app.column("users.email").unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    world.kms.set_state(MemoryState::Denied);
    world.clock.advance(Duration::from_secs(301));
    assert_eq!(code(open(&email, ACME, &stored).await), Code::KmsAccessDenied);
}

/// A catalog that can be cut off.
struct Cut {
    inner: Arc<dyn Catalog>,
    cut: std::sync::atomic::AtomicBool,
}

impl Cut {
    fn check(&self) -> enfold::Result<&Arc<dyn Catalog>> {
        if self.cut.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(enfold::Error::new(Code::DatabaseUnavailable, "the catalog is cut off"));
        }
        Ok(&self.inner)
    }
}

macro_rules! cut_off {
    ($( fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $out:ty; )*) => {
        #[async_trait::async_trait]
        impl Catalog for Cut {
            $( async fn $name(&self $(, $arg: $type)*) -> enfold::Result<$out> {
                self.check()?.$name($($arg),*).await
            } )*
        }
    };
}

cut_off! {
    fn put_emergency(&self, emergency: &enfold::catalog::StoredEmergency, expected: Option<u64>) -> bool;
    fn emergency(&self, id: &str) -> Option<enfold::catalog::StoredEmergency>;
    fn emergencies(&self, limit: u32) -> Vec<enfold::catalog::StoredEmergency>;
    fn migrate(&self) -> ();
    fn check(&self) -> ();
    fn takes_customer_layers(&self) -> ();
    fn ensure_root(&self, root: &enfold::catalog::RootKey) -> enfold::catalog::RootKey;
    fn roots(&self) -> Vec<enfold::catalog::RootKey>;
    fn describe_root(&self, uri: &str, about: &enfold::catalog::RootAbout) -> ();
    fn restore_root(&self, uri: &str, id: enfold::KeyId) -> enfold::catalog::RootKey;
    fn swap_wraps(&self, ring: &str, swaps: &[enfold::catalog::Swap], by: Option<u64>) -> Vec<bool>;
    fn insert_key(&self, key: &enfold::catalog::DataKeyRow, by: Option<u64>) -> enfold::catalog::Inserted;
    fn key(&self, ring: &str, id: enfold::KeyId) -> Option<enfold::catalog::DataKeyRow>;
    fn key_version(&self, ring: &str, purpose: Purpose, scope: &str, version: u32) -> Option<enfold::catalog::DataKeyRow>;
    fn keys_named(&self, ring: &str, ids: &[enfold::KeyId]) -> Vec<enfold::catalog::DataKeyRow>;
    fn key_versions(&self, ring: &str, purpose: Purpose, wanted: &[(String, u32)]) -> Vec<enfold::catalog::DataKeyRow>;
    fn keys(&self, ring: &str, after: Option<enfold::KeyId>, limit: u32) -> Vec<enfold::catalog::DataKeyRow>;
    fn states(&self) -> Vec<enfold::catalog::SignedState>;
    fn publish(&self, state: &enfold::catalog::SignedState, expected: Option<u64>, keys: &[enfold::catalog::Swap]) -> bool;
    fn add_wraps(&self, key: &enfold::catalog::DataKeyRow, expected: &[u8]) -> bool;
    fn register(&self, application: &enfold::catalog::Application) -> ();
    fn applications(&self, since_ms: i64) -> Vec<enfold::catalog::Application>;
    fn acknowledge(&self, word: &enfold::catalog::Acknowledgement) -> ();
    fn acknowledgements(&self, ring: &str) -> Vec<enfold::catalog::Acknowledgement>;
    fn keep_certificate(&self, ring: &str, subject: &str, certificate: &str) -> ();
    fn certificate(&self, ring: &str, subject: &str) -> Option<String>;
    fn access_list(&self) -> Option<enfold::catalog::SignedAccess>;
    fn publish_access_list(&self, list: &enfold::catalog::SignedAccess, expected: Option<u64>) -> bool;
    fn begin_request(&self, request: &enfold::catalog::NamedRequest, holding: enfold::catalog::Holding) -> enfold::catalog::Begun;
    fn intend_request(&self, id: &[u8; 32], intent: &str) -> ();
    fn end_request(&self, id: &[u8; 32], answer: Option<&str>) -> ();
    fn append_log(&self, entries: &[enfold::events::Entry]) -> ();
    fn log_heads(&self) -> Vec<(enfold::events::WriterId, u64)>;
    fn log_of(&self, writer: enfold::events::WriterId, after: u64, limit: u32) -> Vec<(u64, String)>;
    fn unchained_log(&self, after: i64, limit: u32) -> Vec<(i64, String)>;
    fn checkpoints(&self, after: u64, limit: u32) -> Vec<enfold::events::SignedCheckpoint>;
    fn last_checkpoint(&self) -> Option<enfold::events::SignedCheckpoint>;
    fn add_checkpoint(&self, checkpoint: &enfold::events::SignedCheckpoint) -> bool;
    fn remove_log(&self, writer: enfold::events::WriterId, upto: u64, limit: u32) -> u64;
    fn remove_checkpoints(&self, upto: u64, limit: u32) -> u64;
    fn event_page(&self, query: &enfold::catalog::EventQuery, page: enfold::catalog::EventPage) -> Vec<(i64, enfold::events::Event)>;
    fn uses(&self, keys: &[enfold::KeyId], since_ms: i64) -> Vec<enfold::catalog::KeyUse>;
}

#[tokio::test]
async fn a_process_that_cannot_look_stops_after_the_stated_limit() {
    let world = World::new();
    hybrid(&world).await;
    let cut = Arc::new(Cut { inner: Arc::clone(&world.catalog), cut: false.into() });
    let app = world.builder().catalog(Arc::clone(&cut) as _).build().await.unwrap();
    let email = app.column("users.email").unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    cut.cut.store(true, std::sync::atomic::Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(29));
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(code(open(&email, ACME, &stored).await), Code::StateUnseen);
    assert_eq!(code(seal(&email, ACME, "bob").await), Code::StateUnseen);
    cut.cut.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn the_watch_sees_a_new_state_without_a_call_and_ends_with_the_handle() {
    let world = World::new();
    hybrid(&world).await;
    // The watch keeps its own time; uses do not look, because this clock stands still.
    let policy = world.policy(common::POLICY);
    let app = enfold::Enfold::builder(policy)
        .catalog(Arc::clone(&world.catalog))
        .provider(Arc::clone(&world.kms) as _)
        .clock(Arc::clone(&world.clock) as _)
        .application("shop", "1.2.3")
        .build()
        .await
        .unwrap();
    let email = app.column("users.email").unwrap();
    assert_eq!(email.mode().await.unwrap(), Mode::Hybrid);
    set_mode(&world.operators().await, "users.email", Mode::Kms).await;
    while email.mode().await.unwrap() != Mode::Kms {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while app.applications(60).await.unwrap().iter().all(|a| a.columns.is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = app.applications(60).await.unwrap();
    assert_eq!((seen[0].name.as_str(), seen[0].version.as_str()), ("shop", "1.2.3"));
    assert_eq!(seen[0].columns, ["users.email"]);
    assert_eq!(seen[0].ready, Mode::Kms);
    let holders = Arc::strong_count(&world.catalog);
    drop((app, email));
    while Arc::strong_count(&world.catalog) == holders {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_of_one_purpose_is_not_used_for_another() {
    let world = World::new();
    hybrid(&world).await;
    let app = world.application().await.unwrap();
    let email = app.column("users.email").unwrap();
    email.index_to_store(&who(), "eq", &ACME, "ann").await.unwrap();
    let mut stored = String::from_utf8(seal(&email, ACME, "ann").await.unwrap()).unwrap();
    let keys = world.catalog.keys("ring-main", None, 100).await.unwrap();
    for purpose in [Purpose::Index, Purpose::Rows] {
        let id = keys.iter().find(|k| k.purpose == purpose).unwrap().id;
        let prefix = enfold_core::text::key_prefix(enfold_core::Kind::ByReference, id);
        stored.replace_range(..prefix.len(), &prefix);
        assert_eq!(code(open(&email, ACME, stored.as_bytes()).await), Code::OpenFailed);
    }
    let missing = enfold_core::text::key_prefix(enfold_core::Kind::ByReference, enfold::KeyId::from_bytes([9; 16]));
    stored.replace_range(..missing.len(), &missing);
    assert_eq!(code(open(&email, ACME, stored.as_bytes()).await), Code::KeyNotFound);
}

/// A process of an application whose ring `wide` has limits on its data key.
async fn limited(world: &World, limits: &str) -> enfold::Enfold {
    let policy =
        common::POLICY.replacen("scope = \"ring\"\n", &format!("scope = \"ring\"\ncache = {{ {limits} }}\n"), 1);
    world.builder_for(world.policy(&policy)).build().await.unwrap()
}

#[tokio::test]
async fn after_so_many_uses_the_key_service_is_asked_again() {
    let world = World::new();
    let operators = world.operators().await;
    let stored = seal(&operators.value("token").unwrap(), Place::none(), "ann").await.unwrap();
    let app = limited(&world, "max_uses = 3").await;
    let token = app.value("token").unwrap();
    let before = world.kms.calls().unwrap;
    for (use_, calls) in [1, 1, 1, 2, 2, 2, 3].into_iter().enumerate() {
        // Sealing and opening count alike.
        match use_ % 2 {
            0 => assert_eq!(open(&token, Place::none(), &stored).await.unwrap(), "ann"),
            _ => drop(seal(&token, Place::none(), "bob").await.unwrap()),
        }
        assert_eq!(world.kms.calls().unwrap - before, calls, "use {use_}");
    }
    // A batch is not divided, and ends the key's life for the next call.
    let opens = [enfold::OpenRequest { place: Place::none(), form: Form::Text, stored: &stored, beside: &[] }; 10];
    assert!(token.open_many(&who(), &opens).await.into_iter().all(|opened| opened.is_ok()));
    assert_eq!(world.kms.calls().unwrap - before, 3);
    open(&token, Place::none(), &stored).await.unwrap();
    assert_eq!(world.kms.calls().unwrap - before, 4);
}

#[tokio::test]
async fn after_so_many_bytes_were_sealed_the_key_service_is_asked_again() {
    let world = World::new();
    let operators = world.operators().await;
    let stored = seal(&operators.value("token").unwrap(), Place::none(), "ann").await.unwrap();
    let app = limited(&world, "max_bytes = 100").await;
    let token = app.value("token").unwrap();
    let before = world.kms.calls().unwrap;
    let text = "a".repeat(60);
    seal(&token, Place::none(), &text).await.unwrap();
    // What is opened is not counted.
    for _ in 0..10 {
        open(&token, Place::none(), &stored).await.unwrap();
    }
    seal(&token, Place::none(), &text).await.unwrap();
    assert_eq!(world.kms.calls().unwrap - before, 1);
    seal(&token, Place::none(), &text).await.unwrap();
    assert_eq!(world.kms.calls().unwrap - before, 2);
}

#[tokio::test]
async fn a_key_that_has_reached_its_limit_is_not_used_on_in_an_outage() {
    let world = World::new();
    let operators = world.operators().await;
    let stored = seal(&operators.value("token").unwrap(), Place::none(), "ann").await.unwrap();
    let app = limited(&world, "max_uses = 2, stale_if_error = \"1h\"").await;
    let token = app.value("token").unwrap();
    open(&token, Place::none(), &stored).await.unwrap();
    world.kms.set_state(MemoryState::TimedOut);
    open(&token, Place::none(), &stored).await.unwrap();
    assert_eq!(code(open(&token, Place::none(), &stored).await), Code::KmsUnavailable);
    world.kms.set_state(MemoryState::Enabled);
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(open(&token, Place::none(), &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_value_under_a_version_that_was_announced_a_moment_ago_opens_in_a_process_that_has_not_looked_since() {
    let world = World::new();
    hybrid(&world).await;
    let (operators, application) = (world.operators().await, world.application().await.unwrap());
    let (theirs, ours) = (operators.column("users.email").unwrap(), application.column("users.email").unwrap());
    let before = seal(&ours, ACME, "ann").await.unwrap();
    operators.operator().unwrap().rotate_many("main", Whose::Everybody, &who()).await.unwrap();
    let after = seal(&theirs, ACME, "bob").await.unwrap();
    // By the state of a moment ago there is no second version; the row says otherwise, and the newest state that it is right.
    for _ in 0..2 {
        assert_eq!(open(&ours, ACME, &after).await.unwrap(), "bob");
        assert_eq!(open(&ours, ACME, &before).await.unwrap(), "ann");
    }
    assert!(world.refusals(&application).await.is_empty());
}
