//! A tenant's key and another tenant's value.

use serde_json::{Value, json};

use super::{DECRYPT, ENCRYPT, Service, protected_organisations, service_key};

fn seal(service: &Service, key: &str, tenant: &str) -> Value {
    let item = json!([{ "column": "users.email", "tenant": tenant, "value": "ann@example.com" }]);
    let sealed = service.items(ENCRYPT, key, &item);
    sealed[0]["stored"].clone()
}

#[test]
fn a_tenants_key_opens_no_value_of_another_and_the_refusal_tells_nothing() {
    let sandbox = protected_organisations();
    let (_, acme) = service_key(&sandbox, "acme", &["--role", "app", "--tenant", "acme"]);
    let service = Service::start(&sandbox, &[]);
    let (ours, theirs) = (seal(&service, &acme, "acme"), seal(&service, &service.key, "other"));
    let open = |tenant: Value, stored: &Value| {
        let body = json!({ "items": [{ "column": "users.email", "tenant": tenant, "stored": stored }] });
        let answer = service.ask("POST", DECRYPT, &acme, &body.to_string());
        assert_eq!(answer.status, 200);
        answer.body
    };
    assert!(open(json!("acme"), &ours).contains("ann@example.com"));

    // Asked for by the other's name: one refusal, whether there is a value, none, or nothing that could be one.
    let (_, first) = ours.as_str().unwrap().split_at(5);
    let nobodys = json!(format!("enf1:{}{}", "-enfARH", &first[7..]));
    let refused = open(json!("other"), &theirs);
    assert!(refused.contains("\"permission-denied\"") && !refused.contains("other"), "{refused}");
    for stored in [&ours, &nobodys, &json!("plain"), &json!("enf1:broken")] {
        assert_eq!(open(json!("other"), stored), refused);
    }
    for tenant in [json!(null), json!(7), json!({ "uuid": "00000000-0000-0000-0000-000000000001" }), json!("ACME")] {
        assert_eq!(open(tenant, &theirs), refused);
    }

    // Passed off as one's own: that there is a data key for it, and which state it is in, is not told.
    let changed = |at: usize| {
        let mut text = theirs.as_str().unwrap().to_owned().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        json!(String::from_utf8(text).unwrap())
    };
    let (unknown_key, changed_end) = (changed(20), changed(60));
    let failed = open(json!("acme"), &theirs);
    assert!(failed.contains("\"open-failed\""), "{failed}");
    assert_eq!(open(json!("acme"), &unknown_key), failed, "a data key that never was");
    assert_eq!(open(json!("acme"), &changed_end), failed);
    let whole = service.items(
        DECRYPT,
        &service.key,
        &json!([{ "column": "users.email", "tenant": "acme", "stored": unknown_key }]),
    );
    assert_eq!(whole[0]["error"]["code"], "key-not-found", "who is held to no tenant is told");

    // And after the operators disabled the other's data key.
    let header = service.items(
        DECRYPT,
        &service.key,
        &json!([{ "column": "users.email", "tenant": "other", "stored": theirs }]),
    );
    let key_id = header[0]["keyId"].as_str().unwrap().to_owned();
    sandbox.ok(&["keys", "disable", "main", &key_id, "--kill-switch", "--reason", "a test", "--yes"]);
    super::access::until("it is disabled", || {
        let item = json!([{ "column": "users.email", "tenant": "other", "stored": theirs }]);
        service.items(DECRYPT, &service.key, &item)[0]["error"]["code"] == "key-disabled"
    });
    assert_eq!(open(json!("acme"), &theirs), failed);
}

#[test]
fn a_tenants_key_seals_for_its_tenant_alone_and_not_where_there_is_none() {
    let sandbox = protected_organisations();
    let (_, acme) = service_key(&sandbox, "acme", &["--role", "app", "--tenant", "acme", "--tenant", "7"]);
    let service = Service::start(&sandbox, &[]);
    let items = json!([
        { "column": "users.email", "tenant": "acme", "value": "a" },
        { "column": "users.email", "tenant": 7, "value": "a" },
        { "column": "users.email", "tenant": "other", "value": "a" },
        { "column": "users.email", "value": "a" },
        { "column": "note", "tenant": "acme", "value": "a" },
        { "column": "note", "value": "a" },
    ]);
    let sealed = service.items(ENCRYPT, &acme, &items);
    let codes: Vec<_> = sealed.iter().map(|item| item["error"]["code"].as_str().unwrap_or("sealed")).collect();
    let denied = "permission-denied";
    assert_eq!(codes, ["sealed", "sealed", denied, denied, "sealed", denied]);
}
