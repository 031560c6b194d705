//! The schedule for root keys: a new version when one is due, made once whoever else looks and whatever their clocks say.

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::{POLICY, World, code, who};
use enfold::kms::{
    Abilities, KeyManagementService, KeyManagementServiceExt, KeyUri, MemoryKms, MemoryState, RotateKey, UnwrapRequest,
    WrapRequest, WrappedKey,
};
use enfold::{Code, Enfold, Result, RootRotated};
use tokio::sync::Notify;

const ROOT: &str = "memory:root";
const DAY: i64 = 24 * 60 * 60 * 1000;

fn policy(schedule: &str) -> String {
    POLICY.replacen("[rings.wide]", &format!("[rings.main.rotation.roots]\n{schedule}\n[rings.wide]"), 1)
}

async fn process(world: &World, schedule: &str) -> Enfold {
    world.builder_for(world.policy(&policy(schedule))).prepare().build().await.unwrap()
}

/// Looks as a worker does, whose clock says this.
async fn look(enfold: &Enfold, now_ms: i64) -> Vec<(String, Result<RootRotated>)> {
    enfold.operator().unwrap().rotate_due_roots(now_ms, &who(), &|_| true).await.unwrap()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[tokio::test]
async fn a_root_key_has_one_new_version_when_it_is_due_however_many_look_and_whatever_their_clocks_say() {
    let world = World::new();
    let (one, two) = (process(&world, "cadence = \"30d\"").await, process(&world, "cadence = \"30d\"").await);
    let due = one.root_schedule().await.unwrap();
    assert_eq!(due.len(), 1, "of the ring that has a cadence for its root keys");
    assert_eq!(
        (due[0].root.as_str(), due[0].ring.as_str(), due[0].by_hand, due[0].under_way),
        (ROOT, "main", false, false)
    );
    assert!(!due[0].is_due(now()) && due[0].is_due(now() + 31 * DAY) && !due[0].is_overdue(now() + 31 * DAY));
    assert!(due[0].is_overdue(now() + 34 * DAY));

    assert!(look(&one, now() + 29 * DAY).await.is_empty());
    assert_eq!(world.kms.calls().rotate, 0);
    // The clock of the second is four days ahead.
    let (ours, theirs) = tokio::join!(look(&one, now() + 31 * DAY), look(&two, now() + 35 * DAY));
    assert_eq!(ours.len() + theirs.len(), 1, "one of them");
    assert_eq!(world.kms.calls().rotate, 1);
    world.next_look();
    for (process, ahead) in [(&one, 31), (&two, 35), (&one, 60), (&two, 40)] {
        assert!(look(process, now() + ahead * DAY).await.is_empty());
    }
    assert_eq!(world.kms.calls().rotate, 1);
    assert_eq!(look(&one, now() + 66 * DAY).await.len(), 1, "and again after the cadence");
    assert_eq!(world.kms.calls().rotate, 2);
}

#[tokio::test]
async fn what_somebody_rotated_by_hand_is_due_a_cadence_later() {
    let world = World::new();
    let enfold = process(&world, "cadence = \"30d\"").await;
    let before = enfold.root_schedule().await.unwrap()[0].due_ms;
    tokio::time::sleep(Duration::from_millis(5)).await;
    enfold.rotate_root(ROOT, &who()).await.unwrap();
    let after = enfold.root_schedule().await.unwrap()[0].due_ms;
    assert!(after > before && after <= now() + 30 * DAY);
    // Where no schedule asks, nothing is signed of it.
    let other = World::new();
    let plain = other.operators().await;
    plain.rotate_root(ROOT, &who()).await.unwrap();
    let states = other.catalog.states().await.unwrap();
    assert!(states.iter().all(|state| !String::from_utf8_lossy(&state.document).contains("root_rotations")));
}

#[tokio::test]
async fn nobody_acts_on_what_is_switched_off_out_of_its_window_or_done_by_the_service_itself() {
    for schedule in ["cadence = \"30d\"\nenabled = false", "cadence = \"30d\"\nwindow = \"Mon 00:00-00:01\""] {
        let world = World::new();
        let enfold = process(&world, schedule).await;
        // 2100-01-05 is a Tuesday.
        let tuesday = "2100-01-05T12:00:00Z".parse::<jiff::Timestamp>().unwrap().as_millisecond();
        assert!(look(&enfold, tuesday).await.is_empty(), "{schedule}");
        assert!(enfold.root_schedule().await.unwrap()[0].is_overdue(tuesday));
        assert_eq!(world.kms.calls().rotate, 0);
    }
    let world = World::new();
    let enfold = process(&world, "cadence = \"30d\"").await;
    world.kms.rotator().unwrap().rotate_every(Some(Duration::from_secs(30 * 86_400))).await.unwrap();
    let calls = world.kms.calls().rotate;
    let seen_to = look(&enfold, now() + 31 * DAY).await.remove(0).1.unwrap();
    assert!(seen_to.made_before);
    assert_eq!(world.kms.calls().rotate, calls, "its service does it");
    let standing = enfold.root_schedule().await.unwrap().remove(0);
    assert!(standing.by_service && !standing.under_way && !standing.is_due(now() + 31 * DAY));
}

#[tokio::test]
async fn a_key_service_that_refuses_leaves_the_root_key_due() {
    let world = World::new();
    let enfold = process(&world, "cadence = \"30d\"").await;
    world.kms.set_state(MemoryState::Denied);
    assert_eq!(code(look(&enfold, now() + 31 * DAY).await.remove(0).1), Code::KmsAccessDenied);
    assert!(!enfold.root_schedule().await.unwrap()[0].under_way);
    world.kms.set_state(MemoryState::Enabled);
    assert!(look(&enfold, now() + 31 * DAY).await.remove(0).1.is_ok());
    assert_eq!(world.kms.calls().rotate, 2, "refused once, made once");
}

/// A key service that stops in the middle of making a version: before it, or behind it.
struct Stops {
    inner: Arc<MemoryKms>,
    makes_it: bool,
    reached: Notify,
}

#[async_trait]
impl KeyManagementService for Stops {
    fn uri(&self) -> &KeyUri {
        self.inner.uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.inner.wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<enfold::kms::KeyMaterial>> {
        self.inner.unwrap(requests).await
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities { rotator: Some(self), ..self.inner.abilities() }
    }
}

#[async_trait]
impl RotateKey for Stops {
    async fn rotate(&self) -> Result<()> {
        if self.makes_it {
            self.inner.rotator().unwrap().rotate().await?;
        }
        self.reached.notify_one();
        std::future::pending().await
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        self.inner.rotator().unwrap().rotate_every(period).await
    }
}

#[tokio::test]
async fn a_process_that_dies_over_a_rotation_is_made_up_for_and_no_version_is_made_twice() {
    for makes_it in [false, true] {
        let world = World::new();
        let stops = Arc::new(Stops { inner: Arc::clone(&world.kms), makes_it, reached: Notify::new() });
        let text = policy("cadence = \"30d\"");
        let dies = Enfold::builder(world.policy(&text))
            .catalog(Arc::clone(&world.catalog))
            .provider(Arc::clone(&stops) as _)
            .clock(Arc::clone(&world.clock) as _)
            .without_watch()
            .prepare()
            .build()
            .await
            .unwrap();
        let lives = process(&world, "cadence = \"30d\"").await;
        tokio::select! {
            _ = look(&dies, now() + 31 * DAY) => panic!("it did not stop"),
            () = stops.reached.notified() => {}
        }
        drop(dies);
        world.next_look();
        assert!(lives.root_schedule().await.unwrap()[0].under_way);
        // A clock that is a year ahead does not tell how long the claim has stood.
        assert!(look(&lives, now() + 400 * DAY).await.is_empty());
        world.clock.advance(Duration::from_secs(9 * 60));
        assert!(look(&lives, now() + 31 * DAY).await.is_empty());
        world.clock.advance(Duration::from_secs(2 * 60));
        let rotated = look(&lives, now() + 31 * DAY).await.remove(0).1.unwrap();
        assert_eq!(rotated.made_before, makes_it);
        assert_eq!(world.kms.calls().rotate, 1);
        assert!(!lives.root_schedule().await.unwrap()[0].under_way);
    }
}
