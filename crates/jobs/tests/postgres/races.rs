//! A row is written only if it is still the very version that was read.

use enfold_jobs::model::{Goal, Storage};
use enfold_jobs::store::{Outcome, RowVersion, Store};

use crate::world::{World, target};

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, email text); \
    INSERT INTO people SELECT n, 'p' || n || '@example.com' FROM generate_series(1, 100) n";

fn written(outcomes: &[Outcome]) -> usize {
    outcomes.iter().filter(|outcome| **outcome == Outcome::Written).count()
}

#[tokio::test]
async fn a_row_that_changed_since_it_was_read_is_left_alone() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world
        .race(&people, async |app| {
            app.batch_execute("UPDATE people SET email = 'new' WHERE id = 42").await.expect("updates");
        })
        .await;
    assert_eq!(written(&outcomes), 99);
    assert_eq!(world.texts("SELECT email FROM people WHERE id = 42").await, [Some("new".to_owned())]);
}

#[tokio::test]
async fn a_row_written_with_the_same_bytes_is_another_version() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world
        .race(&people, async |app| {
            app.batch_execute("UPDATE people SET email = email WHERE id = 7").await.expect("updates");
        })
        .await;
    assert_eq!(written(&outcomes), 99);
}

#[tokio::test]
async fn a_change_of_case_in_citext_is_not_overwritten() {
    let world = World::with(
        "CREATE EXTENSION citext; CREATE TABLE people (id int PRIMARY KEY, email citext); \
         INSERT INTO people VALUES (1, 'anna@example.com')",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world
        .race(&people, async |app| {
            app.batch_execute("UPDATE people SET email = 'Anna@Example.com'").await.expect("updates");
        })
        .await;
    assert_eq!(outcomes, [Outcome::Lost]);
    assert_eq!(world.texts("SELECT email::text FROM people").await, [Some("Anna@Example.com".to_owned())]);
}

#[tokio::test]
async fn an_equal_jsonb_is_not_overwritten() {
    let world =
        World::with("CREATE TABLE docs (id int PRIMARY KEY, body jsonb); INSERT INTO docs VALUES (1, '{\"n\": 1.0}')")
            .await;
    let docs = target("docs", &[("body", Storage::Json)]);
    let outcomes = world
        .race(&docs, async |app| {
            app.batch_execute("UPDATE docs SET body = '{\"n\": 1.00}'").await.expect("updates");
        })
        .await;
    assert_eq!(outcomes, [Outcome::Lost]);
    assert_eq!(world.texts("SELECT body::text FROM docs").await, [Some("{\"n\": 1.00}".to_owned())]);
}

#[tokio::test]
async fn a_deleted_row_and_a_new_row_in_its_place_are_left_alone() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world
        .race(&people, async |app| {
            app.batch_execute("DELETE FROM people WHERE id <= 50").await.expect("deletes");
            app.batch_execute("VACUUM people").await.expect("frees the places");
            app.batch_execute("INSERT INTO people SELECT n + 1000, 'new' FROM generate_series(1, 50) n")
                .await
                .expect("fills the places again");
        })
        .await;
    assert_eq!(written(&outcomes), 50);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email = 'new'").await, 50);
}

#[tokio::test]
async fn rows_that_a_rewrite_moved_onto_each_others_places_are_left_alone() {
    // All rows are of one transaction: place and transaction alone would name the wrong row.
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let lease = world.lease(&people).await;
    let batch = world.read(&lease, &people).await;
    let changes = world.seal(&people, &batch.rows).await;
    world.run("DELETE FROM people WHERE id <= 50").await;
    world.run("VACUUM FULL people").await;
    let error = world
        .store
        .write(&lease, &people, &changes, &enfold_jobs::store::Checkpoint { cursor: Some(0), ..Default::default() })
        .await
        .expect_err("the rows lie elsewhere now");
    assert_eq!(error.code(), enfold::Code::Busy);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email = 'p' || id || '@example.com'").await, 50);
    let report = world.sweep(Goal::Protect, &people).await;
    assert_eq!(report.remaining, Some(0));
}

#[tokio::test]
async fn a_row_that_somebody_holds_is_neither_waited_for_nor_written() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let mut holder = world.database.connect().await;
    let held = holder.transaction().await.expect("begins");
    held.batch_execute("UPDATE people SET email = 'held' WHERE id = 3").await.expect("holds");
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(written(&outcomes), 99);
    held.rollback().await.expect("lets go");
}

#[tokio::test]
async fn a_row_that_is_locked_after_it_was_read_is_neither_waited_for_nor_written() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let mut holder = world.database.connect().await;
    let held = holder.transaction().await.expect("begins");
    let outcomes = world
        .race(&people, async |_| {
            held.batch_execute("SELECT FROM people WHERE id = 3 FOR UPDATE").await.expect("locks");
        })
        .await;
    assert_eq!(outcomes[2], Outcome::Lost);
    assert_eq!(written(&outcomes), 99);
    held.rollback().await.expect("lets go");
}

