//! A disk that fills up in the middle of `apply`: it says so, nothing is lost, and it goes on when there is room.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use enfold_testkit::small_disk::SmallDisk;
use rusqlite::Connection;

use crate::harness::{self, Sandbox};

/// Enough for a sweep of several batches.
const ROWS: usize = 20_000;

fn email(id: usize) -> String {
    format!("person{id}@example.com")
}

/// A policy for `users.email` of the database at `url`. A range whose worker lost the database is free again soon.
fn policy(url: &str, table: &str, patience: &str) -> String {
    let email = format!("[tables.\"{table}\".columns.email]\nid = \"users.email\"\nring = \"main\"\n");
    let jobs = format!("[jobs]\npatience = \"{patience}\"\nlease = \"5s\"\n");
    harness::policy(url) + &email + &jobs
}

/// No longer than it takes to try twice.
const IMPATIENT: &str = "100ms";

/// How many of `stored`, in the order of their ids, are envelopes. Each of them, and each that is none, has to come out
/// as the value that it was.
fn sealed(shop: &Sandbox, column: &str, stored: &[String]) -> usize {
    let lines = stored.join("\n") + "\n";
    let opened = shop.pipe(&["open", column, "--lines"], lines.as_bytes());
    assert_eq!(opened.code, 0, "{}", opened.stderr);
    let values: Vec<&str> = opened.stdout().lines().collect();
    assert_eq!(values, (1..=ROWS).map(email).collect::<Vec<_>>(), "a value was lost");
    stored.iter().filter(|value| value.starts_with("enf1:")).count()
}

/// Starts `apply`, makes room when it says that it waits, and returns its exit code and what it said.
fn apply_that_gets_room(shop: &Sandbox, make_room: impl FnOnce()) -> (Option<i32>, String) {
    let mut apply = shop.start(&["apply", "--yes"]);
    let said = BufReader::new(apply.stderr.take().expect("a pipe"));
    let mut make_room = Some(make_room);
    let mut all = String::new();
    for line in said.lines() {
        let line = line.expect("text");
        if line.starts_with("  waiting  ")
            && let Some(make_room) = make_room.take()
        {
            make_room();
        }
        all.push_str(&line);
        all.push('\n');
    }
    assert!(make_room.is_none(), "it did not wait:\n{all}");
    (apply.wait().expect("it ends").code(), all)
}

fn sqlite_shop(file: &Path) -> Connection {
    let database = Connection::open(file).expect("a database");
    database
        .execute_batch(&format!(
            "CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT);
             WITH RECURSIVE ids (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM ids WHERE n < {ROWS})
             INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM ids"
        ))
        .expect("rows");
    database
}

fn stored_in_sqlite(database: &Connection) -> Vec<String> {
    let mut query = database.prepare("SELECT email FROM users ORDER BY id").expect("a query");
    let values = query.query_map([], |row| row.get(0)).expect("values");
    values.collect::<Result<_, _>>().expect("texts")
}

#[test]
fn a_full_disk_under_a_sqlite_database_stops_apply_with_every_value_whole() {
    let disk = SmallDisk::mount(16 << 10);
    let shop = Sandbox::empty();
    let file = disk.path().join("app.db");
    let url = format!("sqlite:{}", file.display());
    let database = sqlite_shop(&file);
    shop.write("enfold.toml", policy(&url, "users", IMPATIENT));
    disk.leave(3 << 10);
    let path = regex_of(disk.path());
    let hidden = [(path.as_str(), "[disk]")];

    // In the sweep.
    shop.run(&["apply", "--yes"]).snapshot_hiding("disk_full_sqlite", &hidden);
    let count = sealed(&shop, "users.email", &stored_in_sqlite(&database));
    assert!(0 < count && count < ROWS, "{count} values are sealed");

    // It goes on by itself with room for the sweep, up to the rewrite, which takes as much again as the database has.
    shop.write("enfold.toml", policy(&url, "users", "1m"));
    let (code, said) = apply_that_gets_room(&shop, || disk.leave(2 << 10));
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("error: cannot rewrite the table") && said.ends_with("code: disk-full\n"), "{said}");
    assert_eq!(sealed(&shop, "users.email", &stored_in_sqlite(&database)), ROWS);

    disk.leave(64 << 10);
    shop.ok(&["apply", "--yes"]);
    assert_eq!(sealed(&shop, "users.email", &stored_in_sqlite(&database)), ROWS);
    shop.ok(&["audit", "--full"]);
    shop.ok(&["rollback", "--all", "--yes"]);
    assert_eq!(stored_in_sqlite(&database), (1..=ROWS).map(email).collect::<Vec<_>>());
}

