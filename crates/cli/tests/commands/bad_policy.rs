//! Bad policies, databases that are not there, keys that must not be used, catalogs somebody changed: each its own
//! error, and nothing lost.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Sandbox;

/// Runs a command that must fail and must leave the users as they are.
fn refused(shop: &Sandbox, args: &[&str], name: &str) {
    let before = shop.users();
    let ran = shop.run(args);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    ran.snapshot(name);
    assert!(before == shop.users(), "`enfold {}` failed and changed rows", args.join(" "));
}

#[test]
fn a_database_that_cannot_be_reached_says_which_and_what_to_look_at() {
    let shop = Sandbox::shop();
    refused(&shop, &["discover", "--database", "mysql://localhost/shop"], "url_unknown_scheme");
    refused(&shop, &["discover", "--database", "sqlite:nowhere.db"], "url_missing_file");
    assert!(!shop.path("nowhere.db").exists(), "a database was made by looking for it");
    refused(&shop, &["init", "--database", "sqlite:nowhere.db"], "init_missing_file");
    assert!(!shop.path("enfold.toml").exists(), "a policy was written for a database that is not there");
    shop.write("notes.txt", "this is not a database, however long it may be made by going on about that");
    refused(&shop, &["discover", "--database", "sqlite:notes.txt"], "url_not_a_database");
}

#[cfg(feature = "postgres")]
#[test]
fn a_server_that_does_not_answer_is_named_with_its_port() {
    let shop = Sandbox::shop();
    // A port that was free a moment ago: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let url = format!("postgres://ada@127.0.0.1:{port}/shop");
    let ran = shop.command(&["discover"]).env("ENFOLD_DATABASE_URL", url).output().expect("runs");
    let stderr = String::from_utf8(ran.stderr).expect("text");
    assert_eq!(ran.status.code(), Some(5), "{stderr}");
    assert!(stderr.contains("cannot connect to the database `shop`"), "{stderr}");
    assert!(stderr.contains(&format!("pg_isready -h 127.0.0.1 -p {port}")), "{stderr}");
}

#[test]
fn a_policy_without_a_file_or_with_many_errors_says_all_of_them_with_lines() {
    let shop = Sandbox::shop();
    refused(&shop, &["plan"], "policy_missing");
    shop.ok(&["init", "--database", "sqlite:app.db", "--environment", "development"]);
    shop.extend_policy(
        "
[tables.users.columns.visits]
id = \"users.email\"
ring = \"mian\"
lookalike = \"plaintext\"
[tables.users.columns.gone]
mode = \"kmss\"
ring = \"main\"
[jbos]
batch_rows = 5
",
    );
    refused(&shop, &["plan"], "policy_many_errors");
    refused(&shop, &["apply", "--yes", "--json"], "policy_many_errors_json");
    shop.write("enfold.toml", "environment = \"development\"\n[database\nurl = \"sqlite:app.db\"\n");
    refused(&shop, &["plan"], "policy_not_toml");
}

#[test]
fn tables_and_columns_that_are_gone_are_named() {
    let shop = Sandbox::ready();
    let policy = shop.read("enfold.toml");
    shop.extend_policy("\n[tables.user.columns.email]\nid = \"user.email\"\nring = \"main\"\n");
    refused(&shop, &["apply", "--yes"], "table_missing");
    shop.write("enfold.toml", &policy);
    shop.extend_policy("\n[tables.users.columns.fax]\nid = \"users.fax\"\nring = \"main\"\n");
    refused(&shop, &["apply", "--yes"], "column_missing");
    refused(&shop, &["doctor"], "column_missing_doctor");
}

#[test]
fn a_column_of_the_wrong_type_is_refused_with_its_way_out() {
    let shop = Sandbox::ready();
    shop.extend_policy("\n[tables.users.columns.visits]\nid = \"users.visits\"\nring = \"main\"\n");
    refused(&shop, &["plan"], "type_refused_plan");
    refused(&shop, &["apply", "--yes"], "type_refused_apply");
}

#[test]
fn key_files_that_others_can_read_are_not_used() {
    let shop = Sandbox::ready();
    let mode = |name: &str, mode: u32| {
        std::fs::set_permissions(shop.path(name), std::fs::Permissions::from_mode(mode)).expect("the file is ours");
    };
    mode("enfold-root.key", 0o644);
    refused(&shop, &["apply", "--yes"], "root_key_open_to_others");
    refused(&shop, &["doctor"], "root_key_open_to_others_doctor");
    mode("enfold-root.key", 0o600);
    mode("enfold-operator.key", 0o640);
    refused(&shop, &["apply", "--yes"], "operator_key_open_to_others");
    mode("enfold-operator.key", 0o600);
    shop.ok(&["apply", "--yes"]);
}

