//! Data keys under other root keys, and the states of root keys: on key services in memory, and catalogs in both databases.

mod common;
#[path = "common/hand.rs"]
mod hand;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::catalog::{DataKeyRow, RootAbout};
use enfold::kms::{
    KeyManagementService, KeyMaterial, KeyUri, MemoryKms, MemoryState, RotateKey, UnwrapRequest, WrapRequest,
    WrappedKey,
};
use enfold::policy::Mode;
use enfold::state::RootState;
use enfold::{
    Code, Enfold, Error, Form, KeyId, Leaving, Part, Place, Result, RewrapOptions, Rewrapped, RootProof, Source, Whose,
};
use hand::Hand;

on_both! {
    every_data_key_goes_from_one_root_key_to_another_and_the_first_may_go
    two_at_once_do_each_data_key_once
    a_row_that_was_changed_by_hand_is_refused_and_the_rest_goes_on
    a_retired_root_key_opens_and_wraps_nothing_new
    a_restored_record_opens_what_came_under_either_id
    records_of_before_are_told_from_those_sealed_after_a_rotation
    people_see_every_key_in_the_view
}

const OLD: &str = "memory:root";
const NEW: &str = "memory:second";
const TENANTS: [&str; 5] = ["acme", "globex", "initech", "hooli", "umbrella"];

/// A world with two root keys, which rings name as they are told to.
struct Scene {
    world: World,
    hand: Hand,
    new: Arc<MemoryKms>,
    stored: Vec<(&'static str, Vec<u8>)>,
}

impl Scene {
    /// With a value of every tenant, sealed under the old root key.
    async fn over((world, hand): (World, Hand)) -> Self {
        let mut scene = Self { world, hand, new: Arc::new(MemoryKms::new("second").unwrap()), stored: Vec::new() };
        let enfold = scene.process(&[OLD]).await;
        set_mode(&enfold, "users.email", Mode::Kms).await;
        set_mode(&enfold, "notes.locked", Mode::Kms).await;
        let email = enfold.column("users.email").unwrap();
        for tenant in TENANTS {
            scene.stored.push((tenant, seal(&email, place(tenant), tenant).await.unwrap()));
        }
        scene
    }

    async fn memory() -> Self {
        Self::over(Hand::on_sqlite().await).await
    }

    /// A new process whose policy names these root keys, in all rings.
    async fn process(&self, roots: &[&str]) -> Enfold {
        self.process_with(roots, Arc::clone(&self.new) as _).await
    }

    async fn process_with(&self, roots: &[&str], new: Arc<dyn KeyManagementService>) -> Enfold {
        let policy = POLICY.replace("[\"memory:root\"]", &format!("{roots:?}"));
        self.world.builder_for(self.world.policy(&policy)).provider(new).prepare().build().await.unwrap()
    }

    async fn rows(&self) -> Vec<DataKeyRow> {
        self.world.catalog.keys("ring-main", None, 100).await.unwrap()
    }

    /// By which root keys the data keys of the ring are wrapped.
    async fn roots(&self) -> Vec<Vec<String>> {
        let mut roots: Vec<Vec<String>> =
            self.rows().await.iter().map(|row| row.wraps.iter().map(|wrap| wrap.root.clone()).collect()).collect();
        roots.sort();
        roots.dedup();
        roots
    }

