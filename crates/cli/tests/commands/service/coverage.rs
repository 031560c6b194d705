//! What is protected, over HTTP.

use serde_json::{Value, json};

use super::{Service, organisations, service_key};

const COVERAGE: &str = "/api/v1/encryption/coverage";

fn email(service: &Service, query: &str) -> Value {
    let answer = service.ask("GET", &format!("{COVERAGE}{query}"), &service.key, "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let tables = answer.json()["data"]["tables"].clone();
    assert_eq!(tables[0]["table"], "users");
    let columns = tables[0]["columns"].as_array().unwrap().clone();
    columns.into_iter().find(|column| column["column"] == "users.email").expect("the column")
}

#[test]
fn coverage_tells_what_was_counted_last_and_a_sample_by_key_version_where_it_is_asked_for() {
    let sandbox = organisations();
    let (_, narrowed) = service_key(&sandbox, "acme", &["--role", "app", "--tenant", "acme"]);
    let service = Service::start(&sandbox, &[]);
    let before = email(&service, "");
    assert_eq!(
        (&before["mode"], &before["wanted"], &before["class"]),
        (&json!("legacy"), &json!("kms"), &json!("email"))
    );
    assert!(before.get("counted").is_none() && before.get("sample").is_none(), "{before}");
    assert_eq!(service.ask("GET", COVERAGE, &narrowed, "").status, 403, "counts are of all tenants");

    sandbox.ok(&["apply", "--yes"]);
    sandbox.ok(&["audit", "--full"]);
    let counted = email(&service, "");
    assert_eq!((&counted["enforced"], &counted["counted"]["rows"]), (&json!(false), &json!(2)));
    assert_eq!((&counted["counted"]["envelopes"], &counted["counted"]["plaintext"]), (&json!(2), &json!(0)));
    assert!(counted["counted"]["at"].as_str().unwrap().ends_with('Z'));
    assert_eq!((&counted["verified"]["rows"], &counted["verified"]["failed"]), (&json!(2), &json!(0)));

    sandbox.sql("INSERT INTO users (org, email) VALUES ('acme', 'late@example.com');");
    sandbox.ok(&["keys", "rotate", "main", "--tenant", "acme", "--reason", "a test", "--yes"]);
    let service = Service::start(&sandbox, &[]);
    let sampled = email(&service, "?count=now");
    assert_eq!((&sampled["sample"]["rows"], &sampled["sample"]["plaintext"]), (&json!(3), &json!(1)));
    assert_eq!(sampled["sample"]["byKeyVersion"], json!([{ "version": 1, "envelopes": 2 }]));
    assert_eq!(sampled["counted"]["rows"], 2, "a sample is no count of the column");
    sandbox.ok(&["enforce", "--all", "--yes"]);
    assert_eq!(email(&service, "")["enforced"], true);
    super::access::until("the new mode is seen", || email(&service, "")["mode"] == "kms");
    for wrong in ["?count=everything", "?unknown=1"] {
        assert_eq!(service.ask("GET", &format!("{COVERAGE}{wrong}"), &service.key, "").code(), "usage");
    }
}

#[test]
fn coverage_over_time_has_every_count_of_every_row_with_the_versions_of_data_keys() {
    let sandbox = organisations();
    let (_, narrowed) = service_key(&sandbox, "acme", &["--role", "app", "--tenant", "acme"]);
    let service = Service::start(&sandbox, &[]);
    let counts = |query: &str| {
        let answer = service.ask("GET", &format!("{COVERAGE}/history{query}"), &service.key, "");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["data"].clone()
    };
    assert_eq!(counts("?column=users.email"), json!({ "counts": [] }));
    sandbox.ok(&["apply", "--yes"]);
    sandbox.ok(&["audit", "--full"]);
    sandbox.ok(&["keys", "rotate", "main", "--tenant", "acme", "--reason", "a test", "--yes"]);
    sandbox.ok(&["enforce", "--all", "--yes"]);
    sandbox.sql("UPDATE users SET phone = NULL");
    sandbox.ok(&["audit", "--full"]);
    email(&service, "?count=now");
    assert_eq!(counts("")["counts"].as_array().unwrap().len(), 4, "two columns, twice; a sample is no count");

    let first = counts("?column=users.email&limit=1");
    let now = &first["counts"][0];
    let seen = |count: &Value| {
        ["mode", "enforced", "envelopes", "underCurrent", "byKeyVersion"].map(|name| count[name].clone())
    };
    assert_eq!(seen(now), [json!("kms"), json!(true), json!(2), json!(1), json!([{ "version": 1, "envelopes": 2 }])]);
    let second = counts(&format!("?column=users.email&limit=1&after={}", first["next"]));
    let before = &second["counts"][0];
    assert_eq!(seen(before)[..4], [json!("hybrid"), json!(false), json!(2), json!(2)]);
    assert_eq!(counts(&format!("?column=users.email&after={}", second["next"])), json!({ "counts": [] }));
    assert_eq!(counts("?column=users.phone&limit=1")["counts"][0]["nulls"], 2);
    assert_eq!(counts("?since=2000-01-01&until=2001-01-01"), json!({ "counts": [] }));
    for wrong in ["?since=yesterday", "?unknown=1"] {
        assert_eq!(
            service.ask("GET", &format!("{COVERAGE}/history{wrong}"), &service.key, "").code(),
            "usage",
            "{wrong}"
        );
    }
    let nothing = service.ask("GET", &format!("{COVERAGE}/history?column=users.nothing"), &service.key, "");
    assert_eq!(nothing.code(), "unknown-column");
    assert_eq!(service.ask("GET", &format!("{COVERAGE}/history"), &narrowed, "").status, 403);
}
