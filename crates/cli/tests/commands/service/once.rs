//! Requests that are repeated under an `Idempotency-Key`.

use std::sync::Barrier;

use serde_json::json;

use super::http::{Answer, request, send};
use super::{ENCRYPT, Service, protected_organisations, service_key};

const ROTATE: &str = "/api/v1/encryption/keys/rotate";
const REENCRYPT: &str = "/api/v1/encryption/re-encrypt";
const JOBS: &str = "/api/v1/encryption/jobs";
const ALL: &str = "{\"allTenants\": true, \"reason\": \"yearly\"}";

fn ask(service: &Service, path: &str, bearer: &str, key: &str, body: &str) -> Answer {
    let authorization = format!("Bearer {bearer}");
    let headers =
        [("Authorization", authorization.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
    send(&service.address, &request("POST", path, &headers, body))
}

fn newest_version(service: &Service) -> u64 {
    let keys = service.ask("GET", "/api/v1/encryption/keys", &service.key, "").json();
    let versions = keys["data"]["keys"].as_array().expect("keys").iter().map(|key| key["version"].as_u64().unwrap());
    versions.max().expect("a key")
}

#[test]
fn a_rotation_that_is_repeated_under_its_key_is_answered_and_not_done_again() {
    let sandbox = protected_organisations();
    let (_, bearer) = service_key(&sandbox, "ops", &["--role", "admin"]);
    let (_, other) = service_key(&sandbox, "other", &["--role", "admin"]);
    let first_process = Service::start(&sandbox, &[]);
    let first = ask(&first_process, ROTATE, &bearer, "2026", ALL);
    assert_eq!(first.status, 200, "{}", first.body);
    assert!(!first.headers.contains("idempotency-replayed"));
    let again = ask(&first_process, ROTATE, &bearer, "\"2026\"", ALL);
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert!(again.headers.contains("\r\nidempotency-replayed: true"), "{}", again.headers);
    assert!(again.headers.contains("\r\ncontent-type: application/json"), "{}", again.headers);

    for another in ["{\"allTenants\": true, \"reason\": \"another\"}", "{\"allTenants\":true,\"reason\":\"yearly\"}"] {
        let refused = ask(&first_process, ROTATE, &bearer, "2026", another);
        assert_eq!((refused.status, refused.code().as_str()), (422, "idempotency-key-reused"));
    }
    let refused = ask(&first_process, REENCRYPT, &bearer, "2026", ALL);
    assert_eq!(refused.code(), "idempotency-key-reused", "another path is another request");
    assert_eq!(newest_version(&first_process), 2);

    // It holds in another process, and not for another caller.
    drop(first_process);
    let second_process = Service::start(&sandbox, &[]);
    let again = ask(&second_process, ROTATE, &bearer, "2026", ALL);
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(ask(&second_process, ROTATE, &other, "2026", ALL).status, 200);
    assert_eq!(newest_version(&second_process), 3);
}

#[test]
fn a_rotation_that_asks_for_re_encryption_asks_once_under_its_key() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let body = "{\"allTenants\": true, \"reason\": \"yearly\", \"reEncrypt\": true}";
    let first = ask(&service, ROTATE, &service.key, "both", body);
    assert_eq!(first.json()["data"]["reEncryptionStatus"]["status"], "QUEUED", "{}", first.body);
    sandbox.ok(&["worker", "--until-idle"]);
    assert_eq!(ask(&service, ROTATE, &service.key, "both", body).body, first.body);
    assert_eq!(newest_version(&service), 2);
    let jobs = service.ask("GET", &format!("{JOBS}?all=true"), &service.key, "").json();
    let jobs = jobs["data"]["jobs"].as_array().expect("jobs").iter().filter(|job| job["goal"] == "reencrypt").count();
    assert_eq!(jobs, 1, "a table, a job");
}

#[test]
fn of_many_who_repeat_a_rotation_at_once_one_rotates() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let (service, together) = (&service, &Barrier::new(8));
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    together.wait();
                    ask(service, ROTATE, &service.key, "at-once", ALL)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().expect("it does not panic")).collect()
    });
    assert!(answers.iter().any(|answer| answer.status == 200));
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, refused.code().as_str()), (409, "request-running"));
        assert!(refused.headers.contains("\r\nretry-after: "), "{}", refused.headers);
    }
    assert_eq!(newest_version(service), 2);
}

