//! `enfold log`: the guide as it is written, and what somebody who may write to the catalog did.

use std::path::Path;

use enfold_testkit::rsyslog::Rsyslog;

use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

const GUIDE: &str = include_str!("../../../../docs/guides/log.md");

/// A shop whose log is signed up to a moment.
fn signed() -> Sandbox {
    let shop = Sandbox::protected();
    shop.ok(&["log", "init"]);
    shop.ok(&["log", "sign", "--key-file", "enfold-log.key"]);
    shop
}

#[test]
fn the_guide_is_followed_word_by_word() {
    let shop = Sandbox::protected();
    let said: Vec<String> = blocks(GUIDE, "sh").iter().map(|block| bash(&shop, block, &[], &[])).collect();
    assert!(said[0].contains("Checkpoint 1 is signed"), "{}", said[0]);
    assert_eq!(said[1].matches("Every chain holds together.").count(), 2, "{}", said[1]);
    assert!(said[2].contains("users.email"), "{}", said[2]);
    // What stands in it about the policy is policy.
    for block in blocks(GUIDE, "toml").into_iter().filter(|block| !block.contains("[events.sinks.")) {
        assert!(block.starts_with("[events]\n"));
        let shop = Sandbox::ready();
        let folder = shop.path("spilled");
        let block = block.replace("/var/lib/enfold/events", folder.to_str().expect("text"));
        shop.write("enfold.toml", shop.read("enfold.toml").replace("[events]\n", &block));
        shop.ok(&["apply", "--yes"]);
    }
}

#[test]
fn the_guides_receivers_are_sent_what_a_command_writes_and_doctor_says_which_is_not_there() {
    let (shop, rsyslog) = (Sandbox::ready(), Rsyslog::start());
    let (_, secret) = GUIDE.split_once("printf 'whsec_").expect("how a secret is made");
    let (secret, _) = secret.split_once('`').expect("its end");
    bash(&shop, &format!("printf 'whsec_{secret}"), &[], &[]);
    bash(&shop, "echo 'Authorization: Bearer word' >collector.headers; chmod 600 collector.headers", &[], &[]);
    let block = blocks(GUIDE, "toml").into_iter().find(|block| block.contains("[events.sinks.")).expect("receivers");
    let socket = format!("unix:{}", rsyslog.socket().display());
    // Nobody listens at port 9.
    let block = block.replace("tls://logs.example.com:6514", &socket).replace("siem.example.com", "127.0.0.1:9");
    let block = block.replace("collector.example.com", "127.0.0.1:9");
    shop.write("enfold.toml", shop.read("enfold.toml") + "\n" + &block);
    shop.ok(&["apply", "--yes"]);
    let began = std::time::Instant::now();
    while !rsyslog.messages().iter().any(|message| message.id == "job-completed") {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", rsyslog.messages());
        std::thread::yield_now();
    }
    let doctor = shop.ok(&["doctor"]);
    let said = doctor.stdout();
    assert!(said.contains("ok   events to syslog: syslog, "), "{said}");
    assert!(said.contains("mind events to collector: otlp, 0 lines delivered, "), "{said}");
    assert!(!said.contains("word"), "{said}");
}

