//! From one key in the environment to a root key in Vault's transit engine, in five phases, with one way back taken before the
//! last: readers read through all of it.

use std::sync::Arc;

use enfold::Form;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use serde_json::{Value, json};

use super::traffic::{Before, Field};
use super::{Walk, joined, sealed_by_node};

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

    // 4. The conversion, and the way back: everything is as it was before, and can be taken up again.
    walk.ok(&["apply", "--yes", "--rate", "2000"]);
    assert_eq!(walk.count(sealed).await, ROWS);
    walk.ok(&["rollback", "--all", "--yes"]);
    let done = applications.end().await;
    assert!(done.read > 0 && done.as_before > 0 && done.sealed > 0, "{done:?}");
    assert_eq!(walk.count(sealed).await, 0);
    let applications = walk.traffic(&root, &fields).await;
    walk.ok(&["apply", "--yes"]);
    assert_eq!(walk.count(sealed).await, ROWS);
    walk.ok(&["verify", "--all"]);

    // 5. Enforcement; the key goes, and nobody misses it.
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
