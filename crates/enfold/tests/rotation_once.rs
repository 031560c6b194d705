//! A rotation that is asked for again, after it was done or in the middle of it.

mod common;

use common::{World, open, seal, set_mode, who};
use enfold::catalog::Purpose;
use enfold::events::EventKind;
use enfold::policy::Mode;
use enfold::{Enfold, Part, Place, RotationPlan, Whose};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

async fn versions(world: &World) -> Vec<u32> {
    let keys = world.catalog.keys("ring-main", None, 1_000).await.unwrap();
    let mut versions: Vec<u32> = keys.iter().filter(|k| k.purpose == Purpose::Seal).map(|k| k.version).collect();
    versions.sort_unstable();
    versions
}

/// Two tenants with a value each, and the first one's.
async fn two_tenants(world: &World) -> (Enfold, Vec<u8>) {
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Hybrid).await;
    let email = enfold.column("users.email").unwrap();
    seal(&email, OTHER, "bob").await.unwrap();
    let stored = seal(&email, ACME, "ann").await.unwrap();
    (enfold, stored)
}

#[tokio::test]
async fn a_plan_rotates_once_however_often_and_by_whichever_process_it_is_carried_out() {
    let world = World::new();
    let (enfold, stored) = two_tenants(&world).await;
    let operator = enfold.operator().unwrap();
    let plan = operator.plan_rotation("main", Whose::Everybody).await.unwrap();
    assert_eq!(versions(&world).await, [1, 1], "a plan changes nothing");
    let kept = serde_json::to_string(&plan).unwrap();
    assert!(!kept.contains("acme"), "a tenant is there as its tag alone");
    let first = operator.rotate_planned(&plan, &who()).await.unwrap();
    assert_eq!(first.iter().map(|key| (key.previous_version, key.version)).collect::<Vec<_>>(), [(1, 2), (1, 2)]);

    let again = world.operators().await;
    let plan: RotationPlan = serde_json::from_str(&kept).unwrap();
    let second = again.operator().unwrap().rotate_planned(&plan, &who()).await.unwrap();
    let told = |keys: &[enfold::Rotated]| {
        keys.iter().map(|key| (key.scope.clone(), key.previous_key, key.version, key.key)).collect::<Vec<_>>()
    };
    assert_eq!(told(&second), told(&first), "what was done is told");
    assert_eq!(versions(&world).await, [1, 1, 2, 2], "and not done again");
    enfold.flush().await.unwrap();
    again.flush().await.unwrap();
    let noted = world.sink.0.lock().unwrap().iter().filter(|event| event.kind == EventKind::KeyRotated).count();
    assert_eq!(noted, 4, "the event of a process that died may be lost, so it is written again");

    let whole = operator.rotate_many("main", Whose::Everybody, &who()).await.unwrap();
    assert!(whole.iter().all(|key| key.version == 3), "another wish is another rotation");
    assert_eq!(open(&enfold.column("users.email").unwrap(), ACME, &stored).await.unwrap(), "ann");
}

#[tokio::test]
async fn a_plan_of_which_a_part_was_rotated_meanwhile_rotates_the_rest() {
    let world = World::new();
    let (enfold, _) = two_tenants(&world).await;
    let operator = enfold.operator().unwrap();
    let plan = operator.plan_rotation("main", Whose::Everybody).await.unwrap();
    let tenants = [Part::Text("acme")];
    let meanwhile = operator.rotate_many("main", Whose::Tenants(&tenants), &who()).await.unwrap();
    let rotated = operator.rotate_planned(&plan, &who()).await.unwrap();
    assert_eq!(rotated.iter().map(|key| key.version).collect::<Vec<_>>(), [2, 2]);
    assert!(rotated.iter().any(|key| key.key == meanwhile[0].key));
    assert_eq!(versions(&world).await, [1, 1, 2, 2]);
}

#[tokio::test]
async fn records_with_a_key_of_their_own_are_renewed_once() {
    let world = World::new();
    let operators = world.operators().await;
    let operator = operators.operator().unwrap();
    let plan = operator.plan_rotation("direct", Whose::Everybody).await.unwrap();
    let first = operator.rotate_planned(&plan, &who()).await.unwrap();
    let second = operator.rotate_planned(&plan, &who()).await.unwrap();
    assert_eq!((first[0].version, first[0].key), (second[0].version, second[0].key));
    let root = world.catalog.roots().await.unwrap().remove(0);
    assert_eq!((root.id, root.other_ids.len()), (first[0].key, 1), "{root:?}");
}
