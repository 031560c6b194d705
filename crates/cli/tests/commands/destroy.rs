//! `enfold keys destroy` and `verify-certificate`: asked, taken back, killed half-way, done, and checked elsewhere.

use std::time::Duration;

#[cfg(feature = "postgres")]
use enfold_testkit::postgres::Database;

use crate::harness::{Sandbox, policy};

/// Data keys enough that one may have lost its wrap while the next has not.
const TENANTS: u64 = 700;
const SIGNATURE: &[(&str, &str)] = &[(r"`[0-9a-f]{128}`", "`[signature]`")];

fn described(database: &str) -> String {
    let table = if database.starts_with("postgres") { "\"public.members\"" } else { "members" };
    policy(database).replace("scope = \"column\"", "scope = \"tenant\"")
        + &format!(
            "[tables.{table}]\ntenant = \"org\"\n[tables.{table}.columns.email]\nid = \"m.email\"\nring = \"main\"\n\
             [tables.{table}.columns.email.indexes.login]\ncolumn = \"email_login\"\ncross_tenant = true\n"
        )
}

fn members(series: &str) -> String {
    format!(
        "CREATE TABLE members (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email TEXT);
         INSERT INTO members SELECT n, n, 'person' || n || '@example.com' FROM {series}"
    )
}

#[test]
fn a_tenant_is_destroyed_with_a_word_a_time_and_a_certificate() {
    let shop = Sandbox::empty();
    shop.sql(&members("(SELECT 1 AS n UNION SELECT 2)"));
    shop.write("enfold.toml", described("sqlite:app.db"));
    shop.ok(&["apply", "--yes"]);
    let destroy = ["keys", "destroy", "main", "--tenant", "int:1", "--reason", "contract ended"];
    shop.run(&destroy).snapshot("destroy_unconfirmed");
    let (code, said, _) = shop.in_a_terminal(&destroy, &[("to go on: ", "main")]);
    assert_eq!(code, 1, "the tenant is to be typed: {said}");
    let (code, said, _) = shop.in_a_terminal(&destroy, &[("Type `int:1` to go on: ", "int:1")]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("email_login") || said.contains("members.email.login"), "the index across tenants: {said}");
    shop.run(&destroy).snapshot("destroy_waits");
    shop.run(&["status"]).snapshot("status_destroying");
    let sealed = shop.pipe(&["seal", "members.email", "--tenant", "int:1"], b"new");
    assert!(sealed.stderr.contains("key-disabled"), "{}", sealed.stderr);
    shop.run(&[&destroy[..], &["--cancel", "--yes"]].concat()).snapshot("destroy_cancelled");
    shop.run(&[&destroy[..], &["--cancel", "--yes"]].concat()).snapshot("destroy_nothing_to_cancel");

    let now = ["--grace-days", "0", "--backup-retention-days", "35", "--yes"];
    shop.run(&[&destroy[..], &now].concat()).snapshot_hiding("destroy_certificate", SIGNATURE);
    let certificate = shop.ok(&[&destroy[..], &["--json"]].concat());
    shop.write("certificate.json", certificate.stdout());
    shop.run(&["keys", "verify-certificate", "certificate.json"]).snapshot("verify_certificate_no_key");
    let certificate: serde_json::Value = serde_json::from_slice(&certificate.stdout).expect("JSON");
    let key = certificate["operator_key"].as_str().expect("a key").to_owned();
    // Elsewhere: with the file and the public key alone.
    let elsewhere = Sandbox::empty();
    elsewhere.write("certificate.json", shop.read("certificate.json"));
    let verify = ["keys", "verify-certificate", "certificate.json", "--operator-key", &key];
    elsewhere.run(&verify).snapshot_hiding("verify_certificate", SIGNATURE);
    elsewhere.write("certificate.json", shop.read("certificate.json").replace("\"rows\": 1", "\"rows\": 0"));
    elsewhere.run(&verify).snapshot("verify_certificate_changed");
    shop.run(&["keys", "destroy", "main", "--tenant", "int:9", "--reason", "x", "--yes"]).snapshot("destroy_nobody");
}

/// Kills the command when a look says that it is half-way, twice, then lets it end. `left`: data keys not signed as destroyed, and wraps.
fn killed_and_gone_on_with(shop: &Sandbox, left: impl Fn() -> (i64, i64)) {
    let (_, all) = left();
    assert!(all > i64::try_from(TENANTS).expect("a number"));
    let args = ["keys", "destroy", "main", "--reason", "end of life", "--grace-days", "0", "--yes"];
    let signed: fn((i64, i64), i64) -> bool = |(rows, _), _| rows == 1;
    let begun: fn((i64, i64), i64) -> bool = |(_, wraps), all| wraps < all;
    for half_way in [signed, begun] {
        let mut child = shop.start(&args);
        while !half_way(left(), all) && child.try_wait().expect("asked").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("killed");
        child.wait().expect("it is gone");
    }
    shop.write("certificate.json", shop.ok(&[&args[..], &["--json"]].concat()).stdout());
    assert_eq!(left(), (1, 1), "what authenticates rows is left alone");
    let text = shop.read("certificate.json");
    let certificate: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(certificate["certificate"]["columns"][0]["rows"], TENANTS);
    let key = certificate["operator_key"].as_str().expect("a key");
    shop.ok(&["keys", "verify-certificate", "certificate.json", "--operator-key", key]);
    let again = shop.ok(&[&args[..], &["--json"]].concat());
    assert_eq!(again.stdout(), text, "there is one certificate");
}

#[test]
fn a_destruction_that_is_killed_is_gone_on_with_on_sqlite() {
    let shop = Sandbox::empty();
    let series = format!(
        "(WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {TENANTS}) SELECT n FROM n)"
    );
    shop.sql(&members(&series));
    shop.write("enfold.toml", described("sqlite:app.db"));
    shop.ok(&["apply", "--yes"]);
    killed_and_gone_on_with(&shop, || {
        let sql = "SELECT (SELECT count(*) FROM enfold_data_keys WHERE status <> 'destroyed'), (SELECT count(*) FROM enfold_data_key_wraps)";
        let database = shop.database();
        database.busy_timeout(Duration::from_secs(10)).expect("a setting");
        database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("counts")
    });
}

#[cfg(feature = "postgres")]
#[test]
fn a_destruction_that_is_killed_is_gone_on_with_on_postgres() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (database, client) = runtime.block_on(async {
        let database = Database::create().await;
        let client = database.connect().await;
        client.batch_execute(&members(&format!("generate_series(1, {TENANTS}) n"))).await.expect("a table");
        (database, client)
    });
    let shop = Sandbox::empty();
    shop.write("enfold.toml", described(&database.url()));
    shop.ok(&["apply", "--yes"]);
    killed_and_gone_on_with(&shop, || {
        let sql = "SELECT (SELECT count(*) FROM enfold.data_keys WHERE status <> 'destroyed'), (SELECT count(*) FROM enfold.data_key_wraps)";
        let row = runtime.block_on(client.query_one(sql, &[])).expect("counts");
        (row.get(0), row.get(1))
    });
}
