//! Indexes that are built and dropped beside a running application: what a killed `apply` left running, and what is
//! printed for people who run it themselves.

use std::process::{Child, Stdio};
use std::time::Duration;

use enfold_testkit::postgres::connect;
use enfold_testkit::postgres_private::Server;
use tokio_postgres::Client;

use crate::harness::{Sandbox, policy};

fn shop(server: &Server, tables: &str) -> Sandbox {
    let shop = Sandbox::empty();
    shop.write("enfold.toml", policy(&server.url()) + tables);
    shop
}

const USERS: &str = "[tables.\"public.users\".columns.email]\nid = \"users.email\"\nring = \"main\"\n\
     [tables.\"public.users\".columns.email.indexes.eq]\ncolumn = \"email_eq\"\nunique = true\ncross_tenant = true\n";

/// Looks until there is something to see, or the command has ended without it.
async fn see(client: &Client, command: &mut Child, sql: &str) {
    while client.query(sql, &[]).await.expect("an answer").is_empty() {
        assert_eq!(command.try_wait().expect("asked"), None, "it ended before there was anything to see");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_index_that_a_killed_apply_was_building_is_waited_for_and_not_built_twice() {
    let server = Server::start(&[("log_statement", "'all'")]);
    let client = connect(&server.config()).await;
    client
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 10) n",
        )
        .await
        .expect("a table");
    let shop = shop(&server, USERS);
    // Whoever builds an index CONCURRENTLY waits for this snapshot to go.
    let holder = connect(&server.config()).await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()";
    holder.batch_execute(begin).await.expect("a snapshot, and no lock of the table");
    let mut killed = shop.start(&["apply", "--yes"]);
    let held_up = "SELECT FROM pg_stat_progress_create_index WHERE phase = 'waiting for old snapshots'";
    see(&client, &mut killed, held_up).await;
    killed.kill().and_then(|()| killed.wait()).expect("it is killed");
    let building = "SELECT FROM pg_stat_progress_create_index";
    assert_eq!(client.query(building, &[]).await.expect("an answer").len(), 1, "the server builds on");

    let from = server.log().len();
    let mut again = shop.command(&["apply", "--yes"]).stdin(Stdio::null()).spawn().expect("the command starts");
    // It has looked twice whether the build is over.
    while server.log()[from..].matches("pg_stat_progress_create_index p JOIN").count() < 2 {
        assert_eq!(again.try_wait().expect("asked"), None, "it did not wait for the build\n{}", server.log());
        let beside = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX%' AND wait_event = 'relation'";
        assert!(client.query(beside, &[]).await.expect("an answer").is_empty(), "it builds the index beside the other");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.batch_execute("COMMIT").await.expect("the snapshot goes");
    let ended = again.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let log = server.log();
    assert!(!log.contains("deadlock detected"), "{log}");
    assert_eq!(log.matches("statement: CREATE UNIQUE INDEX CONCURRENTLY").count(), 1, "{log}");
    let valid = "SELECT FROM pg_index WHERE indexrelid = 'enfold_users_email_eq'::regclass AND indisvalid";
    assert_eq!(client.query(valid, &[]).await.expect("an answer").len(), 1);
    let plain = client.query_one("SELECT count(*) FROM users WHERE email NOT LIKE 'enf1:%'", &[]).await;
    assert_eq!(plain.expect("a count").get::<_, i64>(0), 0);
}

/// Indexes over plaintext, of each kind.
async fn plain_indexes(client: &Client) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', i.indexdef, pg_get_constraintdef(k.oid)) FROM pg_indexes i \
               LEFT JOIN pg_constraint k ON k.conindid = format('%I.%I', i.schemaname, i.indexname)::regclass AND k.contype = 'u' \
               WHERE i.schemaname = 'public' AND i.indexdef LIKE '%(email)' ORDER BY 1";
    client.query(sql, &[]).await.expect("indexes").iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_printed_drops_of_every_kind_of_index_run_and_what_they_dropped_comes_back() {
    let server = Server::start(&[]);
    let client = connect(&server.config()).await;
    client
        .batch_execute(
            "CREATE TABLE users (id int PRIMARY KEY, email text CONSTRAINT \"only one\" UNIQUE);
             CREATE INDEX users_email ON users (email);
             CREATE TABLE parts (id int, email text) PARTITION BY HASH (id);
             CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
             CREATE INDEX parts_email ON parts (email);
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 10) n;
             INSERT INTO parts SELECT * FROM users",
        )
        .await
        .expect("tables");
    let before = plain_indexes(&client).await;
    assert_eq!(before.len(), 5, "{before:?}");
    let parts = "[tables.\"public.parts\".columns.email]\nid = \"parts.email\"\nring = \"main\"\n";
    let shop = shop(&server, &format!("{USERS}{parts}"));
    let printed = shop.ok(&["plan", "--print-sql"]);
    printed.snapshot("plan_print_sql_postgres");
    shop.write("steps.sql", printed.stdout());
    let psql = server
        .tool("psql")
        .args(["--set", "ON_ERROR_STOP=1", "--quiet", "--file", "-", &server.url()])
        .stdin(std::fs::File::open(shop.path("steps.sql")).expect("the statements"))
        .output()
        .expect("psql runs");
    assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    assert!(plain_indexes(&client).await.is_empty());
    shop.ok(&["apply", "--yes"]);
    shop.ok(&["rollback", "--all", "--yes"]);
    assert_eq!(plain_indexes(&client).await, before);
}
