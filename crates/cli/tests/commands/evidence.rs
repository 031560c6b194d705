//! `enfold evidence`: the guide as it is written, what is printed, and what somebody did to the files.

use serde_json::Value;

use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../docs/guides/evidence.md");
const FILE: &str = "audit/evidence.json";

/// How much the log holds depends on whether a minute is over while a command runs.
const COUNTS: &[(&str, &str)] = &[
    (r"\b\d+ entries of \d+ writers, \d+ of them", "[n] entries of [n] writers, [n] of them"),
    (r": (key-used|open|denied) \d+", ": $1 [n]"),
    (r#""(sha256|signature)": "[0-9a-f]+""#, r#""$1": "[hex]""#),
];

/// A shop whose log is signed, and evidence about it in `audit`.
fn with_evidence() -> Sandbox {
    let shop = Sandbox::protected();
    shop.ok(&["log", "init"]);
    shop.ok(&["log", "sign", "--key-file", "enfold-log.key"]);
    shop.ok(&["evidence", "--standard", "soc2", "--out", "audit", "--key-file", "enfold-log.key"]);
    shop
}

#[test]
fn the_guide_is_followed_word_by_word() {
    let shop = Sandbox::protected();
    let said: Vec<String> = blocks(GUIDE, "sh").iter().map(|block| bash(&shop, block, &[], &[])).collect();
    assert!(said[0].contains("CC6.7") && said[0].contains("Signed by ed25519:"), "{}", said[0]);
    assert_eq!(said[1], "something is not met\n");
    assert!(said[2].contains("nothing was changed, and the page beside it is of this evidence."), "{}", said[2]);
    let page = shop.read("evidence-soc2/evidence.html");
    for never in ["<script", "http://", "https://", "ada@example.com"] {
        assert!(!page.contains(never), "{never}");
    }
}

#[test]
fn what_is_printed_says_what_was_met_and_what_was_not() {
    let shop = Sandbox::protected();
    shop.ok(&["log", "init"]);
    let show = |args: &[&str], name: &str| shop.run(args).snapshot_hiding(name, COUNTS);
    let make = ["evidence", "--standard", "hipaa", "--out", "audit"];
    show(&make, "evidence_by_the_operators");
    show(&make, "evidence_is_there");
    show(&["evidence", "verify", FILE], "evidence_verify");
    show(&["evidence", "--standard", "pci", "--out", "pci", "--key-file", "enfold-log.key", "--json"], "evidence_json");
    show(&["evidence", "verify", "audit/nothing.json"], "evidence_no_file");
    show(&["evidence", "--out", "audit"], "evidence_no_standard");
    show(&["evidence", "--standard", "cobit", "--out", "audit"], "evidence_unknown_standard");
    shop.sql("UPDATE enfold_events SET event = replace(event, '\"count\":', '\"count\":1') WHERE id = (SELECT min(id) FROM enfold_events WHERE seq = 2)");
    show(&["evidence", "--standard", "gdpr", "--out", "gdpr"], "evidence_log_changed");
}

#[test]
fn what_was_changed_removed_or_added_is_named() {
    let shop = with_evidence();
    let evidence: Value = serde_json::from_str(&shop.read(FILE)).expect("JSON");
    let tell = |change: &dyn Fn(&mut Value), name: &str| {
        let mut changed = evidence.clone();
        change(&mut changed);
        shop.write(FILE, changed.to_string());
        shop.run(&["evidence", "verify", FILE]).snapshot(name);
    };
    let outcome = |evidence: &mut Value| {
        let checks = evidence["checks"].as_array_mut().expect("checks");
        let check = checks.iter_mut().find(|check| check["id"] == "restore").expect("a check");
        check["outcome"] = "met".into();
        check.as_object_mut().expect("fields").remove("reason");
    };
    tell(&outcome, "evidence_changed");
    let another = |evidence: &mut Value| {
        evidence["checks"].as_array_mut().expect("checks").pop();
        evidence["controls"][0]["id"] = "CC9.9".into();
    };
    tell(&another, "evidence_removed_and_added");
    tell(&|evidence| evidence["signature"] = "00".into(), "evidence_unsigned");
    tell(&|evidence| evidence["statement"]["format"] = 2.into(), "evidence_other_format");
    // The file as it was made, and a page that shows something else.
    tell(&|_| {}, "evidence_whole");
    shop.write("audit/evidence.html", shop.read("audit/evidence.html").replace("not met", "met"));
    shop.run(&["evidence", "verify", FILE]).snapshot("evidence_other_page");
}

#[test]
fn a_key_that_is_not_trusted_vouches_for_nothing_and_no_policy_is_needed() {
    let (shop, elsewhere) = (with_evidence(), Sandbox::empty());
    elsewhere.write("evidence.json", shop.read(FILE));
    let evidence: Value = serde_json::from_str(&shop.read(FILE)).expect("JSON");
    let key = evidence["signed_by"].as_str().expect("a key");
    let said = elsewhere.ok(&["evidence", "verify", "evidence.json", "--key", key]);
    assert!(said.stdout().contains("The signature is good: ") && !said.stdout().contains("page"), "{}", said.stdout());
    let other = format!("ed25519:{}", "A".repeat(43));
    elsewhere.run(&["evidence", "verify", "evidence.json", "--key", &other]).snapshot("evidence_other_key");
    elsewhere.run(&["evidence", "verify", "evidence.json", "--key", "mine"]).snapshot("evidence_no_key");
}
