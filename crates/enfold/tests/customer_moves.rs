//! A customer's root key is rotated, or another takes its place: on key services in memory, and catalogs in both databases.

mod common;
#[path = "common/hand.rs"]
mod hand;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::catalog::DataKeyRow;
use enfold::kms::{
    KeyManagementService, KeyMaterial, KeyUri, MemoryKms, MemoryState, RotateKey, UnwrapRequest, WrapRequest,
    WrappedKey,
};
use enfold::policy::Mode;
use enfold::{Code, CustomerWraps, Enfold, Part, Place, Result, RewrapOptions, Rewrapped};
use hand::Hand;

on_both! {
    another_root_key_takes_the_place_of_a_customers_and_the_first_may_go
    a_process_with_either_policy_is_safe_at_every_step
    two_at_once_renew_each_layer_once
    a_customer_that_is_out_keeps_nobody_else
    the_way_back_leads_through_the_same_steps
    a_data_key_of_a_tenant_that_was_destroyed_needs_no_root_key_any_more
}

const ACME: &str = "memory:acme";
const NEXT: &str = "memory:next";
const PLACE: Place<'static> = Place::tenant(Part::Text("acme"));
const GLOBEX: Place<'static> = Place::tenant(Part::Text("globex"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

/// Two tenants that hold root keys, and one that does not.
struct Scene {
    world: World,
    acme: Arc<MemoryKms>,
    next: Arc<MemoryKms>,
    globex: Arc<MemoryKms>,
    _hand: Hand,
}

/// What was sealed for each tenant.
struct Stored {
    acme: Vec<Vec<u8>>,
    globex: Vec<u8>,
    other: Vec<u8>,
}

impl Scene {
    async fn over((world, hand): (World, Hand)) -> Self {
        let memory = |name| Arc::new(MemoryKms::new(name).unwrap());
        Self { world, acme: memory("acme"), next: memory("next"), globex: memory("globex"), _hand: hand }
    }

    async fn memory() -> Self {
        Self::over(Hand::on_sqlite().await).await
    }

    /// A process whose policy names these root keys of the tenant `acme`: the one that wraps, and former ones.
    async fn process(&self, key: &str, former: &[&str]) -> Enfold {
        self.process_with(key, former, Arc::clone(&self.next) as _).await
    }

    async fn process_with(&self, key: &str, former: &[&str], next: Arc<dyn KeyManagementService>) -> Enfold {
        let held = format!(
            "\n[rings.main.tenants.acme]\ncustomer_key = {key:?}\nformer_customer_keys = {former:?}\n\
             [rings.main.tenants.globex]\ncustomer_key = \"memory:globex\"\n"
        );
        let builder = self.world.builder_for(self.world.policy(&format!("{POLICY}{held}")));
        let builder = builder.provider(Arc::clone(&self.acme) as _).provider(next);
        builder.provider(Arc::clone(&self.globex) as _).prepare().build().await.unwrap()
    }

    /// Signed with the first root key, and values of each tenant: of `acme` under two versions of its data key, with an index.
    async fn begin(&self) -> (Enfold, Stored) {
        let enfold = self.process(ACME, &[]).await;
        set_mode(&enfold, "users.email", Mode::Kms).await;
        let operator = enfold.operator().unwrap();
        operator.sign_customers("main").await.unwrap();
        let email = enfold.column("users.email").unwrap();
        let first = seal(&email, PLACE, "ann").await.unwrap();
        let tenants = [Part::Text("acme")];
        operator.rotate_many("main", enfold::Whose::Tenants(&tenants), &who()).await.unwrap();
        let second = seal(&email, PLACE, "ann").await.unwrap();
        email.index_to_store(&who(), "eq", &PLACE, "ann").await.unwrap();
        let stored = Stored {
            acme: vec![first, second],
            globex: seal(&email, GLOBEX, "bob").await.unwrap(),
            other: seal(&email, OTHER, "eve").await.unwrap(),
        };
        (enfold, stored)
    }

    /// Data keys that need this root key.
    async fn needing(&self, root: &str) -> Vec<DataKeyRow> {
        let rows = self.world.catalog.keys("ring-main", None, 100).await.unwrap();
        rows.into_iter().filter(|row| row.customer.as_ref().is_some_and(|layer| layer.root == root)).collect()
    }
}

impl Stored {
    async fn all_open(&self, enfold: &Enfold) {
        let email = enfold.column("users.email").unwrap();
        for stored in &self.acme {
            assert_eq!(open(&email, PLACE, stored).await.unwrap(), "ann");
        }
        assert_eq!(open(&email, GLOBEX, &self.globex).await.unwrap(), "bob");
        assert_eq!(open(&email, OTHER, &self.other).await.unwrap(), "eve");
        assert!(enfold.check_catalog().await.unwrap().is_empty(), "every row is authenticated");
    }
}

