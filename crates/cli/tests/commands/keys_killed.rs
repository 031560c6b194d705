//! A root key in OpenBao is rotated, and data keys go from one key there to another by a command that is killed.

use std::time::Duration;

use enfold_testkit::openbao::ROOT_TOKEN;
use enfold_testkit::postgres::Database;
use serde_json::Value;

use crate::harness::{Sandbox, policy};
use crate::vault::{HIDDEN, Key, wait};

/// More than a page of data keys, so that one may be done while the next is not.
const TENANTS: u64 = 700;
const TOKEN: &[(&str, &str)] = &[("VAULT_TOKEN", ROOT_TOKEN)];

fn described(database: &str, roots: &[&str]) -> String {
    let table = if database.starts_with("postgres") { "\"public.members\"" } else { "members" };
    policy(database)
        .replace("scope = \"column\"", "scope = \"tenant\"")
        .replace("[\"local:root.key\"]", &format!("{roots:?}"))
        + &format!(
            "[tables.{table}]\ntenant = \"org\"\n[tables.{table}.columns.email]\nid = \"members.email\"\nring = \"main\"\n"
        )
}

/// Data keys with a wrap by this root key.
fn wrapped(shop: &Sandbox, root: &str) -> u64 {
    let ran = shop.run_with(&["keys", "wraps", "--json"], TOKEN);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    let roots = document["rings"][0]["roots"].as_array().expect("root keys");
    roots.iter().find(|found| found["root"] == root).map_or(0, |found| found["keys"].as_u64().expect("a count"))
}

/// `done` counts data keys of `all` that are as they are to be.
fn killed_and_gone_on_with(shop: &Sandbox, all: u64, done: impl Fn() -> u64) {
    let mut before = 0;
    for _ in 0..2 {
        // Slow enough to be met in the middle.
        let args = ["keys", "rewrap", "main", "--yes", "--rate", "250"];
        let mut child = shop.command(&args).envs(TOKEN.iter().copied()).spawn().expect("the command starts");
        while done() == before {
            assert!(child.try_wait().expect("asked").is_none(), "it ended before it was killed");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().expect("killed");
        child.wait().expect("it is gone");
        let now = done();
        assert!(before < now && now < all, "{now} of {all} when it was killed");
        before = now;
    }
    // Two at once do the rest. What the killed one had sent may have been committed since.
    before = done();
    let args = ["keys", "rewrap", "main", "--yes", "--json"];
    let start = || shop.command(&args).envs(TOKEN.iter().copied()).spawn().expect("the command starts");
    let each = [start(), start()].map(|child| {
        let ran = shop.ran(&args, child);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let document: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        document["done"].as_u64().expect("a count")
    });
    assert_eq!(each.iter().sum::<u64>(), all - before, "each data key once");
    assert_eq!(done(), all);
}

fn to_another_root_key(database: &str, shop: &Sandbox) {
    let (one, two) = (wait(Key::new()), wait(Key::new()));
    shop.write("enfold.toml", described(database, &[&one.uri]));
    let applied = shop.run_with(&["apply", "--yes"], TOKEN);
    assert_eq!(applied.code, 0, "{}", applied.stderr);
    shop.write("enfold.toml", described(database, &[&two.uri, &one.uri]));
    let all = wrapped(shop, &one.uri);
    assert!(all > TENANTS);
    killed_and_gone_on_with(shop, all, || wrapped(shop, &two.uri));
    // The first key is not needed any more.
    shop.write("enfold.toml", described(database, &[&two.uri]));
    let dropped = shop.run_with(&["keys", "rewrap", "main", "--drop", "--yes"], TOKEN);
    assert_eq!(dropped.code, 0, "{}", dropped.stderr);
    assert_eq!(wrapped(shop, &one.uri), 0);
    let verified = shop.run_with(&["verify", "--all"], TOKEN);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
}

#[test]
fn a_rewrap_that_is_killed_is_gone_on_with_on_sqlite() {
    let shop = Sandbox::empty();
    shop.sql(&format!(
        "CREATE TABLE members (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email TEXT);
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {TENANTS})
         INSERT INTO members (org, email) SELECT n, 'person' || n || '@example.com' FROM n"
    ));
    to_another_root_key("sqlite:app.db", &shop);
}

