//! Tables that other products encrypted, converted in place: half of a column in one format, half in another, with an old
//! application and a new one at work all the while.

#[path = "../common/mod.rs"]
mod common;
#[cfg(all(feature = "sqlite", feature = "postgres"))]
mod companions;
#[cfg(feature = "postgres")]
mod dropped;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use enfold::policy::{self, Policy, Variables};
use enfold::{CallContext, Code, Column, Enfold, Form, PayloadType, Place};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Selection, Session, Silent, apply, audit, enforce, plan, verify,
};
use serde_json::Value as Json;

#[cfg(feature = "postgres")]
const PASSPHRASE: &str = "correct horse battery staple";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "column"
[tables.TABLE.columns.email]
id = "u.email"
ring = "main"
READS_EMAIL
[tables.TABLE.columns.email.indexes.eq]
column = "email_eq"
[tables.TABLE.columns.note]
id = "u.note"
ring = "main"
READS_NOTE
[jobs]
batch_rows = 50
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

const READERS: &str = r#"
[readers.fernet]
format = "fernet"
key_files = ["fernet.key"]
[readers.cloak]
format = "cloak"
key_files = ["cloak.key"]
[readers.armor]
format = "pgcrypto"
encoding = "armor"
key_files = ["passphrase"]
[readers.message]
format = "pgcrypto"
key_files = ["passphrase"]
"#;

fn case(name: &str) -> Json {
    let path = format!("{}/../../vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Values that the product itself made, with what they hold, and the key.
fn vectors(name: &str) -> (String, Vec<(String, String)>) {
    let case = case(name);
    let text = |value: &Json, key: &str| value[key].as_str().map(str::to_owned);
    let values = case["values"].as_array().unwrap().iter();
    let values = values.take(6).map(|value| (text(value, "stored").unwrap(), text(value, "plaintext").unwrap()));
    (case["keys"][0].as_str().unwrap().to_owned(), values.collect())
}

fn key_file(folder: &Path, name: &str, key: &str) {
    let path = folder.join(name);
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn policy(folder: &Path, url: &str, table: &str, reads: [&str; 2], readers: &str) -> Policy {
    let text = POLICY.replace("DATABASE", url).replace("TABLE", table);
    let text = text.replace("READS_EMAIL", reads[0]).replace("READS_NOTE", reads[1]);
    policy::parse(&format!("{text}{readers}"), &folder.join("enfold.toml"), &Variables::new()).unwrap()
}

async fn session(enfold: &Enfold) -> Session {
    common::session(enfold, &who()).await.unwrap()
}

fn who() -> CallContext {
    CallContext::new("test", "conversion")
}

async fn opened(column: &Column, form: Form, stored: &[u8]) -> enfold::Result<String> {
    let opened = column.open(&who(), &Place::none(), form, stored).await?;
    Ok(String::from_utf8(opened.value.to_vec()).unwrap())
}