#[test]
fn what_failed_is_tried_again_and_what_is_no_key_is_refused() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let wrong = ask(&service, ROTATE, &service.key, "a-key", "{\"reason\": \"whose is not said\"}");
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "usage"));
    let wrong = ask(&service, ROTATE, &service.key, "a-key", "{\"reason\": \"whose is not said\"}");
    assert_eq!(wrong.code(), "usage", "it is no other request for having failed");
    for key in ["", "two words", "one,two", &"k".repeat(256)] {
        let refused = ask(&service, ROTATE, &service.key, key, ALL);
        assert_eq!((refused.status, refused.code().as_str()), (400, "usage"), "{key}");
    }
    assert_eq!(newest_version(&service), 1);
    // Sealing changes nothing, so it is done as often as it is asked for.
    let body = json!({ "items": [{ "column": "note", "tenant": "acme", "value": "x" }] }).to_string();
    let sealed: Vec<Answer> = (0..2).map(|_| ask(&service, ENCRYPT, &service.key, "a-key", &body)).collect();
    assert!(sealed.iter().all(|answer| answer.status == 200) && sealed[0].body != sealed[1].body);
}

#[test]
fn jobs_are_steered_once() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    assert_eq!(ask(&service, ROTATE, &service.key, "rotate", ALL).status, 200);
    let asked = ask(&service, REENCRYPT, &service.key, "re-encrypt", "{}").json();
    let job = asked["data"]["jobId"].as_i64().expect("a job");
    let order = |what: &str, key: &str| ask(&service, &format!("{JOBS}/{job}/{what}"), &service.key, key, "");
    assert_eq!(order("pause", "pause").json()["data"]["job"]["status"], "PAUSED");
    assert_eq!(order("cancel", "cancel").json()["data"]["job"]["status"], "CANCELLED");
    let late = order("pause", "pause");
    assert_eq!(
        (late.status, late.json()["data"]["job"]["status"].as_str()),
        (200, Some("PAUSED")),
        "as it was answered"
    );
    assert_eq!(order("pause", "pause-anew").status, 409, "asked anew it cannot be");
    let again = ask(&service, REENCRYPT, &service.key, "re-encrypt", "{}").json();
    assert_eq!(again, asked, "and asks for no second job");
}

/// What the catalog holds of a request whose process was killed when it had rotated and before it could say so.
#[test]
fn a_rotation_whose_process_died_before_it_told_is_not_done_again() {
    let sandbox = protected_organisations();
    let (_, bearer) = service_key(&sandbox, "ops", &["--role", "admin"]);
    let service = Service::start(&sandbox, &[]);
    sandbox.sql(
        "CREATE TRIGGER dying BEFORE UPDATE OF answer ON enfold_named_requests
         BEGIN SELECT RAISE(ABORT, 'the process is about to die'); END;",
    );
    let first = ask(&service, ROTATE, &bearer, "killed", ALL);
    assert_eq!(first.status, 200, "{}", first.body);
    service.signal(rustix::process::Signal::KILL);
    drop(service);
    sandbox.sql("DROP TRIGGER dying;");

    let service = Service::start(&sandbox, &[]);
    let running = ask(&service, ROTATE, &bearer, "killed", ALL);
    assert_eq!((running.status, running.code().as_str()), (409, "request-running"), "nobody knows yet that it died");
    // A minute later.
    sandbox.sql("UPDATE enfold_named_requests SET held_until_ms = 0;");
    let again = ask(&service, ROTATE, &bearer, "killed", ALL);
    assert_eq!(again.status, 200, "{}", again.body);
    let told = |answer: &Answer| {
        let keys = answer.json()["data"]["keys"].as_array().expect("keys").clone();
        keys.into_iter()
            .map(|key| (key["scope"].clone(), key["newVersion"].clone(), key["keyId"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&again), told(&first));
    assert_eq!(newest_version(&service), 2, "it was rotated once");
    assert_eq!(ask(&service, ROTATE, &bearer, "killed", ALL).body, again.body);
}

#[test]
fn nothing_that_a_request_says_can_be_read_in_what_is_kept_of_it() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let body = "{\"tenants\": [\"acme\"], \"reason\": \"yearly\"}";
    assert_eq!(ask(&service, ROTATE, &service.key, "a-name", body).status, 200);
    let kept = sandbox.database();
    let sql = "SELECT hex(id) || hex(content) || intent || answer FROM enfold_named_requests";
    let kept: String = kept.query_row(sql, [], |row| row.get(0)).expect("a request");
    for said in ["acme", "yearly", "a-name"] {
        assert!(!kept.contains(said) && !kept.contains(&said.to_uppercase()), "{said}: {kept}");
    }
}
