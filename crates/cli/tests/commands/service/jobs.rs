//! Jobs and re-encryption over HTTP; workers do them.

use serde_json::{Value, json};

use super::{DECRYPT, ENCRYPT, Service, protected_organisations, service_key};
use crate::harness::{Sandbox, policy};

const JOBS: &str = "/api/v1/encryption/jobs";
const REENCRYPT: &str = "/api/v1/encryption/re-encrypt";
const ROTATE: &str = "/api/v1/encryption/keys/rotate";

fn data(service: &Service, method: &str, path: &str, body: &Value) -> Value {
    let answer = service.ask(method, path, &service.key, &body.to_string());
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()["data"].clone()
}

fn code(service: &Service, method: &str, path: &str, body: &Value) -> (u16, String) {
    let answer = service.ask(method, path, &service.key, &body.to_string());
    (answer.status, answer.code())
}

/// Two users' values under former data keys of each tenant.
fn rotated() -> (Sandbox, Service) {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    data(&service, "POST", ROTATE, &json!({ "allTenants": true, "reason": "yearly" }));
    (sandbox, service)
}

#[test]
fn what_is_under_former_data_keys_is_counted_asked_for_and_brought_to_the_present_ones() {
    let (sandbox, service) = rotated();
    let counted = data(
        &service,
        "POST",
        REENCRYPT,
        &json!({ "fromVersion": 1, "toVersion": 2, "models": ["users"], "dryRun": true }),
    );
    assert_eq!((&counted["status"], &counted["jobs"]), (&json!("DRY_RUN"), &json!([])));
    assert_eq!(counted["plan"][0]["rowsUnderFormerKeys"], 2);
    assert_eq!(data(&service, "GET", JOBS, &json!({}))["jobs"], json!([]), "nothing was asked for");

    let asked = data(&service, "POST", REENCRYPT, &json!({ "from_version": 1, "batch_size": 1, "reason": "yearly" }));
    assert_eq!((&asked["status"], &asked["workers"]), (&json!("QUEUED"), &json!(0)));
    let job = asked["jobId"].as_i64().expect("a job");
    let again = data(&service, "POST", REENCRYPT, &json!({ "fromVersion": 1 }));
    assert_eq!(again["jobs"], json!([{ "jobId": job, "table": "users", "status": "QUEUED" }]), "the same one");
    let shown = data(&service, "GET", &format!("{REENCRYPT}?jobId={job}"), &json!({}))["job"].clone();
    assert_eq!(
        (&shown["status"], &shown["state"], &shown["goal"]),
        (&json!("QUEUED"), &json!("pending"), &json!("reencrypt"))
    );
    assert_eq!((&shown["requestedBy"], &shown["reason"]), (&json!("service-key:development"), &json!("yearly")));

    sandbox.ok(&["worker", "--until-idle"]);
    let done = data(&service, "GET", &format!("{JOBS}/{job}"), &json!({}));
    assert_eq!((&done["job"]["status"], &done["job"]["progress"]["rowsChanged"]), (&json!("COMPLETED"), &json!(2)));
    assert_eq!(done["errors"], json!([]));
    let nothing = data(&service, "POST", REENCRYPT, &json!({}));
    assert_eq!((&nothing["status"], &nothing["jobs"]), (&json!("NOTHING_TO_DO"), &json!([])));
    let all = data(&service, "GET", &format!("{JOBS}?all=true"), &json!({}));
    assert!(all["jobs"].as_array().unwrap().iter().any(|listed| listed["jobId"] == job), "{all}");
    let write = json!([{ "column": "users.email", "tenant": "acme", "value": "x" }]);
    let stored = service.items(ENCRYPT, &service.key, &write)[0]["stored"].clone();
    let read = json!([{ "column": "users.email", "tenant": "acme", "stored": stored }]);
    assert_eq!(service.items(DECRYPT, &service.key, &read)[0]["value"], "x");
}

#[test]
fn a_rotation_has_values_brought_under_its_data_keys_where_that_is_asked_for() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let plain = data(&service, "POST", ROTATE, &json!({ "tenants": ["other"], "reason": "yearly" }));
    assert!(plain.get("reEncryptionStatus").is_none(), "{plain}");
    let asked = json!({ "tenants": ["acme"], "reason": "yearly", "reEncrypt": true });
    let rotated = data(&service, "POST", ROTATE, &asked);
    let status = &rotated["reEncryptionStatus"];
    assert_eq!((&status["requested"], &status["status"]), (&json!(true), &json!("QUEUED")), "{rotated}");
    let job = status["jobId"].as_i64().expect("a job");
    assert_eq!(status["jobs"], json!([{ "jobId": job, "table": "users", "status": "QUEUED" }]));
    let shown = data(&service, "GET", &format!("{JOBS}/{job}"), &json!({}))["job"].clone();
    assert_eq!((&shown["goal"], &shown["reason"]), (&json!("reencrypt"), &json!("yearly")));
    sandbox.ok(&["worker", "--until-idle"]);
    let left = data(&service, "POST", REENCRYPT, &json!({ "dryRun": true }));
    assert_eq!(left["plan"][0]["rowsUnderFormerKeys"], 1, "the other tenant's, which nobody asked for: {left}");

    // What has no values to bring anywhere is rotated, and says so.
    sandbox.sql("DELETE FROM users;");
    let rotated = data(&service, "POST", ROTATE, &json!({ "allTenants": true, "reason": "again", "re_encrypt": true }));
    assert_eq!(rotated["keys"].as_array().unwrap().len(), 2);
    assert_eq!(rotated["reEncryptionStatus"], json!({ "requested": false, "status": "NOTHING_TO_DO", "jobs": [] }));
}

