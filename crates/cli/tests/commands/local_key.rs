//! A root key in a file, sealed under a passphrase: made, used, refused, and its passphrase changed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const INIT: &[&str] =
    &["init", "--database", "sqlite:app.db", "--environment", "development", "--passphrase-file", "passphrase"];
const OLD: &str = "six words drawn with dice\n";
const NEW: &str = "six other words, drawn again\n";

impl Sandbox {
    fn chmod(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), Permissions::from_mode(mode)).expect("its mode is set");
    }

    fn with_variables(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        self.command(args).envs(variables.iter().copied()).output().expect("the command runs")
    }
}

/// The shop with a root key that is sealed under `OLD`.
fn sealed() -> Sandbox {
    let shop = Sandbox::shop();
    shop.secret("passphrase", OLD);
    shop.ok(INIT);
    shop
}

#[test]
fn a_root_key_is_made_under_a_passphrase_and_used_with_it() {
    let shop = Sandbox::shop();
    shop.secret("passphrase", OLD);
    shop.run(INIT).snapshot("init_sealed");
    assert!(shop.read("enfold-root.key").starts_with("enfold-sealed-key-1 argon2id m=65536 t=3 p=4 "));
    assert!(
        shop.read("enfold.toml")
            .contains("[key_services.local.\"enfold-root.key\"]\npassphrase_file = \"passphrase\"\n")
    );
    shop.run(&["doctor"]).snapshot("doctor_sealed");
    let sealed = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    assert_eq!(shop.pipe(&["open", "users.email"], &sealed).stdout(), "ada@example.com");
}

#[test]
fn what_is_wrong_with_a_sealed_key_has_an_error_of_its_own() {
    let shop = sealed();
    let seal = ["seal", "users.email"];
    shop.secret("passphrase", NEW);
    shop.run(&seal).snapshot("passphrase_wrong");
    shop.secret("passphrase", "\n");
    shop.run(&seal).snapshot("passphrase_missing");
    shop.secret("passphrase", OLD);
    shop.chmod("passphrase", 0o640);
    shop.run(&seal).snapshot("passphrase_open_to_others");
    shop.chmod("passphrase", 0o600);
    shop.chmod("enfold-root.key", 0o604);
    shop.run(&seal).snapshot("sealed_key_open_to_others");
    let good = shop.read("enfold-root.key");
    shop.secret("enfold-root.key", &good.replace("t=3", "t=2"));
    shop.run(&seal).snapshot("sealed_key_changed");
    shop.secret("enfold-root.key", &good);
    shop.ok(&["doctor"]);
    // A policy that does not know of the passphrase does not get around it, nor does a plain key in the file's place.
    let policy = shop.read("enfold.toml");
    let (before, after) = policy.split_once("[key_services.local.\"enfold-root.key\"]").expect("the table");
    shop.write("enfold.toml", format!("{before}{}", after.replace("passphrase_file = \"passphrase\"\n", "")));
    shop.run(&seal).snapshot("passphrase_not_in_the_policy");
    shop.write("enfold.toml", policy);
    shop.secret("enfold-root.key", &format!("enfold-local-key-1:{}\n", "A".repeat(43)));
    shop.run(&seal).snapshot("plain_key_in_the_place_of_a_sealed_one");
}

#[test]
fn the_passphrase_is_changed_and_every_value_still_opens() {
    let shop = sealed();
    let value = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    let change = ["passphrase", "local:enfold-root.key", "--new-file", "new"];
    shop.secret("new", "short\n");
    shop.run(&change).snapshot("passphrase_too_short");
    shop.secret("new", NEW);
    shop.run(&change).snapshot("passphrase_changed");
    assert_eq!(shop.run(&["open", "users.email"]).code, 1, "the old passphrase still opens the file");
    shop.secret("passphrase", NEW);
    assert_eq!(shop.pipe(&["open", "users.email"], &value).stdout(), "ada@example.com");
    shop.run(&["passphrase", "local:other.key"]).snapshot("passphrase_of_another_key");
}