/// How many entries there are depends on whether a minute is over while a command runs.
const COUNTS: &[(&str, &str)] = &[
    (r"\b\d+ (entries|lines)", "[n] $1"),
    (r"; \d+ not", "; [n] not"),
    (r"entries 1 to \d+", "entries 1 to [n]"),
    (r#""(entries|signed|signed_until_ms)": \d+"#, r#""$1": [n]"#),
];

#[test]
fn what_is_printed_says_what_was_signed_and_what_is_wrong() {
    let shop = Sandbox::protected();
    let show = |args: &[&str], name: &str| shop.run(args).snapshot_hiding(name, COUNTS);
    show(&["log", "sign"], "log_sign_no_key");
    show(&["log", "verify"], "log_verify_unsigned");
    show(&["log", "init"], "log_init");
    show(&["log", "init"], "log_init_again");
    show(&["log", "sign", "--key-file", "enfold-log.key"], "log_sign");
    show(&["log", "sign", "--key-file", "enfold-log.key"], "log_sign_nothing");
    show(&["log", "verify"], "log_verify");
    show(&["log", "export", "--out", "log.jsonl"], "log_export");
    show(&["log", "verify", "log.jsonl", "--json"], "log_verify_json");
    shop.sql("UPDATE enfold_events SET event = replace(event, '\"count\":', '\"count\":1') WHERE seq = 2");
    show(&["log", "verify"], "log_verify_changed");
    let export = shop.read("log.jsonl");
    let without_third: Vec<&str> = export.lines().enumerate().filter(|(n, _)| *n != 2).map(|(_, line)| line).collect();
    shop.write("log.jsonl", without_third.join("\n"));
    show(&["log", "verify", "log.jsonl"], "log_verify_removed");
    show(&["log", "verify", "log.jsonl", "--json"], "log_verify_removed_json");
}

#[test]
fn who_opened_what_is_asked_of_the_log() {
    let shop = Sandbox::protected();
    let [_, email, _] = shop.users().swap_remove(0);
    let stored = email.expect("an envelope");
    shop.pipe(&["open", "users.email", "--reason", "ticket 4711"], stored.as_bytes());
    shop.run(&["log", "opened", "--column", "users.email", "--limit", "1"]).snapshot("log_opened");
    shop.run(&["log", "opened", "--column", "users.email", "--limit", "1", "--json"])
        .snapshot_hiding("log_opened_json", &[(r#""at_ms": \d+"#, r#""at_ms": [n]"#)]);
    shop.run(&["log", "opened", "--actor", "nobody"]).snapshot("log_opened_none");
    shop.run(&["log", "opened", "--since", "yesterday"]).snapshot("log_opened_when");
    shop.run(&["log", "opened", "--subject", "user 4711"]).snapshot("log_opened_subject");
}

#[test]
fn a_log_that_was_cut_off_at_a_checkpoint_shows_by_one_that_was_kept() {
    let shop = signed();
    let last: i64 =
        shop.database().query_row("SELECT max(id) FROM enfold_events", [], |row| row.get(0)).expect("events");
    shop.ok(&["verify", "--all"]);
    let kept = shop.ok(&["log", "sign", "--key-file", "enfold-log.key", "--json"]);
    let kept: serde_json::Value = serde_json::from_slice(&kept.stdout).expect("JSON");
    shop.write("kept.json", kept["checkpoint"].to_string());
    shop.sql(&format!(
        "DELETE FROM enfold_log_checkpoints WHERE number = 2; DELETE FROM enfold_events WHERE id > {last}"
    ));
    assert!(shop.ok(&["log", "verify"]).stdout().contains("Every chain holds together."));
    shop.run(&["log", "verify", "--anchor", "kept.json"]).snapshot_hiding("log_verify_cut_off", COUNTS);
}

/// Whoever holds an export needs the public key and nothing else.
#[test]
fn an_export_is_verified_where_there_is_no_policy() {
    let (shop, elsewhere) = (signed(), Sandbox::empty());
    shop.ok(&["log", "export", "--out", "log.jsonl"]);
    elsewhere.write("log.jsonl", shop.read("log.jsonl"));
    let policy = shop.read("enfold.toml");
    let key = policy.split("log_keys = [\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a key");
    let said = elsewhere.ok(&["log", "verify", "log.jsonl", "--key", key]);
    let said = said.stdout();
    assert!(said.contains("Every chain holds together.") && said.contains("vouched for"), "{said}");
    assert!(!Path::new(&elsewhere.path("enfold.toml")).exists());
}

#[test]
fn what_was_kept_long_enough_goes_when_somebody_said_so_and_leaves_a_proof() {
    let shop = signed();
    let hide = [
        COUNTS,
        &[
            (r"until \S+", "until [time]"),
            (r"log-1-1-[0-9a-f]{16}", "log-1-1-[hash]"),
            (r"\b[0-9a-f]{64}\b", "[sha256]"),
        ],
    ]
    .concat();
    let show = |args: &[&str], name: &str| shop.run(args).snapshot_hiding(name, &hide);
    show(&["log", "prune", "--key-file", "enfold-log.key", "--yes"], "log_prune_nothing");
    let policy = shop.read("enfold.toml").replace("[events]\n", "[events]\nkeep = \"0s\"\narchive = \"archive\"\n");
    shop.write("enfold.toml", policy);
    show(&["log", "prune", "--dry-run"], "log_prune_dry_run");
    show(&["log", "prune", "--key-file", "enfold-log.key"], "log_prune_unconfirmed");
    show(&["log", "prune", "--yes"], "log_prune_no_key");
    shop.ok(&["log", "export", "--out", "before.jsonl"]);
    show(&["log", "prune", "--key-file", "enfold-log.key", "--reason", "kept for long", "--yes"], "log_prune");
    show(&["log", "verify"], "log_verify_pruned");
    let archive = std::fs::read_dir(shop.path("archive")).expect("a folder").next().expect("a file").expect("a file");
    let archive = archive.path();
    shop.ok(&["log", "verify", archive.to_str().expect("text"), "--partial"]);
    shop.ok(&["log", "export", "--out", "after.jsonl"]);
    let archived = std::fs::read_to_string(archive).expect("lines");
    shop.write("whole.jsonl", archived + &shop.read("after.jsonl"));
    assert!(shop.ok(&["log", "verify", "whole.jsonl"]).stdout().contains("Every chain holds together."));
}