async fn sign(enfold: &Enfold) -> Result<()> {
    enfold.operator().unwrap().sign_customers("main").await.map(drop)
}

async fn rewrap(enfold: &Enfold, options: &RewrapOptions) -> Rewrapped {
    enfold.rewrap("main", options, &who(), &|_| true).await.unwrap()
}

fn renewing() -> RewrapOptions {
    RewrapOptions { renew: true, ..RewrapOptions::default() }
}

async fn acme_of(enfold: &Enfold) -> CustomerWraps {
    let rings = enfold.wraps().await.unwrap();
    let customers = rings.into_iter().find(|ring| ring.ring == "main").unwrap().customers;
    customers.into_iter().find(|customer| customer.tenant == "acme").unwrap()
}

async fn another_root_key_takes_the_place_of_a_customers_and_the_first_may_go(scene: Scene) {
    let (_, stored) = scene.begin().await;
    let running = scene.process(NEXT, &[ACME]).await;
    stored.all_open(&running).await;
    assert!(!acme_of(&running).await.signed);
    assert_eq!(running.plan_rewrap("main", &RewrapOptions::default()).await.unwrap().to_do, 0, "nothing is signed yet");

    sign(&running).await.unwrap();
    scene.world.next_look();
    let plan = running.plan_rewrap("main", &RewrapOptions::default()).await.unwrap();
    assert_eq!((plan.to_do, plan.layers, plan.wraps, plan.drops), (3, 3, 0, 0), "two data keys and an index key");
    let calls: Vec<_> = plan.customers.iter().map(|root| (root.root.as_str(), root.wraps, root.unwraps)).collect();
    assert_eq!(calls, [(ACME, 0, 3), (NEXT, 3, 3)]);
    assert_eq!((plan.roots.len(), plan.roots[0].unwraps, plan.roots[0].wraps), (1, 3, 0), "our layer keys");

    // Before the rewrap the first is needed, and cannot be signed away.
    let alone = scene.process(NEXT, &[]).await;
    let error = sign(&alone).await.unwrap_err();
    assert_eq!(error.code(), Code::CustomerKeyMismatch);
    assert!(error.causes().any(|cause| cause.contains(ACME)), "{error:?}");
    assert_eq!(acme_of(&running).await.former, [(ACME.to_owned(), 3)].into());

    let ours_before = scene.needing(ACME).await;
    let done = rewrap(&running, &RewrapOptions::default()).await;
    assert_eq!((done.done, done.layers, done.wrapped, done.failed), (3, 3, 0, 0), "{:?}", done.failures);
    assert!(scene.needing(ACME).await.is_empty());
    for (before, after) in ours_before.iter().zip(scene.needing(NEXT).await) {
        assert!(before.id == after.id && before.wraps == after.wraps, "our wraps are as they were");
    }
    assert_eq!(rewrap(&running, &RewrapOptions::default()).await.done, 0, "nothing is left to do");
    stored.all_open(&scene.process(NEXT, &[ACME]).await).await;
    assert_eq!(acme_of(&running).await.former, [(ACME.to_owned(), 0)].into());

    // Signed away, and gone. A process that has the data keys of before in its cache goes on.
    sign(&alone).await.unwrap();
    scene.acme.set_state(MemoryState::Deleted);
    scene.world.next_look();
    for process in [&running, &alone, &scene.process(NEXT, &[]).await] {
        stored.all_open(process).await;
        seal(&process.column("users.email").unwrap(), PLACE, "new").await.unwrap();
    }
    assert!(acme_of(&alone).await.signed);
    assert!(scene.world.refusals(&running).await.iter().all(|code| code == "customer-key-mismatch"));
}

