//! The log of events over HTTP.

use serde_json::{Value, json};

use super::http::{Answer, request, send};
use super::{DECRYPT, ENCRYPT, Service, protected_organisations, service_key};

const AUDIT: &str = "/api/v1/encryption/audit";
const EXPORT: &str = "/api/v1/encryption/audit/export";

fn events(service: &Service, key: &str, query: &str) -> Value {
    let answer = service.ask("GET", &format!("{AUDIT}{query}"), key, "");
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer.json()["data"].clone()
}

#[test]
fn events_are_found_by_what_they_say_and_come_in_pages() {
    let sandbox = protected_organisations();
    let (_, app) = service_key(&sandbox, "billing", &["--role", "app"]);
    let (_, audit) = service_key(&sandbox, "auditor", &["--role", "audit"]);
    let service = Service::start(&sandbox, &[]);
    let item = |column: &str| json!([{ "column": column, "tenant": "acme", "value": "x" }]);
    for column in ["users.email", "users.phone", "users.email"] {
        let sealed = service.items(ENCRYPT, &app, &item(column))[0]["stored"].clone();
        let stored = json!([{ "column": column, "tenant": "acme", "stored": sealed }]);
        service.items(DECRYPT, &app, &stored);
    }
    // What is summed up by the second is written when it is over.
    let count = |query: &str| -> u64 {
        let found = events(&service, &audit, query);
        found["events"].as_array().unwrap().iter().map(|found| found["event"]["count"].as_u64().unwrap()).sum()
    };
    let ours = "?actor=service-key:billing";
    super::access::until("all are written", || count(&format!("{ours}&kind=seal,open")) == 6);
    assert_eq!(count(&format!("{ours}&kind=open&column=users.email")), 2);
    assert_eq!(count("?actor=nobody"), 0);
    assert_eq!(count(&format!("{ours}&until=2020-01-01")), 0);
    assert_eq!(count(&format!("{ours}&kind=open&since=2020-01-01T00:00:00Z")), 3);

    let places = |order: &str| {
        let mut after = String::new();
        let mut places = Vec::new();
        loop {
            let page = events(&service, &audit, &format!("{ours}&order={order}&limit=1{after}"));
            places.extend(page["events"].as_array().unwrap().iter().map(|found| found["place"].as_i64().unwrap()));
            match page["next"].as_i64() {
                Some(next) => after = format!("&after={next}"),
                None => break places,
            }
        }
    };
    let (oldest, mut newest) = (places("oldest"), places("newest"));
    assert!(oldest.len() > 1 && oldest.is_sorted(), "{oldest:?}");
    newest.reverse();
    assert_eq!(oldest, newest);

    for wrong in [
        "?since=yesterday",
        "?kind=opne",
        "?kind=open,",
        "?order=backwards",
        "?limit=many",
        "?unknown=1",
        "?after=first",
    ] {
        let answer = service.ask("GET", &format!("{AUDIT}{wrong}"), &audit, "");
        assert_eq!((answer.status, answer.code().as_str()), (400, "usage"), "{wrong}");
    }
    for path in [AUDIT, EXPORT] {
        assert_eq!(service.ask("GET", path, &app, "").status, 403, "an application reads no log");
    }
}

#[test]
fn whom_a_value_is_about_is_found_by_their_name_and_named_nowhere() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let item = |subject: &str| json!({ "column": "users.email", "tenant": "acme", "value": "x", "subject": subject });
    let sealed = service.items(ENCRYPT, &service.key, &json!([item("user-7"), item("user-8"), item("user-7")]));
    let open = |at: usize, subject: &str| json!({ "column": "users.email", "tenant": "acme", "stored": sealed[at]["stored"], "subject": subject });
    let opened =
        service.items(DECRYPT, &service.key, &json!([open(0, "user-7"), open(1, "user-8"), open(2, "user-7")]));
    assert!(opened.iter().all(|item| item["value"] == "x"), "{opened:?}");
    let count = |query: &str| -> u64 {
        let found = events(&service, &service.key, query);
        found["events"].as_array().unwrap().iter().map(|found| found["event"]["count"].as_u64().unwrap()).sum()
    };
    super::access::until("the opens are written", || count("?kind=open&subject=user-7") == 2);
    assert_eq!((count("?kind=open&subject=user-8"), count("?subject=user-9")), (1, 0));
    assert_eq!(count("?kind=seal&subject=user-7"), 2);
    let said = sandbox.ok(&["--json", "log", "opened", "--subject", "user-7"]);
    assert!(said.stdout().contains("service-key:development"), "{}", said.stdout());
    assert!(!events(&service, &service.key, "").to_string().contains("user-7"), "the log has a keyed hash");
}

