//! Who gets the write-ahead log: on a server of the test's own, for a standby would hold back every other test's jobs.

use std::process::Stdio;

use enfold_jobs::database::Counts;
use enfold_jobs::model::{Storage, TableName, Target, TargetColumn};
use enfold_testkit::postgres_private::Server;

use crate::{at, policy, warns};

#[tokio::test]
async fn standbys_archives_and_slots_are_told_and_named_as_places_of_residue() {
    let server = Server::start(&[("archive_mode", "on"), ("archive_command", "'true'")]);
    let owner = enfold_testkit::postgres::connect(&server.config()).await;
    owner
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY, a text);
             SELECT pg_create_physical_replication_slot('for_the_standby', true)",
        )
        .await
        .unwrap();
    // What receives the log as a standby does.
    let mut standby = server
        .tool("pg_receivewal")
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &server.port().to_string(), "-S", "for_the_standby", "-D"])
        .arg(server.scratch())
        .stderr(Stdio::null())
        .spawn()
        .expect("pg_receivewal, which the package postgresql-client brings");
    let connected = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    while owner.query_one(connected, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(standby.try_wait().unwrap().is_none(), "pg_receivewal ended: {}", server.log());
        tokio::task::yield_now().await;
    }
    let postgres = at(&server.url());
    let facts = postgres.inspect_table(&policy("t", &["a"]), Counts::Taken).await.unwrap();
    let target = Target {
        table: TableName { schema: "public".into(), table: "t".into() },
        policy_table: "public.t".into(),
        columns: vec![TargetColumn {
            name: "a".into(),
            id: "t-a".into(),
            storage: Storage::Text,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
        }],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".into()],
        leaving: enfold::Leaving::default(),
        prune: None,
    };
    let residue = postgres.residue_of(&target, &[]).await.unwrap();
    standby.kill().unwrap();
    standby.wait().unwrap();
    assert!(warns(&facts, "standby").says.contains("pg_receivewal"));
    assert!(warns(&facts, "slot").says.contains("`for_the_standby` (in use)"));
    warns(&facts, "archive");
    for kind in ["standby", "archive", "slot"] {
        assert!(residue.iter().any(|r| r.kind == kind && r.found.is_none()), "{kind}: {residue:?}");
    }
}
