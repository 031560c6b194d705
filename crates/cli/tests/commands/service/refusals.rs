//! What is refused is in the log of events: who, what, and from where.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::http::{request, send};
use super::{DECRYPT, ENCRYPT, Service, organisations, service_key};
use crate::harness::Sandbox;

const AUDIT: &str = "/api/v1/encryption/audit";
const INDEX: &str = "/api/v1/encryption/index";
const KEYS: &str = "/api/v1/encryption/keys";
const SIGN_IN: &str = "/console/sign-in";

/// The events of a kind, each by its code, actor, endpoint, source and count.
fn told(service: &Service, kind: &str) -> Vec<Value> {
    let found = service.ask("GET", &format!("{AUDIT}?kind={kind}"), &service.key, "").json();
    let events = found["data"]["events"].as_array().expect("events").clone();
    let fields = ["code", "actor", "endpoint", "source", "column", "count"];
    let told = |event: Value| fields.iter().map(|field| event["event"][field].clone()).collect::<Value>();
    let mut told: Vec<Value> = events.into_iter().map(told).collect();
    told.sort_by_key(Value::to_string);
    told
}

/// Has the service write what it sums by the minute: it does so when it stops.
fn written(sandbox: &Sandbox, service: Service) -> Service {
    service.signal(Signal::TERM);
    let ran = service.ended(sandbox);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    Service::start(sandbox, &[])
}

/// Asks without credentials, with these headers.
fn ask_from(service: &Service, headers: &[(&str, &str)]) {
    assert_eq!(send(&service.address, &request("GET", KEYS, headers, "")).status, 401);
}

#[test]
fn whoever_is_refused_is_in_the_log_once_a_minute_with_how_often() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\nrequests_per_second = 40\n");
    let (_, app) = service_key(&sandbox, "billing", &["--role", "app", "--tenant", "acme"]);
    let (_, flood) = service_key(&sandbox, "flood", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    for _ in 0..3 {
        ask_from(&service, &[("Authorization", "Bearer nobody"), ("X-Forwarded-For", "203.0.113.9")]);
        assert_eq!(service.ask("GET", KEYS, &app, "").status, 403);
    }
    let of_other = json!([
        { "column": "users.email", "tenant": "other", "stored": "x" },
        { "column": "users.email", "tenant": "other", "stored": "y" },
        { "column": "a caller's word", "tenant": "acme", "stored": "x" },
    ]);
    let opened = service.items(DECRYPT, &app, &of_other);
    assert!(opened.iter().all(|item| item["error"]["code"] != Value::Null), "{opened:?}");
    let of_other = json!([{ "of": "users.email", "index": "eq", "tenant": "other", "values": ["x"] }]);
    assert_eq!(service.items(INDEX, &app, &of_other)[0]["error"]["code"], "permission-denied");
    let asked: Vec<u16> = (0..200).map(|_| service.ask("POST", ENCRYPT, &flood, "{\"items\": []}").status).collect();
    let refused = asked.iter().filter(|status| **status == 429).count();
    assert!(refused > 0, "two hundred at once are too many");

    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(send(&service.address, &request("POST", SIGN_IN, &form, "key=nobody")).status, 401);
    let service = written(&sandbox, service);

    let here = "127.0.0.1";
    let (keys, decrypt, sign_in) = (format!("GET {KEYS}"), format!("POST {DECRYPT}"), format!("POST {SIGN_IN}"));
    let index = format!("POST {INDEX}");
    let (none, billing) = (Value::Null, "service-key:billing");
    let denied = |code: &str, actor: Value, endpoint: &str, column: Value, count: u64| {
        json!([code, actor, endpoint, here, column, count])
    };
    let mut expected = vec![
        denied("unauthenticated", none.clone(), &keys, none.clone(), 3),
        denied("permission-denied", json!(billing), &keys, none.clone(), 3),
        denied("permission-denied", json!(billing), &decrypt, json!("users.email"), 2),
        denied("permission-denied", json!(billing), &index, json!("users.email"), 1),
        denied("unauthenticated", none.clone(), &sign_in, none.clone(), 1),
    ];
    expected.sort_by_key(Value::to_string);
    assert_eq!(summed(told(&service, "denied")), expected);
    let limited = summed(told(&service, "refused"));
    let encrypt = format!("POST {ENCRYPT}");
    assert_eq!(limited, [json!(["rate-limited", "service-key:flood", encrypt, here, none, refused])]);
    assert!(!told(&service, "denied").iter().any(|event| event.to_string().contains("a caller's word")));
}

/// A minute may have ended in between.
fn summed(told: Vec<Value>) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for event in told {
        match all.last_mut().filter(|last| (0..5).all(|field| last[field] == event[field])) {
            Some(last) => last[5] = json!(last[5].as_u64().unwrap() + event[5].as_u64().unwrap()),
            None => all.push(event),
        }
    }
    all
}

#[test]
fn a_proxy_that_is_trusted_says_where_a_request_came_from() {
    let sandbox = organisations();
    let trusted = "\n[service]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + trusted);
    let service = Service::start(&sandbox, &[]);
    ask_from(&service, &[("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.0.0.7"), ("Forwarded", "for=6.6.6.6")]);
    let authorization = format!("Bearer {}", service.key);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("X-Forwarded-For", "2001:db8::9"),
    ];
    let body = json!({ "items": [{ "column": "note", "tenant": "acme", "value": "x" }] }).to_string();
    assert_eq!(send(&service.address, &request("POST", ENCRYPT, &headers, &body)).status, 200);
    let sealed = || -> Value {
        let found = service.ask("GET", &format!("{AUDIT}?kind=seal"), &service.key, "").json();
        found["data"]["events"][0]["event"]["source"].clone()
    };
    super::access::until("the event is written", || sealed() == "2001:db8::9");
    let service = written(&sandbox, service);
    let denied = told(&service, "denied");
    let sources: Vec<&Value> = denied.iter().map(|event| &event[3]).collect();
    assert_eq!(sources, ["203.0.113.9"], "what the client made up stands to the left, or in the other header");
}

#[test]
fn service_keys_that_are_made_and_revoked_are_in_the_log() {
    let sandbox = organisations();
    let (id, secret) = service_key(&sandbox, "billing", &["--role", "app", "--tenant", "acme"]);
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    let service = Service::start(&sandbox, &[]);
    let found = service.ask("GET", &format!("{AUDIT}?kind=service-key-made,service-key-revoked"), &service.key, "");
    let found = found.json()["data"]["events"].clone();
    let said: Vec<(&str, &str)> = found
        .as_array()
        .expect("events")
        .iter()
        .map(|found| (found["event"]["kind"].as_str().unwrap(), found["event"]["detail"].as_str().unwrap()))
        .filter(|(_, detail)| detail.contains("billing"))
        .collect();
    let (made, revoked) = (format!("`billing` (service key {id}), as app"), format!("`billing` (service key {id})"));
    assert_eq!(said, [("service-key-revoked", revoked.as_str()), ("service-key-made", made.as_str())]);
    assert!(!found.to_string().contains(&secret[23..]) && !found.to_string().contains("acme"), "{found}");
}
