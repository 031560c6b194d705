//! A reader leaves the policy, and its key the environment, when a count says that no value needs them.

use std::fmt::Write as _;

use crate::harness::{Ran, Sandbox, snapshot};

const READER: &str = "\n[readers.old]\nformat = \"fernet\"\nkey_variables = [\"FERNET_KEY\"]\n";

/// A token that Python's cryptography made, and its key.
fn token() -> (String, String) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/foreign/fernet.json");
    let case: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("a vector")).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    (text(&case["values"][0]["stored"]), text(&case["keys"][0]))
}

/// What an operator saw, one command after the other.
#[derive(Default)]
struct Seen(String);

impl Seen {
    fn note(&mut self, ran: &Ran) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "$ enfold {}\nexit code: {}\n{}{}\n", ran.args, ran.code, ran.stdout(), ran.stderr);
    }
}

#[test]
fn a_reader_leaves_the_policy_and_its_key_the_environment_when_nothing_needs_them() {
    let shop = Sandbox::ready();
    let (token, key) = token();
    shop.sql(&format!("UPDATE users SET phone = '{token}' WHERE id IN (1, 2, 4)"));
    // The phone stays in mode hybrid, the e-mail is enforced; both name the reader.
    let plain = shop.read("enfold.toml").replace("class = \"phone\"\n", "class = \"phone\"\nmode = \"hybrid\"\n");
    let reads = |policy: &str, class: &str| {
        let line = format!("class = \"{class}\"\n");
        assert!(policy.contains(&line), "{policy}");
        policy.replace(&line, &format!("{line}reads = [\"old\"]\n"))
    };
    shop.write("enfold.toml", reads(&reads(&plain, "phone"), "email") + READER);
    let with_key = |args: &[&str]| shop.run_with(args, &[("FERNET_KEY", &key)]);
    let mut seen = Seen::default();

    seen.note(&with_key(&["drop-reader", "old", "--yes"]));
    assert_eq!(with_key(&["apply", "--yes"]).code, 0);
    // An application of before writes once more.
    shop.sql(&format!("UPDATE users SET phone = '{token}' WHERE id = 2"));
    seen.note(&with_key(&["enforce", "users.email", "--yes"]));
    seen.note(&with_key(&["drop-reader", "old", "--yes"]));
    shop.write("enfold.toml", &plain);
    seen.note(&shop.run(&["verify", "--all"]));
    shop.write("enfold.toml", reads(&reads(&plain, "phone"), "email") + READER);
    assert_eq!(with_key(&["apply", "--yes"]).code, 0);
    seen.note(&with_key(&["drop-reader", "old"]));
    seen.note(&with_key(&["drop-reader", "old", "--yes"]));

    // Neither the table of the reader nor the variable is there, in a new process.
    shop.write("enfold.toml", &plain);
    seen.note(&shop.ok(&["verify", "--all"]));
    let doctor = shop.ok(&["doctor"]);
    assert!(!doctor.stdout().contains("reader"), "{}", doctor.stdout());
    let [_, _, phone] = &shop.users()[1];
    let opened = shop.pipe(&["open", "users.phone"], phone.as_deref().expect("a phone").as_bytes());
    assert_eq!(opened.code, 0, "{}", opened.stderr);
    shop.ok(&["enforce", "--all", "--yes"]);
    assert!(!seen.0.contains(&token) && !seen.0.contains(&key));
    snapshot("drop_reader", &[], &seen.0);
}