#[test]
fn a_plain_key_is_sealed_later_by_the_same_command() {
    let shop = Sandbox::ready();
    let value = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    shop.secret("new", NEW);
    shop.run(&["passphrase", "local:enfold-root.key", "--new-file", "new"]).snapshot("plain_key_sealed");
    shop.extend_policy("\n[key_services.local.\"enfold-root.key\"]\npassphrase_file = \"new\"\n");
    assert_eq!(shop.pipe(&["open", "users.email"], &value).stdout(), "ada@example.com");
}

#[test]
fn a_passphrase_comes_by_the_environment_too() {
    let shop = Sandbox::shop();
    let init = ["init", "--database", "sqlite:app.db", "--environment", "development", "--passphrase-env"];
    shop.run(&init).snapshot("init_sealed_without_the_variable");
    assert!(!shop.path("enfold.toml").exists());
    let old = ("ENFOLD_LOCAL_PASSPHRASE", OLD.trim_end());
    assert!(shop.with_variables(&init, &[old]).status.success());
    let doctor = shop.with_variables(&["doctor"], &[old]);
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stderr));
    let new = ("ENFOLD_NEW_LOCAL_PASSPHRASE", NEW.trim_end());
    let changed = shop.with_variables(&["passphrase", "local:enfold-root.key"], &[old, new]);
    assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    assert_eq!(shop.with_variables(&["doctor"], &[old]).status.code(), Some(1));
    assert!(shop.with_variables(&["doctor"], &[("ENFOLD_LOCAL_PASSPHRASE", NEW.trim_end())]).status.success());
}

#[test]
fn production_takes_a_sealed_key_only_where_its_ring_says_so() {
    let shop = Sandbox::shop();
    shop.secret("passphrase", OLD);
    let init = ["init", "--database", "sqlite:app.db", "--passphrase-file", "passphrase"];
    shop.run(&init).snapshot("init_sealed_in_production");
    let policy = shop.read("enfold.toml");
    shop.write(
        "enfold.toml",
        policy.replace("scope = \"column\"\n", "scope = \"column\"\nallow_local_in_production = true\n"),
    );
    shop.ok(&["init", "--prepare"]);
    shop.ok(&["doctor"]);
    assert!(shop.read("enfold-root.key").starts_with("enfold-sealed-key-1 "));
    shop.run(&[
        "init",
        "--config",
        "other.toml",
        "--database",
        "sqlite:app.db",
        "--root",
        "aws-kms://eu-central-1/alias/a",
        "--passphrase-file",
        "passphrase",
    ])
    .snapshot("init_sealed_in_a_key_service");
}

const GUIDE: &str = include_str!("../../../../docs/guides/local-keys.md");

#[test]
fn the_guide_leads_a_new_user_to_a_sealed_key_and_to_another_passphrase() {
    let shop = Sandbox::shop();
    let [_, draw, init, make, change] = blocks(GUIDE, "sh").try_into().expect("five steps");
    let variables = [("DATABASE_URL", "sqlite:app.db")];
    bash(&shop, &draw, &[], &variables);
    // It stops, as the guide says, and leaves the policy.
    let stopped = bash(&shop, &format!("{{ {init} }} 2>&1 || true"), &[], &variables);
    assert!(stopped.contains("code: local-key-in-production"), "{stopped}");
    let said = "allow_local_in_production = true\n";
    assert!(blocks(GUIDE, "toml").concat().ends_with(said));
    let scope = "scope = \"column\"\n";
    shop.write("enfold.toml", shop.read("enfold.toml").replace(scope, &format!("{scope}{said}")));
    bash(&shop, &make, &[], &variables);
    let sealed = shop.pipe(&["seal", "users.email"], b"ada@example.com").stdout;
    bash(&shop, &change, &[], &variables);
    assert_eq!(shop.pipe(&["open", "users.email"], &sealed).stdout(), "ada@example.com");
}
