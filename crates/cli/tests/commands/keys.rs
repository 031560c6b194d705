//! Keys as operators look at them, and root keys that are registered, replaced, rotated and restored.

use serde_json::Value;

use crate::harness::Sandbox;

const FIRST: &str = "local:enfold-root.key";
const SECOND: &str = "local:second.key";
/// How long it took.
const HIDDEN: &[(&str, &str)] = &[(r"in \d+\.\d s\.", "in [n] s."), (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "[time]")];

/// The shop, with these root keys in its ring.
fn with_roots(shop: &Sandbox, roots: &[&str]) {
    let policy = shop.read("enfold.toml");
    let line = policy.lines().find(|line| line.starts_with("roots = ")).expect("the ring's root keys").to_owned();
    shop.write("enfold.toml", policy.replace(&line, &format!("roots = {roots:?}")));
}

fn json(shop: &Sandbox, args: &[&str]) -> Value {
    serde_json::from_slice(&shop.ok(args).stdout).expect("JSON")
}

/// A data key that seals, as `keys list` shows it. Their order is that of their ids, which are drawn, and one authenticates the
/// others.
fn a_data_key(shop: &Sandbox) -> String {
    let listed = json(shop, &["keys", "list", "--json"]);
    let keys = listed["keys"].as_array().expect("a list");
    let seals = keys.iter().find(|key| key["purpose"] == "seal").expect("one that seals");
    seals["id"].as_str().expect("an id").to_owned()
}

