//! What was stored is what was sent; what the database will not take becomes a row error; plans are pinned.

use enfold::Code;
use enfold_jobs::model::{Goal, JobState, Storage};
use enfold_jobs::store::{Outcome, Store};

use crate::world::{World, target};

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, email text); \
    INSERT INTO people SELECT n, 'p' || n || '@example.com' FROM generate_series(1, 100) n;";

fn rejected(outcomes: &[Outcome]) -> Vec<usize> {
    let rejected = outcomes.iter().enumerate().filter(|(_, o)| matches!(o, Outcome::Rejected { .. }));
    rejected.map(|(at, _)| at).collect()
}

#[tokio::test]
async fn a_trigger_that_rewrites_a_value_gets_that_row_rejected_and_no_other() {
    let world = World::with(&format!(
        "{PEOPLE} CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.id = 7 THEN NEW.email := lower(NEW.email); END IF; RETURN NEW; END $$; \
         CREATE TRIGGER fold BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION fold()"
    ))
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(rejected(&outcomes), [6]);
    assert_eq!(world.texts("SELECT email FROM people WHERE id = 7").await, [Some("p7@example.com".to_owned())]);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await, 99);
    assert_eq!(world.number("SELECT count(*) FROM enfold.job_errors WHERE row_label = 'id=7'").await, 1);
}

#[tokio::test]
async fn a_trigger_that_rewrites_a_column_the_batch_keeps_is_seen_as_well() {
    let world = World::with(
        "CREATE TABLE people (id int PRIMARY KEY, email text, note text); \
         INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y'); \
         CREATE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.id = 1 THEN NEW.note := 'changed'; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER fold BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION fold()",
    )
    .await;
    let both = target("people", &[("email", Storage::Text), ("note", Storage::Text)]);
    let lease = world.lease(&both).await;
    let batch = world.read(&lease, &both).await;
    let mut changes = world.seal(&both, &batch.rows).await;
    for change in &mut changes {
        change.cells[1] = enfold_jobs::store::Cell::Keep;
    }
    assert_eq!(rejected(&world.write(&lease, &both, &changes).await), [0]);
}

#[tokio::test]
async fn a_trigger_that_swallows_an_update_gets_that_row_rejected() {
    let world = World::with(&format!(
        "{PEOPLE} CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.id IN (3, 4) THEN RETURN NULL; END IF; RETURN NEW; END $$; \
         CREATE TRIGGER swallow BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION swallow()"
    ))
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    assert_eq!(rejected(&world.race(&people, async |_| {}).await), [2, 3]);
}

#[tokio::test]
async fn a_trigger_that_writes_the_row_again_afterwards_gets_it_rejected() {
    let world = World::with(&format!(
        "{PEOPLE} ALTER TABLE people ADD touched boolean; \
         CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           IF pg_trigger_depth() = 1 AND NEW.id = 9 THEN UPDATE people SET email = lower(email) WHERE id = NEW.id; END IF; \
           IF pg_trigger_depth() = 1 AND NEW.id = 10 THEN UPDATE people SET touched = true WHERE id = NEW.id; END IF; \
           RETURN NULL; END $$; \
         CREATE TRIGGER again AFTER UPDATE ON people FOR EACH ROW EXECUTE FUNCTION again()"
    ))
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    // Row 10 was written again too, but its value is what was sent.
    assert_eq!(rejected(&world.race(&people, async |_| {}).await), [8]);
}

#[tokio::test]
async fn rows_that_break_a_constraint_are_found_by_halving_and_the_rest_is_written() {
    let world = World::with(&format!("{PEOPLE} ALTER TABLE people ADD CHECK (id % 25 <> 0 OR email LIKE '%@%')")).await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(rejected(&outcomes), [24, 49, 74, 99]);
    let Outcome::Rejected { reason } = &outcomes[24] else { panic!("rejected") };
    assert!(
        reason.contains("23514") && reason.contains("people_email_check") | reason.contains("people_check"),
        "{reason}"
    );
    assert!(!reason.contains("enf1:") && !reason.contains("example.com"), "{reason}");
}

