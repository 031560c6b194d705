//! Whoever reads from a replica that lags sees values of before, and opens them until the replica has none of them any more.

use std::time::Duration;

use enfold::policy::DatabaseUrl;
use enfold::{Column, Form};
use enfold_jobs::ops::{Missing, Silent, Tried, disable_within};
use enfold_testkit::postgres::connect;
use enfold_testkit::postgres_private::Server;
use tokio_postgres::Client;

use crate::world::{Place, World, context, wanted};

const REPLICA: &str = "the replica walreceiver at 127.0.0.1";

/// A primary, a replica, and a reader there.
struct Scene {
    world: World,
    there: Client,
    email: Column,
    // Behind what is dropped in them.
    _replica: Server,
    _primary: Server,
}

impl Scene {
    async fn new() -> Self {
        let primary = Server::start(&[("wal_level", "replica")]);
        let world = World::on_server(&primary).await;
        let replica = primary.standby();
        let name = world.text("SELECT current_database()::text").await;
        let there = connect(replica.config().dbname(name)).await;
        // How often it says at least how far it is.
        there.batch_execute("ALTER SYSTEM SET wal_receiver_status_interval = '1s'").await.unwrap();
        there.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let email = world.enfold.column("public.users.email").unwrap();
        let scene = Self { world, there, email, _replica: replica, _primary: primary };
        scene.catch_up().await;
        scene
    }

    async fn pause(&self) {
        self.there.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
        while self.of_replica("SELECT pg_get_wal_replay_pause_state()").await != "paused" {
            tokio::task::yield_now().await;
        }
    }

    async fn resume(&self) {
        self.there.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    }

    async fn of_replica(&self, sql: &str) -> String {
        self.there.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Until the replica shows what is committed now.
    async fn catch_up(&self) {
        let here = self.world.text("SELECT pg_current_wal_flush_lsn()::text").await;
        let is_there = format!("SELECT (pg_last_wal_replay_lsn() >= '{here}')::text");
        while self.of_replica(&is_there).await != "true" {
            tokio::task::yield_now().await;
        }
    }

    /// What the replica shows opens.
    async fn reads(&self) {
        for row in self.there.query("SELECT id, email FROM users ORDER BY id", &[]).await.unwrap() {
            let stored: String = row.get(1);
            let opened =
                self.email.open(&context(), &enfold::Place::none(), Form::Text, stored.as_bytes()).await.unwrap();
            let known = ["ada@example.com", "bob@example.com", "cy@example.com"];
            let at = usize::try_from(row.get::<_, i32>(0)).unwrap() - 1;
            assert_eq!(&opened.value[..], known[at].as_bytes());
        }
    }

    /// Tries until nothing is missing but this.
    async fn waits_for(&self, replica: &str, key: enfold::KeyId) {
        loop {
            match self.world.disable(key).await {
                Tried::Waits(Missing { replicas, .. }) if replicas == [replica] => return,
                Tried::Waits(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_is_waited_for_and_its_readers_open_what_it_shows() {
    let scene = Scene::new().await;
    scene.pause().await;
    let former = scene.world.rotate().await;
    scene.world.reencrypt().await;
    scene.waits_for(REPLICA, former).await;
    let patient = disable_within(&scene.world.session, &wanted(&[former]), Duration::from_millis(1), &Silent).await;
    let Tried::Waits(missing) = patient.unwrap() else { panic!("the replica has applied nothing") };
    assert_eq!(missing.says(), [format!("{REPLICA} has not applied yet what took the last values away")]);
    assert_eq!(scene.world.status(former).await, "retired");
    scene.reads().await;

    scene.resume().await;
    assert_eq!(scene.world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
    // Nothing is waited for here: what the replica shows opens at the moment at which the key is disabled.
    scene.reads().await;
    assert_eq!(scene.world.status(former).await, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_was_overtaken_says_nothing_of_replicas() {
    let scene = Scene::new().await;
    let stored = scene.world.text("SELECT email FROM users WHERE id = 1").await;
    let former = scene.world.rotate().await;
    scene.world.reencrypt().await;
    scene.pause().await;
    scene.waits_for(REPLICA, former).await;
    // By a way that no trigger sees.
    let hidden = format!("SET session_replication_role = replica; UPDATE users SET email = '{stored}' WHERE id = 1");
    scene.world.run(&hidden).await.unwrap();
    assert!(matches!(scene.world.disable(former).await, Tried::Needed(_)));
    scene.resume().await;
    scene.catch_up().await;
    scene.pause().await;
    scene.world.reencrypt().await;
    // The replica has applied the first count, and shows the value that came after it.
    scene.waits_for(REPLICA, former).await;
    scene.reads().await;
    scene.resume().await;
    assert_eq!(scene.world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
    scene.reads().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_away_is_known_by_its_slot() {
    let scene = Scene::new().await;
    scene.world.run("SELECT pg_create_physical_replication_slot('away', true)").await.unwrap();
    let former = scene.world.rotate().await;
    scene.world.reencrypt().await;
    scene.waits_for("the replica behind the replication slot away, which is not connected,", former).await;
    scene.world.run("SELECT pg_drop_replication_slot('away')").await.unwrap();
    assert_eq!(scene.world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_may_not_be_seen_how_far_a_replica_is_nothing_is_concluded() {
    let scene = Scene::new().await;
    let former = scene.world.rotate().await;
    scene.world.reencrypt().await;
    assert_eq!(scene.world.disable_at_last(former).await, Tried::Disabled { uncounted: Vec::new() });
    let roles =
        "CREATE ROLE looks LOGIN; GRANT USAGE ON SCHEMA enfold TO looks; GRANT SELECT ON enfold.disablings TO looks";
    scene.world.run(roles).await.unwrap();
    let Place::Postgres(database) = &scene.world.place else { panic!("it is on Postgres") };
    let url = database.url().replace("postgres://postgres@", "postgres://looks@");
    let url = DatabaseUrl::parse(&url, scene.world.folder.path()).unwrap();
    let db = enfold_jobs::connect(&url, None).await.unwrap();
    let seen = async || db.disablings().replicas_before("r1", &[former]).await.unwrap();
    assert_eq!(seen().await, ["a replica of which this role may not see how far it is (pg_monitor may)"]);
    scene.world.run("GRANT pg_monitor TO looks").await.unwrap();
    assert!(seen().await.is_empty());
}
