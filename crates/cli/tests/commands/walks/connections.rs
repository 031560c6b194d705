//! Credentials of connections, each under a data key of its own that AWS KMS wrapped, with the root key named by a foreign key;
//! and older ones under a key that stands in the table of keys. All become envelopes, and the table of keys can go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold::{CallContext, Code, Column, Companion, Form, OpenRequest, PayloadType, Place};
use enfold_testkit::aws::Server;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{Walk, aws_key, bytes, sealed_by_node};
use crate::guides::blocks;

const ROWS: i64 = 60;

const GUIDE: &str = include_str!("../../../../../docs/guides/from-companion-columns.md");

/// The key of old rows: what the platform derived from its master secret.
const DERIVED: &str = "c2l4dGVlbiBieXRlcyBhbmQgc2l4dGVlbiBtb3JlISE=";

/// A row as the platform writes it.
#[derive(Clone)]
struct Sealed {
    payload: String,
    iv: String,
    data_key: Option<String>,
    key: i32,
    value: String,
}

/// A row of the table of keys, the root key that it names, and a value.
type Wanted<'a> = (i32, Option<&'a str>, String);

/// What Node makes of a value under the key in row 1, or under a data key of the root key that row `key` names.
async fn sealed(values: &[Wanted<'_>]) -> Vec<Sealed> {
    let (mut asked, mut wrapped) = (Vec::new(), Vec::new());
    for (_, root, value) in values {
        let (key, data_key) = match root {
            None => (json!(DERIVED), None),
            Some(root) => {
                let body = json!({ "KeyId": root, "KeySpec": "AES_256" });
                let made = Server::LocalStack.kms("GenerateDataKey", body).await;
                (made["Plaintext"].clone(), made["CiphertextBlob"].as_str().map(str::to_owned))
            }
        };
        asked.push(json!({ "key": key, "iv": 12, "plaintext": value }));
        wrapped.push(data_key);
    }
    let sealed = sealed_by_node(&Value::Array(asked));
    let row = |((parts, data_key), (key, _, value)): ((&Value, Option<String>), &Wanted<'_>)| Sealed {
        // The tag stands at the end of the ciphertext.
        payload: STANDARD.encode(["ciphertext", "tag"].map(|part| bytes(&parts[part])).concat()),
        iv: parts["iv"].as_str().expect("a text").to_owned(),
        data_key,
        key: *key,
        value: value.clone(),
    };
    sealed.iter().zip(wrapped).zip(values).map(row).collect()
}

async fn write(db: &Client, id: i64, row: &Sealed) {
    let sql = "WITH changed AS (INSERT INTO connections (id, payload_ciphertext, payload_iv, data_key_ciphertext, encryption_key_id)
               VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET payload_ciphertext = $2, payload_iv = $3,
                      data_key_ciphertext = $4, encryption_key_id = $5 RETURNING 1)
               INSERT INTO truth SELECT 'payload', $1, $6 FROM changed ON CONFLICT (field, id) DO UPDATE SET value = $6";
    db.execute(sql, &[&id, &row.payload, &row.iv, &row.data_key, &row.key, &row.value])
        .await
        .expect("a row is written");
}

/// Through Enfold: with nothing beside the value.
async fn write_envelope(db: &Client, id: i64, envelope: &[u8], value: &str) {
    let sql = "WITH changed AS (UPDATE connections SET payload_ciphertext = $2, payload_iv = NULL, data_key_ciphertext = NULL,
                      encryption_key_id = NULL WHERE id = $1 RETURNING 1)
               INSERT INTO truth SELECT 'payload', $1, $3 FROM changed ON CONFLICT (field, id) DO UPDATE SET value = $3";
    let envelope = String::from_utf8_lossy(envelope);
    db.execute(sql, &[&id, &envelope, &value]).await.expect("a row is written");
}

/// Opens every row as it is; how many.
async fn read_all(db: &Client, column: &Column) -> u64 {
    let sql = "SELECT payload_ciphertext, payload_iv, data_key_ciphertext, encryption_key_id::text, value, id
                 FROM connections JOIN truth USING (id) WHERE field = 'payload'";
    let rows = db.query(sql, &[]).await.expect("rows");
    let companions = [Companion::Iv, Companion::DataKey, Companion::Key];
    let beside = |row: &tokio_postgres::Row| {
        let held =
            companions.iter().enumerate().filter_map(|(at, is)| Some((*is, row.get::<_, Option<String>>(at + 1)?)));
        held.collect::<Vec<_>>()
    };
    let held: Vec<Vec<(Companion, String)>> = rows.iter().map(beside).collect();
    let held: Vec<Vec<(Companion, &[u8])>> =
        held.iter().map(|beside| beside.iter().map(|(is, text)| (*is, text.as_bytes())).collect()).collect();
    let request = |(row, beside)| {
        let (row, beside): (&tokio_postgres::Row, &Vec<_>) = (row, beside);
        OpenRequest { place: Place::none(), form: Form::Text, stored: row.get::<_, &str>(0).as_bytes(), beside }
    };
    let requests: Vec<OpenRequest<'_>> = rows.iter().zip(&held).map(request).collect();
    for (row, opened) in rows.iter().zip(column.open_many(&who(), &requests).await) {
        let opened = opened.unwrap_or_else(|error| panic!("row {}: {error:?}", row.get::<_, i64>(5)));
        assert_eq!(&opened.value[..], row.get::<_, &str>(4).as_bytes());
    }
    rows.len() as u64
}