#[tokio::test]
async fn a_deferred_constraint_fails_its_row_and_not_the_commit() {
    let world = World::with(&format!(
        "{PEOPLE} CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN IF NEW.id = 5 THEN RAISE EXCEPTION 'no %', NEW.email; END IF; RETURN NULL; END $$; \
         CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON people DEFERRABLE INITIALLY DEFERRED \
           FOR EACH ROW EXECUTE FUNCTION refuse()"
    ))
    .await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(rejected(&outcomes), [4]);
    let Outcome::Rejected { reason } = &outcomes[4] else { panic!("rejected") };
    assert!(!reason.contains("enf1:"), "{reason}");
}

#[tokio::test]
async fn a_value_too_long_for_its_type_is_refused_and_not_cut() {
    let world =
        World::with("CREATE TABLE people (id int PRIMARY KEY, email varchar(20)); INSERT INTO people VALUES (1, 'a')")
            .await;
    let people = target("people", &[("email", Storage::Text)]);
    let outcomes = world.race(&people, async |_| {}).await;
    assert_eq!(rejected(&outcomes), [0]);
    assert_eq!(world.texts("SELECT email FROM people").await, [Some("a".to_owned())]);
}

#[tokio::test]
async fn a_sweep_goes_on_past_rows_with_errors() {
    let world = World::with(&format!("{PEOPLE} ALTER TABLE people ADD CHECK (id <> 50 OR email LIKE '%@%')")).await;
    let people = target("people", &[("email", Storage::Text)]);
    let report = world.sweep(Goal::Protect, &people).await;
    assert_eq!(report.state, JobState::CompletedWithErrors);
    assert_eq!(report.remaining, Some(1));
    let errors = world.store.row_errors(report.job, 10).await.expect("errors");
    assert_eq!(errors.iter().map(|error| error.row.as_str()).collect::<Vec<_>>(), ["id=50"]);
}

#[tokio::test]
async fn a_role_that_does_not_see_all_rows_is_stopped() {
    let world = World::with(&format!(
        "{PEOPLE} ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
         CREATE POLICY few ON people USING (id < 10)"
    ))
    .await;
    let (role, worker) =
        world.role("GRANT ALL ON people TO {role}; GRANT CREATE ON DATABASE {database} TO {role}").await;
    let people = target("people", &[("email", Storage::Text)]);
    let error = worker.remaining(Goal::Protect, &people).await.expect_err("a part of the rows is hidden");
    assert_eq!(error.code(), Code::DatabaseDenied);
    assert!(!worker.sees_all_rows(&people).await.expect("looks"));
    world.end_role(&role).await;
}

#[tokio::test]
async fn plaintext_never_reaches_the_servers_log() {
    // What the server would log is what it is sent: statements with their parameters. Unprotecting sends plaintext, so
    // it must come by COPY, which pg_stat_statements and the log know without its data.
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    world.sweep(Goal::Protect, &people).await;
    world.run("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()").await;
    let report = world.sweep(Goal::Unprotect, &people).await;
    assert_eq!(report.remaining, Some(0));
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email = 'p' || id || '@example.com'").await, 100);
    let here = "dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let copies = format!("SELECT count(*) FROM pg_stat_statements WHERE query LIKE 'COPY pg_temp%' AND {here}");
    assert_eq!(world.number(&copies).await, 1);
    let arrays = format!("SELECT count(*) FROM pg_stat_statements WHERE query LIKE '%UPDATE ONLY%unnest%' AND {here}");
    assert_eq!(world.number(&arrays).await, 0);
}

#[tokio::test]
async fn a_batch_is_written_by_place_and_never_by_looking_through_the_table() {
    let world = World::with(&format!("{PEOPLE} CREATE EXTENSION pg_stat_statements")).await;
    let people = target("people", &[("email", Storage::Text)]);
    let scans = "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname = 'people'";
    world.run("SELECT pg_stat_force_next_flush()").await;
    let before = world.number(scans).await;
    let outcomes = world.race(&people, async |_| {}).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Written));
    // The worker's session reports when it next ends a transaction and a second has passed, or when it ends.
    world.store.close_idle();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while world.number("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'people'").await < 100 {
        assert!(std::time::Instant::now() < deadline, "the statistics never came");
        tokio::task::yield_now().await;
        world.run("SELECT pg_stat_clear_snapshot()").await;
    }
    // create_job counts a table that was never analysed: one scan.
    assert!(world.number(scans).await - before <= 1, "the batch scanned the table");
}