#[test]
fn a_rotation_stands_also_where_nothing_of_the_ring_can_be_re_encrypted() {
    let sandbox = Sandbox::empty();
    sandbox.sql("CREATE TABLE users (id INTEGER PRIMARY KEY);");
    sandbox.write("enfold.toml", policy("sqlite:app.db") + "[values.note]\nid = \"note\"\nring = \"main\"\n");
    let service = Service::start(&sandbox, &[]);
    let seal =
        || service.items(ENCRYPT, &service.key, &json!([{ "column": "note", "value": "x" }]))[0]["keyId"].clone();
    let before = seal();
    let rotated = data(&service, "POST", ROTATE, &json!({ "reason": "yearly", "reEncrypt": true }));
    assert_eq!(rotated["rotation"]["newVersion"], 2);
    let status = &rotated["reEncryptionStatus"];
    assert_eq!((&status["requested"], &status["status"]), (&json!(false), &json!("FAILED")));
    assert_eq!(status["error"]["code"], "unknown-column", "no job moves values that live in no column");
    assert_ne!(seal(), before);
}

#[test]
fn a_job_is_paused_slowed_resumed_and_cancelled() {
    let (sandbox, service) = rotated();
    let job = data(&service, "POST", REENCRYPT, &json!({ "tenants": ["acme"], "ring": "main" }))["jobId"]
        .as_i64()
        .expect("a job");
    let order =
        |what: &str| data(&service, "POST", &format!("{JOBS}/{job}/{what}"), &json!({}))["job"]["status"].clone();
    assert_eq!(order("pause"), "PAUSED");
    assert_eq!(order("pause"), "PAUSED", "it is already");
    sandbox.ok(&["worker", "--until-idle"]);
    let paused = data(&service, "GET", &format!("{JOBS}/{job}"), &json!({}));
    assert_eq!((&paused["job"]["status"], &paused["job"]["progress"]["rowsChanged"]), (&json!("PAUSED"), &json!(0)));
    let slowed = data(&service, "POST", &format!("{JOBS}/{job}/rate"), &json!({ "rate": 100 }));
    assert_eq!(slowed["rate"], 100);
    assert!(data(&service, "POST", &format!("{JOBS}/{job}/rate"), &json!({ "rate": 0 })).get("rate").is_none());
    assert_eq!(order("resume"), "QUEUED");
    assert_eq!(order("cancel"), "CANCELLED");
    let conflict = code(&service, "POST", &format!("{JOBS}/{job}/resume"), &json!({}));
    assert_eq!(conflict, (409, "busy".to_owned()));
    assert_eq!(code(&service, "POST", &format!("{JOBS}/{job}/retry"), &json!({})), (400, "usage".to_owned()));
}

#[test]
fn what_cannot_be_meant_is_refused_and_asks_for_nothing() {
    let (sandbox, service) = rotated();
    let refused = |body: Value| code(&service, "POST", REENCRYPT, &body).1;
    assert_eq!(refused(json!({ "toVersion": 1 })), "usage", "another than the one that seals");
    assert_eq!(refused(json!({ "ring": "nothing" })), "usage");
    assert_eq!(refused(json!({ "tenants": ["acme"] })), "usage", "of which ring is not said");
    assert_eq!(refused(json!({ "interval_seconds": 60 })), "usage", "how much in this time is not said");
    assert_eq!(refused(json!({ "intervalSeconds": 60, "batchSize": 10, "rate": 5 })), "usage", "two rates");
    assert_eq!(refused(json!({ "class": "nothing" })), "unknown-column");
    assert_ne!(refused(json!({ "tables": ["nothing"] })), "internal");
    assert_eq!(code(&service, "GET", &format!("{JOBS}/first"), &json!({})).1, "usage");
    assert_eq!(code(&service, "GET", &format!("{REENCRYPT}?jobId="), &json!({})).1, "usage");
    assert_ne!(code(&service, "GET", &format!("{JOBS}/4711"), &json!({})).1, "internal");
    assert_eq!(data(&service, "GET", JOBS, &json!({}))["jobs"], json!([]));
    let slow = data(&service, "POST", REENCRYPT, &json!({ "batch_size": 1000, "interval_seconds": 60 }));
    let job = slow["jobId"].as_i64().expect("a job");
    assert_eq!(data(&service, "GET", &format!("{JOBS}/{job}"), &json!({}))["rate"], 17, "1000 in a minute");
    // Whoever looks after jobs asks for none.
    let (_, jobs) = service_key(&sandbox, "jobs", &["--role", "jobs"]);
    super::access::until("the key lets in", || service.ask("GET", JOBS, &jobs, "").status == 200);
    assert_eq!(service.ask("POST", REENCRYPT, &jobs, "{}").status, 403);
}
