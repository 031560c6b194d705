//! The way back by one mode, and to the format of an application that knows no envelopes.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Sandbox;

/// 32 bytes in URL-safe base64, of this test alone.
const KEY: &str = "dGhpcnR5LXR3byBieXRlcyBvZiBhbiBvbGQga2V5ISE=";

#[test]
fn a_column_steps_back_to_hybrid_and_goes_back_to_the_format_that_the_policy_names() {
    let shop = Sandbox::protected_and_watchful();
    shop.ok(&["enforce", "--all", "--yes"]);
    shop.write("old.key", KEY);
    std::fs::set_permissions(shop.path("old.key"), std::fs::Permissions::from_mode(0o600)).expect("a mode is set");
    let column = "[tables.users.columns.email]\n";
    let policy = shop.read("enfold.toml");
    assert!(policy.contains(column), "{policy}");
    let writes = format!("{column}reads = [\"old\"]\nwrites = \"old\"\n");
    shop.write("enfold.toml", policy.replace(column, &writes));
    shop.extend_policy("[readers.old]\nformat = \"fernet\"\nkey_files = [\"old.key\"]\n");

    shop.run(&["rollback", "users.email", "--only-mode", "hybrid"]).snapshot("step_back_unconfirmed");
    shop.run(&["rollback", "users.email", "--only-mode", "hybrid", "--yes"]).snapshot("step_back");
    let emails = || shop.users().into_iter().filter_map(|[_, email, _]| email).collect::<Vec<_>>();
    assert!(emails().iter().all(|email| email.starts_with("enf1:")));
    shop.run(&["rollback", "--all", "--yes"]).snapshot("rollback_to_a_format");
    assert!(emails().len() == 5 && emails().iter().all(|email| email.starts_with("gAAAAA")));
    shop.run(&["audit", "--full"]).snapshot("audit_of_a_format");
    assert_eq!(shop.run(&["rollback", "--all", "--only-mode", "kms", "--yes"]).code, 2);
}