#[test]
fn keys_are_listed_a_page_at_a_time_and_shown() {
    let shop = Sandbox::protected();
    // Their order is that of their ids, which are drawn.
    let hidden: &[(&str, &str)] = &[(r"(?m)^[0-9a-f]{32}  .*", "[key]"), (r"(?m)^(ID +RING) .*", "$1 …")];
    shop.run(&["keys", "list", "--limit", "2"]).snapshot_hiding("keys_list", hidden);
    // All of them, by going on where the page before ended.
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut args = vec!["keys", "list", "--json", "--limit", "2"];
        args.extend(after.iter().flat_map(|after| ["--after", after.as_str()]));
        let page = json(&shop, &args);
        seen.extend(
            page["keys"].as_array().expect("keys").iter().map(|key| key["id"].as_str().expect("an id").to_owned()),
        );
        match page["next"]["after"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    let all = json(&shop, &["keys", "wraps", "--json"])["rings"][0]["keys"].as_u64().expect("a count");
    assert_eq!(seen.len() as u64, all);
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");

    shop.run(&["keys", "list", "--roots"]).snapshot("keys_list_roots");
    shop.run(&["keys", "register", FIRST, "--alias", "shop", "--description", "of the shop"]).snapshot("keys_register");
    shop.run(&["keys", "register", SECOND]).snapshot("keys_register_unknown");
    shop.run(&["keys", "show", FIRST]).snapshot("keys_show_root");
    shop.run(&["keys", "show", FIRST, "--json"]).snapshot("keys_show_root_json");
    let root = json(&shop, &["keys", "show", FIRST, "--json"])["id"].as_str().expect("an id").to_owned();
    assert_eq!(json(&shop, &["keys", "show", &root, "--json"])["uri"], FIRST, "by its id as well");
    let data = json(&shop, &["keys", "list", "--json"])["keys"].as_array().expect("keys").clone();
    let sealing = data.iter().find(|key| key["purpose"] == "seal").expect("a key that seals");
    let shown = shop.run(&["keys", "show", sealing["id"].as_str().expect("an id")]);
    shown.snapshot_hiding("keys_show_data", &[(r"users\.(email|name|phone)", "users.[column]")]);
    shop.run(&["keys", "show", &"0".repeat(32)]).snapshot("keys_show_unknown");
    shop.run(&["keys", "refresh"]).snapshot("keys_refresh");
}

#[test]
fn a_root_key_is_replaced_by_another() {
    let shop = Sandbox::protected();
    shop.run(&["keys", "rewrap", "main", "--dry-run"]).snapshot("keys_rewrap_nothing");
    with_roots(&shop, &[SECOND, FIRST]);
    shop.run(&["keys", "rewrap", "main", "--dry-run"]).snapshot("keys_rewrap_dry_run");
    shop.write("prices.toml", "currency = \"EUR\"\nas_of = \"today\"\n[services.local]\nper_10000_requests = 25\n");
    let priced = ["keys", "rewrap", "main", "--dry-run", "--prices", "prices.toml", "--rate", "1", "--json"];
    shop.run(&priced).snapshot("keys_rewrap_dry_run_json");
    shop.run(&["keys", "rewrap", "main"]).snapshot("keys_rewrap_unconfirmed");
    shop.run(&["keys", "rewrap", "main", "--yes"]).snapshot_hiding("keys_rewrap", HIDDEN);
    shop.run(&["keys", "rewrap", "main", "--yes"]).snapshot("keys_rewrap_again");
    shop.run(&["keys", "rewrap", "main", "--from", FIRST, "--drop"]).snapshot("keys_rewrap_drop_active");
    shop.run(&["keys", "set-root", FIRST, "retired", "--yes"]).snapshot("keys_set_root");
    shop.run(&["keys", "set-root", SECOND, "retired", "--yes"]).snapshot("keys_set_root_last");
    shop.run(&["keys", "wraps"]).snapshot("keys_wraps_retired");
    shop.run(&["keys", "rewrap", "main", "--from", FIRST, "--drop", "--yes"])
        .snapshot_hiding("keys_rewrap_drop", HIDDEN);
    with_roots(&shop, &[SECOND]);
    std::fs::remove_file(shop.path("enfold-root.key")).expect("the first is gone for good");
    let verified = shop.run(&["verify", "--all"]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
    shop.run(&["keys", "rotate-root", SECOND, "--yes"]).snapshot("keys_rotate_root_without_versions");
}

#[test]
fn a_row_that_was_changed_is_told_and_the_others_are_rewrapped() {
    let shop = Sandbox::protected();
    with_roots(&shop, &[SECOND, FIRST]);
    let key = a_data_key(&shop);
    shop.sql(&format!("UPDATE enfold_data_keys SET created_ms = 1 WHERE id = x'{key}'"));
    shop.run(&["keys", "show", &key]).snapshot_hiding("keys_show_tampered", &[(r"(scope|purpose) .*", "$1 [one]")]);
    shop.run(&["keys", "rewrap", "main", "--yes"]).snapshot_hiding("keys_rewrap_tampered", HIDDEN);
}

#[test]
fn a_deleted_record_of_a_root_key_is_restored_from_its_description() {
    let shop = Sandbox::protected();
    let described = shop.ok(&["keys", "show", FIRST, "--json"]).stdout;
    shop.write("root.json", &described);
    let id = json(&shop, &["keys", "show", FIRST, "--json"])["id"].as_str().expect("an id").to_owned();
    shop.sql("DELETE FROM enfold_root_keys");
    let now = json(&shop, &["keys", "show", FIRST, "--json"])["id"].as_str().expect("an id").to_owned();
    assert_ne!(now, id, "the next start named it anew");
    let text = String::from_utf8(described).expect("text");
    shop.write("other.json", text.replace(&id, &now));
    shop.run(&["keys", "import", "other.json"]).snapshot("keys_import_other");
    shop.write("no.json", "{}");
    shop.run(&["keys", "import", "no.json"]).snapshot("keys_import_no_description");
    shop.run(&["keys", "import", "root.json"]).snapshot("keys_import");
    let restored = json(&shop, &["keys", "show", FIRST, "--json"]);
    assert_eq!((restored["id"].as_str(), restored["other_ids"][0].as_str()), (Some(id.as_str()), Some(now.as_str())));
    assert_eq!(shop.run(&["verify", "--all"]).code, 0);
}

#[test]
fn nobody_but_the_operators_publishes() {
    let shop = Sandbox::protected();
    std::fs::rename(shop.path("enfold-operator.key"), shop.path("elsewhere.key")).expect("an operators' key");
    let policy = shop.read("enfold.toml");
    assert!(policy.contains("operator_key = "), "the policy pins the operators' key");
    shop.run(&["keys", "refresh"]).snapshot("keys_refresh_without_the_key");
    shop.run(&["keys", "set-root", FIRST, "retired", "--yes"]).snapshot("keys_set_root_without_the_key");
}
