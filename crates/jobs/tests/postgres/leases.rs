//! Leases, fencing and checkpoints.

use std::time::Duration;

use enfold::Code;
use enfold_jobs::model::{Goal, JobState, RowError, Storage};
use enfold_jobs::store::{Checkpoint, Store};

use crate::world::{LEASE, World, spec, target};

const PEOPLE: &str = "CREATE TABLE people (id int PRIMARY KEY, email text); \
    INSERT INTO people SELECT n, 'p' || n || '@example.com' FROM generate_series(1, 100) n";

#[tokio::test]
async fn a_lease_is_held_by_one_worker_until_it_runs_out_or_is_let_go() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let job = world.store.create_job(&spec(&people)).await.expect("a job");
    let first = world.store.lease(job, "one", LEASE).await.expect("leases").expect("a range");
    assert_eq!(world.store.lease(job, "two", LEASE).await.expect("leases"), None);
    world.store.renew(&first, Duration::ZERO).await.expect("lets go");
    let second = world.store.lease(job, "two", LEASE).await.expect("leases").expect("a range");
    assert!(second.token > first.token);
    assert_eq!(world.store.renew(&first, LEASE).await.expect_err("is not ours").code(), Code::LeaseLost);
}

#[tokio::test]
async fn a_range_is_not_orphaned_by_a_clock_that_is_put_back_and_its_former_worker_is_fenced() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let first = world.lease(&people).await;
    let batch = world.read(&first, &people).await;
    let changes = world.seal(&people, &batch.rows).await;
    let ends = async |when: &str| {
        world.run(&format!("UPDATE enfold.job_chunks SET expires_at = clock_timestamp() + interval '{when}'")).await;
    };
    ends("50 minutes").await;
    assert_eq!(world.store.lease(first.job, "two", LEASE).await.expect("leases"), None, "somebody may hold it so long");
    // As the server's clock has it after it was put back by a year.
    ends("1 year").await;
    let second = world.store.lease(first.job, "two", LEASE).await.expect("leases").expect("nobody's otherwise");
    let error = world.store.write(&first, &people, &changes, &Checkpoint::default()).await.expect_err("fenced");
    assert_eq!(error.code(), Code::LeaseLost);
    world.write(&second, &people, &changes).await;
}

#[tokio::test]
async fn a_worker_whose_lease_was_taken_writes_nothing() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let first = world.lease(&people).await;
    let batch = world.read(&first, &people).await;
    let changes = world.seal(&people, &batch.rows).await;
    world.store.renew(&first, Duration::ZERO).await.expect("lets go");
    world.store.lease(first.job, "two", LEASE).await.expect("leases").expect("a range");
    let error = world.store.write(&first, &people, &changes, &Checkpoint::default()).await.expect_err("fenced");
    assert_eq!(error.code(), Code::LeaseLost);
    assert_eq!(world.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await, 0);
}

#[tokio::test]
async fn rows_cursor_counts_and_errors_commit_together() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let lease = world.lease(&people).await;
    let batch = world.store.read(&lease, &people, lease.cursor, 40).await.expect("reads");
    let next = batch.next.expect("more rows");
    let changes = world.seal(&people, &batch.rows).await;
    let error = RowError {
        row: "id=1".to_owned(),
        column: "email".to_owned(),
        code: Code::OpenFailed.word().to_owned(),
        reason: "does not open".to_owned(),
    };
    let checkpoint = Checkpoint { cursor: Some(next), rows_seen: 40, errors: vec![error.clone()] };
    world.store.write(&lease, &people, &changes, &checkpoint).await.expect("writes");
    let record = world.store.job(lease.job).await.expect("a record");
    assert_eq!((record.progress.rows_seen, record.progress.rows_changed, record.progress.rows_failed), (40, 40, 1));
    assert_eq!(world.store.row_errors(lease.job, 10).await.expect("errors"), [error]);

    // Another worker goes on where this one stood.
    world.store.renew(&lease, Duration::ZERO).await.expect("lets go");
    let taken = world.store.lease(lease.job, "two", LEASE).await.expect("leases").expect("a range");
    assert_eq!(taken.cursor, next);
    let rest = world.read(&taken, &people).await;
    // New versions of converted rows may lie ahead of the cursor; they are read again and found satisfied.
    assert_eq!(world.seal(&people, &rest.rows).await.len(), 60);
    assert_eq!(rest.next, None);
}

