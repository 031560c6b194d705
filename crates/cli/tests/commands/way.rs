//! The whole way in and out on a small shop, command by command.

use enfold_core::{Form, stored, text};

use crate::harness::Sandbox;

#[test]
fn a_database_is_discovered_and_a_policy_written() {
    let shop = Sandbox::shop();
    let before = shop.users();
    shop.run(&["discover", "--database", "sqlite:app.db"]).snapshot("discover");
    shop.run(&["init", "--database", "sqlite:app.db", "--environment", "development"]).snapshot("init");
    assert!(shop.read("enfold.toml").contains("[tables.users.columns.email]"));
    shop.run(&["init", "--database", "sqlite:app.db"]).snapshot("init_twice");
    assert!(before == shop.users(), "init changed the application's rows");
}

#[test]
fn a_plan_is_shown_and_saved_and_changes_nothing() {
    let shop = Sandbox::ready();
    let before = shop.users();
    shop.run(&["plan"]).snapshot("plan");
    let json = shop.run(&["plan", "--json"]);
    // The sample comes in the order of the database's choice.
    json.snapshot_hiding("plan_json", &[(r#"(?s)"examples": \[[^\]]*\]"#, r#""examples": "[rows]""#)]);
    let saved = shop.ok(&["plan", "--save", "plan.json"]);
    assert!(saved.stdout().ends_with("Next: enfold apply plan.json\n"));
    shop.run(&["plan", "--print-sql"]).snapshot("plan_print_sql");
    assert!(before == shop.users(), "a plan changed rows");
    shop.run(&["apply", "plan.json", "--yes"]).snapshot("apply_saved");
    shop.run(&["plan"]).snapshot("plan_with_nothing_to_do");
    shop.run(&["apply", "--yes"]).snapshot("apply_with_nothing_to_do");
}

#[test]
fn the_way_in_and_the_way_out_bring_every_value_back() {
    let shop = Sandbox::ready();
    let before = shop.users();
    shop.run(&["apply"]).snapshot("apply_unconfirmed");
    assert!(before == shop.users(), "an unconfirmed apply changed rows");

    shop.run(&["apply", "--yes"]).snapshot("apply");
    for value in shop.users().into_iter().flatten().flatten() {
        assert!(text::decode(&value).is_ok(), "a value is not an envelope");
    }
    shop.run(&["status"]).snapshot("status");
    shop.run(&["audit", "--full"]).snapshot("audit_clean");
    shop.run(&["audit", "--full", "--json"]).snapshot("audit_clean_json");
    shop.run(&["verify", "--all"]).snapshot("verify");

    shop.run(&["enforce", "--all", "--yes"]).snapshot("enforce");
    let refused = shop.database().execute("INSERT INTO users (name) VALUES ('Hedy Lamarr')", []);
    let refused = refused.expect_err("the database takes plaintext").to_string();
    assert_eq!(refused, "enfold: users.name takes envelopes only");
    shop.run(&["status", "--json"]).snapshot("status_enforced_json");

    shop.run(&["rollback", "--all", "--yes"]).snapshot("rollback");
    assert!(before == shop.users(), "rollback did not bring every value back");
    shop.run(&["audit", "--full"]).snapshot("audit_leak");
    shop.run(&["audit", "--full", "--json"]).snapshot("audit_leak_json");
}

#[test]
fn a_process_says_when_it_has_what_it_needs() {
    let shop = Sandbox::ready();
    let quiet = shop.ok(&["status"]);
    assert!(!quiet.stderr.contains("ready:"), "{}", quiet.stderr);
    let told = shop.ok(&["status", "--log", "info"]);
    assert!(told.stderr.contains("ready: the state of every ring is verified"), "{}", told.stderr);
}

#[test]
fn a_single_leak_in_a_protected_column_is_found() {
    let shop = Sandbox::protected();
    shop.sql("UPDATE users SET phone = '+44 20 7946 0018' WHERE id = 1");
    shop.run(&["audit", "--full"]).snapshot("audit_one_leak");
    shop.run(&["verify", "users.phone"]).snapshot("verify_one_leak");
    shop.ok(&["apply", "--yes"]);
    shop.ok(&["audit", "--full"]);
}

#[test]
fn copies_of_opened_values_are_found_and_without_keys_the_audit_says_what_it_did_not_look_for() {
    let shop = Sandbox::shop();
    shop.sql("CREATE TABLE letters (id INTEGER PRIMARY KEY, body TEXT); INSERT INTO letters (body) VALUES ('to mary@example.com')");
    shop.ok(&["init", "--database", "sqlite:app.db", "--environment", "development"]);
    assert!(shop.run(&["audit", "--residue"]).stdout().contains("No sealed value was opened"));
    shop.ok(&["apply", "--yes"]);
    shop.run(&["audit", "--residue"]).snapshot("audit_residue");
    std::fs::remove_file(shop.path("enfold-root.key")).expect("the root key was there");
    shop.run(&["audit", "--residue"]).snapshot("audit_residue_without_keys");
}

#[test]
fn a_value_goes_through_pipes_and_comes_back() {
    let shop = Sandbox::ready();
    let value = "ada@example.com".as_bytes();
    let sealed = shop.pipe(&["seal", "users.email"], value);
    sealed.snapshot("seal");
    assert_eq!(shop.pipe(&["open", "users.email"], &sealed.stdout).stdout, value);
    shop.pipe(&["open", "users.name"], &sealed.stdout).snapshot("open_in_another_column");

    let binary = shop.pipe(&["seal", "users.email", "--form", "bytes"], &[0, 255, 10]);
    assert_eq!(shop.pipe(&["open", "users.email", "--form", "bytes"], &binary.stdout).stdout, [0, 255, 10]);
    shop.pipe(&["seal", "users.email"], &[0xff]).snapshot("seal_what_is_not_text");
    shop.pipe(&["open", "users.email"], b"ada@example.com").snapshot("open_plaintext");
    shop.pipe(&["seal", "users.mail"], value).snapshot("seal_for_an_unknown_column");
}

#[test]
fn many_values_go_through_pipes_in_their_order_with_a_result_for_each() {
    let shop = Sandbox::ready();
    let values = "ada@example.com\n\nluís@example.net\n";
    let sealed = shop.pipe(&["seal", "users.email", "--lines"], values.as_bytes());
    assert_eq!(sealed.stdout().lines().count(), 3, "{}", sealed.stderr);
    assert!(sealed.stdout().lines().all(|line| text::decode(line).is_ok()), "a line is not an envelope");
    assert_eq!(shop.pipe(&["open", "users.email", "--lines"], &sealed.stdout).stdout(), values);
    assert_eq!(shop.pipe(&["open", "users.email", "--lines"], b"").stdout(), "");

    // One that was copied from another column, and one that is broken: the others are opened, these are not shown.
    let foreign = shop.pipe(&["seal", "users.name"], b"Ada").stdout().to_owned();
    let lines: Vec<&str> = sealed.stdout().lines().collect();
    let mixed = [lines[2], &foreign, lines[0], "enf1:broken"].join("\n");
    let ran = shop.pipe(&["open", "users.email", "--lines"], mixed.as_bytes());
    assert_eq!(ran.stdout(), "luís@example.net\n\nada@example.com\n\n");
    ran.snapshot("open_lines");
    shop.pipe(&["open", "users.email", "--lines", "--json"], mixed.as_bytes()).snapshot("open_lines_json");
    shop.pipe(&["seal", "users.email", "--lines"], b"a@example.com\n\xff\n").snapshot("seal_lines");

    let two = "first\nof two lines\0second\0";
    let sealed = shop.pipe(&["seal", "users.email", "-0"], two.as_bytes());
    assert_eq!(shop.pipe(&["open", "users.email", "-0"], &sealed.stdout).stdout(), two);
    let as_lines = sealed.stdout().replace('\0', "\n");
    shop.pipe(&["open", "users.email", "--lines"], as_lines.as_bytes()).snapshot("open_lines_with_a_newline");
    shop.pipe(&["seal", "users.email", "--lines", "--form", "bytes"], b"").snapshot("seal_lines_of_bytes");
}

#[test]
fn an_envelope_is_inspected_in_its_three_forms_without_a_key() {
    let shop = Sandbox::ready();
    let sealed = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    let stored::Stored::Envelope(bytes) = stored::detect(Form::Text, &sealed) else { panic!("not an envelope") };
    for name in ["enfold.toml", "enfold-root.key", "enfold-operator.key"] {
        std::fs::remove_file(shop.path(name)).expect("the file was there");
    }
    shop.pipe(&["inspect"], &sealed).snapshot("inspect_text");
    shop.pipe(&["inspect", "--json"], &sealed).snapshot("inspect_text_json");
    shop.pipe(&["inspect"], &bytes).snapshot("inspect_binary");
    shop.write("envelope.json", stored::encode(Form::Json, bytes));
    shop.run(&["inspect", "envelope.json"]).snapshot("inspect_json_string");
}

#[test]
fn doctor_explain_help_and_completions_answer() {
    let shop = Sandbox::ready();
    shop.run(&["doctor"]).snapshot("doctor");
    shop.run(&["doctor", "--json"]).snapshot("doctor_json");
    shop.run(&["explain"]).snapshot("explain");
    shop.run(&["explain", "open-failed"]).snapshot("explain_one");
    shop.run(&["explain", "opne-failed"]).snapshot("explain_unknown");
    shop.run(&["--help"]).snapshot("help");
    shop.run(&["aply"]).snapshot("unknown_command");
    for shell in ["bash", "zsh", "fish"] {
        let script = shop.ok(&["completions", shell]);
        assert!(script.stdout().contains("rollback"), "{shell}");
    }
}

#[test]
fn a_demo_protects_a_shop_and_gives_it_back() {
    let shop = Sandbox::shop();
    shop.ok(&["demo", "--dir", "demo", "--customers", "60"]);
    let config = "demo/enfold.toml";
    shop.ok(&["--config", config, "audit", "--full", "--json"]);
    shop.ok(&["--config", config, "rollback", "--all", "--yes"]);
    let database = shop.database();
    for (name, file) in [("was", "demo/original.db"), ("now", "demo/app.db")] {
        database.execute(&format!("ATTACH ? AS {name}"), [shop.path(file).to_str()]).expect("attached");
    }
    let differing: u32 = database
        .query_row("SELECT count(*) FROM (SELECT * FROM was.customers EXCEPT SELECT * FROM now.customers)", [], |row| {
            row.get(0)
        })
        .expect("compared");
    assert_eq!(differing, 0);
}

#[test]
fn data_keys_are_counted_by_what_opens_them_and_get_the_wraps_that_they_lack() {
    let shop = Sandbox::protected();
    shop.run(&["keys", "wraps"]).snapshot("keys_wraps");
    let policy = shop.read("enfold.toml");
    let roots = "roots = [\"local:enfold-root.key\"";
    assert!(policy.contains(roots), "{policy}");
    shop.write("enfold.toml", policy.replacen(roots, &format!("{roots}, \"local:second.key\""), 1));
    shop.run(&["keys", "wraps"]).snapshot("keys_wraps_incomplete");
    shop.run(&["keys", "wraps", "--repair"]).snapshot("keys_wraps_repair");
    // Either of them opens everything now.
    shop.write("enfold.toml", policy.replacen(roots, "roots = [\"local:second.key\"", 1));
    shop.ok(&["verify", "--all"]);
    shop.run(&["keys", "wraps", "--json"]).snapshot("keys_wraps_json");
}
