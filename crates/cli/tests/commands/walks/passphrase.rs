//! Columns that pgcrypto encrypted under one passphrase, and tokens of Fernet, become envelopes under data keys of tenants' that
//! AWS KMS wraps; addresses of the network go to a shadow; an address of mail is found by its blind index. Then the data keys
//! are rotated, with both open for a while, and the old one is shut off.

use std::sync::Arc;

use enfold::{CallContext, Form, Place};
use enfold_testkit::aws::Server;
use serde_json::Value;

use super::traffic::{Before, Field};
use super::{Walk, aws_key};

const ROWS: i64 = 120;
const PASSPHRASE: &str = "correct horse battery staple";

/// Tokens that Python's cryptography made, with what they hold, and their key.
fn tokens() -> (String, Vec<(String, String)>) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/foreign/fernet.json");
    let case: Value = serde_json::from_slice(&std::fs::read(path).expect("a vector")).expect("JSON");
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let values = case["values"].as_array().expect("values").iter();
    let values = values.filter(|value| value["form"] == "text");
    let values = values.filter_map(|value| Some((text(value, "stored")?, text(value, "plaintext")?))).collect();
    (case["keys"][0].as_str().expect("a key").to_owned(), values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_passphrase_and_fernet_give_way_to_data_keys_that_rotate() {
    let walk = Walk::new(&format!(
        "CREATE EXTENSION pgcrypto;
         CREATE TABLE users (id bigint PRIMARY KEY, email_encrypted bytea);
         INSERT INTO users SELECT n FROM generate_series(1, {ROWS}) n;
         CREATE TABLE api_keys (id bigint PRIMARY KEY, key_value text);
         INSERT INTO api_keys SELECT n FROM generate_series(1, {ROWS}) n;
         CREATE TABLE login_attempts (id bigint PRIMARY KEY, ip_address inet);
         INSERT INTO login_attempts SELECT n, ('10.0.0.' || n)::inet FROM generate_series(1, {ROWS}) n"
    ))
    .await;
    let (key, made) = tokens();
    walk.secret("fernet.key", &key);
    walk.secret("passphrase", PASSPHRASE);
    let by_pgcrypto = Before::Sql("pgp_sym_encrypt($1::text, 'correct horse battery staple', 'cipher-algo=aes256')");
    let email = Field {
        table: "users",
        column: "email_encrypted",
        form: Form::Bytes,
        before: by_pgcrypto,
        index: Some("email_index"),
        tenant: None,
    };
    let made = Before::Made(Arc::new(made));
    let api_key =
        Field { table: "api_keys", column: "key_value", form: Form::Text, before: made, index: None, tenant: None };
    let fields = [email, api_key];
    for field in &fields {
        walk.fill(field).await;
    }
    let root = Server::LocalStack.uri(&aws_key().await);
    let policy = |reads: [&str; 2], readers: &str| {
        walk.policy(&format!(
            r#"
[rings.application]
id = "application"
roots = ["{root}"]
scope = "column"
labels = {{ data_class = "pii" }}
cache = {{ max_unseen = "1s" }}
{readers}
[tables."public.users".columns.email_encrypted]
id = "users.email"
ring = "application"
{}
[tables."public.users".columns.email_encrypted.indexes.eq]
column = "email_index"
normalise = ["trim", "lower"]
[tables."public.api_keys".columns.key_value]
id = "api_keys.value"
ring = "application"
{}
[tables."public.login_attempts".columns.ip_address]
id = "login_attempts.ip"
ring = "application"
shadow = "ip_address_sealed"
"#,
            reads[0], reads[1]
        ));
    };
    let readers = "[readers.pgcrypto]\nformat = \"pgcrypto\"\nkey_files = [\"passphrase\"]\n\
                   [readers.fernet]\nformat = \"fernet\"\nkey_files = [\"fernet.key\"]\n";
    policy(["reads = [\"pgcrypto\"]", "reads = [\"fernet\"]"], readers);
    walk.ok(&["init", "--prepare"]);

    // In place, while applications read and write.
    let applications = walk.traffic(&root, &fields).await;
    let plan = walk.json(&["plan"]);
    assert!(plan.to_string().contains("\"pgcrypto\":120"), "{plan}");
    walk.ok(&["apply", "--yes"]);
    walk.ok(&["verify", "--all"]);
    walk.ok(&["enforce", "--all", "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.as_before > 0 && done.sealed > 0, "{done:?}");
    assert_eq!(walk.count("SELECT count(*) FROM login_attempts WHERE ip_address IS NULL").await, ROWS);

    // Neither passphrase nor key is needed, nor the extension.
    for secret in ["passphrase", "fernet.key"] {
        std::fs::remove_file(walk.shop.path(secret)).expect("it was there");
    }
    policy(["", ""], "");
    walk.db.batch_execute("DROP EXTENSION pgcrypto").await.expect("nothing uses it");
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(2 * ROWS).expect("few"));
    found_by_its_index(&walk, &root).await;

    // The yearly rotation: old and new open, then the old ones are needed by nothing.
    let applications = walk.traffic(&root, &fields).await;
    let rotated = walk.json(&["keys", "rotate", "application", "--reason", "yearly", "--yes", "--reencrypt"]);
    walk.ok(&["worker", "--until-idle"]);
    for former in rotated["keys"].as_array().expect("data keys") {
        let former = former["previous_key"].as_str().expect("a former data key");
        walk.ok(&["keys", "disable", "application", former, "--reason", "yearly", "--yes"]);
    }
    let done = applications.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(2 * ROWS).expect("few"));
    found_by_its_index(&walk, &root).await;
    walk.ok(&["audit", "--full"]);
}

/// The row whose address this is, and no other.
async fn found_by_its_index(walk: &Walk, root: &str) {
    let sql = "SELECT value FROM truth WHERE field = 'public.users.email_encrypted' AND id = 7";
    let value: String = walk.db.query_one(sql, &[]).await.expect("a row").get(0);
    let enfold = walk.application(root).await;
    let column = enfold.column("public.users.email_encrypted").expect("a column");
    let who = CallContext::new("walk", "lookup");
    let wanted = column.lookup(&who, "eq", &Place::none(), &value.to_uppercase()).await.expect("index values");
    let rows = walk.db.query("SELECT id FROM users WHERE email_index = ANY ($1)", &[&wanted]).await.expect("found");
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [7]);
}