#[tokio::test]
async fn a_pass_begins_once_and_only_when_the_one_before_is_done() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let lease = world.lease(&people).await;
    world.store.transition(lease.job, &[JobState::Pending], JobState::Running, None).await.expect("moves");
    assert!(!world.store.begin_pass(lease.job, 2).await.expect("asks"), "pass 1 is not done");
    assert!(!world.store.finish(lease.job, 1, JobState::Completed).await.expect("asks"), "pass 1 is not done");
    world.store.write(&lease, &people, &[], &Checkpoint::default()).await.expect("ends the range");
    assert!(world.store.begin_pass(lease.job, 2).await.expect("begins"));
    assert!(!world.store.begin_pass(lease.job, 2).await.expect("asks"), "somebody began it");
    let record = world.store.job(lease.job).await.expect("a record");
    assert_eq!((record.pass, record.progress.chunks_done, record.progress.chunks_total), (2, 0, 1));
    assert!(!world.store.finish(lease.job, 1, JobState::Completed).await.expect("asks"), "pass 1 is over");
}

#[tokio::test]
async fn states_change_only_from_where_they_should() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    let job = world.store.create_job(&spec(&people)).await.expect("a job");
    assert!(!world.store.transition(job, &[JobState::Running], JobState::Paused, None).await.expect("asks"));
    assert!(world.store.transition(job, &[JobState::Pending], JobState::Running, None).await.expect("moves"));
    world.store.set_control(job, Some(17), Some(Some(5))).await.expect("sets");
    let control = world.store.control(job).await.expect("reads");
    assert_eq!((control.state, control.batch_rows, control.rate), (JobState::Running, 17, Some(5)));
    world.store.set_control(job, None, Some(None)).await.expect("sets");
    assert_eq!(world.store.control(job).await.expect("reads").rate, None);
    assert_eq!(world.store.jobs().await.expect("lists").len(), 1);
}

#[tokio::test]
async fn job_tables_of_a_newer_program_are_refused() {
    let world = World::with(PEOPLE).await;
    let people = target("people", &[("email", Storage::Text)]);
    world.store.create_job(&spec(&people)).await.expect("a job");
    world.run("INSERT INTO enfold.job_schema (version) VALUES (99)").await;
    let error = world.store.create_job(&spec(&people)).await.expect_err("is newer");
    assert_eq!(error.code(), Code::CatalogVersion);
}

#[tokio::test]
async fn many_workers_convert_a_table_with_partitions_and_without_a_key() {
    let world = World::with(
        "CREATE TABLE log (region int, note text) PARTITION BY HASH (region); \
         CREATE TABLE log_0 PARTITION OF log FOR VALUES WITH (MODULUS 3, REMAINDER 0); \
         CREATE TABLE log_1 PARTITION OF log FOR VALUES WITH (MODULUS 3, REMAINDER 1); \
         CREATE TABLE log_2 PARTITION OF log FOR VALUES WITH (MODULUS 3, REMAINDER 2); \
         INSERT INTO log SELECT n, 'note ' || n FROM generate_series(1, 3000) n",
    )
    .await;
    let mut log = target("log", &[("note", Storage::Text)]);
    log.key.clear();
    let job = world.store.create_job(&spec(&log)).await.expect("a job");
    let workers = ["a", "b", "c"].map(|name| {
        let options = enfold_jobs::sweep::SweepOptions::new(name);
        async {
            let options = options;
            enfold_jobs::sweep::sweep(&world.store, &world.codec, job, &options, &enfold_jobs::sweep::Unwatched).await
        }
    });
    for report in futures_util::future::join_all(workers).await {
        assert_eq!(report.expect("sweeps").state, JobState::Completed);
    }
    assert_eq!(world.store.remaining(Goal::Protect, &log).await.expect("counts"), 0);
    assert_eq!(world.store.job(job).await.expect("a record").progress.rows_changed, 3000);
}
