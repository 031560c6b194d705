//! Sealing and opening.

use serde_json::{Value, json};

use super::http::{request, send};
use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};

#[test]
fn a_batch_keeps_its_order_and_one_bad_item_hides_no_other() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let items = json!([
        { "column": "users.phone", "tenant": "acme", "value": "+1 555", "reference": "first" },
        { "column": "users.email", "tenant": "acme", "value": "ann@example.com", "reference": "second" },
        { "column": "users.missing", "tenant": "acme", "value": "x", "reference": "third" },
        { "column": "users.email", "value": "x", "reference": "fourth" },
        { "column": "note", "tenant": 7, "value": { "base64": "AP8Q" } },
        { "column": "users.phone", "tenant": "other", "value": "" },
    ]);
    let sealed = service.items(ENCRYPT, &service.key, &items);
    let references: Vec<_> = sealed.iter().map(|item| item["reference"].as_str()).collect();
    assert_eq!(references, [Some("first"), Some("second"), Some("third"), Some("fourth"), None, None]);
    assert_eq!(sealed[2]["error"]["code"], "unknown-column");
    assert_eq!(sealed[3]["error"]["code"], "binding-incomplete");
    assert!(sealed[4]["stored"]["base64"].is_string(), "bytes come back as bytes");

    let open = |at: usize, column: &str, tenant: Value| json!({ "column": column, "tenant": tenant, "stored": sealed[at]["stored"] });
    let items = json!([
        open(5, "users.phone", json!("other")),
        open(1, "users.email", json!("acme")),
        open(1, "users.phone", json!("acme")),
        open(4, "note", json!(7)),
        { "column": "users.phone", "tenant": "acme", "ciphertext": sealed[0]["stored"] },
    ]);
    let opened = service.items(DECRYPT, &service.key, &items);
    assert_eq!(opened[0]["value"], "");
    assert_eq!(opened[1], json!({ "value": "ann@example.com", "source": "envelope", "keyId": sealed[1]["keyId"] }));
    assert_eq!(opened[2]["error"]["code"], "open-failed", "a value of another column");
    assert_eq!(opened[3]["value"], json!({ "base64": "AP8Q" }));
    assert_eq!(opened[4]["value"], "+1 555");
}

#[test]
fn an_application_calls_the_same_before_and_after_its_column_is_converted() {
    let sandbox = organisations();
    let service = Service::start(&sandbox, &[]);
    let write = json!([{ "column": "users.email", "tenant": "acme", "value": "ann@example.com" }]);
    let before = service.items(ENCRYPT, &service.key, &write);
    assert_eq!(before[0], json!({ "stored": "ann@example.com" }), "as before, in mode legacy");
    let read = |stored: &Value| {
        let item = json!([{ "column": "users.email", "tenant": "acme", "stored": stored }]);
        service.items(DECRYPT, &service.key, &item)[0].clone()
    };
    assert_eq!(read(&before[0]["stored"]), json!({ "value": "ann@example.com", "source": "plaintext" }));
    // A text that a user typed, and that begins like an envelope, is theirs all the same.
    let typed = json!([{ "column": "users.email", "tenant": "acme", "value": "enf1:hello" }]);
    assert_eq!(service.items(ENCRYPT, &service.key, &typed)[0], json!({ "stored": "enf1:hello" }));

    sandbox.ok(&["apply", "--yes"]);
    super::access::until("the service writes envelopes", || {
        service.items(ENCRYPT, &service.key, &write)[0]["keyId"].is_string()
    });
    let after = service.items(ENCRYPT, &service.key, &write);
    assert_eq!(read(&after[0]["stored"])["value"], "ann@example.com");
    assert_eq!(read(&json!("still@plain.example"))["source"], "plaintext");
    sandbox.ok(&["enforce", "--all", "--yes"]);
    super::access::until("the service refuses plaintext", || {
        read(&json!("still@plain.example"))["error"]["code"] == "plaintext-refused"
    });
}

#[test]
fn what_was_done_stands_in_the_log_of_events_with_who_asked_why_and_from_where() {
    let sandbox = protected_organisations();
    let (_, key) = service_key(&sandbox, "billing", &["--role", "app"]);
    let service = Service::start(&sandbox, &[]);
    let body = json!({ "reason": "invoice 7", "items": [{ "column": "users.email", "tenant": "acme", "value": "x" }] });
    let authorization = format!("Bearer {key}");
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json; charset=utf-8"),
        ("X-Request-Id", "req-xyz-789"),
        ("X-Forwarded-For", "10.9.9.9"),
    ];
    let answer = send(&service.address, &request("POST", ENCRYPT, &headers, &body.to_string()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers.contains("\r\nx-request-id: req-xyz-789"));
    assert!(answer.headers.contains("\r\ncache-control: no-store"));
    service.signal(rustix::process::Signal::TERM);
    service.ended(&sandbox);
    let database = sandbox.database();
    let mut rows = database.prepare("SELECT event FROM enfold_events").expect("a query");
    let events = rows.query_map([], |row| row.get::<_, String>(0)).expect("events");
    let events: Vec<Value> = events.map(|event| serde_json::from_str(&event.expect("text")).expect("JSON")).collect();
    let sealed = events.iter().find(|event| event["request_id"] == "req-xyz-789").expect("it was written down");
    assert_eq!(sealed["kind"], "seal");
    assert_eq!(sealed["actor"], "service-key:billing");
    assert_eq!(sealed["reason"], "invoice 7");
    assert_eq!(sealed["source"], "127.0.0.1", "and not what a header says");
}

#[test]
fn a_policy_that_wants_a_reason_gets_one_or_does_nothing() {
    let sandbox = protected_organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[context]\nrequire_reason = true\n");
    let service = Service::start(&sandbox, &[]);
    let body = json!({ "items": [{ "column": "users.email", "tenant": "acme", "value": "x" }] });
    let answer = service.ask("POST", ENCRYPT, &service.key, &body.to_string()).json();
    assert_eq!(answer["data"]["items"][0]["error"]["code"], "context-required");
}
