//! A limit a test.

use std::time::Duration;

use enfold::Code;
use enfold::policy::BackOff;
use enfold::policy::CanaryQuery;
use enfold_jobs::model::JobState;
use enfold_jobs::store::{JobLimits, Store};
use enfold_jobs::sweep::{SweepOptions, sweep};
use enfold_testkit::postgres::connect;

use crate::codec::OneKey;
use crate::scene::Scene;

/// Writes so many MiB of rows, and as much log.
fn fill(mebibytes: u32) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS filler (bytes text); \
         INSERT INTO filler SELECT repeat(md5(n::text), 60) FROM generate_series(1, {}) n",
        mebibytes * 512
    )
}

#[tokio::test]
async fn a_job_waits_while_a_replica_is_behind() {
    let limits = BackOff { max_replica_lag: Duration::from_secs(2), ..BackOff::default() };
    let scene = Scene::with(&[("wal_level", "replica")], limits).await;
    let standby = scene.server.standby();
    let there = connect(&standby.config()).await;
    while scene.number("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL").await == 0 {
        tokio::task::yield_now().await;
    }
    let stop = async |_| there.batch_execute("SELECT pg_wal_replay_pause()").await.expect("the standby stops");
    let go = async |_| there.batch_execute("SELECT pg_wal_replay_resume()").await.expect("the standby goes on");
    scene.waits("a replica is", stop, go).await;
}

#[tokio::test]
async fn a_job_waits_while_a_replica_applies_late() {
    let limits = BackOff { max_replica_lag: Duration::from_secs(2), ..BackOff::default() };
    let scene = Scene::with(&[("wal_level", "replica")], limits).await;
    let standby = scene.server.standby();
    let there = connect(&standby.config()).await;
    while scene.number("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL").await == 0 {
        tokio::task::yield_now().await;
    }
    let delay = async |delay: &str| {
        let sql = format!("ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'");
        there.batch_execute(&sql).await.expect("set");
        there.batch_execute("SELECT pg_reload_conf()").await.expect("read");
    };
    scene.waits("a replica is", async |_| delay("1h").await, async |_| delay("0").await).await;
}

#[tokio::test]
async fn a_job_waits_while_a_slot_holds_the_log_back() {
    let scene = Scene::with(&[], BackOff { max_slot_mib: 4, ..BackOff::default() }).await;
    let abandon = async |_| {
        scene.run("SELECT pg_create_physical_replication_slot('abandoned', true)").await;
        scene.run(&fill(8)).await;
    };
    let drop = async |_| scene.run("SELECT pg_drop_replication_slot('abandoned')").await;
    scene.waits("a replication slot holds back", abandon, drop).await;
}

#[tokio::test]
async fn a_job_waits_while_an_old_snapshot_is_kept() {
    let scene = Scene::with(&[("autovacuum", "off")], BackOff { max_snapshot_age: 2_000, ..BackOff::default() }).await;
    let report = connect(&scene.server.config()).await;
    let keep = async |_| {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM people";
        report.batch_execute(begin).await.expect("a long report");
        let burn = "DO $$ BEGIN FOR n IN 1..2500 LOOP BEGIN PERFORM pg_current_xact_id(); \
             INSERT INTO burnt VALUES (n); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$";
        scene.run("CREATE TABLE burnt (n int)").await;
        scene.run(burn).await;
    };
    let end = async |_| report.batch_execute("COMMIT").await.expect("the report ends");
    scene.waits("a snapshot keeps", keep, end).await;
}

#[tokio::test]
async fn a_job_waits_while_a_prepared_transaction_is_forgotten() {
    let settings = [("autovacuum", "off"), ("max_prepared_transactions", "5")];
    let scene = Scene::with(&settings, BackOff { max_snapshot_age: 2_000, ..BackOff::default() }).await;
    scene.run("CREATE TABLE burnt (n int)").await;
    let forget = async |_| {
        scene.run("BEGIN; INSERT INTO burnt VALUES (0); PREPARE TRANSACTION 'forgotten'").await;
        let burn = "DO $$ BEGIN FOR n IN 1..2500 LOOP BEGIN INSERT INTO burnt VALUES (n); \
             EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$";
        scene.run(burn).await;
    };
    scene.waits("a snapshot keeps", forget, async |_| scene.run("ROLLBACK PREPARED 'forgotten'").await).await;
}

