//! `apply --canary`: some rows first, then a word from a person in a terminal, or from a script's next command.

use crate::harness::Sandbox;

/// Values that are sealed.
fn sealed(shop: &Sandbox) -> usize {
    shop.users().into_iter().flatten().flatten().filter(|value| value.starts_with("enf1:")).count()
}

/// Of the five users, all.
const ALL: usize = 14;

#[test]
fn a_script_s_canary_ends_says_how_to_go_on_and_can_be_taken_back() {
    let shop = Sandbox::ready();
    let before = shop.users();
    shop.run(&["apply", "--yes", "--canary", "2"]).snapshot("canary");
    assert!(0 < sealed(&shop) && sealed(&shop) < ALL, "{} values are sealed", sealed(&shop));
    let json = shop.run(&["apply", "--yes", "--canary", "1", "--json"]);
    json.snapshot("canary_json");
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let take_back = document["next"]["take_back"].as_str().expect("a command").to_owned();
    let mut args: Vec<&str> = take_back.split(' ').skip(1).collect();
    args.push("--yes");
    shop.ok(&args);
    assert!(before == shop.users(), "the canary was not taken back as it was");
    shop.ok(&["apply", "--yes", "--canary", "2"]);
    shop.ok(&["apply", "--yes"]);
    assert_eq!(sealed(&shop), ALL);
}

#[test]
fn in_a_terminal_a_canary_waits_and_is_taken_back_byte_for_byte() {
    let shop = Sandbox::ready();
    let before = shop.users();
    let exchanges = [("Type `apply` to go on: ", "apply"), (QUESTION, "what?"), (QUESTION, "take back")];
    let (code, said, stdout) = shop.in_a_terminal(&["apply", "--canary", "2"], &exchanges);
    assert_eq!((code, stdout.as_str()), (0, "users: plaintext again, 2 rows converted\n"), "{said}");
    assert!(said.contains("The canary is out: 2 rows converted so far."), "{said}");
    assert!(said.contains("decrypts users.email, users.name, users.phone"), "{said}");
    assert!(before == shop.users(), "the canary was not taken back as it was");
    shop.ok(&["status"]);
}

const QUESTION: &str = "Type `go on` or `take back` or `leave`: ";

#[test]
fn in_a_terminal_a_canary_goes_on_to_the_end() {
    let shop = Sandbox::ready();
    let exchanges = [("Type `apply` to go on: ", "apply"), (QUESTION, "go on")];
    let (code, said, stdout) = shop.in_a_terminal(&["apply", "--canary", "2"], &exchanges);
    assert_eq!(code, 0, "{said}");
    assert!(stdout.starts_with("users: protected, 5 rows converted\n"), "{stdout}");
    assert_eq!(sealed(&shop), ALL);
    shop.ok(&["audit", "--full"]);
}

#[test]
fn in_a_terminal_a_canary_stays_as_it_is_when_somebody_says_so_or_nothing() {
    for answer in ["leave", ""] {
        let shop = Sandbox::ready();
        let exchanges = [("Type `apply` to go on: ", "apply"), (QUESTION, answer)];
        let (code, said, stdout) = shop.in_a_terminal(&["apply", "--canary", "2"], &exchanges);
        assert_eq!(code, 0, "{said}");
        assert!(stdout.contains("to take them back:  enfold rollback users.email users.name users.phone"), "{stdout}");
        assert!(0 < sealed(&shop) && sealed(&shop) < ALL);
    }
}

#[test]
fn several_workers_are_refused_where_only_one_can_write() {
    let shop = Sandbox::ready();
    let before = shop.users();
    shop.run(&["apply", "--yes", "--workers", "2"]).snapshot("workers_on_sqlite");
    for command in ["enforce", "rollback"] {
        assert_eq!(shop.run(&[command, "--all", "--yes", "--workers", "2"]).code, 2);
    }
    assert_eq!(shop.run(&["verify", "--all", "--workers", "2"]).code, 2);
    assert!(before == shop.users());
}
