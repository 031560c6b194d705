//! The database refuses new values under a data key, leaves those that are there alone, and transactions of before are waited for.

use enfold_jobs::database::SchemaStep;
use enfold_jobs::ops::{Tried, refusals};

use crate::world::{Place, World, on_both};

on_both! {
    a_row_that_holds_such_a_value_can_be_changed_in_other_columns
}

async fn refuse(world: &World, key: enfold::KeyId) {
    for step in refusals(&world.session, "main").await.unwrap() {
        world.session.db.run(&step).await.unwrap();
        // Run twice, it is there once.
        world.session.db.run(&step).await.unwrap();
    }
    world.session.db.disablings().refuse("r1", &[key]).await.unwrap();
}

async fn a_row_that_holds_such_a_value_can_be_changed_in_other_columns(world: World) {
    let former = world.rotate().await;
    refuse(&world, former).await;
    // Every row holds one still.
    world.run("UPDATE users SET name = 'Eve', email = email WHERE id = 1").await.unwrap();
    world.run("UPDATE notes SET id = 7 WHERE id = 1").await.unwrap();
    for refused in [
        "INSERT INTO notes SELECT 9, body FROM notes WHERE id = 2",
        "UPDATE notes SET body = (SELECT body FROM notes WHERE id = 7) WHERE id = 2",
        "UPDATE users SET email = (SELECT u.email FROM users u WHERE u.id = 1) WHERE id = 2",
    ] {
        assert!(world.run(refused).await.unwrap_err().contains("taken out of use"), "{refused}");
    }
    world.run("INSERT INTO notes VALUES (10, NULL); UPDATE notes SET body = NULL WHERE id = 2").await.unwrap();
    world.reencrypt().await;
    world.run("INSERT INTO notes SELECT 11, body FROM notes WHERE id = 7").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shadows_and_members_of_documents_refuse_too() {
    let world = World::postgres().await;
    let former = world.rotate().await;
    refuse(&world, former).await;
    world.run("UPDATE users SET profile = jsonb_set(profile, '{n}', '7') WHERE id = 1").await.unwrap();
    for refused in [
        "UPDATE users SET born_enf = (SELECT u.born_enf FROM users u WHERE u.id = 1) WHERE id = 2",
        "UPDATE users SET profile = (SELECT u.profile FROM users u WHERE u.id = 1) WHERE id = 2",
        "INSERT INTO users (id, org, profile) SELECT 9, 1, profile FROM users WHERE id = 1",
    ] {
        assert!(world.run(refused).await.unwrap_err().contains("taken out of use"), "{refused}");
    }
    // What a trigger of the application makes of a row counts, whatever its name is.
    world
        .run(
            "CREATE FUNCTION copy() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN NEW.email := (SELECT u.email FROM users u WHERE u.id = 1); RETURN NEW; END $$;
             CREATE TRIGGER zzz BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION copy();",
        )
        .await
        .unwrap();
    assert!(world.run("UPDATE users SET name = 'x' WHERE id = 2").await.unwrap_err().contains("taken out of use"));
    let table = refusals(&world.session, "main").await.unwrap();
    for step in table {
        let SchemaStep::RefuseKeys { table, .. } = step else { panic!("a refusal") };
        world.session.db.run(&SchemaStep::AllowKeys { table }).await.unwrap();
    }
    world.run("UPDATE users SET name = 'x' WHERE id = 2").await.unwrap();
}

/// Under REPEATABLE READ a transaction sees what was refused when it began, and no more. It is waited for, and what it wrote is
/// counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_before_is_waited_for_and_what_it_wrote_is_found() {
    let world = World::postgres().await;
    let Place::Postgres(database) = &world.place else { panic!("on Postgres") };
    let stored = world.text("SELECT email FROM users WHERE id = 1").await;
    let former = world.rotate().await;
    world.reencrypt().await;
    let app = database.connect().await;
    app.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM notes").await.unwrap();
    let missing = loop {
        match world.disable(former).await {
            Tried::Waits(missing) if !missing.transactions.is_empty() => break missing,
            Tried::Waits(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(missing.transactions.len(), 1);
    assert!(missing.says()[0].starts_with("process "), "{:?}", missing.says());
    app.execute(&format!("INSERT INTO users (id, org, email) VALUES (9, 1, '{stored}')"), &[]).await.unwrap();
    app.batch_execute("COMMIT").await.unwrap();
    let Tried::Needed(needs) = world.disable(former).await else { panic!("what it wrote needs the key") };
    assert_eq!(needs.tables[0].rows, 1);
    world.reencrypt().await;
    assert_eq!(world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
}

/// What a trigger does not see is counted when the key was disabled, and takes that back.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_trigger_saw_takes_a_disable_back() {
    let world = World::postgres().await;
    let stored = world.text("SELECT email FROM users WHERE id = 1").await;
    let former = world.rotate().await;
    world.reencrypt().await;
    assert!(matches!(world.disable(former).await, Tried::Waits(_)));
    // Between the count and the signature, as a replica's session would.
    let slips = format!(
        "CREATE FUNCTION slip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           PERFORM set_config('session_replication_role', 'replica', true);
           INSERT INTO public.users (id, org, email) VALUES (9, 1, '{stored}') ON CONFLICT DO NOTHING;
           RETURN NULL; END $$;
         CREATE TRIGGER slip AFTER UPDATE OF counted_ms ON enfold.disablings FOR EACH ROW
         WHEN (OLD.counted_ms IS NULL AND NEW.counted_ms IS NOT NULL) EXECUTE FUNCTION slip();"
    );
    world.run(&slips).await.unwrap();
    let Tried::Needed(needs) = world.disable_at_last(former).await else { panic!("a value needs it") };
    assert_eq!(needs.tables[0].rows, 1);
    assert_eq!(world.status(former).await, "retired", "it was disabled, and that was taken back");
    world.reencrypt().await;
    assert_eq!(world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
}