#[test]
fn a_rewrap_that_is_killed_is_gone_on_with_on_postgres() {
    let database = wait(async {
        let database = Database::create().await;
        let sql = format!(
            "CREATE TABLE members (id int PRIMARY KEY, org bigint NOT NULL, email text);
             INSERT INTO members SELECT n, n, 'person' || n || '@example.com' FROM generate_series(1, {TENANTS}) n"
        );
        database.connect().await.batch_execute(&sql).await.expect("a table");
        database
    });
    to_another_root_key(&database.url(), &Sandbox::empty());
}

#[test]
fn a_root_key_in_openbao_is_rotated_and_its_data_keys_follow() {
    let (key, shop) = (wait(Key::new()), Sandbox::shop());
    let run = |args: &[&str]| shop.run_with(args, TOKEN);
    let made = run(&["init", "--database", "sqlite:app.db", "--root", &key.uri]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(run(&["apply", "--yes"]).code, 0);
    run(&["keys", "rotate-root", &key.uri]).snapshot_hiding("keys_rotate_root_unconfirmed", HIDDEN);
    run(&["keys", "rotate-root", &key.uri, "--yes"]).snapshot_hiding("keys_rotate_root", HIDDEN);
    // Columns are as wide as what is hidden.
    let hidden = [HIDDEN, &[(r"KEY +UNWRAPS", "KEY  UNWRAPS"), (r"in \d+\.\d s\.", "in [n] s.")]].concat();
    run(&["keys", "rewrap", "main", "--dry-run"]).snapshot_hiding("keys_rewrap_version_dry_run", &hidden);
    run(&["keys", "rewrap", "main", "--yes"]).snapshot_hiding("keys_rewrap_version", &hidden);
    let left = run(&["keys", "rewrap", "main", "--dry-run", "--json"]);
    let document: Value = serde_json::from_slice(&left.stdout).expect("JSON");
    assert_eq!(document["plan"]["to_do"], 0);
}

/// Tenants of one customer, each with several versions of its data key: more than a page of them.
#[test]
fn a_rewrap_from_one_root_key_of_a_customers_to_another_is_killed_and_gone_on_with() {
    let (ours, one, two) = (wait(Key::new()), wait(Key::new()), wait(Key::new()));
    let shop = Sandbox::empty();
    shop.sql("CREATE TABLE members (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email TEXT)");
    let tenants = 100;
    for tenant in 0..tenants {
        shop.sql(&format!("INSERT INTO members (org, email) VALUES ({tenant}, 'person@example.com')"));
    }
    let describe = |key: &str, former: &[&str]| {
        let held = (0..tenants).map(|tenant| {
            format!("[rings.main.tenants.{tenant}]\ncustomer_key = {key:?}\nformer_customer_keys = {former:?}\n")
        });
        shop.write("enfold.toml", described("sqlite:app.db", &[&ours.uri]) + &held.collect::<String>());
    };
    let run = |args: &[&str]| {
        let ran = shop.run_with(args, TOKEN);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        ran
    };
    describe(&one.uri, &[]);
    run(&["keys", "customers", "--sign"]);
    run(&["apply", "--yes"]);
    for _ in 0..6 {
        run(&["keys", "rotate", "main", "--all-tenants", "--reason", "more versions", "--yes"]);
    }
    describe(&two.uri, &[&one.uri]);
    run(&["keys", "customers", "--sign"]);
    let count = |of: fn(&Value, &str) -> u64| {
        let ran = run(&["keys", "customers", "--json"]);
        let document: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let customers = document["customers"].as_array().expect("customers");
        customers.iter().map(|customer| of(customer, &one.uri)).sum::<u64>()
    };
    let former = |customer: &Value, one: &str| customer["former"][one].as_u64().expect("a count");
    let all = count(|customer, _| customer["keys"].as_u64().expect("a count"));
    assert_eq!((all, count(former)), (700, 700));
    killed_and_gone_on_with(&shop, all, || all - count(former));
    // The first is not needed any more.
    describe(&two.uri, &[]);
    run(&["keys", "customers", "--sign"]);
    wait(one.remove());
    run(&["verify", "--all"]);
}
