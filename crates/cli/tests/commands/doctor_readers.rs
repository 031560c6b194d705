//! `enfold doctor` on the keys of readers: there while a column needs them, and gone afterwards.

use crate::harness::{Sandbox, snapshot};

const READER: &str = "\n[readers.old]\nformat = \"fernet\"\nkey_files = [\"fernet.key\"]\n";
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

/// The line that the doctor has for the reader, with its hints.
fn reader(shop: &Sandbox) -> (i32, String) {
    let ran = shop.run(&["doctor"]);
    let lines = ran.stdout().lines().skip_while(|line| !line.contains(" reader old:"));
    let mut own = lines.enumerate().take_while(|(n, line)| *n == 0 || line.starts_with("     hint:"));
    (ran.code, own.by_ref().map(|(_, line)| format!("{line}\n")).collect())
}

#[test]
fn the_keys_of_a_reader_are_looked_at_as_long_as_a_column_needs_them() {
    let shop = Sandbox::ready();
    let policy = shop.read("enfold.toml");
    let reads = policy.replace("class = \"email\"\n", "class = \"email\"\nreads = [\"old\"]\n");
    assert_ne!(reads, policy, "a column of the policy that init wrote");
    shop.write("enfold.toml", reads + READER);
    let write = |key: &str| shop.secret("fernet.key", key);
    let mut said = String::new();
    let mut tell = |when: &str| {
        let (code, lines) = reader(&shop);
        said.push_str(&format!("{when}, exit code {code}\n{lines}\n"));
    };
    tell("no key");
    write("hunter2\n");
    tell("no key of that format");
    write(KEY);
    tell("a key");
    shop.ok(&["apply", "--yes"]);
    shop.ok(&["enforce", "--all", "--yes"]);
    tell("a key, and the column is enforced");
    std::fs::remove_file(shop.path("fernet.key")).expect("removed");
    tell("no key, and the column is enforced");
    let said = said.replace(&shop.path("").display().to_string(), "[folder]/");
    assert!(!said.contains("hunter2") && !said.contains("AAAAAAAA"));
    snapshot("doctor_readers", &[], &said);
}
