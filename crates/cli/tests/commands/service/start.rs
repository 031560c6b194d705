//! How it starts and stops.

use std::io::Write as _;
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::json;

use super::http::{Answer, request, send};
use super::{DECRYPT, ENCRYPT, Service, organisations};
use crate::guides::{bash, blocks};
use crate::harness::Sandbox;

#[test]
fn without_a_policy_it_serves_one_for_development_and_opens_later_what_it_sealed() {
    let sandbox = Sandbox::empty();
    let service = Service::start(&sandbox, &[]);
    let sealed = service.items(ENCRYPT, &service.key, &json!([{ "column": "example", "value": "ann@example.com" }]));
    let former = service.key.clone();
    service.signal(Signal::TERM);
    assert_eq!(service.ended(&sandbox).code, 0);

    let service = Service::start(&sandbox, &[]);
    let item = json!([{ "column": "example", "stored": sealed[0]["stored"] }]);
    assert_eq!(service.items(DECRYPT, &service.key, &item)[0]["value"], "ann@example.com");
    assert_eq!(service.ask("POST", DECRYPT, &former, "{}").status, 401, "each start has a key of its own");
}

#[test]
fn it_says_what_it_serves() {
    let sandbox = Sandbox::empty();
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let mut child = sandbox.start(&args);
    // It answers once it listens; the signal is heard from then on.
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    let mut said = String::new();
    while !said.contains("Listening") {
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut said).expect("text"), 0, "it ended: {said}");
    }
    rustix::process::kill_process(pid, Signal::INT).expect("it runs");
    let ran = sandbox.ran(&args, child);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (0, "stopping when the requests at hand are answered (Ctrl-C again to stop at once)\n")
    );
    let folder = sandbox.path("").display().to_string();
    let said = said.replace(folder.trim_end_matches('/'), "[folder]");
    crate::harness::snapshot("serve", &[(r"127\.0\.0\.1:\d+", "127.0.0.1:[port]")], &said);
}

#[test]
fn without_a_policy_it_refuses_to_serve_production() {
    let sandbox = Sandbox::empty();
    sandbox.run_with(&["serve"], &[("ENFOLD_ENVIRONMENT", "production")]).snapshot("serve_production");
    assert!(!sandbox.path("enfold-dev").exists(), "nothing was made");
    let staging = sandbox.run_with(&["serve"], &[("ENFOLD_ENVIRONMENT", "staging")]);
    assert_eq!(staging.code, 1);
    sandbox.run(&["serve", "--config", "another.toml"]).snapshot("serve_no_such_policy");
}

#[test]
fn a_policy_of_production_with_development_keys_is_not_served() {
    let sandbox = organisations();
    sandbox.ok(&["init", "--prepare"]);
    let ran = sandbox.run_with(&["serve", "--listen", "127.0.0.1:0"], &[("ENFOLD_ENVIRONMENT", "production")]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("code: local-key-in-production"), "{}", ran.stderr);
}

#[test]
fn keys_of_development_are_served_on_loopback_only() {
    let sandbox = Sandbox::empty();
    sandbox.run(&["serve", "--listen", "0.0.0.0:0"]).snapshot("serve_not_loopback");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let ran = sandbox.run(&["serve", "--listen", &address]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("cannot listen on"), "{}", ran.stderr);
}

#[test]
fn it_finishes_what_it_took_before_it_stops() {
    let sandbox = Sandbox::empty();
    let service = Service::start(&sandbox, &[]);
    let body = json!({ "items": [{ "column": "example", "value": "late" }] }).to_string();
    let authorization = format!("Bearer {}", service.key);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let whole = request("POST", ENCRYPT, &headers, &body);
    let (first, rest) = whole.split_at(whole.len() - 10);
    let mut stream = TcpStream::connect(&service.address).expect("it listens");
    stream.write_all(first.as_bytes()).expect("it reads");
    // Answered after the first half was taken: both came on connections of their own, in this order.
    assert_eq!(send(&service.address, &request("GET", "/healthz", &[], "")).status, 200);
    service.signal(Signal::TERM);
    while TcpStream::connect(&service.address).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    stream.write_all(rest.as_bytes()).expect("it still reads");
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(service.ended(&sandbox).code, 0);
}

const GUIDE: &str = include_str!("../../../../../docs/guides/service.md");

#[test]
fn the_guide_leads_from_nothing_to_a_value_that_is_sealed_and_opened_and_to_keys_for_programs() {
    let sandbox = Sandbox::empty();
    let [serve, seal, open, billing, list, acme] = blocks(GUIDE, "sh").try_into().expect("six steps");
    assert_eq!(serve, "enfold serve\n");
    let service = Service::start(&sandbox, &[]);
    let here = |block: &str| block.replace("127.0.0.1:8470", &service.address);
    let sealed = bash(&sandbox, &here(&seal), &[], &[]);
    assert!(sealed.contains("\"stored\":\"enf1:"), "{sealed}");
    let opened = bash(&sandbox, &here(&open), &[], &[]);
    assert!(opened.contains("\"value\":\"ann@example.com\""), "{opened}");

    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n" + &blocks(GUIDE, "toml").concat());
    bash(&sandbox, &billing, &[], &[]);
    bash(&sandbox, &acme, &[], &[]);
    let listed = bash(&sandbox, &list, &[], &[]);
    assert!(listed.contains("billing") && listed.contains("tenant acme"), "{listed}");
    let service = Service::start(&sandbox, &[]);
    let item = json!([{ "column": "users.email", "tenant": "other", "value": "x" }]);
    assert!(service.items(ENCRYPT, &sandbox.read("billing.key"), &item)[0]["stored"].is_string());
    assert_eq!(service.items(ENCRYPT, &sandbox.read("acme.key"), &item)[0]["error"]["code"], "permission-denied");
}