async fn a_process_with_either_policy_is_safe_at_every_step(scene: Scene) {
    let (old, stored) = scene.begin().await;
    let both = scene.process(NEXT, &[ACME]).await;
    // Not signed yet: whoever has both makes data keys under the one that is.
    let index = async |enfold: &Enfold, tenant: Place<'static>| {
        enfold.column("users.email").unwrap().index_to_store(&who(), "eq", &tenant, "x").await
    };
    let first = scene.needing(ACME).await.len();
    let operator = both.operator().unwrap();
    operator.rotate_many("main", enfold::Whose::Tenants(&[Part::Text("acme")]), &who()).await.unwrap();
    assert_eq!((scene.needing(ACME).await.len(), scene.needing(NEXT).await.len()), (first + 1, 0));

    sign(&both).await.unwrap();
    scene.world.next_look();
    // Whoever has the former alone opens what was there, and makes nothing.
    stored.all_open(&old).await;
    let rotated =
        old.operator().unwrap().rotate_many("main", enfold::Whose::Tenants(&[Part::Text("acme")]), &who()).await;
    assert_eq!(code(rotated), Code::CustomerKeyMismatch);
    index(&old, GLOBEX).await.unwrap();
    operator.rotate_many("main", enfold::Whose::Tenants(&[Part::Text("acme")]), &who()).await.unwrap();
    assert_eq!(scene.needing(NEXT).await.len(), 1);
    let new = seal(&both.column("users.email").unwrap(), PLACE, "new").await.unwrap();
    let email = old.column("users.email").unwrap();
    assert_eq!(code(open(&email, PLACE, &new).await), Code::CustomerKeyMismatch, "its policy does not name it");
    assert_eq!(rewrap(&old, &renewing()).await.layers, 2, "of the other tenant alone");
    assert_eq!(scene.needing(NEXT).await.len(), 1, "it brings none under the former one");

    // Whoever has the next alone opens what was made under it, and nothing of before.
    let alone = scene.process(NEXT, &[]).await;
    let email = alone.column("users.email").unwrap();
    assert_eq!(open(&email, PLACE, &new).await.unwrap(), "new");
    assert_eq!(code(open(&email, PLACE, &stored.acme[0]).await), Code::CustomerKeyMismatch);
    let left = rewrap(&alone, &RewrapOptions::default()).await;
    assert_eq!((left.layers, left.failed), (0, first as u64 + 1), "it does not call what its policy does not name");
    assert!(left.failures.iter().all(|(_, error)| error.code() == Code::CustomerKeyMismatch));
}

async fn two_at_once_renew_each_layer_once(scene: Scene) {
    let (_, stored) = scene.begin().await;
    let (one, other) = (scene.process(NEXT, &[ACME]).await, scene.process(NEXT, &[ACME]).await);
    sign(&one).await.unwrap();
    scene.world.next_look();
    let options = RewrapOptions::default();
    let (a, b) = futures_util::join!(rewrap(&one, &options), rewrap(&other, &options));
    assert_eq!((a.layers + b.layers, a.failed + b.failed), (3, 0));
    assert_eq!((scene.needing(ACME).await.len(), scene.needing(NEXT).await.len()), (0, 3));
    stored.all_open(&one).await;
}

async fn a_customer_that_is_out_keeps_nobody_else(scene: Scene) {
    let (_, stored) = scene.begin().await;
    let enfold = scene.process(ACME, &[]).await;
    let renew = renewing();
    let rows = scene.world.catalog.keys("ring-main", None, 100).await.unwrap().len() as u64;
    let held = scene.needing(ACME).await;
    for (state, told) in
        [(MemoryState::TimedOut, Code::KmsUnavailable), (MemoryState::Denied, Code::CustomerKeyRefused)]
    {
        scene.acme.set_state(state);
        let done = rewrap(&enfold, &renew).await;
        // Our own wraps of its data keys are renewed all the same.
        assert_eq!((done.done, done.wrapped, done.layers, done.failed), (rows, rows, 1, 3), "{:?}", done.failures);
        assert!(done.stopped.is_none());
        assert!(done.failures.iter().all(|(id, error)| error.code() == told && held.iter().any(|row| row.id == *id)));
        scene.world.clock.advance(Duration::from_secs(61));
    }
    let now = scene.needing(ACME).await;
    assert!(held.iter().zip(&now).all(|(a, b)| a.customer == b.customer && a.wraps != b.wraps));
    scene.acme.set_state(MemoryState::Enabled);
    stored.all_open(&scene.process(ACME, &[]).await).await;
    // One customer's alone.
    let (ours, theirs) = (scene.world.kms.calls().wrap, scene.globex.calls());
    let done = rewrap(&enfold, &RewrapOptions { to: Some(ACME.to_owned()), ..renew }).await;
    assert_eq!((done.done, done.layers, done.wrapped, done.failed), (3, 3, 0, 0), "{:?}", done.failures);
    assert_eq!((scene.world.kms.calls().wrap, scene.globex.calls()), (ours, theirs), "nobody else was asked to wrap");
    scene.acme.rotate().await.unwrap();
    rewrap(&enfold, &RewrapOptions { from: Some(ACME.to_owned()), ..renewing() }).await;
    scene.acme.retire_old_versions();
    stored.all_open(&scene.process(ACME, &[]).await).await;
}

