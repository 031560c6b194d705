//! Rings with several root keys: which is asked, and what becomes of data keys while one does not answer.

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{POLICY, World, code, open, seal, set_mode};
use enfold::catalog::DataKeyRow;
use enfold::clock::ManualClock;
use enfold::kms::{
    KeyManagementService, KeyMaterial, KeyUri, MemoryKms, MemoryState, RootKeyState, UnwrapRequest, WrapRequest,
    WrappedKey,
};
use enfold::policy::{Mode, Policy};
use enfold::state::RootState;
use enfold::{Code, Enfold, Part, Place, Result, RingWraps, RootWraps, Tried};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

/// A world whose ring `main` has a second root key.
struct Two {
    world: World,
    second: Arc<MemoryKms>,
}

impl Two {
    fn new() -> Self {
        Self { world: World::new(), second: Arc::new(MemoryKms::new("second").unwrap()) }
    }

    fn policy(&self, more: &str) -> Policy {
        let roots = format!("id = \"ring-main\"\nroots = [\"memory:root\", \"memory:second\"]\n{more}");
        self.world.policy(&POLICY.replacen("id = \"ring-main\"\nroots = [\"memory:root\"]", &roots, 1))
    }

    /// A new process, with nothing in its cache.
    async fn process(&self, more: &str) -> Enfold {
        let builder = self.world.builder_for(self.policy(more)).provider(Arc::clone(&self.second) as _);
        let enfold = builder.prepare().build().await.unwrap();
        set_mode(&enfold, "users.email", Mode::Kms).await;
        enfold
    }

    async fn rows(&self) -> Vec<DataKeyRow> {
        self.world.catalog.keys("ring-main", None, 100).await.unwrap()
    }

    /// Long enough for remembered failures and for every breaker.
    fn later(&self) {
        self.world.clock.advance(Duration::from_secs(61));
    }
}