#[test]
fn opens_of_administrators_are_written_each_whatever_the_policy_says_of_others() {
    let sandbox = protected_organisations();
    sandbox
        .write("enfold.toml", sandbox.read("enfold.toml").replace("catalog = true", "catalog = true\nopens = \"off\""));
    let (_, app) = service_key(&sandbox, "billing", &["--role", "app"]);
    let (_, admin) = service_key(&sandbox, "ops", &["--role", "admin", "--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let write = json!([{ "column": "users.email", "tenant": "acme", "value": "x" }]);
    let stored = service.items(ENCRYPT, &app, &write)[0]["stored"].clone();
    let read = json!([{ "column": "users.email", "tenant": "acme", "stored": stored }]);
    for key in [&app, &admin] {
        assert_eq!(service.items(DECRYPT, key, &read)[0]["value"], "x");
    }
    let actors = || -> Vec<Value> {
        let found = events(&service, &admin, "?kind=open");
        let actors = found["events"].as_array().unwrap().iter().map(|found| found["event"]["actor"].clone());
        actors.filter(|actor| actor.as_str().unwrap().starts_with("service-key:")).collect()
    };
    super::access::until("the administrator's is written", || !actors().is_empty());
    assert_eq!(actors(), ["service-key:ops"]);
}

#[test]
fn an_export_is_verified_offline_and_shows_what_was_changed() {
    let sandbox = protected_organisations();
    sandbox.ok(&["log", "init"]);
    let (_, audit) = service_key(&sandbox, "auditor", &["--role", "security"]);
    let service = Service::start(&sandbox, &[]);
    service.items(ENCRYPT, &service.key, &json!([{ "column": "users.email", "tenant": "acme", "value": "x" }]));
    sandbox.ok(&["log", "sign", "--key-file", "enfold-log.key"]);
    let authorization = format!("Bearer {audit}");
    let headers = [("Authorization", authorization.as_str())];
    // Of HTTP/1.0 the body is as it is, and ends with the connection.
    let asked = request("GET", EXPORT, &headers, "").replace("HTTP/1.1", "HTTP/1.0");
    let export: Answer = send(&service.address, &asked);
    assert_eq!(export.status, 200, "{}", export.body);
    assert!(export.headers.contains("\r\ncontent-type: application/x-ndjson"), "{}", export.headers);
    sandbox.write("log.jsonl", &export.body);
    let verified = sandbox.ok(&["log", "verify", "log.jsonl"]);
    assert!(verified.stdout().contains("Every chain holds together."), "{}", verified.stdout());
    assert!(verified.stdout().contains("vouched for by 1 checkpoint"), "{}", verified.stdout());
    // One in the middle of a chain: the first of it could be missing because it was pruned.
    let lines: Vec<&str> = export.body.lines().collect();
    let writer =
        |line: &str| serde_json::from_str::<Value>(line).expect("a line")["writer"].as_str().map(str::to_owned);
    let of_one =
        |three: &[&str]| writer(three[0]).is_some() && three.iter().all(|line| writer(line) == writer(three[0]));
    let at = 1 + lines.windows(3).position(of_one).expect("a chain of three entries");
    sandbox.write("log.jsonl", [&lines[..at], &lines[at + 1..]].concat().join("\n"));
    assert!(sandbox.run(&["log", "verify", "log.jsonl"]).stderr.contains("code: log-tampered"));
}