async fn the_way_back_leads_through_the_same_steps(scene: Scene) {
    let (_, stored) = scene.begin().await;
    let there = scene.process(NEXT, &[ACME]).await;
    sign(&there).await.unwrap();
    scene.world.next_look();
    rewrap(&there, &RewrapOptions::default()).await;
    let back = scene.process(ACME, &[NEXT]).await;
    sign(&back).await.unwrap();
    scene.world.next_look();
    assert_eq!(rewrap(&back, &RewrapOptions::default()).await.layers, 3);
    sign(&scene.process(ACME, &[]).await).await.unwrap();
    scene.next.set_state(MemoryState::Deleted);
    stored.all_open(&scene.process(ACME, &[]).await).await;
}

async fn a_data_key_of_a_tenant_that_was_destroyed_needs_no_root_key_any_more(scene: Scene) {
    let (enfold, stored) = scene.begin().await;
    let operator = enfold.operator().unwrap();
    let subject = enfold.subject("main", Some(Part::Text("acme"))).await.unwrap();
    operator.destroy("main", &subject, Duration::ZERO, None, &who()).await.unwrap();
    let next = scene.process(NEXT, &[]).await;
    assert_eq!(code(sign(&next).await), Code::CustomerKeyMismatch, "the destruction may be taken back");
    operator.finish_destruction("main", &subject, &who()).await.unwrap();
    sign(&next).await.unwrap();
    scene.world.next_look();
    let email = next.column("users.email").unwrap();
    assert_eq!(code(open(&email, PLACE, &stored.acme[0]).await), Code::KeyDestroyed);
    assert_eq!(open(&email, GLOBEX, &stored.globex).await.unwrap(), "bob");
    assert!(next.check_catalog().await.unwrap().is_empty());
}

/// Does as it is told while the gate is open; behind it, calls wait.
struct Gated {
    inner: Arc<MemoryKms>,
    waits: tokio::sync::Notify,
    gate: tokio::sync::Semaphore,
    lies: AtomicBool,
}

impl Gated {
    fn new(inner: &Arc<MemoryKms>) -> Arc<Self> {
        let (waits, gate) =
            (tokio::sync::Notify::new(), tokio::sync::Semaphore::new(tokio::sync::Semaphore::MAX_PERMITS));
        Arc::new(Self { inner: Arc::clone(inner), waits, gate, lies: false.into() })
    }

    fn close(&self) {
        self.gate.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
    }

    fn open(&self) {
        self.gate.add_permits(1_000);
    }
}

#[async_trait]
impl KeyManagementService for Gated {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        let wrapped = self.inner.wrap(requests).await;
        self.waits.notify_one();
        self.gate.acquire().await.unwrap().forget();
        wrapped
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let answers = self.inner.unwrap(requests).await;
        match self.lies.load(Ordering::SeqCst) {
            true => answers.into_iter().map(|_| KeyMaterial::generate()).collect(),
            false => answers,
        }
    }
}

/// The one case in which somebody could come too late: what a root key that is signed away at this moment has wrapped.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_key_that_was_being_made_under_a_root_key_that_is_signed_away_is_not_stored() {
    let scene = Scene::memory().await;
    let slow = Gated::new(&scene.next);
    let maker = scene.process_with(NEXT, &[], Arc::clone(&slow) as _).await;
    set_mode(&maker, "users.email", Mode::Kms).await;
    sign(&maker).await.unwrap();
    slow.close();
    let email = maker.column("users.email").unwrap();
    let making = tokio::spawn(async move { seal(&email, PLACE, "ann").await });
    slow.waits.notified().await;
    // Those of the trial before are behind us: now it is in the middle of the data key's wrap.
    let after = scene.process(ACME, &[]).await;
    sign(&after).await.unwrap();
    slow.open();
    let error = making.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::CustomerKeyMismatch, "{error}");
    assert!(scene.needing(NEXT).await.is_empty());
    seal(&after.column("users.email").unwrap(), PLACE, "ann").await.unwrap();
    assert_eq!(scene.needing(ACME).await.len(), 1);
}

#[tokio::test]
async fn a_layer_is_replaced_only_by_one_that_opens_to_the_same_data_key() {
    let scene = Scene::memory().await;
    let (_, stored) = scene.begin().await;
    let liar = Gated::new(&scene.next);
    let enfold = scene.process_with(NEXT, &[ACME], Arc::clone(&liar) as _).await;
    sign(&enfold).await.unwrap();
    scene.world.next_look();
    liar.lies.store(true, Ordering::SeqCst);
    let done = rewrap(&enfold, &RewrapOptions::default()).await;
    assert_eq!((done.done, done.layers, done.failed), (0, 0, 3));
    assert!(done.failures.iter().all(|(_, error)| error.code() == Code::WrapInvalid), "{:?}", done.failures);
    assert_eq!(scene.needing(ACME).await.len(), 3);
    stored.all_open(&enfold).await;
}