/// Reads and writes until it is told to stop; how many rows it wrote as before, and how many envelopes.
async fn work(db: Client, column: Column, old: Vec<Sealed>, stop: Arc<AtomicBool>) -> (u64, u64) {
    let (mut as_before, mut envelopes) = (0, 0);
    for (id, row) in (1..=ROWS).cycle().zip(old.iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        assert!(read_all(&db, &column).await > 0);
        let value = format!("credentials of {id}, again");
        match column.seal(&who(), &Place::none(), Form::Text, PayloadType::Text, value.as_bytes()).await {
            Ok(envelope) => {
                write_envelope(&db, id, &envelope, &value).await;
                envelopes += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Code::PlaintextRefused, "{error}");
                write(&db, id, row).await;
                as_before += 1;
            }
        }
    }
    (as_before, envelopes)
}

fn who() -> CallContext {
    CallContext::new("walk", "work")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_leave_the_table_of_keys_for_envelopes() {
    let walk = Walk::new(&blocks(GUIDE, "sql").concat()).await;
    // Row 1 is the derived key, 2 and 3 are root keys, of which the third is nobody's yet.
    let (second, third) = (aws_key().await, aws_key().await);
    walk.db
        .execute(
            "INSERT INTO encryption_keys (id, key_id, status, derived_key) VALUES (1, 'master', 'rotating', $1)",
            &[&DERIVED],
        )
        .await
        .expect("a key");
    for (id, key) in [(2, &second), (3, &third)] {
        let described = Server::LocalStack.kms("DescribeKey", json!({ "KeyId": key })).await;
        let arn = described["KeyMetadata"]["Arn"].as_str().expect("an ARN").to_owned();
        let insert = "INSERT INTO encryption_keys (id, key_id, kms_key_arn, status) VALUES ($1, $2, $3, 'active')";
        walk.db.execute(insert, &[&id, &format!("2025-0{id}-kms"), &arn]).await.expect("a key");
    }
    let value = |n: i64| if n % 3 == 0 { (1, None) } else { (2, Some(second.as_str())) };
    let values: Vec<_> = (1..=ROWS).map(|n| (value(n).0, value(n).1, format!("credentials of {n}"))).collect();
    let old = sealed(&values).await;
    for (id, row) in (1..=ROWS).zip(&old) {
        write(&walk.db, id, row).await;
    }
    let root = aws_key().await;
    let (root, second, third_uri) =
        (Server::LocalStack.uri(&root), Server::LocalStack.uri(&second), Server::LocalStack.uri(&third));
    let guide = GUIDE.replace("aws-kms://us-east-1/alias/enfold", &root);
    let guide = guide.replace("aws-kms://us-east-1/alias/app/master", &second);
    let [init, look, convert, enforce, clean] = blocks(&guide, "sh").try_into().expect("five steps");
    walk.follow(&init);
    walk.calm();
    let without = walk.shop.read("enfold.toml");
    let policy = format!("{without}\n{}", blocks(&guide, "toml").concat());
    walk.shop.write("enfold.toml", &policy);
    walk.follow(&look);
    let found = &walk.json(&["plan"])["tables"][0]["columns"][0]["readers"]["by_reader"]["platform"];
    assert_eq!(found.as_i64(), Some(ROWS));

    let stop = Arc::new(AtomicBool::new(false));
    let mut applications = Vec::new();
    for _ in 0..2 {
        let column = walk.application(&root).await.column("public.connections.payload_ciphertext").expect("a column");
        applications.push(tokio::spawn(work(walk.database.connect().await, column, old.clone(), Arc::clone(&stop))));
    }
    walk.follow(&convert);
    stop.store(true, Ordering::Relaxed);
    for application in applications {
        let (as_before, envelopes) = application.await.expect("no read failed");
        assert!(as_before > 0 && envelopes > 0, "{as_before} as before, {envelopes} envelopes");
    }
    let left = "SELECT count(*) FROM connections WHERE payload_ciphertext NOT LIKE 'enf1:%' OR payload_iv IS NOT NULL
                    OR data_key_ciphertext IS NOT NULL OR encryption_key_id IS NOT NULL";
    assert_eq!(walk.count(left).await, 0);

    // A pod of the old release writes a row under the key that was registered after the policy was written.
    let late = sealed(&[(3, Some(&third), "credentials of long after".to_owned())]).await;
    write(&walk.db, ROWS + 1, &late[0]).await;
    let refused = walk.run(&["apply", "--yes"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout());
    assert!(refused.stderr.contains("not among the reader's `roots`"), "{}", refused.stderr);
    assert_eq!(walk.count(left).await, 1, "it stays as it was");
    let listed = format!("\"{second}\"");
    assert!(policy.contains(&format!("roots = [{listed}]")), "{policy}");
    walk.shop.write("enfold.toml", policy.replace(&listed, &format!("{listed}, \"{third_uri}\"")));
    walk.follow(&convert);
    assert_eq!(walk.count(left).await, 0);

    // Nothing refers to the table of keys any more: neither it nor the reader is needed.
    let said = walk.follow(&enforce);
    assert!(said.contains("No column needs reader `platform` any more"), "{said}");
    let column = "[tables.\"public.connections\".columns.payload_ciphertext]\nid = \"public.connections.payload_ciphertext\"\nring = \"main\"\n";
    assert!(policy.contains(column), "{policy}");
    walk.shop.write("enfold.toml", format!("{without}\n{column}"));
    walk.follow(&clean);
    walk.ok(&["audit", "--full"]);
    let column = walk.application(&root).await.column("public.connections.payload_ciphertext").expect("a column");
    walk.db
        .batch_execute(
            "ALTER TABLE connections ADD COLUMN payload_iv text, ADD COLUMN data_key_ciphertext text,
                                     ADD COLUMN encryption_key_id integer",
        )
        .await
        .expect("for the reading test");
    assert_eq!(read_all(&walk.db, &column).await, u64::try_from(ROWS).expect("few") + 1);
}