#[tokio::test]
async fn sealing_goes_on_while_one_of_two_does_not_answer_and_the_missing_wraps_are_made_later() {
    let two = Two::new();
    let enfold = two.process("").await;
    two.second.set_state(MemoryState::TimedOut);
    let stored = seal(&enfold.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    assert_eq!(two.rows().await.iter().filter(|row| row.wraps.len() == 1).count(), 1);
    let still = enfold.repair_wraps("main").await.unwrap();
    assert_eq!((still.completed, still.incomplete), (0, 1));
    let on = async || wraps_of_main(&two.process("").await).await;
    // Two of the ring itself, made while both answered, and the one of this column.
    let all = two.rows().await.len() as u64;
    let root = |root: &str, keys, alone| RootWraps {
        root: root.to_owned(),
        in_policy: true,
        state: RootState::Active,
        keys,
        alone,
        by_key: [].into(),
    };
    let wraps = on().await;
    assert_eq!((wraps.keys, wraps.incomplete, wraps.closed), (all, 1, 0));
    assert_eq!(wraps.roots, [root("memory:root", all, 1), root("memory:second", all - 1, 0)]);

    two.second.set_state(MemoryState::Enabled);
    two.later();
    let repaired = enfold.repair_wraps("main").await.unwrap();
    assert_eq!((repaired.completed, repaired.incomplete), (1, 0), "{:?}", repaired.errors);
    assert!(two.rows().await.iter().all(|row| row.wraps.len() == 2));
    assert_eq!(enfold.repair_wraps("main").await.unwrap().completed, 0, "nothing is left to do");
    assert!(enfold.check_catalog().await.unwrap().is_empty(), "every row is authenticated");
    let wraps = on().await;
    assert_eq!((wraps.incomplete, wraps.closed), (0, 0));
    assert_eq!(wraps.roots, [root("memory:root", all, 0), root("memory:second", all, 0)]);

    // The wrap that was made later opens by itself.
    let fresh = two.process("").await;
    two.world.kms.set_state(MemoryState::TimedOut);
    assert_eq!(open(&fresh.column("users.email").unwrap(), ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_data_key_with_fewer_wraps_than_the_policy_wants_is_not_made() {
    let two = Two::new();
    let enfold = two.process("min_wraps = 2").await;
    let before = two.rows().await.len();
    two.second.set_state(MemoryState::TimedOut);
    let email = enfold.column("users.email").unwrap();
    let error = seal(&email, ACME, "ann").await.unwrap_err();
    assert_eq!(error.code(), Code::KmsUnavailable);
    assert!(error.causes().any(|cause| cause.contains("`min_wraps` is 2")), "{error:?}");
    assert_eq!(two.rows().await.len(), before);
    two.second.set_state(MemoryState::Enabled);
    two.later();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    assert_eq!(open(&email, ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_row_that_was_changed_by_hand_gets_no_wrap_and_no_new_mac() {
    let two = Two::new();
    let enfold = two.process("").await;
    two.second.set_state(MemoryState::TimedOut);
    seal(&enfold.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    two.second.set_state(MemoryState::Enabled);
    two.later();
    let row = two.rows().await.into_iter().find(|row| row.wraps.len() == 1).unwrap();
    let mut swapped = row.clone();
    swapped.mac = vec![7; 32];
    assert!(two.world.catalog.add_wraps(&swapped, &row.mac).await.unwrap(), "somebody writes to the catalog");
    let repaired = enfold.repair_wraps("main").await.unwrap();
    assert_eq!((repaired.completed, repaired.incomplete), (0, 1));
    assert!(two.rows().await.contains(&swapped), "it is left as it was found");
}

/// A key service that takes its time.
struct Far {
    inner: Arc<MemoryKms>,
    clock: Arc<ManualClock>,
    takes: Duration,
}

#[async_trait]
impl KeyManagementService for Far {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.clock.advance(self.takes);
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.clock.advance(self.takes);
        self.inner.unwrap(requests).await
    }
}

#[tokio::test]
async fn the_nearer_root_key_opens_whatever_the_policys_order() {
    let two = Two::new();
    let operators = two.process("").await;
    let email = operators.column("users.email").unwrap();
    let stored = [seal(&email, ACME, "ann").await.unwrap(), seal(&email, OTHER, "bob").await.unwrap()];

    // A process that first comes upon the root key that the policy names first, and finds that it is far away.
    let far = Far {
        inner: Arc::clone(&two.world.kms),
        clock: Arc::clone(&two.world.clock),
        takes: Duration::from_millis(300),
    };
    let far = Arc::new(far);
    let before = far.inner.calls().unwrap;
    let process = Enfold::builder(two.policy(""))
        .catalog(Arc::clone(&two.world.catalog))
        .provider(Arc::clone(&far) as _)
        .provider(Arc::clone(&two.second) as _)
        .clock(Arc::clone(&two.world.clock) as _)
        .operator_key(two.world.operator_key())
        .without_watch()
        .build()
        .await
        .unwrap();
    let asked_far = far.inner.calls().unwrap - before;
    assert!(asked_far > 0, "nothing was known of either when the ring's own key was unwrapped");
    let email = process.column("users.email").unwrap();
    assert_eq!(open(&email, ACME, &stored[0]).await.unwrap(), "ann");
    assert_eq!(open(&email, OTHER, &stored[1]).await.unwrap(), "bob");
    assert_eq!(far.inner.calls().unwrap - before, asked_far, "the other one is nearer");
}

/// The breaker answers at once in place of a key service that is down, so nobody waits for it twice.
#[tokio::test]
async fn ten_minutes_without_a_key_service_and_no_stampede_when_it_returns() {
    let world = World::new();
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    let cached = seal(&email, ACME, "ann").await.unwrap();
    let before = world.kms.calls();
    world.kms.set_state(MemoryState::TimedOut);

    // What is cached goes on for its life (5 minutes) and the stale limit of the policy (none); what is not is refused.
    for second in 0..600_u64 {
        world.clock.advance(Duration::from_secs(1));
        let opened = open(&email, ACME, &cached).await;
        match opened {
            Ok(value) => assert!(second < 300 && value == "ann", "second {second}"),
            Err(error) => {
                assert!(second >= 299, "second {second}: {error}");
                assert_eq!(error.code(), Code::KmsUnavailable);
            }
        }
        let error = seal(&email, OTHER, "bob").await.unwrap_err();
        assert_eq!(error.code(), Code::KmsUnavailable);
    }
    let during = world.kms.calls();
    let asked = (during.wrap + during.unwrap) - (before.wrap + before.unwrap);
    // Five failures in three tries each, then looks that become rarer up to two a minute.
    assert!(asked <= 15 + 3 * 45, "{asked} calls in ten minutes");

    world.kms.set_state(MemoryState::Enabled);
    world.clock.advance(Duration::from_secs(31));
    let crowd = (0..1000).map(|_| open(&email, ACME, &cached));
    let opened = futures_util::future::join_all(crowd).await;
    assert!(opened.iter().all(|value| value.as_ref().is_ok_and(|value| value == "ann")));
    assert_eq!(world.kms.calls().unwrap - during.unwrap, 1, "a thousand callers, one call");
}

#[tokio::test]
async fn more_wraps_than_root_keys_cannot_be_wanted() {
    let two = Two::new();
    let text = POLICY.replacen("scope = \"tenant\"", "scope = \"tenant\"\nmin_wraps = 2", 1);
    let path = two.world.dir.path().join("enfold.toml");
    let refused = enfold::policy::parse(&text, &path, &enfold::policy::Variables::default());
    assert_eq!(code(refused), Code::PolicyInvalid);
}

#[tokio::test]
async fn every_root_key_is_tried_and_says_what_state_it_is_in() {
    let two = Two::new();
    let enfold = two.process("").await;
    let calls = two.rows().await.len();
    two.second.set_state(MemoryState::Disabled);
    let found = enfold.root_keys(&enfold::CallContext::default()).await.unwrap();
    let of_main: Vec<_> = found.iter().filter(|root| root.ring == "main").collect();
    assert_eq!(of_main.iter().map(|root| root.root.as_str()).collect::<Vec<_>>(), ["memory:root", "memory:second"]);
    assert!(matches!(of_main[0].tried, Tried::Both { .. }));
    let described = of_main[1].description.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(described.state, RootKeyState::Disabled);
    let Tried::NotWrapped(error) = &of_main[1].tried else { panic!("a disabled root key wraps nothing") };
    assert_eq!(error.code(), Code::KmsKeyDisabled);
    assert_eq!(two.rows().await.len(), calls, "no data key was made for it");
}

async fn wraps_of_main(enfold: &Enfold) -> RingWraps {
    enfold.wraps().await.unwrap().into_iter().find(|ring| ring.ring == "main").unwrap()
}

#[tokio::test]
async fn wraps_by_a_root_key_that_the_policy_dropped_open_nothing_and_are_counted_so() {
    let two = Two::new();
    let enfold = two.process("").await;
    two.world.kms.set_state(MemoryState::TimedOut);
    seal(&enfold.column("users.email").unwrap(), ACME, "ann").await.unwrap();
    two.world.kms.set_state(MemoryState::Enabled);
    two.later();
    // The second root key is taken out of the policy while a data key has a wrap by nothing else.
    let enfold = two.world.builder_for(two.world.policy(POLICY)).prepare().build().await.unwrap();
    let wraps = wraps_of_main(&enfold).await;
    let all = two.rows().await.len() as u64;
    assert_eq!((wraps.keys, wraps.incomplete, wraps.closed), (all, 1, 1));
    let root = |root: &str, in_policy, keys, alone| RootWraps {
        root: root.to_owned(),
        in_policy,
        state: RootState::Active,
        keys,
        alone,
        by_key: [].into(),
    };
    assert_eq!(wraps.roots, [root("memory:root", true, all - 1, all - 1), root("memory:second", false, all, 0)]);
}
