//! Rotation, re-encryption and the kill switch, command by command.

use crate::harness::Sandbox;

/// The ring that `init` makes.
const RING: &str = "main";

fn first_email(shop: &Sandbox) -> String {
    shop.database().query_row("SELECT email FROM users WHERE id = 1", [], |row| row.get(0)).expect("Ada's e-mail")
}

/// The data key that an envelope names.
fn key_of(shop: &Sandbox, envelope: &str) -> String {
    let shown = shop.pipe(&["inspect", "--json"], envelope.as_bytes());
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    shown["key_id"].as_str().expect("the key's id").to_owned()
}

#[test]
fn data_keys_are_rotated_and_every_value_follows() {
    let shop = Sandbox::protected();
    let before = first_email(&shop);
    shop.run(&["keys", "rotate", RING, "--reason", "yearly"]).snapshot("rotate_unconfirmed");
    shop.run(&["keys", "rotate", RING, "--reason", "yearly", "--yes"]).snapshot("rotate");
    let open = |envelope: &str| shop.pipe(&["open", "users.email"], envelope.as_bytes()).stdout().to_owned();
    assert_eq!(open(&before), "ada@example.com", "the former key opens as before");

    shop.run(&["reencrypt", RING, "--dry-run"]).snapshot("reencrypt_dry_run");
    assert_eq!(first_email(&shop), before);
    shop.run(&["reencrypt", RING]).snapshot("reencrypt_unconfirmed");
    shop.run(&["reencrypt", RING, "--reason", "yearly", "--yes"]).snapshot("reencrypt");
    shop.run(&["jobs", "list"]).snapshot("jobs_waiting");
    shop.run(&["worker", "--until-idle"]).snapshot("worker");
    let after = first_email(&shop);
    assert_ne!(key_of(&shop, &after), key_of(&shop, &before));
    assert_eq!(open(&after), "ada@example.com");
    shop.run(&["jobs", "list", "--all", "--json"]).snapshot("jobs_json");
    shop.run(&["reencrypt", RING, "--yes"]).snapshot("reencrypt_with_nothing_to_do");
    shop.ok(&["verify", "--all"]);
    shop.ok(&["audit", "--full"]);
}

#[test]
fn what_is_due_is_shown() {
    let shop = Sandbox::protected();
    let policy = shop.read("enfold.toml");
    shop.write(
        "enfold.toml",
        format!("{policy}\n[rings.main.rotation]\ncadence = \"90d\"\nwindow = \"Sat,Sun 02:00-05:00\"\n"),
    );
    shop.run(&["status"]).snapshot("status_rotation");
    let roots = "\n[rings.main.rotation.roots]\ncadence = \"365d\"\n";
    shop.write("enfold.toml", format!("{policy}{roots}"));
    shop.run(&["status"]).snapshot("status_root_keys");
    shop.write("enfold.toml", format!("{policy}\n[rings.main.rotation]\nwindow = \"at night\"\n"));
    shop.run(&["status"]).snapshot("window_refused");
}

#[test]
fn one_command_rotates_and_asks_for_the_rest() {
    let shop = Sandbox::protected();
    let arguments = ["keys", "rotate", RING, "--reason", "yearly", "--reencrypt", "--yes"];
    shop.run(&arguments).snapshot("rotate_and_reencrypt");
    shop.run(&[&arguments[..], &["--json"]].concat()).snapshot("rotate_and_reencrypt_json");
    shop.ok(&["worker", "--until-idle"]);
    shop.ok(&["verify", "--all"]);
}

#[test]
fn a_disabled_data_key_opens_nothing_until_it_is_enabled() {
    let shop = Sandbox::protected();
    let stored = first_email(&shop);
    let key = key_of(&shop, &stored);
    let kill = ["keys", "disable", RING, &key, "--kill-switch", "--reason", "lost laptop"];
    shop.run(&kill).snapshot("kill_switch_unconfirmed");
    shop.run(&[&kill[..], &["--yes"]].concat()).snapshot("kill_switch");
    shop.pipe(&["open", "users.email"], stored.as_bytes()).snapshot("open_under_a_disabled_key");
    shop.run(&["keys", "enable", RING, &key, "--reason", "found it", "--yes"]).snapshot("enable");
    assert_eq!(shop.pipe(&["open", "users.email"], stored.as_bytes()).stdout(), "ada@example.com");
    shop.run(&["keys", "disable", RING, "users.email", "--reason", "x", "--yes"]).snapshot("disable_no_key");
}

