//! Procedures by which teams rotate keys or leave a scheme of their own, walked from the tables and the values that they begin
//! with to where they end, by the commands that an operator types. Applications read and write all the while, each with its
//! own handle, and no read may fail.

mod connections;
#[cfg(feature = "vault")]
mod environment_key;
#[cfg(feature = "vault")]
mod mixed;
mod passphrase;
mod record_keys;
mod tenant_keys;
mod traffic;

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold_testkit::aws::Server;
use enfold_testkit::postgres::Database;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::guides::bash;
use crate::harness::{Ran, Sandbox};

/// Every server that stands for AWS KMS takes any.
const CREDENTIALS: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

/// A team's database and the folder of its policy.
pub(super) struct Walk {
    shop: Sandbox,
    database: Database,
    db: Client,
}

impl Walk {
    /// `tables` is what the team has. What each value is stands in `truth`, which the tests alone write and read.
    async fn new(tables: &str) -> Self {
        let database = Database::create().await;
        let db = database.connect().await;
        let truth = "CREATE TABLE truth (field text, id bigint, value text NOT NULL, PRIMARY KEY (field, id))";
        db.batch_execute(&format!("{tables};{truth}")).await.expect("the tables are made");
        Self { shop: Sandbox::empty(), database, db }
    }

    /// Writes the policy: `rest` after what every team's has.
    fn policy(&self, rest: &str) {
        let url = self.database.url();
        self.shop.write(
            "enfold.toml",
            format!(
                "environment = \"production\"\n[database]\nurl = \"{url}\"\n[trust]\noperator_key_file = \"operator.key\"\n\
                 [events]\ncatalog = true\n[jobs]\nbatch_rows = 25\n# Other tests drop their databases, each with a checkpoint.\n\
                 max_requested_checkpoints = 10000\n{rest}"
            ),
        );
    }

    fn secret(&self, name: &str, text: &str) {
        self.shop.secret(name, text);
    }

    /// Runs a block of a guide as it is written, while the applications go on. Where a terminal would be asked, the answer is
    /// yes.
    fn follow(&self, block: &str) -> String {
        const YES: &str = "enfold() { case \"$1 ${2:-}\" in apply*|enforce*|'keys rotate') command enfold \"$@\" --yes ;; \
                           *) command enfold \"$@\" ;; esac; }\n";
        let url = self.database.url();
        let variables = [CREDENTIALS, &[("DATABASE_URL", url.as_str())]].concat();
        tokio::task::block_in_place(|| bash(&self.shop, &format!("{YES}{block}"), &[], &variables))
    }

    /// After a guide had `init` write the policy: what keeps other tests on the server from holding its jobs up.
    fn calm(&self) {
        self.shop.extend_policy("\n[jobs]\nbatch_rows = 25\nmax_requested_checkpoints = 10000\n");
    }

    /// Runs a command that has to succeed, while the applications go on.
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "enfold {}:\n{}\n{}", ran.args, ran.stdout(), ran.stderr);
        ran
    }

    fn run(&self, args: &[&str]) -> Ran {
        tokio::task::block_in_place(|| self.shop.run_with(args, CREDENTIALS))
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_slice(&self.ok(&[args, &["--json"]].concat()).stdout).expect("JSON")
    }

    async fn count(&self, sql: &str) -> i64 {
        self.db.query_one(sql, &[]).await.expect("counted").get(0)
    }

    /// Whether the database takes a value as it is.
    async fn takes(&self, sql: &str) -> bool {
        self.db.batch_execute(sql).await.is_ok()
    }
}

/// A root key of AWS KMS that rotates by itself once a year.
async fn aws_key() -> String {
    let key = Server::LocalStack.create_key().await;
    Server::LocalStack.kms("EnableKeyRotation", json!({ "KeyId": key, "RotationPeriodInDays": 365 })).await;
    key
}

/// IV, ciphertext and tag as one text of base64.
fn joined(parts: &Value) -> String {
    STANDARD.encode(["iv", "ciphertext", "tag"].map(|part| bytes(&parts[part])).concat())
}

/// Of a text of base64.
fn bytes(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().expect("a text")).expect("base64")
}

/// What Node's own crypto makes of these: `[{ "key": BASE64, "iv": BYTES, "plaintext": TEXT }]` becomes
/// `[{ "iv": …, "ciphertext": …, "tag": … }]`, each in base64.
fn sealed_by_node(values: &Value) -> Vec<Value> {
    run_node(include_str!("seal.cjs"), values)
}

/// What these are to the application: `[{ "key": BASE64, "iv": BYTES, "stored": BASE64 }]`.
#[cfg(feature = "vault")]
fn opened_by_node(values: &Value) -> Vec<Value> {
    run_node(include_str!("open.cjs"), values)
}

fn run_node(script: &str, values: &Value) -> Vec<Value> {
    let mut node = Command::new("node")
        .args(["-e", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node: scripts/deps.sh installs it");
    node.stdin.take().expect("a pipe").write_all(values.to_string().as_bytes()).expect("it reads");
    let ran = node.wait_with_output().expect("it ends");
    assert!(ran.status.success());
    serde_json::from_slice(&ran.stdout).expect("JSON")
}
