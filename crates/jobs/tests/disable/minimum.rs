//! The least version that opens.

use enfold::{Code, Whose};
use enfold_jobs::ops::{Disable, Silent, Tried, disable, disable_within, enable};

use crate::world::{PATIENCE, World, context, on_both, wanted};

on_both! {
    a_minimum_is_set_when_nothing_needs_what_is_below_it_and_is_taken_back
}

async fn a_minimum_is_set_when_nothing_needs_what_is_below_it_and_is_taken_back(world: World) {
    let stored = world.text("SELECT email FROM users WHERE id = 1").await;
    let (first, second) = (world.rotate().await, world.rotate().await);
    let scopes = world.enfold.scopes("main", Whose::Everybody).await.unwrap();
    let below = world.enfold.keys_below("main", &scopes, 3).await.unwrap();
    assert!(below.len() == 2 && below.contains(&first) && below.contains(&second));
    let context = context();
    let set = Disable { ring: "main", keys: &below, minimum: Some((&scopes, 3)), context: &context };
    assert!(matches!(disable(&world.session, &set).await.unwrap(), Tried::Needed(_)));
    assert_eq!(world.status(first).await, "retired", "nothing was changed");
    world.reencrypt().await;
    let tried = disable_within(&world.session, &set, PATIENCE, &Silent).await.unwrap();
    assert_eq!(tried, Tried::Disabled { uncounted: Vec::new() });
    assert_eq!((world.status(first).await, world.status(second).await), ("disabled", "disabled"));
    let operator = world.enfold.operator().unwrap();
    let above = operator.set_minimum("main", &scopes, 4, &context).await.unwrap_err();
    assert_eq!(above.code(), Code::Usage, "the version that seals would not open");
    assert!(world.run(&format!("UPDATE users SET email = '{stored}'")).await.unwrap_err().contains("taken out of use"));
    let enabled = enable(&world.session, &wanted(&[first])).await.unwrap_err();
    assert_eq!(enabled.code(), Code::Usage, "it is below the minimum");

    operator.set_minimum("main", &scopes, 2, &context).await.unwrap();
    disable::take_freed(&world.session, "main").await.unwrap();
    assert_eq!((world.status(first).await, world.status(second).await), ("disabled", "retired"));
    operator.set_minimum("main", &scopes, 0, &context).await.unwrap();
    disable::take_freed(&world.session, "main").await.unwrap();
    assert_eq!(world.status(first).await, "retired");
    world.run(&format!("UPDATE users SET email = '{stored}' WHERE id = 1")).await.unwrap();
    assert!(world.enfold.check_catalog().await.unwrap().is_empty());
}
