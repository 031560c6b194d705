//! Workers with the operators' key disable former data keys whose grace period is over, by the same steps.

use enfold_jobs::ops::keep_schedule;

use crate::world::{World, on_both};

on_both! {
    past_its_grace_period_a_former_key_goes_out_of_use_by_itself
    in_a_ring_without_a_cadence_or_with_values_in_no_column_it_is_left_to_people
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

async fn past_its_grace_period_a_former_key_goes_out_of_use_by_itself(world: World) {
    let former = world.rotate().await;
    world.reencrypt().await;
    keep_schedule(&world.session, now_ms() + 29 * DAY_MS, false).await.unwrap();
    assert!(world.session.db.disablings().all().await.unwrap().is_empty(), "it is in its grace period");
    let grace = world.enfold.graces().await.unwrap().remove(0);
    assert_eq!((grace.keys.len(), grace.due(now_ms()).len(), grace.due(now_ms() + 31 * DAY_MS).len()), (1, 0, 1));
    // A look a minute, in life.
    while world.status(former).await != "disabled" {
        keep_schedule(&world.session, now_ms() + 31 * DAY_MS, false).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(world.session.db.disablings().all().await.unwrap()[0].times.counted_ms.is_some());
    assert!(world.enfold.graces().await.unwrap()[0].keys.is_empty());
}

async fn in_a_ring_without_a_cadence_or_with_values_in_no_column_it_is_left_to_people(world: World) {
    world.rotate().await;
    world.reencrypt().await;
    for policy in [
        world.text.replace("cadence = \"90d\"", ""),
        world.text.replace("cadence = \"90d\"", "cadence = \"90d\"\nenabled = false"),
        format!("{}\n[values.token]\nid = \"v.token\"\nring = \"main\"\n", world.text),
    ] {
        let (_enfold, session) = world.another(&policy).await;
        keep_schedule(&session, now_ms() + 31 * DAY_MS, false).await.unwrap();
        assert!(session.db.disablings().all().await.unwrap().is_empty(), "{policy}");
    }
}
