//! A data key for every record, made by AWS KMS: what is in plaintext, and what an earlier release had sealed in objects of
//! `{ dataKeyCiphertext, iv, authTag, ciphertext }`, becomes envelopes; after an incident every record gets another data key.

use std::collections::BTreeSet;
use std::sync::Arc;

use enfold::Form;
use enfold_testkit::aws::Server;
use serde_json::{Value, json};

use super::traffic::{Before, Field};
use super::{Walk, aws_key, bytes, sealed_by_node};

const ROWS: i64 = 60;

/// Objects as Node prints those that hold Buffers, each under a data key that AWS made, with what they hold.
async fn payloads(key: &str) -> Vec<(String, String)> {
    let (mut wrapped, mut values) = (Vec::new(), Vec::new());
    for n in 0..8 {
        let made = Server::LocalStack.kms("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })).await;
        wrapped.push(made["CiphertextBlob"].clone());
        values.push(json!({ "key": made["Plaintext"], "iv": 12, "plaintext": format!("result {n}") }));
    }
    let buffer = |base64: &Value| json!({ "type": "Buffer", "data": bytes(base64) });
    let object = |(wrapped, parts): (&Value, Value)| {
        json!({
            "dataKeyCiphertext": buffer(wrapped), "iv": buffer(&parts["iv"]),
            "authTag": buffer(&parts["tag"]), "ciphertext": buffer(&parts["ciphertext"]),
        })
        .to_string()
    };
    let plaintexts = values.iter().map(|value| value["plaintext"].as_str().expect("a text").to_owned());
    wrapped.iter().zip(sealed_by_node(&json!(values))).map(object).zip(plaintexts).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_gets_a_data_key_of_its_own_and_later_another() {
    let walk = Walk::new(&format!(
        "CREATE TABLE strategies (id bigint PRIMARY KEY, input text);
         INSERT INTO strategies SELECT n FROM generate_series(1, {ROWS}) n;
         CREATE TABLE bmi_runs (id bigint PRIMARY KEY, result text);
         INSERT INTO bmi_runs SELECT n FROM generate_series(1, {ROWS}) n"
    ))
    .await;
    // 1. The key, with rotation on; who may use it is the key service's word.
    let key = aws_key().await;
    let root = Server::LocalStack.uri(&key);
    let strategies = Field {
        table: "strategies",
        column: "input",
        form: Form::Text,
        before: Before::Plain,
        index: None,
        tenant: None,
    };
    let payloads = Before::Made(Arc::new(payloads(&key).await));
    let runs =
        Field { table: "bmi_runs", column: "result", form: Form::Text, before: payloads, index: None, tenant: None };
    let fields = [strategies, runs];
    for field in &fields {
        walk.fill(field).await;
    }
    walk.policy(&format!(
        r#"
[rings.records]
id = "records"
roots = ["{root}"]
scope = "record"
record_wrap = "kms"
[readers.payload]
format = "aes-256-gcm"
root = "{root}"
fields = {{ data_key = "dataKeyCiphertext", iv = "iv", tag = "authTag", ciphertext = "ciphertext" }}
[tables."public.strategies".columns.input]
id = "strategies.input"
ring = "records"
[tables."public.bmi_runs".columns.result]
id = "bmi_runs.result"
ring = "records"
reads = ["payload"]
"#
    ));
    walk.ok(&["init", "--prepare"]);
    let health = walk.ok(&["doctor"]);
    assert!(health.stdout().contains("rotated every 365d"), "{}", health.stdout());

    // 2. The new release reads both and writes as before; then every row is converted, in batches.
    let applications = walk.traffic(&root, &fields).await;
    let calls = &walk.json(&["plan"])["tables"][0]["estimate"]["kms"]["values"];
    // To make each record a data key, and to open it again before it is written.
    assert_eq!(calls.as_i64(), Some(2 * ROWS));
    walk.ok(&["apply", "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.as_before > 0 && done.sealed > 0, "{done:?}");

    // The raw rows hold no plaintext, and the database takes none.
    assert_eq!(walk.count("SELECT count(*) FROM strategies WHERE input LIKE 'enf1:%'").await, ROWS);
    assert_eq!(walk.count("SELECT count(*) FROM bmi_runs WHERE result LIKE 'enf1:%'").await, ROWS);
    walk.ok(&["audit", "--full"]);
    walk.ok(&["enforce", "--all", "--yes"]);
    assert!(!walk.takes("UPDATE strategies SET input = 'plain' WHERE id = 1").await);

    // 3. After an incident: another data key for every record, by a worker, under readers and writers.
    let before = data_keys(&walk).await;
    let applications = walk.traffic(&root, &fields).await;
    let rotated = walk.json(&["keys", "rotate", "records", "--reason", "incident", "--yes", "--reencrypt"]);
    assert_eq!(rotated["reencryption"]["status"], "pending", "{rotated}");
    walk.ok(&["worker", "--until-idle"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    let after = data_keys(&walk).await;
    assert_eq!(after.len(), usize::try_from(2 * ROWS).expect("few"), "each has its own");
    assert!(before.is_disjoint(&after), "no record kept its data key");
    walk.ok(&["verify", "--all"]);
    walk.ok(&["audit", "--full"]);
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(2 * ROWS).expect("few"));
}

/// The wrapped data keys that stand in the envelopes.
async fn data_keys(walk: &Walk) -> BTreeSet<Vec<u8>> {
    let rows = walk.db.query("SELECT input FROM strategies UNION ALL SELECT result FROM bmi_runs", &[]).await;
    let wrapped = |row: &tokio_postgres::Row| {
        let bytes = enfold_core::text::decode(row.get(0)).expect("an envelope");
        enfold_core::envelope::Envelope::parse(&bytes).expect("an envelope").wrapped().expect("its data key").to_vec()
    };
    rows.expect("rows").iter().map(wrapped).collect()
}