#[test]
fn a_data_key_is_disabled_when_no_value_needs_it_and_not_before() {
    let shop = Sandbox::protected_and_watchful();
    let stored = first_email(&shop);
    let former = key_of(&shop, &stored);
    let disable = ["keys", "disable", RING, &former, "--reason", "yearly", "--yes"];
    shop.run(&disable).snapshot("disable_one_that_seals");
    shop.ok(&["keys", "rotate", RING, "--reason", "yearly", "--reencrypt", "--yes"]);
    shop.run(&disable).snapshot("disable_needed");
    shop.ok(&["worker", "--until-idle"]);
    shop.run(&disable[..6]).snapshot("disable_unconfirmed");
    shop.run(&disable).snapshot("disable");
    shop.ok(&["verify", "--all"]);
    shop.run(&["keys", "disable", RING, &former, "--print-sql", "--reason", "-"]).snapshot("disable_print_sql");
    let late = shop.database().execute("UPDATE users SET email = ?1 WHERE id = 2", [&stored]);
    assert!(late.expect_err("it is refused").to_string().contains("taken out of use"));
    shop.run(&["keys", "enable", RING, &former, "--reason", "a tape", "--yes"]).snapshot("enable_former");
    shop.database().execute("UPDATE users SET email = ?1 WHERE id = 2", [&stored]).expect("it is taken again");
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'enfold_refuse_%' AND type = 'trigger'";
    let left: i64 = shop.database().query_row(left, [], |row| row.get(0)).expect("a count");
    assert_eq!(left, 0);
}

#[test]
fn several_data_keys_are_disabled_together_by_name_or_because_their_grace_period_is_over() {
    let shop = Sandbox::protected_and_watchful();
    let rotate = ["keys", "rotate", RING, "--reason", "-", "--reencrypt", "--yes"];
    let mut former = Vec::new();
    for _ in 0..2 {
        former.push(key_of(&shop, &first_email(&shop)));
        shop.ok(&rotate);
        shop.ok(&["worker", "--until-idle"]);
    }
    let due = ["keys", "disable", RING, "--past-grace", "--reason", "yearly", "--yes"];
    shop.run(&due).snapshot("disable_none_is_past_its_grace_period");
    let sealing = key_of(&shop, &first_email(&shop));
    shop.run(&["keys", "disable", RING, &former[0], &sealing, "--reason", "-", "--yes"])
        .snapshot("disable_one_of_two_seals");
    let status = |key: &str| {
        let ran = shop.ok(&["keys", "show", key, "--json"]);
        serde_json::from_slice::<serde_json::Value>(&ran.stdout).expect("JSON")["status"].clone()
    };
    assert_eq!([status(&former[0]), status(&former[1])], ["retired", "retired"], "all or none");
    shop.run(&["keys", "disable", RING, &former[0], &former[1], &former[0], "--reason", "yearly", "--yes"])
        .snapshot("disable_two");
    assert_eq!([status(&former[0]), status(&former[1])], ["disabled", "disabled"]);
    shop.run(&["keys", "enable", RING, &former[0], &former[1], "--reason", "a tape", "--yes"]).snapshot("enable_two");
    // From now on the time of both is over.
    let policy = shop.read("enfold.toml");
    let ring = format!("[rings.{RING}]");
    assert!(policy.contains(&ring));
    shop.write("enfold.toml", format!("{policy}\n[rings.{RING}.rotation]\ncadence = \"90d\"\ngrace_period = \"0s\"\n"));
    shop.run(&[&due[..], &["--json"]].concat()).snapshot("disable_past_their_grace_period");
    assert_eq!([status(&former[0]), status(&former[1])], ["disabled", "disabled"]);
}