/// A path as a pattern that is nothing but this path.
fn regex_of(path: &Path) -> String {
    path.display().to_string().replace('.', r"\.")
}

#[cfg(feature = "postgres")]
mod postgres {
    use enfold_testkit::postgres::connect;
    use enfold_testkit::postgres_private::Server;
    use tokio_postgres::Client;

    use super::*;

    /// Nothing of the server's own fills the disk or makes room meanwhile.
    const QUIET: &[(&str, &str)] = &[("autovacuum", "off"), ("max_wal_size", "1GB"), ("checkpoint_timeout", "1d")];

    async fn fill(client: &Client) {
        client
            .batch_execute(&format!(
                "INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, {ROWS}) n"
            ))
            .await
            .expect("rows");
    }

    async fn stored(client: &Client) -> Vec<String> {
        let rows = client.query("SELECT email FROM users ORDER BY id", &[]).await.expect("values");
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn came_to_its_end(shop: &Sandbox, client: &Client) {
        assert_eq!(sealed(shop, "public.users.email", &stored(client).await), ROWS);
        shop.ok(&["verify", "--all"]);
        shop.ok(&["rollback", "--all", "--yes"]);
        assert_eq!(stored(client).await, (1..=ROWS).map(email).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_full_tablespace_stops_apply_with_every_value_whole_and_apply_goes_on_when_there_is_room() {
        let disk = SmallDisk::mount_for_postgres(16 << 10);
        let server = Server::start(QUIET);
        let client = connect(&server.config()).await;
        client
            .batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()))
            .await
            .expect("a tablespace");
        client
            .batch_execute("CREATE TABLE users (id int PRIMARY KEY, email text) TABLESPACE small")
            .await
            .expect("a table");
        fill(&client).await;
        client.batch_execute("CHECKPOINT").await.expect("written");
        disk.leave(2 << 10);
        let shop = Sandbox::empty();
        shop.write("enfold.toml", policy(&server.url(), "public.users", IMPATIENT));

        shop.run(&["apply", "--yes"]).snapshot("disk_full_postgres");
        let count = sealed(&shop, "public.users.email", &stored(&client).await);
        assert!(0 < count && count < ROWS, "{count} values are sealed");

        shop.write("enfold.toml", policy(&server.url(), "public.users", "1m"));
        let (code, said) = apply_that_gets_room(&shop, || disk.leave(32 << 10));
        assert_eq!(code, Some(0), "{said}");
        came_to_its_end(&shop, &client).await;
        assert!(!server.log().contains("PANIC"), "the server did not survive");
    }

    #[tokio::test]
    async fn a_full_disk_under_the_write_ahead_log_ends_apply_and_not_one_value() {
        let disk = SmallDisk::mount_for_postgres(64 << 10);
        let server = Server::start_with_wal_in(disk.path(), QUIET);
        let client = connect(&server.config()).await;
        client.batch_execute("CREATE TABLE users (id int PRIMARY KEY, email text)").await.expect("a table");
        fill(&client).await;
        // Without it the server would make room for itself when it has recovered.
        client
            .batch_execute("SELECT pg_create_physical_replication_slot('stuck', true)")
            .await
            .expect("a slot that holds the log back");
        disk.leave(3 << 10);
        let shop = Sandbox::empty();
        shop.write("enfold.toml", policy(&server.url(), "public.users", IMPATIENT));

        // Whoever comes upon it first brings the server down: a backend of ours, which still says why, or another.
        let ran = shop.run(&["apply", "--yes"]);
        assert_eq!(ran.code, 5, "{}", ran.stderr);
        let code = ran.stderr.lines().last().expect("a code");
        assert!(["code: disk-full", "code: database-unavailable"].contains(&code), "{}", ran.stderr);
        let log = server.log();
        assert!(log.contains("PANIC:  could not write to file") && log.contains("No space left on device"), "{log}");

        disk.leave(64 << 10);
        let client = server.comes_back().await;
        let count = sealed(&shop, "public.users.email", &stored(&client).await);
        assert!(count < ROWS, "all values were sealed before the disk was full");
        shop.ok(&["apply", "--yes"]);
        came_to_its_end(&shop, &client).await;
    }
}