#[tokio::test]
async fn rows_that_bear_the_traces_of_ended_transactions_are_written_at_once() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    world.run("BEGIN; UPDATE people SET email = 'never' WHERE id = 1; ROLLBACK").await;
    world.run("BEGIN; SELECT FROM people WHERE id = 2 FOR KEY SHARE; COMMIT").await;
    let lease = world.lease(&people).await;
    let batch = world.read(&lease, &people).await;
    let marked = |row: &enfold_jobs::store::Row| matches!(row.version, RowVersion::Tuple { held: true, .. });
    assert_eq!(batch.rows.iter().filter(|row| marked(row)).count(), 2);
    let changes = world.seal(&people, &batch.rows).await;
    assert_eq!(written(&world.write(&lease, &people, &changes).await), 100);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await, 100);
}

#[tokio::test]
async fn a_row_that_a_foreign_key_holds_is_not_waited_for_where_its_unique_column_changes() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE); INSERT INTO people VALUES (1, 'a'), (2, 'b'); \
         CREATE TABLE orders (id int PRIMARY KEY, person int REFERENCES people)",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let mut other = world.database.connect().await;
    let held = other.transaction().await.expect("begins");
    held.batch_execute("INSERT INTO orders VALUES (1, 1)").await.expect("takes a key share lock on person 1");
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(outcomes, [Outcome::Lost, Outcome::Written]);
    held.commit().await.expect("commits");
}

#[tokio::test]
async fn a_lost_row_is_read_again_where_its_update_chain_ends() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let lease = world.lease(&people).await;
    let batch = world.read(&lease, &people).await;
    let version = batch.rows[9].version.clone();
    for round in 0..3 {
        world.run(&format!("UPDATE people SET email = 'round {round}' WHERE id = 10")).await;
    }
    let again = world.store.reread(&lease, &people, std::slice::from_ref(&version)).await.expect("reads again");
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].label, "id=10");
    assert_eq!(again[0].cells, [Some(b"round 2".to_vec())]);
    assert_ne!(again[0].version, version);

    world.run("DELETE FROM people").await;
    world.run("VACUUM people").await;
    let gone = world.store.reread(&lease, &people, &[again[0].version.clone()]).await.expect("reads again");
    assert!(gone.is_empty(), "the row is gone, and so is the end of the table");
}

#[tokio::test]
async fn a_row_that_moves_to_another_partition_is_found_by_the_next_pass() {
    let world = World::with(
        "CREATE TABLE people (id int, region text, email text, PRIMARY KEY (id, region)) PARTITION BY LIST (region); \
         CREATE TABLE people_a PARTITION OF people FOR VALUES IN ('a'); \
         CREATE TABLE people_b PARTITION OF people FOR VALUES IN ('b'); \
         INSERT INTO people SELECT n, 'a', 'mail' || n FROM generate_series(1, 20) n; \
         INSERT INTO people SELECT n, 'b', 'mail' || n FROM generate_series(21, 40) n",
    )
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let job = world.store.create_job(&crate::world::spec(&people)).await.expect("a job");
    let first = world.store.lease(job, "one", crate::world::LEASE).await.expect("leases").expect("a range");
    let batch = world.read(&first, &people).await;
    let changes = world.seal(&people, &batch.rows).await;
    world.run("UPDATE people SET region = 'b' WHERE id = 5").await;
    let outcomes = world.write(&first, &people, &changes).await;
    assert_eq!(written(&outcomes), 19);
    world.store.renew(&first, std::time::Duration::ZERO).await.expect("lets go");
    let options = enfold_jobs::sweep::SweepOptions::new("two");
    let report = enfold_jobs::sweep::sweep(&world.store, &world.codec, job, &options, &enfold_jobs::sweep::Unwatched)
        .await
        .expect("sweeps");
    assert_eq!(report.remaining, Some(0));
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await, 40);
}

#[tokio::test]
async fn moved_keys_do_not_keep_a_row_from_being_recognised() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world
        .race(&people, async |app| {
            // 1 takes the key of 2: by key alone, the value of one would be written over the other.
            app.batch_execute("UPDATE people SET id = 1000 WHERE id = 2; UPDATE people SET id = 2 WHERE id = 1")
                .await
                .expect("moves keys");
        })
        .await;
    assert_eq!(written(&outcomes), 98);
    assert_eq!(world.texts("SELECT email FROM people WHERE id = 2").await, [Some("p1@example.com".to_owned())]);
}

#[tokio::test]
async fn versions_name_place_transaction_and_file() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let lease = world.lease(&people).await;
    let batch = world.read(&lease, &people).await;
    let row = world
        .app
        .query_one("SELECT pg_relation_filenode('people')::text, xmin::text, ctid::text FROM people WHERE id = 1", &[])
        .await
        .expect("looks");
    let RowVersion::Tuple { file, block, offset, xmin, .. } = batch.rows[0].version else { panic!("a tuple") };
    assert_eq!(row.get::<_, String>(0), file.to_string());
    assert_eq!(row.get::<_, String>(1), xmin.to_string());
    assert_eq!(row.get::<_, String>(2), format!("({block},{offset})"));
}
