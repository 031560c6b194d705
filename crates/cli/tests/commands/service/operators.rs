//! What operators ask for, and what blind indexes are.

use serde_json::{Value, json};

use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};
use crate::harness::Sandbox;

const KEYS: &str = "/api/v1/encryption/keys";
const ROTATE: &str = "/api/v1/encryption/keys/rotate";
const REFRESH: &str = "/api/v1/encryption/keys/refresh";
const STATUS: &str = "/api/v1/encryption/status";
const SELF_TEST: &str = "/api/v1/encryption/self-test";
const INDEX: &str = "/api/v1/encryption/index";

fn get(service: &Service, path: &str) -> Value {
    let answer = service.ask("GET", path, &service.key, "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"].clone()
}

fn post(service: &Service, path: &str, body: &Value) -> Value {
    let answer = service.ask("POST", path, &service.key, &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"].clone()
}

#[test]
fn a_data_key_is_rotated_and_its_former_version_opens() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let write = json!([{ "column": "users.email", "tenant": "acme", "value": "ann@example.com" }]);
    let before = service.items(ENCRYPT, &service.key, &write)[0].clone();
    let refused = service.ask("POST", ROTATE, &service.key, "{\"reason\": \"yearly\"}");
    assert_eq!((refused.status, refused.code().as_str()), (400, "usage"), "whose is not said");
    let rotated = post(&service, ROTATE, &json!({ "ring": "main", "tenants": ["acme"], "reason": "yearly" }));
    assert_eq!((&rotated["success"], &rotated["ring"]), (&json!(true), &json!("main")));
    assert_eq!(rotated["rotation"]["previousVersion"], 1);
    assert_eq!(rotated["rotation"]["newVersion"], 2);
    assert_eq!(rotated["rotation"]["rotatedBy"]["id"], "service-key:development");
    assert!(rotated["rotation"]["rotatedAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(rotated["keys"][0]["previousKeyId"], before["keyId"]);

    let after = service.items(ENCRYPT, &service.key, &write)[0].clone();
    assert_eq!(after["keyId"], rotated["keys"][0]["keyId"]);
    let opened = json!([{ "column": "users.email", "tenant": "acme", "stored": before["stored"] }]);
    assert_eq!(service.items(DECRYPT, &service.key, &opened)[0]["value"], "ann@example.com");
    let nobody = service.ask("POST", ROTATE, &service.key, "{\"tenants\": [\"nobody\"], \"reason\": \"yearly\"}");
    assert_eq!(nobody.code(), "key-not-found");
    let all = post(&service, ROTATE, &json!({ "allTenants": true, "reason": "again" }));
    assert_eq!(all["keys"].as_array().unwrap().len(), 2, "acme's and other's");
}

#[test]
fn keys_are_listed_in_pages_and_none_of_them_in_the_clear() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let all = get(&service, KEYS);
    let keys = all["keys"].as_array().unwrap();
    assert!(keys.len() >= 3, "two tenants' and the one that authenticates rows: {all}");
    assert!(keys.iter().all(|key| key["status"] == "active" && key["wrappedBy"] == json!(["local:root.key"])), "{all}");
    let mut listed: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(&service, &format!("{KEYS}?ring=main&limit=2{after}"));
        listed.extend(page["keys"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(&listed, keys);
    for wrong in ["?ring=nothing", "?after=nothing", "?limit=many", "?unknown=1"] {
        let answer = service.ask("GET", &format!("{KEYS}{wrong}"), &service.key, "");
        assert_eq!((answer.status, answer.code().as_str()), (400, "usage"), "{wrong}");
    }
}

#[test]
fn the_status_has_the_five_checks_of_each_root_key_and_the_next_rotation() {
    let sandbox = protected_organisations();
    sandbox.write(
        "enfold.toml",
        sandbox.read("enfold.toml") + "\n[rings.main.rotation]\nenabled = true\ncadence = \"90d\"\n",
    );
    let service = Service::start(&sandbox, &[]);
    let status = get(&service, STATUS);
    assert_eq!(status["kms"], json!({ "configured": true, "environment": "development" }));
    let health = &status["keyHealth"];
    assert_eq!((&health["keyId"], &health["ring"]), (&json!("local:root.key"), &json!("main")));
    assert_eq!((&health["enabled"], &health["keyState"]), (&json!(true), &json!("Enabled")));
    let checks = &health["healthChecks"];
    assert_eq!((&checks["keyExists"], &checks["keyEnabled"]), (&json!(true), &json!(true)));
    assert_eq!(checks["canEncryptDecrypt"], true);
    assert_eq!(status["rootKeys"].as_array().unwrap().len(), 1);
    let rotation = &status["rotation"][0];
    assert_eq!((&rotation["enabled"], &rotation["periodDays"]), (&json!(true), &json!(90)));
    assert!(rotation["nextRotation"].is_string() && rotation["due"] == 0, "{rotation}");
    assert_eq!(get(&service, ROTATE)["rings"], status["rotation"]);

    let tested = post(&service, SELF_TEST, &json!({}));
    assert_eq!(tested["items"][0]["reference"], "main");
    assert_eq!(tested["items"][0]["passed"], true);
    assert_eq!(post(&service, REFRESH, &json!({})), json!({ "success": true, "everywhere": true }));
}

#[test]
fn a_service_without_the_operators_key_says_so_and_rotates_nothing() {
    let sandbox = protected_organisations();
    let (_, admin) = service_key(&sandbox, "ops", &["--role", "admin"]);
    // Staging, where nobody makes an operators' key without asking, and the public one is pinned.
    let key = operator_public_key(&sandbox);
    let policy = sandbox.read("enfold.toml").replace("environment = \"development\"", "environment = \"staging\"");
    sandbox
        .write("enfold.toml", policy.replace("operator_key_file = \"op.key\"", &format!("operator_key = \"{key}\"")));
    std::fs::rename(sandbox.path("op.key"), sandbox.path("elsewhere.key")).expect("it is there");
    let service = Service::start(&sandbox, &[]);
    let answer = service.ask("POST", ROTATE, &admin, "{\"allTenants\": true, \"reason\": \"yearly\"}");
    assert_eq!(answer.code(), "operator-key-missing", "{}", answer.body);
    let refreshed = service.ask("POST", REFRESH, &admin, "{}");
    assert_eq!(refreshed.json()["data"], json!({ "success": true, "everywhere": false }));
    let keys = service.ask("GET", KEYS, &admin, "").json();
    assert!(keys["data"]["keys"].as_array().unwrap().iter().all(|key| key["version"] == 1), "{keys}");
}

/// As `init` writes it into a policy.
fn operator_public_key(sandbox: &Sandbox) -> String {
    let key = enfold::state::OperatorKey::load(&sandbox.path("op.key")).expect("the operators' key");
    enfold::policy::format_operator_key(&key.public_key())
}

#[test]
fn a_blind_index_finds_what_it_was_stored_beside_and_no_other_tenants() {
    let sandbox = organisations();
    sandbox.write(
        "enfold.toml",
        sandbox.read("enfold.toml")
            + "[tables.users.columns.email.indexes.eq]\nnormalise = [\"trim\", \"lower\"]\n\
               [tables.users.columns.email.indexes.login]\ncolumn = \"email_login\"\ncross_tenant = true\n",
    );
    let (_, acme) = service_key(&sandbox, "acme", &["--role", "app", "--tenant", "acme"]);
    let service = Service::start(&sandbox, &[]);
    let item = |index: &str, tenant: &str, value: &str| json!({ "of": "users.email", "index": index, "tenant": tenant, "values": [value], "reference": value });
    let wanted = json!([
        item("eq", "acme", " Ann@Example.com"),
        item("eq", "acme", "ann@example.com"),
        item("eq", "other", "ann@example.com"),
        item("login", "acme", "ann@example.com"),
        item("login", "other", "ann@example.com"),
        item("nothing", "acme", "ann@example.com"),
        { "of": "users.email", "index": "eq", "tenant": "acme", "values": [{ "base64": "AA==" }] },
        { "of": "users.email", "index": "eq", "tenant": "acme", "values": ["a", "b"] },
    ]);
    let made = service.items(INDEX, &service.key, &wanted);
    assert_eq!(made[0]["stored"], made[1]["stored"], "normalised");
    assert_eq!(made[0]["lookup"], json!([made[0]["stored"]]), "one generation lives");
    assert_ne!(made[1]["stored"], made[2]["stored"], "each tenant has a key of its own");
    assert_eq!(made[3]["stored"], made[4]["stored"], "and all share this one");
    let codes: Vec<_> = made[5..].iter().map(|item| item["error"]["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["unknown-column", "value-invalid", "value-invalid"]);

    let made = service.items(INDEX, &acme, &wanted);
    let codes: Vec<_> = made.iter().map(|item| item["error"]["code"].as_str().unwrap_or("made")).collect();
    let denied = "permission-denied";
    assert_eq!(codes[..5], ["made", "made", denied, denied, denied], "an index across tenants tells of others");
}