#[tokio::test]
async fn a_job_waits_while_somebody_waits_for_a_lock_of_its_own() {
    let scene = Scene::with(&[], BackOff::default()).await;
    scene.run("CREATE TABLE filler (n int)").await;
    // Another worker of ours, stopped in the middle of a batch.
    let mut config = scene.server.config();
    let worker = connect(config.application_name("enfold")).await;
    let blocked = connect(&scene.server.config()).await;
    let hold = async |_| {
        worker.batch_execute("BEGIN; LOCK TABLE filler IN ACCESS EXCLUSIVE MODE").await.expect("the worker's lock");
        tokio::spawn(async move { blocked.batch_execute("INSERT INTO filler VALUES (1)").await });
    };
    let let_go = async |_| worker.batch_execute("COMMIT").await.expect("the lock is let go");
    scene.waits("1 session waits for a lock of the job", hold, let_go).await;
    while scene.number("SELECT count(*) FROM filler").await == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_job_waits_after_too_many_requested_checkpoints() {
    let limits = BackOff { max_requested_checkpoints: 1, ..BackOff::default() };
    // The window is the server's own; this is its least.
    let scene = Scene::with(&[("checkpoint_timeout", "'30s'")], limits).await;
    let request = async |_| {
        for _ in 0..2 {
            // A checkpoint with nothing to write is left out.
            scene.run(&fill(1)).await;
            scene.run("CHECKPOINT").await;
        }
    };
    // Nothing to end: they come to lie behind the window.
    scene.waits("checkpoints were requested within 30 s", request, async |_| {}).await;
}

#[tokio::test]
async fn a_job_waits_while_the_log_grows_too_fast() {
    let scene = Scene::with(&[], BackOff { max_wal_mib_per_second: Some(1), ..BackOff::default() }).await;
    let app = connect(&scene.server.config()).await;
    let over = std::sync::atomic::AtomicBool::new(false);
    let import = async {
        let sql = fill(8);
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            app.batch_execute(&sql).await.expect("the import goes on");
            app.batch_execute("TRUNCATE filler").await.expect("and on");
        }
    };
    let scenes = scene.waits(
        "the log grows by",
        async |_| {},
        async |_| {
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        },
    );
    futures_util::future::join(scenes, import).await;
}

#[tokio::test]
async fn a_job_waits_while_the_disk_fills_and_its_limit_can_be_raised_meanwhile() {
    // What the log does not need any more goes from the disk, instead of being kept for later.
    let settings = [("wal_recycle", "off"), ("min_wal_size", "'32MB'")];
    let scene = Scene::with(&settings, BackOff { max_disk_growth_mib: Some(24), ..BackOff::default() }).await;
    scene
        .waits(
            "database and log grew by",
            async |_| scene.run(&fill(48)).await,
            async |_| {
                scene.run("TRUNCATE filler; CHECKPOINT").await;
            },
        )
        .await;

    scene.run("UPDATE people SET email = 'plain again'").await;
    scene
        .waits(
            "database and log grew by",
            async |_| scene.run(&fill(48)).await,
            async |job| {
                let limits = JobLimits { max_disk_growth_mib: Some(1_000), ..JobLimits::default() };
                scene.store.set_limits(job, &limits).await.expect("raised");
            },
        )
        .await;
}

fn canary(sql: &str) -> BackOff {
    let query = CanaryQuery { sql: sql.to_owned(), time: Duration::from_millis(300) };
    BackOff { canary_query: Some(query), ..BackOff::default() }
}

#[tokio::test]
async fn a_job_waits_while_the_canary_query_is_slow() {
    let scene = Scene::with(&[], canary("SELECT pg_sleep(seconds) FROM pond -- the application's slowest")).await;
    scene.run("CREATE TABLE pond (seconds float8); INSERT INTO pond VALUES (0)").await;
    let slow = async |_| scene.run("UPDATE pond SET seconds = 60").await;
    scene
        .waits("the canary query takes longer than 300 ms", slow, async |_| {
            scene.run("UPDATE pond SET seconds = 0").await;
        })
        .await;
    // Waiting for somebody's lock is a part of its time.
    scene.run("UPDATE people SET email = 'plain again'").await;
    let holder = connect(&scene.server.config()).await;
    let hold = async |_| holder.batch_execute("BEGIN; LOCK TABLE pond").await.expect("a lock");
    let let_go = async |_| holder.batch_execute("COMMIT").await.expect("let go");
    scene.waits("the canary query takes longer", hold, let_go).await;
}

#[tokio::test]
async fn a_canary_query_that_writes_or_fails_ends_the_job_and_changes_nothing() {
    for sql in ["DELETE FROM people", "SELECT 1; DELETE FROM people", "SELECT no_such_column FROM people"] {
        let scene = Scene::with(&[], canary(sql)).await;
        let job = scene.job().await;
        let codec = OneKey::new([7; 32]);
        let error = sweep(&scene.store, &codec, job, &SweepOptions::new("worker"), &scene).await.expect_err(sql);
        assert!(error.to_string().contains("canary_query"), "{error}");
        assert!(matches!(error.code(), Code::DatabaseFailed | Code::TableMissing), "{error:?}");
        assert_eq!(scene.store.job(job).await.expect("a record").state, JobState::Failed);
        let untouched = "SELECT count(*) FROM people WHERE email LIKE 'p%@example.com'";
        assert_eq!(scene.number(untouched).await, 1_000);
    }
}

#[tokio::test]
async fn the_range_of_a_killed_worker_is_waited_for_and_that_is_said() {
    let scene = Scene::with(&[], BackOff::default()).await;
    let job = scene.job().await;
    scene.store.set_control(job, None, Some(None)).await.expect("the rate is taken off");
    let theirs = scene.store.lease(job, "killed", Duration::from_secs(5)).await.expect("leases").expect("a range");
    let codec = OneKey::new([7; 32]);
    let report = sweep(&scene.store, &codec, job, &SweepOptions::new("worker"), &scene).await.expect("sweeps");
    assert_eq!((report.state, report.remaining), (JobState::Completed, Some(0)));
    assert!(scene.has_heard("other workers hold what is left"));
    let late = scene.store.renew(&theirs, Duration::from_secs(5)).await.expect_err("the range was taken over");
    assert_eq!(late.code(), Code::LeaseLost);
}