#[test]
fn a_key_that_is_not_one_or_is_gone_is_said_so() {
    let shop = Sandbox::protected();
    let key = shop.read("enfold-root.key");
    shop.write("enfold-root.key", "hello\n");
    refused(&shop, &["verify", "--all"], "root_key_not_a_key");
    std::fs::remove_file(shop.path("enfold-root.key")).expect("it was there");
    refused(&shop, &["verify", "--all"], "root_key_gone");
    assert!(!shop.path("enfold-root.key").exists(), "a new root key was made where an old one is needed");
    shop.write("enfold-root.key", key);
    std::fs::set_permissions(shop.path("enfold-root.key"), std::fs::Permissions::from_mode(0o600)).expect("ours");
    shop.ok(&["verify", "--all"]);
}

#[test]
fn a_local_key_is_refused_in_production() {
    let shop = Sandbox::ready();
    let policy = shop.read("enfold.toml").replace("\"development\"", "\"production\"");
    shop.write("enfold.toml", policy);
    refused(&shop, &["apply", "--yes"], "local_key_in_production");
}

#[test]
fn a_mode_lowered_by_hand_in_the_catalog_is_found() {
    let shop = Sandbox::protected();
    shop.ok(&["enforce", "--all", "--yes"]);
    let changed = shop
        .database()
        .execute(
            "UPDATE enfold_ring_states SET document = \
             CAST(replace(CAST(document AS TEXT), '\"mode\":\"kms\"', '\"mode\":\"legacy\"') AS BLOB)",
            [],
        )
        .expect("the catalog is changed");
    assert_eq!(changed, 1);
    refused(&shop, &["status"], "catalog_tampered");
    refused(&shop, &["rollback", "--all", "--yes"], "catalog_tampered_rollback");
}

#[test]
fn a_ring_state_that_was_deleted_is_not_taken_for_a_new_ring() {
    let shop = Sandbox::protected();
    let policy = shop.read("enfold.toml");
    assert!(policy.contains("min_epoch = 1\n"), "{policy}");
    let state = |shop: &Sandbox| -> u32 {
        let sql = "SELECT count(*) FROM enfold_ring_states";
        shop.database().query_row(sql, [], |row| row.get(0)).expect("counted")
    };
    shop.sql("CREATE TABLE kept AS SELECT * FROM enfold_ring_states; DELETE FROM enfold_ring_states");
    refused(&shop, &["apply", "--yes"], "state_deleted");
    refused(&shop, &["doctor"], "state_deleted_doctor");
    assert_eq!(state(&shop), 0, "a new state was made where one is missing");
    shop.sql("INSERT INTO enfold_ring_states SELECT * FROM kept; DROP TABLE kept");
    shop.ok(&["verify", "--all"]);
    // Without the pin nobody can tell; the doctor says so.
    shop.write("enfold.toml", policy.replace("min_epoch = 1\n", ""));
    shop.run(&["doctor"]).snapshot("doctor_without_a_pin");
}

#[test]
fn a_saved_plan_is_refused_when_the_table_or_the_policy_has_changed() {
    let shop = Sandbox::ready();
    shop.ok(&["plan", "--save", "plan.json"]);
    shop.sql("ALTER TABLE users ADD COLUMN fax TEXT");
    refused(&shop, &["apply", "plan.json", "--yes"], "plan_stale_table");
    shop.ok(&["plan", "--save", "plan.json"]);
    let policy = shop.read("enfold.toml").replace("normalise = [\"digits\"]", "normalise = [\"trim\"]");
    shop.write("enfold.toml", policy);
    refused(&shop, &["apply", "plan.json", "--yes"], "plan_stale_policy");
    shop.write("plan.json", "{\"version\": 1}");
    refused(&shop, &["apply", "plan.json", "--yes"], "plan_not_a_plan");
    refused(&shop, &["apply", "no-plan.json", "--yes"], "plan_no_file");
}

#[test]
fn nothing_is_done_without_a_yes_or_without_a_column() {
    let shop = Sandbox::protected();
    refused(&shop, &["rollback", "--all"], "rollback_unconfirmed");
    refused(&shop, &["rollback", "--all", "--json"], "rollback_unconfirmed_json");
    refused(&shop, &["rollback", "--yes"], "rollback_of_nothing");
    refused(&shop, &["enforce", "--all"], "enforce_unconfirmed");
    refused(&shop, &["enforce", "users.emial", "--yes"], "enforce_unknown_column");
    shop.sql("INSERT INTO users (name) VALUES ('Hedy Lamarr')");
    refused(&shop, &["apply"], "apply_unconfirmed_again");
}
