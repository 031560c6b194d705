//! Values that are not what they seem: lookalikes, corrupt envelopes, envelopes of tomorrow.

use enfold_core::text;

use crate::harness::Sandbox;

/// What somebody typed into a form to see what happens.
const TYPED: &str = "enf1:hello";

#[test]
fn a_value_that_only_looks_like_an_envelope_is_a_row_error_until_the_policy_says_what_it_is() {
    let shop = Sandbox::ready();
    shop.database().execute("UPDATE users SET name = ? WHERE id = 2", [TYPED]).expect("typed");
    let before = shop.users();
    shop.run(&["apply", "--yes"]).snapshot("lookalike_refused");
    let after = shop.users();
    assert_eq!(after[1][0].as_deref(), Some(TYPED), "the refused value was changed");
    shop.run(&["status"]).snapshot("lookalike_status");
    shop.run(&["audit", "--full"]).snapshot("lookalike_audit");

    let policy = shop.read("enfold.toml");
    let section = "[tables.users.columns.name]\n";
    shop.write("enfold.toml", policy.replace(section, &format!("{section}lookalikes = \"plaintext\"\n")));
    shop.run(&["apply", "--yes"]).snapshot("lookalike_sealed");
    shop.ok(&["audit", "--full"]);
    shop.ok(&["rollback", "--all", "--yes"]);
    assert!(before == shop.users(), "a value that was typed did not come back");
}

#[test]
fn a_corrupt_envelope_is_found_and_named_and_not_lost() {
    let shop = Sandbox::protected();
    let whole = shop.users()[0][1].clone().expect("an email");
    let mut bytes = text::decode(&whole).expect("an envelope");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let corrupt = text::encode(&bytes);
    shop.database().execute("UPDATE users SET email = ? WHERE id = 1", [&corrupt]).expect("corrupted");
    shop.run(&["verify", "--all"]).snapshot("corrupt_verify");
    shop.run(&["verify", "--all", "--json"]).snapshot("corrupt_verify_json");
    shop.run(&["rollback", "--all", "--yes"]).snapshot("corrupt_rollback");
    assert_eq!(shop.users()[0][1].as_deref(), Some(corrupt.as_str()), "the stored bytes were changed");
    shop.database().execute("UPDATE users SET email = ? WHERE id = 1", [&whole]).expect("repaired from a backup");
    shop.ok(&["rollback", "--all", "--yes"]);
    assert_eq!(shop.users()[0][1].as_deref(), Some("ada@example.com"));
}

#[test]
fn an_envelope_of_a_newer_version_is_told_from_a_broken_one() {
    let shop = Sandbox::ready();
    let sealed = shop.pipe(&["seal", "users.email"], b"ada@example.com");
    let mut bytes = text::decode(sealed.stdout()).expect("an envelope");
    bytes[enfold_core::layout::MAGIC.len()] += 1;
    let newer = text::encode(&bytes);
    shop.pipe(&["inspect"], newer.as_bytes()).snapshot("inspect_newer");
    shop.pipe(&["open", "users.email"], newer.as_bytes()).snapshot("open_newer");
    shop.pipe(&["inspect"], TYPED.as_bytes()).snapshot("inspect_broken");
    shop.pipe(&["inspect"], b"").snapshot("inspect_nothing");
    shop.run(&["inspect", "nowhere.txt"]).snapshot("inspect_no_file");
}
