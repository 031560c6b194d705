//! Values that are neither a text nor bytes in one column: with parts in columns beside them, and JSON.

use serde_json::{Value, json};

use super::{DECRYPT, ENCRYPT, Service, organisations};
use crate::harness::{Sandbox, policy};

/// Values whose IV stands apart, as Node made them, with how they are read.
const APART: &str = include_str!("../../../../../vectors/foreign/aes_gcm_node_beside.json");

/// A column of such values, one of which is there, in mode `hybrid`.
fn with_companions() -> (Sandbox, Value) {
    let vector: Value = serde_json::from_str(APART).expect("a vector");
    let sandbox = Sandbox::empty();
    let first = &vector["values"][2];
    sandbox.sql(&format!(
        "CREATE TABLE connections (id INTEGER PRIMARY KEY, payload TEXT, payload_iv TEXT);
         INSERT INTO connections (payload, payload_iv) VALUES ('{}', '{}');",
        first["stored"].as_str().expect("a text"),
        first["beside"]["iv"].as_str().expect("a text"),
    ));
    sandbox.secret("old.key", vector["keys"][0].as_str().expect("a key"));
    let tables = "\n[tables.connections.columns.payload]\nid = \"connections.payload\"\nring = \"main\"\nreads = [\"old\"]\n\
                  companions = { iv = \"payload_iv\" }\n\
                  [readers.old]\nformat = \"aes-256-gcm\"\nkey_files = [\"old.key\"]\nkey_encoding = \"hex\"\nencoding = \"base64\"\n\
                  parts = [\"ciphertext\"]\napart = [\"iv\"]\n";
    sandbox.write("enfold.toml", policy("sqlite:app.db") + tables);
    sandbox.ok(&["apply", "--yes"]);
    (sandbox, vector)
}

#[test]
fn what_stands_in_columns_beside_a_value_is_handed_over_with_it() {
    let (sandbox, vector) = with_companions();
    let service = Service::start(&sandbox, &[]);
    let values: Vec<&Value> = vector["values"].as_array().expect("values").iter().collect();
    let item = |value: &Value, companions: Value| json!({ "column": "connections.payload", "stored": value["stored"], "companions": companions });
    let all: Value = values.iter().map(|value| item(value, value["beside"].clone())).collect();
    for (opened, value) in service.items(DECRYPT, &service.key, &all).iter().zip(&values) {
        assert_eq!((&opened["value"], &opened["source"]), (&value["plaintext"], &json!("format")), "{opened}");
        assert_eq!(opened["reader"], "old");
    }
    let sealed = service.items(ENCRYPT, &service.key, &json!([{ "column": "connections.payload", "value": "new" }]));
    let (ann, other) = (values[2], &values[1]["beside"]);
    let mixed = json!([
        item(&sealed[0], json!({ "iv": null })),
        item(ann, other.clone()),
        item(ann, json!({})),
        item(ann, json!({ "tag": "AAAA" })),
    ]);
    let opened = service.items(DECRYPT, &service.key, &mixed);
    assert_eq!((&opened[0]["value"], &opened[0]["source"]), (&json!("new"), &json!("envelope")));
    assert_eq!(opened[1]["error"]["code"], "open-failed", "another value's IV");
    assert_eq!(opened[2]["source"], "plaintext", "nothing beside it makes it a value of theirs");
    assert!(opened[3]["error"]["code"].is_string(), "what no reader looks for beside it: {}", opened[3]);
    let unknown = json!({ "items": [item(ann, json!({ "nonce": "AAAA" }))] }).to_string();
    assert_eq!(service.ask("POST", DECRYPT, &service.key, &unknown).code(), "usage");
}

#[test]
fn json_keeps_every_digit_and_is_stored_as_a_document_holds_it() {
    let sandbox = organisations();
    let service = Service::start(&sandbox, &[]);
    let text = "{\"total\": 12345678901234567890.10, \"tags\": [\"a\"]}";
    let wanted = json!([{ "column": "note", "tenant": "acme", "value": { "json": text } }]);
    let stored = service.items(ENCRYPT, &service.key, &wanted)[0]["stored"].clone();
    let in_document: String = serde_json::from_str(stored["json"].as_str().expect("JSON")).expect("a string of JSON");
    assert!(in_document.starts_with("enf1:"), "{in_document}");
    // As it came back, as an object of the document, with what stands beside it there, and as a text.
    let item = |stored: Value| json!({ "column": "note", "tenant": "acme", "stored": stored });
    let opened = service.items(
        DECRYPT,
        &service.key,
        &json!([
            item(stored),
            item(json!({ "enf": in_document })),
            item(json!({ "enf": in_document, "key_version": 1 })),
            item(json!(in_document)),
        ]),
    );
    for item in &opened {
        assert_eq!((&item["value"], &item["source"]), (&json!({ "json": text }), &json!("envelope")), "{item}");
    }
    for wrong in [
        "{\"json\": \"{\"}",
        "{\"json\": 1}",
        "{\"json\": \"1\", \"base64\": \"\"}",
        "{\"enf\": 1}",
        "{\"enf\": \"\", \"enf\": \"\"}",
    ] {
        let body = format!("{{\"items\": [{{\"column\": \"note\", \"tenant\": \"acme\", \"value\": {wrong}}}]}}");
        let answer = service.ask("POST", ENCRYPT, &service.key, &body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "usage"), "{wrong}: {}", answer.body);
    }
}
