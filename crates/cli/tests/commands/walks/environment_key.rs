//! From one key in the environment to a root key in Vault's transit engine, in five phases, and the way back to that key, from the
//! last phase too: readers read through all of it, and in the end of the way back so does the application of before.

use std::sync::Arc;

use enfold::Form;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use serde_json::{Value, json};

use super::traffic::{Before, Field};
use super::{Walk, joined, opened_by_node, sealed_by_node};

const ROWS: i64 = 120;

/// 32 bytes in base64.
const KEY: &str = "dGhpcnR5LXR3byBieXRlcyBvZiBhbiBlbnYga2V5ISE=";

/// Values as the application makes them under its key, with what they hold.
fn made() -> Vec<(String, String)> {
    let values: Vec<String> = (0..24).map(|n| format!("value number {n}")).collect();
    let asked = values.iter().map(|value| json!({ "key": KEY, "iv": 12, "plaintext": value }));
    let sealed = sealed_by_node(&Value::Array(asked.collect()));
    sealed.iter().map(joined).zip(values).collect()
}

fn policy(walk: &Walk, bao: &OpenBao, root: &str, reads: &str) {
    let server = bao.server();
    walk.policy(&format!(
        r#"
[key_services.vault."{server}"]
auth = "token"
token_file = "vault-token"
[rings.pii]
id = "pii"
roots = ["{root}"]
scope = "column"
cache = {{ max_unseen = "1s" }}
[tables."public.field_values".columns.encrypted_data]
id = "field_values.data"
ring = "pii"
{reads}
[readers.env-key]
format = "aes-256-gcm"
key_files = ["env.key"]
key_encoding = "base64"
"#
    ));
}

/// The version of before reads every row by its key, and knows of nothing else.
async fn node_reads_everything(walk: &Walk) {
    let sql = "SELECT t.encrypted_data, v.value FROM field_values t JOIN truth v ON v.id = t.id";
    let rows = walk.db.query(sql, &[]).await.expect("rows");
    let stored = rows.iter().map(|row| json!({ "key": KEY, "iv": 12, "stored": row.get::<_, String>(0) }));
    let opened = opened_by_node(&Value::Array(stored.collect()));
    let values: Vec<Value> = rows.iter().map(|row| Value::String(row.get(1))).collect();
    assert!(opened == values && values.len() == usize::try_from(ROWS).expect("few"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_in_the_environment_gives_way_to_a_key_service_with_a_way_back() {
    let walk = Walk::new(&format!(
        "CREATE TABLE field_values (id bigint PRIMARY KEY, canonical_key text, encrypted_data text);
         INSERT INTO field_values SELECT n, 'email:' || n FROM generate_series(1, {ROWS}) n"
    ))
    .await;
    let values = Arc::new(made());
    let field = Field {
        table: "field_values",
        column: "encrypted_data",
        form: Form::Text,
        before: Before::Made(Arc::clone(&values)),
        index: None,
        tenant: None,
    };
    let fields = [field];
    walk.fill(&fields[0]).await;

    // 1. The key service.
    let bao = OpenBao::shared();
    let mount = bao.mount("transit", "mounts").await;
    bao.write(&format!("{mount}/keys/pii"), json!({ "derived": true })).await;
    let root = format!("vault+http://{}/{mount}/pii", bao.server());
    walk.secret("vault-token", ROOT_TOKEN);
    walk.secret("env.key", KEY);
    let reads = "reads = [\"env-key\"]";
    policy(&walk, &bao, &root, reads);
    walk.ok(&["init", "--prepare"]);
    walk.ok(&["doctor"]);

    // 2. The code reads through Enfold, and writes as before.
    let applications = walk.traffic(&root, &fields).await;
    let plan = walk.json(&["plan"]);
    assert_eq!(plan["tables"][0]["columns"][0]["readers"]["by_reader"]["env-key"].as_i64(), Some(ROWS));

    // 3. Both at once, on a few rows first, in one process; rows that a version of before writes are read as well.
    walk.ok(&["apply", "--canary", "20", "--yes"]);
    let sealed = "SELECT count(*) FROM field_values WHERE encrypted_data LIKE 'enf1:%'";
    let some = walk.count(sealed).await;
    assert!(some > 0 && some < ROWS, "{some}");
    let (stored, value) = &values[3];
    walk.write_made(&fields[0], 5, stored, value).await;

    // 4. The conversion.
    walk.ok(&["apply", "--yes", "--rate", "2000"]);
    assert_eq!(walk.count(sealed).await, ROWS);
    walk.ok(&["verify", "--all"]);
    walk.ok(&["enforce", "--all", "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.as_before > 0 && done.sealed > 0, "{done:?}");

    // The way back. Applications have the key and the line in the policy before anything is signed; then both forms are read,
    // then new values are under the key of before, then all are, and the version of before is deployed again.
    policy(&walk, &bao, &root, &format!("{reads}\nwrites = \"env-key\""));
    let applications = walk.traffic(&root, &fields).await;
    walk.ok(&["rollback", "--all", "--only-mode", "hybrid", "--yes"]);
    let (stored, value) = &values[4];
    walk.write_made(&fields[0], 6, stored, value).await;
    assert!(walk.count(sealed).await > 0);
    // From here on whatever the applications write is under the key of before: of so few rows they may leave none to the job.
    walk.ok(&["rollback", "--all", "--only-mode", "legacy", "--yes"]);
    let report = walk.json(&["rollback", "--all", "--yes"]);
    let by_reader = &report["tables"][0]["readers"]["encrypted_data"]["by_reader"];
    assert_eq!(by_reader["env-key"].as_i64(), Some(ROWS), "{report}");
    let done = applications.end().await;
    assert!(done.read > 0 && done.as_before > 0, "{done:?}");
    assert_eq!(walk.count(sealed).await, 0);
    node_reads_everything(&walk).await;

    // 5. What was wrong is mended, and all of it is taken up again. Enforcement; the key goes, and nobody misses it.
    let applications = walk.traffic(&root, &fields).await;
    walk.ok(&["apply", "--yes"]);
    assert_eq!(walk.count(sealed).await, ROWS);
    walk.ok(&["verify", "--all"]);
    walk.ok(&["enforce", "--all", "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    std::fs::remove_file(walk.shop.path("env.key")).expect("it was there");
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(ROWS).expect("few"));
    policy(&walk, &bao, &root, "");
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(ROWS).expect("few"));
    walk.ok(&["audit", "--full"]);

    // Routine from here on: the key service rotates, data keys are wrapped anew, and no row is read.
    walk.ok(&["keys", "rotate-root", &root, "--yes"]);
    walk.ok(&["keys", "rewrap", "pii", "--yes"]);
    assert_eq!(walk.everything_opens(&root, &fields).await, u64::try_from(ROWS).expect("few"));
}
