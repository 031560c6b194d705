//! `enfold keys disable`, killed at each of its steps: what stays is a state from which the same command goes on.

use std::time::Duration;

#[cfg(feature = "postgres")]
use enfold_testkit::postgres::Database;

use crate::harness::{Sandbox, policy};

const TABLE: &str = "CREATE TABLE members (id INTEGER PRIMARY KEY, email TEXT);
    INSERT INTO members VALUES (1, 'ada@example.com'), (2, 'bob@example.com');";

fn described(database: &str) -> String {
    let table = if database.starts_with("postgres") { "\"public.members\"" } else { "members" };
    policy(database)
        + &format!(
            "[rings.main.cache]\nmax_unseen = \"1s\"\n[tables.{table}.columns.email]\nid = \"m.email\"\nring = \"main\"\n"
        )
}

/// The former data key, when every value has left it.
fn rotated(shop: &Sandbox) -> String {
    shop.ok(&["apply", "--yes"]);
    let rotated = shop.ok(&["keys", "rotate", "main", "--reason", "yearly", "--reencrypt", "--yes", "--json"]);
    let rotated: serde_json::Value = serde_json::from_slice(&rotated.stdout).expect("JSON");
    shop.ok(&["worker", "--until-idle"]);
    rotated["keys"][0]["previous_key"].as_str().expect("a key").to_owned()
}

/// Kills the command as soon as `passed` says that a step was noted, once for each step; then lets it end.
fn killed_and_gone_on_with(shop: &Sandbox, key: &str, passed: impl Fn(&str) -> bool) {
    let args = ["keys", "disable", "main", key, "--reason", "yearly", "--yes"];
    for step in ["asked_ms", "acknowledged_ms", "refused_ms", "ended_ms", "counted_ms"] {
        let mut child = shop.start(&args);
        while !passed(step) && child.try_wait().expect("asked").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It may have ended by itself where steps follow each other at once.
        child.kill().expect("killed");
        child.wait().expect("it is gone");
    }
    let ran = shop.run(&args);
    // Also where it had come to its end before it was killed.
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let shown = shop.ok(&["keys", "show", key, "--json"]);
    assert!(shown.stdout().contains("\"status\": \"disabled\""), "{}", shown.stdout());
    shop.ok(&["verify", "--all"]);
    shop.ok(&["keys", "enable", "main", key, "--reason", "-", "--yes"]);
    assert!(!passed("asked_ms"), "nothing stays noted");
}

#[test]
fn a_disable_that_is_killed_is_gone_on_with_on_sqlite() {
    let shop = Sandbox::empty();
    shop.sql(TABLE);
    shop.write("enfold.toml", described("sqlite:app.db"));
    let key = rotated(&shop);
    killed_and_gone_on_with(&shop, &key, |step| {
        let sql = format!("SELECT count({step}) FROM enfold_disablings");
        // Before the first step there is no such table.
        shop.database().query_row(&sql, [], |row| row.get::<_, i64>(0)).is_ok_and(|count| count == 1)
    });
}

#[cfg(feature = "postgres")]
#[test]
fn a_disable_that_is_killed_is_gone_on_with_on_postgres() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (database, client) = runtime.block_on(async {
        let database = Database::create().await;
        let client = database.connect().await;
        client.batch_execute(TABLE).await.expect("a table");
        (database, client)
    });
    let shop = Sandbox::empty();
    shop.write("enfold.toml", described(&database.url()));
    let key = rotated(&shop);
    killed_and_gone_on_with(&shop, &key, |step| {
        let sql = format!("SELECT count({step}) FROM enfold.disablings");
        // Before the first step there is no such table.
        runtime.block_on(client.query_one(&sql, &[])).is_ok_and(|row| row.get::<_, i64>(0) == 1)
    });
}
