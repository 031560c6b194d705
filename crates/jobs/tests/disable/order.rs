//! Each step waits for the one before, and says what is missing.

use enfold::{Code, Enfold, Form, PayloadType, Place};
use enfold_jobs::ops::{Silent, Tried, disable, disable_within, enable};

use crate::world::{PATIENCE, World, context, on_both, wanted};

on_both! {
    a_former_key_is_disabled_when_nothing_needs_it_and_not_before
    a_process_that_goes_by_an_earlier_state_is_waited_for
    what_cannot_be_counted_or_is_no_former_key_is_refused
}

async fn a_former_key_is_disabled_when_nothing_needs_it_and_not_before(world: World) {
    let stored = world.text("SELECT email FROM users WHERE id = 1").await;
    let former = world.rotate().await;
    let Tried::Needed(needs) = world.disable(former).await else { panic!("values need it") };
    assert_eq!(needs.tables.iter().map(|table| table.rows).sum::<u64>(), 5);
    assert_eq!(world.session.db.disablings().all().await.unwrap(), [], "nothing was begun");
    world.reencrypt().await;
    let Tried::Waits(missing) = world.disable(former).await else { panic!("nobody knows that all have seen it") };
    assert_eq!((missing.unheard_s, &missing.transactions[..]), (1, &[][..]));
    assert_eq!(world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
    assert_eq!(world.status(former).await, "disabled");
    let noted = world.session.db.disablings().all().await.unwrap();
    let times = noted[0].times;
    let in_order = [
        Some(times.asked_ms),
        times.acknowledged_ms,
        times.refused_ms,
        times.ended_ms,
        times.counted_ms,
        times.disabled_ms,
    ];
    assert!(in_order.iter().all(Option::is_some) && in_order.is_sorted(), "{in_order:?}");

    // A value that somebody sealed before and writes only now.
    let late = format!("INSERT INTO users (id, org, email) VALUES (9, 1, '{stored}')");
    assert!(world.run(&late).await.unwrap_err().contains("taken out of use"));
    let onto = format!("UPDATE users SET email = '{stored}' WHERE id = 2");
    assert!(world.run(&onto).await.unwrap_err().contains("taken out of use"));
    world.run("INSERT INTO users (id, org, email) SELECT 8, org, email FROM users WHERE id = 1").await.unwrap();

    enable(&world.session, &wanted(&[former])).await.unwrap();
    world.run(&late).await.unwrap();
    assert_eq!(world.status(former).await, "retired");
    assert!(world.session.db.disablings().all().await.unwrap().is_empty());
    let Tried::Needed(needs) = world.disable(former).await else { panic!("a value needs it") };
    assert_eq!(needs.tables[0].rows, 1);
}

async fn a_process_that_goes_by_an_earlier_state_is_waited_for(world: World) {
    // It looks when it is asked to, as a program without a runtime of its own does.
    let mut policy = world.enfold.policy().clone();
    policy.rings.get_mut("main").unwrap().cache.max_unseen = std::time::Duration::from_secs(600);
    let idle = Enfold::builder(policy).application("shop", "2").without_watch().build().await.unwrap();
    let former = world.rotate().await;
    world.reencrypt().await;
    let missing = loop {
        match world.disable(former).await {
            Tried::Waits(missing) if missing.unheard_s == 0 => break missing,
            Tried::Waits(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(missing.processes.len(), 1);
    assert_eq!(missing.processes[0].application.as_deref(), Some("shop 2"));
    assert!(missing.says()[0].starts_with("shop 2 still goes by epoch"), "{:?}", missing.says());
    // It looks before it seals, and so seals under the new data key.
    let email =
        idle.column(if world.text.contains("public.users") { "public.users.email" } else { "users.email" }).unwrap();
    email.seal(&context(), &Place::none(), Form::Text, PayloadType::Text, b"new").await.unwrap();
    assert_eq!(world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
}

async fn what_cannot_be_counted_or_is_no_former_key_is_refused(world: World) {
    let former = world.rotate().await;
    world.reencrypt().await;
    let sealing = world.enfold.data_keys("main", None, 100).await.unwrap();
    let sealing = sealing.iter().find(|key| key.status.as_str() == "active" && key.scope == "ring").unwrap().id;
    assert_eq!(disable(&world.session, &wanted(&[sealing])).await.unwrap_err().code(), Code::Usage);
    // A policy that does not know of the notes.
    let without = world.text.split("[tables.").next().unwrap();
    let schema = if world.text.contains("public.users") { "public." } else { "" };
    let only_users = format!("{without}[tables.\"{schema}users\".columns.email]\nid = \"u.email\"\nring = \"main\"\n");
    let (_enfold, session) = world.another(&only_users).await;
    let refused = disable(&session, &wanted(&[former])).await.unwrap_err();
    assert_eq!(refused.code(), Code::KeyNeeded);
    assert!(refused.causes().any(|cause| cause.contains("notes.body")), "{refused}");
    // Values that live in no column are named.
    let with_values = format!("{}\n[values.token]\nid = \"v.token\"\nring = \"main\"\n", world.text);
    let (_enfold, session) = world.another(&with_values).await;
    let tried = disable_within(&session, &wanted(&[former]), PATIENCE, &Silent).await.unwrap();
    assert_eq!(tried, Tried::Disabled { uncounted: vec!["token".to_owned()] });
}
