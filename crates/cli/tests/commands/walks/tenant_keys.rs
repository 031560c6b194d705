//! A data key for every organisation, in versions, wrapped by AWS KMS and kept in a table of the application's own. Its values
//! become envelopes under data keys of the catalog; then an organisation's key is rotated on demand, with a reason.

use enfold::Form;
use enfold_testkit::aws::Server;
use serde_json::{Value, json};

use super::traffic::{Before, Field};
use super::{Walk, aws_key, joined, sealed_by_node};
use crate::guides::blocks;

const ORGANISATIONS: i64 = 3;
const ROWS: i64 = 60;

const GUIDE: &str = include_str!("../../../../../docs/guides/from-keys-per-organisation.md");

/// Two versions of each organisation's data key; every row under one of them, as `vN:` and then base64 of IV, ciphertext and tag.
async fn as_the_application_has_them(walk: &Walk, key: &str, fields: &[Field]) {
    let mut keys = Vec::new();
    for organisation in 0..ORGANISATIONS {
        for version in [1, 2] {
            let made = Server::LocalStack.kms("GenerateDataKey", json!({ "KeyId": key, "KeySpec": "AES_256" })).await;
            let wrapped = made["CiphertextBlob"].as_str().expect("a text");
            walk.db
                .execute("INSERT INTO organization_keys VALUES ($1, $2, $3)", &[&organisation, &version, &wrapped])
                .await
                .expect("a key");
            keys.push(made["Plaintext"].clone());
        }
    }
    let version = |id: i64| 1 + id % 2;
    let of = |id: i64| usize::try_from(id % ORGANISATIONS * 2 + version(id) - 1).expect("few");
    for field in fields {
        let value = |id: i64| format!("{} of {id}", field.column);
        let asked = (1..=ROWS).map(|id| json!({ "key": keys[of(id)], "iv": 12, "plaintext": value(id) }));
        let sealed = sealed_by_node(&Value::Array(asked.collect()));
        for (id, parts) in (1..=ROWS).zip(&sealed) {
            let stored = format!("v{}:{}", version(id), joined(parts));
            walk.write_made(field, id, &stored, &value(id)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_keys_of_organisations_move_into_the_catalog_and_are_rotated_on_demand() {
    let tables = blocks(GUIDE, "sql").concat();
    let walk = Walk::new(&format!(
        "{tables} INSERT INTO notes SELECT n, n % {ORGANISATIONS} FROM generate_series(1, {ROWS}) n"
    ))
    .await;
    let key = aws_key().await;
    let root = Server::LocalStack.uri(&key);
    let field = |table, column| Field {
        table,
        column,
        form: Form::Text,
        before: Before::Nothing,
        index: None,
        tenant: Some("organization_id"),
    };
    let fields = [field("notes", "body")];
    as_the_application_has_them(&walk, &key, &fields).await;
    let guide = GUIDE.replace("aws-kms://us-west-2/alias/phi-master-key-prod", &root);
    let [init, look, convert, clean, rotate] = blocks(&guide, "sh").try_into().expect("five steps");
    walk.follow(&init);
    walk.calm();
    let without = walk.shop.read("enfold.toml");
    assert!(without.contains("scope = \"column\""), "{without}");
    let without = without.replace(
        "scope = \"column\"",
        "scope = \"tenant\"\nrotation = { cadence = \"365d\" }\ncache = { max_unseen = \"1s\" }",
    );
    let additions = blocks(&guide, "toml").concat();
    walk.shop.write("enfold.toml", format!("{without}\n{additions}"));
    walk.follow(&look);
    // The checks of the key's health.
    let health = walk.ok(&["doctor"]);
    for says in ["enabled", "rotated every 365d", "wrapped in", "unwrapped in", "drew a data key"] {
        assert!(health.stdout().contains(says), "{says}: {}", health.stdout());
    }

    let applications = walk.traffic(&root, &fields).await;
    let said = walk.follow(&convert);
    assert!(said.contains("No column needs reader `organizations` any more"), "{said}");
    let done = applications.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    let column = additions.split("[tables.").skip(1).map(|table| format!("[tables.{table}")).collect::<String>();
    let column = column.replace("reads = [\"organizations\"]\n", "");
    walk.shop.write("enfold.toml", format!("{without}\n{column}"));
    walk.follow(&clean);

    // One organisation's key, with a reason, and what the answer says.
    let applications = walk.traffic(&root, &fields).await;
    let reason = "annual compliance rotation";
    let (rotate, work) = rotate.split_once('\n').expect("two commands");
    let rotated: Value = serde_json::from_str(&walk.follow(&format!("{rotate} --json"))).expect("JSON");
    let [one] = rotated["keys"].as_array().expect("data keys").as_slice() else { panic!("{rotated}") };
    assert_eq!((one["previous_version"].as_u64(), one["version"].as_u64()), (Some(1), Some(2)));
    assert_eq!((&rotated["rotated_by"], &rotated["reason"]), (&json!("ada"), &json!(reason)));
    assert_eq!(rotated["reencryption"]["status"], "pending");
    walk.follow(work);
    for job in rotated["reencryption"]["jobs"].as_array().expect("jobs") {
        let shown = walk.json(&["jobs", "show", &job.to_string()]);
        assert_eq!(shown["state"], "completed", "{shown}");
    }
    let former = one["previous_key"].as_str().expect("a former data key");
    walk.ok(&["keys", "disable", "main", former, "--reason", reason, "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(ROWS).expect("few"));
    walk.ok(&["audit", "--full"]);
}
