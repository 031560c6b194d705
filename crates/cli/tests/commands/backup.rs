//! `enfold verify --restored`: the guide as it is written on Postgres, and what is said of it on SQLite.

use enfold_testkit::postgres::Database;

use crate::guides::{bash, blocks};
use crate::harness::Sandbox;
use crate::postgres;

const GUIDE: &str = include_str!("../../../../docs/guides/disaster-recovery.md");
/// How long it took.
const TOOK: &[(&str, &str)] =
    &[(r#""took_ms": \d+"#, r#""took_ms": [n]"#), (r#""live": "[^"]+""#, r#""live": "[file]""#)];

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_for_a_test_of_a_backup_is_followed_and_evidence_has_it() {
    let (live, empty) = (Database::create().await, Database::create().await);
    let table = "CREATE TABLE users (id int PRIMARY KEY, email text);
        INSERT INTO users SELECT n, 'person' || n || '@example.com' FROM generate_series(1, 50) n";
    live.connect().await.batch_execute(table).await.expect("a table");
    let shop = postgres::shop(&live, &["email"]);
    shop.extend_policy("[events]\ncatalog = true\n");
    shop.ok(&["apply", "--yes"]);
    let variables = [("DATABASE_URL", live.url()), ("RESTORED_URL", empty.url())];
    let variables = variables.each_ref().map(|(name, url)| (*name, url.as_str()));
    let said: Vec<String> = blocks(GUIDE, "sh").iter().map(|block| bash(&shop, block, &[], &variables)).collect();
    assert!(said[0].contains("public.users.email: 50 envelopes") && said[0].contains("On record: "), "{}", said[0]);
    let evidence: serde_json::Value = serde_json::from_str(&shop.read("evidence-gdpr/evidence.json")).expect("JSON");
    let check = evidence["checks"].as_array().expect("checks").iter().find(|check| check["id"] == "restore");
    assert_eq!(check.expect("a check")["outcome"], "met", "{}", said[1]);
}

#[test]
fn what_is_no_restored_backup_is_refused_and_what_does_not_open_is_on_record() {
    let shop = Sandbox::protected();
    let backup = |name: &str| shop.sql(&format!("VACUUM INTO '{}'", shop.path(name).display()));
    backup("copy.db");
    let test = |more: &[&str], name: &str| {
        let args = [&["verify", "--all", "--restored", "sqlite:copy.db"], more].concat();
        shop.run(&args).snapshot_hiding(name, TOOK);
    };
    test(&["--backup-of", "2026-01-02T03:04:05Z"], "restored");
    test(&["--backup-of", "2026-01-02", "--json"], "restored_json");
    test(&[], "restored_of_when");
    test(&["--backup-of", "yesterday"], "restored_no_moment");
    test(&["--backup-of", "2999-01-01"], "restored_to_come");
    test(&["--backup-of", "2026-01-02", "--restored-catalog", "sqlite:copy.db"], "restored_catalog_too");
    let copy = rusqlite::Connection::open(shop.path("copy.db")).expect("the copy opens");
    copy.execute_batch("DELETE FROM enfold_data_key_wraps; DELETE FROM enfold_data_keys").expect("no key is left");
    test(&["--backup-of", "2026-01-02"], "restored_without_keys");
    let live = ["verify", "--all", "--restored", "sqlite:app.db", "--backup-of", "2026-01-02"];
    shop.run(&live).snapshot_hiding("restored_is_live", TOOK);
    let told: i64 = shop
        .database()
        .query_row("SELECT count(*) FROM enfold_events WHERE event LIKE '%\"kind\":\"restore-tested\"%'", [], |row| {
            row.get(0)
        })
        .expect("a count");
    assert_eq!(told, 3, "two that were read, and one that could not be");
}