#[test]
fn an_emergency_ends_with_the_former_keys_switched_off_and_a_report_of_their_uses() {
    let shop = Sandbox::protected_and_watchful();
    let policy = shop.read("enfold.toml");
    let stored = first_email(&shop);
    let former = key_of(&shop, &stored);
    shop.write("enfold.toml", policy.replace("catalog = true", "catalog = false"));
    assert!(shop.run(&["keys", "uses", &former]).stdout().contains("no events written"), "it says what it cannot know");
    shop.write("enfold.toml", &policy);
    assert_eq!(
        shop.pipe(&["open", "users.email", "--reason", "a look"], stored.as_bytes()).stdout(),
        "ada@example.com"
    );
    let emergency = ["keys", "rotate", RING, "--emergency", "--reason", "laptop stolen"];
    shop.run(&[&emergency[..], &["--yes", "--since", "soon"]].concat()).snapshot("emergency_no_moment");
    shop.run(&[&emergency[..], &["--yes"]].concat()).snapshot("emergency");
    shop.pipe(&["open", "users.email"], stored.as_bytes()).snapshot("open_after_an_emergency");
    let now = first_email(&shop);
    assert_eq!(shop.pipe(&["open", "users.email"], now.as_bytes()).stdout(), "ada@example.com");
    shop.run(&["keys", "uses", &key_of(&shop, &now), "--json"]).snapshot("uses_json");
    shop.ok(&["verify", "--all"]);
}

#[test]
fn jobs_are_steered_and_what_cannot_be_is_said() {
    let shop = Sandbox::protected();
    shop.ok(&["keys", "rotate", RING, "--reason", "yearly", "--reencrypt", "--yes"]);
    let job = {
        let listed = shop.run(&["jobs", "list", "--json"]);
        let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        listed["jobs"][0]["id"].to_string()
    };
    shop.run(&["jobs", "pause", &job]).snapshot("job_paused");
    shop.ok(&["worker", "--until-idle"]);
    shop.run(&["jobs", "set", &job, "--rate", "500", "--batch", "10", "--priority", "7"]).snapshot("job_set");
    shop.run(&["jobs", "set", &job]).snapshot("job_set_nothing");
    shop.run(&["jobs", "retry", &job]).snapshot("job_retry_refused");
    shop.run(&["jobs", "resume", &job]).snapshot("job_resumed");
    shop.ok(&["worker", "--until-idle"]);
    shop.run(&["jobs", "watch", &job]).snapshot("job_watched");
    shop.run(&["jobs", "cancel", &job]).snapshot("job_cancel_refused");
    shop.run(&["jobs", "show", "99"]).snapshot("job_unknown");
}

#[test]
fn mistakes_in_what_is_to_be_rotated_or_re_encrypted_are_said() {
    let shop = Sandbox::protected();
    shop.run(&["keys", "rotate", "mian", "--reason", "x", "--yes"]).snapshot("rotate_unknown_ring");
    shop.run(&["keys", "rotate", RING, "--tenant", "acme", "--reason", "x", "--yes"]).snapshot("rotate_no_tenants");
    shop.run(&["reencrypt", "mian", "--yes"]).snapshot("reencrypt_unknown_ring");
    shop.run(&["reencrypt", "--class", "medical", "--yes"]).snapshot("reencrypt_unknown_class");
    shop.run(&["reencrypt", "--sealed-before", "yesterday", "--yes"]).snapshot("reencrypt_no_moment");
}

#[test]
fn a_minimum_is_refused_while_values_need_what_is_below_and_the_kill_switch_sets_it_all_the_same() {
    let shop = Sandbox::protected_and_watchful();
    let stored = first_email(&shop);
    let minimum = |version: &'static str| ["keys", "set-minimum", RING, version, "--reason", "yearly", "--yes"];
    shop.run(&minimum("2")).snapshot("minimum_not_made_yet");
    shop.ok(&["keys", "rotate", RING, "--reason", "yearly", "--reencrypt", "--yes"]);
    shop.run(&minimum("2")).snapshot("minimum_needed");
    let kill = ["keys", "set-minimum", RING, "2", "--kill-switch", "--reason", "stolen"];
    shop.run(&kill).snapshot("minimum_kill_switch_unconfirmed");
    shop.run(&[&kill[..], &["--yes"]].concat()).snapshot("minimum_kill_switch");
    let open = || shop.pipe(&["open", "users.email"], stored.as_bytes());
    assert!(open().stderr.contains("key-disabled"), "{}", open().stderr);
    shop.ok(&minimum("0"));
    assert_eq!(open().stdout(), "ada@example.com");
    shop.ok(&["worker", "--until-idle"]);
    shop.run(&minimum("2")).snapshot("minimum");
    assert!(open().stderr.contains("key-disabled"));
    let key = key_of(&shop, &stored);
    shop.run(&["keys", "enable", RING, &key, "--reason", "a tape", "--yes"]).snapshot("enable_below_the_minimum");
    shop.ok(&["verify", "--all"]);
}