    async fn all_open(&self, enfold: &Enfold) {
        let email = enfold.column("users.email").unwrap();
        for (tenant, stored) in &self.stored {
            assert_eq!(open(&email, place(tenant), stored).await.unwrap(), *tenant);
        }
        assert!(enfold.check_catalog().await.unwrap().is_empty(), "every row is authenticated");
    }
}

fn place(tenant: &'static str) -> Place<'static> {
    Place::tenant(Part::Text(tenant))
}

/// All rings; what came of `main` is given.
async fn rewrap(enfold: &Enfold, options: &RewrapOptions) -> Result<Rewrapped> {
    for ring in enfold.policy().rings.keys().filter(|ring| *ring != "main") {
        enfold.rewrap(ring, options, &who(), &|_| true).await?;
    }
    enfold.rewrap("main", options, &who(), &|_| true).await
}

fn dropping() -> RewrapOptions {
    RewrapOptions { drop: true, ..RewrapOptions::default() }
}

async fn every_data_key_goes_from_one_root_key_to_another_and_the_first_may_go(scene: Scene) {
    let both = scene.process(&[NEW, OLD]).await;
    let plan = both.plan_rewrap("main", &RewrapOptions::default()).await.unwrap();
    let all = scene.rows().await.len() as u64;
    assert_eq!((plan.keys, plan.to_do, plan.wraps, plan.drops, plan.closed), (all, all, all, 0, 0));
    let [new, old] = &plan.roots[..] else { panic!("{plan:?}") };
    assert_eq!((new.root.as_str(), new.wraps, new.unwraps), (NEW, all, all), "each wrap is opened again");
    assert_eq!((old.root.as_str(), old.wraps, old.unwraps), (OLD, 0, all));

    let done = rewrap(&both, &RewrapOptions::default()).await.unwrap();
    assert_eq!((done.looked, done.done, done.wrapped, done.dropped, done.failed), (all, all, all, 0, 0));
    assert_eq!(scene.roots().await, [[OLD, NEW]]);
    assert_eq!(rewrap(&both, &RewrapOptions::default()).await.unwrap().done, 0, "nothing is left to do");
    scene.all_open(&both).await;

    // The old one is not in the policy any more, and may be gone: what stays is tried by itself.
    let new_alone = scene.process(&[NEW]).await;
    scene.world.kms.set_state(MemoryState::Deleted);
    let dropped = rewrap(&new_alone, &dropping()).await.unwrap();
    assert_eq!((dropped.done, dropped.wrapped, dropped.dropped), (all, 0, all), "{:?}", dropped.failures);
    assert_eq!(scene.roots().await, [[NEW]]);
    scene.all_open(&scene.process(&[NEW]).await).await;
}

async fn two_at_once_do_each_data_key_once(scene: Scene) {
    let (one, other) = (scene.process(&[NEW, OLD]).await, scene.process(&[NEW, OLD]).await);
    let options = RewrapOptions::default();
    let (a, b) = futures_util::join!(rewrap(&one, &options), rewrap(&other, &options));
    let (a, b) = (a.unwrap(), b.unwrap());
    let all = scene.rows().await.len() as u64;
    assert_eq!((a.done + b.done, a.failed + b.failed), (all, 0));
    assert_eq!(scene.roots().await, [[OLD, NEW]]);
    scene.world.kms.set_state(MemoryState::TimedOut);
    scene.all_open(&scene.process(&[NEW]).await).await;
}

async fn a_row_that_was_changed_by_hand_is_refused_and_the_rest_goes_on(scene: Scene) {
    let enfold = scene.process(&[NEW, OLD]).await;
    let victim = scene.rows().await.into_iter().find(|row| row.scope.starts_with("tenant@")).unwrap();
    let id = scene.hand.hex(victim.id.as_bytes());
    scene.hand.change(&format!("UPDATE @data_keys SET created_ms = created_ms + 1 WHERE id = {id}")).await;
    let done = rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    let all = scene.rows().await.len() as u64;
    assert_eq!((done.done, done.failed), (all - 1, 1));
    assert_eq!((done.failures[0].0, done.failures[0].1.code()), (victim.id, Code::StateTampered));
    assert!(scene.world.refusals(&enfold).await.contains(&"state-tampered".to_owned()), "it is reported");
    let now = scene.rows().await.into_iter().find(|row| row.id == victim.id).unwrap();
    assert!(now.wraps == victim.wraps && now.mac == victim.mac, "it is left as it was found");
}

async fn a_retired_root_key_opens_and_wraps_nothing_new(scene: Scene) {
    let enfold = scene.process(&[OLD, NEW]).await;
    rewrap(&enfold, &RewrapOptions { to: Some(NEW.to_owned()), ..RewrapOptions::default() }).await.unwrap();
    let application = scene.process(&[OLD, NEW]).await;
    let operator = enfold.operator().unwrap();
    let refused = rewrap(&enfold, &RewrapOptions { from: Some(OLD.to_owned()), ..dropping() }).await;
    assert_eq!(code(refused), Code::Usage, "it is active");
    assert_eq!(operator.set_root_state(OLD, RootState::Retired, &who()).await.unwrap().len(), 5, "in every ring");
    assert!(operator.set_root_state(OLD, RootState::Retired, &who()).await.unwrap().is_empty(), "it is already");
    scene.world.next_look();

    let before = scene.world.kms.calls().wrap;
    let email = application.column("users.email").unwrap();
    seal(&email, place("new tenant"), "x").await.unwrap();
    assert_eq!(scene.world.kms.calls().wrap, before);
    assert!(scene.roots().await.contains(&vec![NEW.to_owned()]), "the new data key");
    scene.all_open(&application).await;
    assert_eq!(application.wraps().await.unwrap().iter().find(|ring| ring.ring == "main").unwrap().incomplete, 0);
    // Values that a root key wraps directly go to the one that is active, and those of before open.
    let error = operator.set_root_state(NEW, RootState::Retired, &who()).await.unwrap_err();
    assert_eq!(error.code(), Code::Usage, "no data key could be made any more");

    rewrap(&enfold, &RewrapOptions { from: Some(OLD.to_owned()), ..dropping() }).await.unwrap();
    assert_eq!(scene.roots().await, [[NEW]]);
    operator.set_root_state(OLD, RootState::Active, &who()).await.unwrap();
    assert_eq!(
        enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do,
        scene.rows().await.len() as u64
    );
}

#[tokio::test]
async fn a_disabled_root_key_is_not_called_and_can_be_taken_back() {
    let scene = Scene::memory().await;
    let enfold = scene.process(&[OLD, NEW]).await;
    let operator = enfold.operator().unwrap();
    let locked_out = operator.set_root_state(OLD, RootState::Disabled, &who()).await;
    assert_eq!(code(locked_out), Code::Usage, "nobody could start any more, not even to take it back");
    rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    // A data key that the old one alone has wrapped.
    scene.new.set_state(MemoryState::TimedOut);
    let lonely = seal(&enfold.column("users.email").unwrap(), place("late"), "x").await.unwrap();
    scene.new.set_state(MemoryState::Enabled);
    scene.world.clock.advance(std::time::Duration::from_secs(61));
    operator.set_root_state(OLD, RootState::Disabled, &who()).await.unwrap();

    let fresh = scene.process(&[OLD, NEW]).await;
    let calls = scene.world.kms.calls();
    scene.all_open(&fresh).await;
    let email = fresh.column("users.email").unwrap();
    assert_eq!(code(open(&email, place("late"), &lonely).await), Code::KmsKeyDisabled);
    seal(&email, place("another"), "x").await.unwrap();
    fresh.root_keys(&enfold::CallContext::default()).await.unwrap();
    assert_eq!(scene.world.kms.calls(), calls, "it was not called");
    fresh.operator().unwrap().set_root_state(OLD, RootState::Active, &who()).await.unwrap();
    scene.world.next_look();
    assert_eq!(open(&email, place("late"), &lonely).await.unwrap(), "x");
}

async fn a_restored_record_opens_what_came_under_either_id(scene: Scene) {
    let enfold = scene.process(&[OLD]).await;
    let locked =
        async |enfold: &Enfold| seal(&enfold.column("notes.locked").unwrap(), Place::none(), "x").await.unwrap();
    let first = locked(&enfold).await;
    let record = async |enfold: &Enfold| {
        let records = enfold.root_records().await.unwrap();
        records.into_iter().find(|record| record.root.uri == OLD).unwrap().root
    };
    let root = record(&enfold).await;
    let proofs = enfold.prove_root(&root).await.unwrap();
    scene.hand.change("DELETE FROM @root_keys").await;

    // The next start gives it another id.
    let (later, running) = (scene.process(&[OLD]).await, scene.process(&[OLD]).await);
    let second = locked(&later).await;
    let opened = async |enfold: &Enfold, stored: &[u8]| {
        open(&enfold.column("notes.locked").unwrap(), Place::none(), stored).await
    };
    assert_eq!(code(opened(&later, &first).await), Code::KmsKeyNotFound);

    let restore =
        async |id, proofs: &[RootProof]| later.restore_root(OLD, id, &RootAbout::default(), proofs, &who()).await;
    let other = record(&later).await.id;
    assert_eq!(code(restore(other, &proofs).await), Code::StateTampered, "the proofs are of another id");
    assert_eq!(code(restore(root.id, &[]).await), Code::StateTampered);
    let mut changed = proofs.clone();
    changed.iter_mut().for_each(|proof| proof.mac[0] ^= 1);
    assert_eq!(code(restore(root.id, &changed).await), Code::StateTampered);
    assert_eq!(record(&later).await.id, other, "nothing was changed");

    let restored = restore(root.id, &proofs).await.unwrap();
    assert_eq!((restored.id, restored.other_ids), (root.id, vec![other]));
    later.operator().unwrap().refresh("direct").await.unwrap();
    scene.world.next_look();
    for process in [&later, &running, &scene.process(&[OLD]).await] {
        assert_eq!(opened(process, &first).await.unwrap(), "x");
        assert_eq!(opened(process, &second).await.unwrap(), "x");
    }
}

async fn records_of_before_are_told_from_those_sealed_after_a_rotation(scene: Scene) {
    let (enfold, other) = (scene.process(&[OLD]).await, scene.process(&[OLD]).await);
    let locked = async |enfold: &Enfold| {
        let stored = seal(&enfold.column("notes.locked").unwrap(), Place::none(), "x").await.unwrap();
        (
            KeyId::from_bytes(
                enfold_core::text::decode(std::str::from_utf8(&stored).unwrap()).unwrap()[5..21].try_into().unwrap(),
            ),
            stored,
        )
    };
    let former =
        async |enfold: &Enfold| enfold.column("notes.locked").unwrap().former_keys(&Leaving::default()).await.unwrap();
    let (before, first) = locked(&enfold).await;
    assert!(former(&enfold).await.is_empty());
    let rotated = enfold.operator().unwrap().rotate_many("direct", Whose::Everybody, &who()).await.unwrap();
    let [rotated] = &rotated[..] else { panic!("{rotated:?}") };
    assert_eq!((rotated.previous_version, rotated.version, rotated.previous_key), (1, 2, None));
    let (now, second) = locked(&enfold).await;
    assert_eq!(now, rotated.key);

    // The other process has not looked since, and opens both.
    for stored in [&first, &second] {
        let note = other.column("notes.locked").unwrap();
        assert_eq!(open(&note, Place::none(), stored).await.unwrap(), "x");
    }
    scene.world.next_look();
    assert_eq!(locked(&other).await.0, now);
    for process in [&enfold, &other, &scene.process(&[OLD]).await] {
        assert_eq!(*former(process).await, [before].into());
    }
}

async fn people_see_every_key_in_the_view(scene: Scene) {
    let enfold = scene.process(&[OLD, NEW]).await;
    enfold.register_root(OLD, Some("orders"), Some("of the shop"), &who()).await.unwrap();
    rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    let scope = scene.rows().await.into_iter().find(|row| row.scope.starts_with("tenant@")).unwrap().scope;
    enfold.operator().unwrap().rotate("main", &scope.parse().unwrap(), &enfold::CallContext::default()).await.unwrap();

    let of_main = scene.rows().await.len();
    let seen = scene.hand.ask("SELECT kind, status, root_uri, wraps, rotated_at IS NOT NULL FROM @encryption_keys WHERE ring = 'ring-main'").await;
    assert_eq!(seen.len(), of_main);
    assert!(seen.iter().all(|row| row[0] == "data" && row[2] == format!("{OLD}, {NEW}") && row[3] == "2"), "{seen:?}");
    let rotated: Vec<_> = seen.iter().filter(|row| row[4] == "true").collect();
    assert_eq!(rotated.len(), 1, "{seen:?}");
    assert_eq!(rotated[0][1], "retired");
    let roots = scene.hand.ask("SELECT root_alias, status, root_arn, wraps, created_at IS NOT NULL FROM @encryption_keys WHERE kind = 'root' ORDER BY root_uri").await;
    let wraps = scene.hand.ask("SELECT count(*) FROM @data_key_wraps WHERE root = 'memory:root'").await;
    assert_eq!(roots.len(), 2);
    assert_eq!(roots[0], ["orders", "enabled", OLD, wraps[0][0].as_str(), "true"]);
}

#[tokio::test]
async fn a_key_service_that_wraps_something_else_is_found_out_and_nothing_is_changed() {
    let scene = Scene::memory().await;
    let liar = Arc::new(Liar { inner: Arc::clone(&scene.new), lies: AtomicBool::new(true) });
    let enfold = scene.process_with(&[NEW, OLD], Arc::clone(&liar) as _).await;
    let before = scene.rows().await;
    let done = rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    assert_eq!((done.done, done.failed), (0, before.len() as u64));
    assert!(done.failures.iter().all(|(_, error)| error.code() == Code::WrapInvalid), "{:?}", done.failures);
    assert!(scene.rows().await == before);
    // And before the last wrap that is good is dropped.
    liar.lies.store(false, Ordering::SeqCst);
    rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    enfold.operator().unwrap().set_root_state(OLD, RootState::Retired, &who()).await.unwrap();
    liar.lies.store(true, Ordering::SeqCst);
    let dropped = rewrap(&enfold, &dropping()).await.unwrap();
    assert_eq!((dropped.done, dropped.failed), (0, before.len() as u64));
    assert_eq!(scene.roots().await, [[OLD, NEW]]);
}

#[tokio::test]
async fn a_key_service_that_does_not_answer_ends_the_run_and_the_next_goes_on() {
    let scene = Scene::memory().await;
    let enfold = scene.process(&[NEW, OLD]).await;
    scene.new.set_state(MemoryState::TimedOut);
    let stopped = rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    assert_eq!((stopped.done, stopped.stopped.map(|error| error.code())), (0, Some(Code::KmsUnavailable)));
    assert_eq!(scene.roots().await, [[OLD]]);
    scene.new.set_state(MemoryState::Enabled);
    scene.world.clock.advance(std::time::Duration::from_secs(61));
    let done = rewrap(&enfold, &RewrapOptions::default()).await.unwrap();
    assert_eq!((done.done, done.failed), (scene.rows().await.len() as u64, 0));
}

#[tokio::test]
async fn a_run_that_is_told_to_end_says_where_and_another_goes_on_from_there() {
    let scene = Scene::memory().await;
    let enfold = scene.process(&[OLD]).await;
    scene.world.kms.rotate().await.unwrap();
    assert_eq!(
        enfold.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do,
        0,
        "its wraps tell no version"
    );
    let renew = RewrapOptions { renew: true, ..RewrapOptions::default() };
    let before = scene.rows().await;
    let ended = enfold.rewrap("main", &renew, &who(), &|_| false).await.unwrap();
    assert_eq!(ended.stopped.map(|error| error.code()), Some(Code::Interrupted));
    assert_eq!(ended.at, before.last().map(|row| row.id), "one page holds them all");
    rewrap(&enfold, &renew).await.unwrap();
    scene.world.kms.retire_old_versions();
    scene.all_open(&scene.process(&[OLD]).await).await;
    let rest = rewrap(&enfold, &RewrapOptions { after: Some(before[2].id), ..renew }).await.unwrap();
    assert_eq!(rest.done, before.len() as u64 - 3);
}

#[tokio::test]
async fn our_layer_over_a_customers_data_key_is_rewrapped_without_the_customer() {
    let scene = Scene::memory().await;
    let customer = Arc::new(MemoryKms::new("theirs").unwrap());
    let process = async |roots: &[&str]| {
        let policy = POLICY.replace("[\"memory:root\"]", &format!("{roots:?}"));
        let policy = format!("{policy}\n[rings.main.tenants.acme]\ncustomer_key = \"memory:theirs\"\n");
        let builder = scene.world.builder_for(scene.world.policy(&policy)).provider(Arc::clone(&scene.new) as _);
        builder.provider(Arc::clone(&customer) as _).prepare().build().await.unwrap()
    };
    let enfold = process(&[OLD]).await;
    enfold.operator().unwrap().sign_customers("main").await.unwrap();
    let ann = seal(&enfold.column("users.email").unwrap(), place("acme"), "ann").await.unwrap();
    customer.set_state(MemoryState::Denied);
    let done = rewrap(&process(&[NEW, OLD]).await, &RewrapOptions::default()).await.unwrap();
    assert_eq!((done.done, done.failed), (scene.rows().await.len() as u64, 0));
    rewrap(&process(&[NEW]).await, &dropping()).await.unwrap();
    assert_eq!(scene.roots().await, [[NEW]]);
    assert!(scene.rows().await.iter().any(|row| row.customer.is_some()));
    customer.set_state(MemoryState::Enabled);
    let email = process(&[NEW]).await.column("users.email").unwrap();
    assert_eq!(open(&email, place("acme"), &ann).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_refreshed_process_lets_go_of_data_keys_whose_rows_are_gone_and_of_no_other() {
    let scene = Scene::memory().await;
    let enfold = scene.process(&[OLD]).await;
    scene.all_open(&enfold).await;
    let view =
        async |place: Place<'static>, stored: &[u8]| open(&enfold.column("users.email").unwrap(), place, stored).await;
    let (acme, stored) = &scene.stored[0];
    let opened = enfold.column("users.email").unwrap().open(&who(), &place(acme), Form::Text, stored).await.unwrap();
    let Source::Envelope { key: id } = opened.source else { panic!("it is an envelope") };
    let id = scene.hand.hex(id.as_bytes());
    scene
        .hand
        .change(&format!("DELETE FROM @data_key_wraps WHERE key_id = {id}; DELETE FROM @data_keys WHERE id = {id}"))
        .await;
    assert_eq!(view(place(acme), stored).await.unwrap(), "acme", "it is held");
    // A key service that does not answer takes nothing away.
    scene.world.kms.set_state(MemoryState::TimedOut);
    let epochs = enfold.refresh().await.unwrap();
    assert_eq!(epochs.len(), enfold.policy().rings.len());
    assert_eq!(code(view(place(acme), stored).await), Code::KeyNotFound);
    for (tenant, stored) in &scene.stored[1..] {
        assert_eq!(view(place(tenant), stored).await.unwrap(), *tenant);
    }
}

#[tokio::test]
async fn a_root_key_without_versions_is_not_rotated() {
    let scene = Scene::memory().await;
    let enfold =
        scene.process_with(&[OLD, NEW], Arc::new(Liar { inner: Arc::clone(&scene.new), lies: false.into() })).await;
    assert_eq!(code(enfold.rotate_root(NEW, &who()).await), Code::Usage);
    assert_eq!(code(enfold.rotate_root("memory:third", &who()).await), Code::KmsUriInvalid);
    enfold.rotate_root(OLD, &who()).await.unwrap();
    assert_eq!(scene.world.kms.calls().rotate, 1);
    let records = enfold.root_records().await.unwrap();
    assert!(records.iter().find(|record| record.root.uri == OLD).unwrap().root.about.rotated_ms.is_some());
}

/// Gives out another key than it was given, when it lies; and has no abilities besides.
struct Liar {
    inner: Arc<MemoryKms>,
    lies: AtomicBool,
}

#[async_trait]
impl KeyManagementService for Liar {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let lies = self.lies.load(Ordering::SeqCst);
        let answers = self.inner.unwrap(requests).await;
        answers.into_iter().map(|answer| if lies { answer.and_then(|_| other()) } else { answer }).collect()
    }
}

fn other() -> Result<KeyMaterial, Error> {
    KeyMaterial::generate()
}
