//! One column that has seen many hands: values of nine other products, envelopes and plaintext, all read by one process, and
//! made envelopes by one job. Then each reader is dropped, and nothing of them is needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold::policy::{self, Variables};
use enfold::{CallContext, Enfold, Form, Place};
use enfold_testkit::aws::Server;
use enfold_testkit::openbao::{OpenBao, ROOT_TOKEN};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::traffic::{Before, Field};
use super::{Walk, aws_key};
use crate::harness::Sandbox;

/// Of `vectors/foreign`: each was made by the product's own code.
const FORMATS: [&str; 8] = [
    "fernet",
    "cloak",
    "laravel_aes_256_cbc",
    "rails_sha256",
    "pgcrypto_armor",
    "aes_gcm_hex_parts_with_colons",
    "aes_gcm_base64url_prefix_and_context",
    "aes_gcm_json_scrypt",
];

/// How often each format comes by.
const EACH: usize = 4;
/// All formats, what OpenBao encrypts, and plaintext.
const KINDS: usize = FORMATS.len() + 2;
const ROWS: usize = KINDS * EACH * 4;

/// What is stored, with what it holds, one kind after the other; the readers that a policy needs for it; and their keys, by the
/// names of their files.
struct Mixture {
    values: Vec<(String, String)>,
    reads: String,
    readers: String,
    keys: Vec<(String, String)>,
}

impl Mixture {
    async fn new() -> Self {
        let bao = OpenBao::shared();
        let mount = bao.mount("transit", "mounts").await;
        bao.write(&format!("{mount}/keys/pii"), json!({})).await;
        let (mut kinds, mut readers, mut keys) = (Vec::new(), String::new(), Vec::new());
        for format in FORMATS {
            let case = case(format);
            kinds.push(made(&case));
            let own = case["keys"].as_array().expect("keys").iter().enumerate();
            let own: Vec<_> = own.map(|(n, key)| (format!("{format}-{n}.key"), text(key))).collect();
            readers.push_str(&reader(format, &case["reader"], &own));
            keys.extend(own);
        }
        let mut transit = Vec::new();
        for n in 0..EACH {
            let value = format!("what OpenBao keeps, number {n}");
            let body = json!({ "plaintext": STANDARD.encode(&value) });
            let sealed = bao.write(&format!("{mount}/encrypt/pii"), body).await;
            transit.push((text(&sealed["data"]["ciphertext"]), value));
        }
        let plain = (0..EACH).map(|n| format!("plaintext number {n}")).map(|text| (text.clone(), text));
        kinds.extend([transit, plain.collect()]);
        let server = bao.server();
        readers.push_str(&format!(
            "[readers.transit]\nformat = \"vault-transit\"\nroot = \"vault+http://{server}/{mount}/pii\"\n\
             [key_services.vault.\"{server}\"]\nauth = \"token\"\ntoken_file = \"vault-token\"\n"
        ));
        keys.push(("vault-token".to_owned(), ROOT_TOKEN.to_owned()));
        let values = (0..EACH).flat_map(|n| kinds.iter().map(move |kind| kind[n].clone())).collect();
        let reads = format!("reads = {:?}", [&FORMATS[..], &["transit"]].concat());
        Self { values, reads, readers, keys }
    }

    fn readers(&self) -> impl Iterator<Item = &'static str> {
        FORMATS.into_iter().chain(["transit"])
    }

    /// Whether each reader recognises as many as there are of its kind.
    fn must_be_recognised(&self, column: &Value, each: usize) {
        for reader in self.readers() {
            assert_eq!(column["readers"]["by_reader"][reader], json!(each), "{reader}: {column}");
        }
        assert_eq!(column["readers"]["plaintext"], json!(each), "{column}");
    }
}

fn case(name: &str) -> Value {
    let path = format!("{}/../../vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("a vector")).expect("JSON")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn made(case: &Value) -> Vec<(String, String)> {
    let values = case["values"].as_array().expect("values").iter();
    let texts = values.filter(|value| value["form"] == "text" && value["plaintext"].is_string());
    texts.take(EACH).map(|value| (text(&value["stored"]), text(&value["plaintext"]))).collect()
}

/// As the vector says it, in the policy's words.
fn reader(name: &str, settings: &Value, keys: &[(String, String)]) -> String {
    let files: Vec<&str> = keys.iter().map(|(file, _)| file.as_str()).collect();
    let mut policy = format!("[readers.{name}]\nkey_files = {files:?}\n");
    for (setting, value) in settings.as_object().expect("settings") {
        let value = match value.as_object() {
            None => value.to_string(),
            Some(fields) => {
                let fields: Vec<String> = fields.iter().map(|(field, member)| format!("{field} = {member}")).collect();
                format!("{{ {} }}", fields.join(", "))
            }
        };
        policy.push_str(&format!("{setting} = {value}\n"));
    }
    policy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_reads_all_formats_of_a_column_while_a_job_converts_them() {
    let mixture = Mixture::new().await;
    let walk = Walk::new(&format!(
        "CREATE TABLE records (id bigint PRIMARY KEY, value text);
         INSERT INTO records SELECT n, NULL FROM generate_series(0, {}) n",
        ROWS - 1
    ))
    .await;
    mixture.keys.iter().for_each(|(file, key)| walk.secret(file, key));
    let root = Server::LocalStack.uri(&aws_key().await);
    let policy = |reads: &str, readers: &str| {
        walk.policy(&format!(
            "[rings.main]\nid = \"main\"\nroots = [\"{root}\"]\nscope = \"column\"\n\
             [tables.\"public.records\".columns.value]\nid = \"records.value\"\nring = \"main\"\n{reads}\n{readers}"
        ));
    };
    policy(&mixture.reads, &mixture.readers);
    let before = Before::Made(Arc::new(mixture.values.clone()));
    let fields = [Field { table: "records", column: "value", form: Form::Text, before, index: None, tenant: None }];
    walk.fill(&fields[0]).await;
    walk.ok(&["init", "--prepare"]);
    let traffic = walk.traffic(&root, &fields).await;
    mixture.must_be_recognised(&walk.json(&["plan"])["tables"][0]["columns"][0], ROWS / KINDS);
    let done = traffic.end().await;
    assert!(done.read > 0 && done.as_before > 0, "{done:?}");

    // Envelopes beside all of them.
    let part = walk.json(&["apply", "--yes", "--canary", "25"]);
    assert_eq!(part["tables"][0]["outcome"], "canary", "{part}");
    let envelopes = "SELECT count(*) FROM records WHERE value LIKE 'enf1:%'";
    assert!(walk.count(envelopes).await >= 25);
    let found = &walk.json(&["plan"])["tables"][0]["columns"][0];
    assert!(mixture.readers().all(|reader| found["readers"]["by_reader"][reader].as_u64() > Some(0)), "{found}");
    assert_eq!(walk.everything_opens(&root, &fields).await, ROWS as u64);

    let traffic = walk.traffic(&root, &fields).await;
    walk.ok(&["apply", "--yes"]);
    let done = traffic.end().await;
    assert!(done.read > 0 && done.sealed > 0, "{done:?}");
    assert_eq!(u64::try_from(walk.count(envelopes).await), Ok(ROWS as u64));
    walk.ok(&["verify", "--all"]);
    for reader in mixture.readers() {
        walk.ok(&["drop-reader", reader, "--yes"]);
    }
    mixture.keys.iter().for_each(|(file, _)| std::fs::remove_file(walk.shop.path(file)).expect("it was there"));
    policy("", "");
    assert_eq!(walk.everything_opens(&root, &fields).await, ROWS as u64);
    walk.ok(&["doctor"]);
    walk.ok(&["enforce", "--all", "--yes"]);
}

/// What is stored in each row, and what it holds.
fn rows(app: &Connection) -> Vec<(String, String)> {
    let mut rows = app.prepare("SELECT value, held FROM records").expect("a query");
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    rows.collect::<Result<_, _>>().expect("texts")
}

/// Opens every row; how many.
async fn open_all(rows: Vec<(String, String)>, enfold: &Enfold) -> usize {
    let column = enfold.column("records.value").expect("a column");
    for (stored, held) in &rows {
        let who = CallContext::new("mixture", "reads");
        let opened = column.open(&who, &Place::none(), Form::Text, stored.as_bytes()).await;
        let opened = opened.unwrap_or_else(|error| panic!("a value does not open: {error}"));
        assert!(opened.value[..] == *held.as_bytes(), "another value than was written");
    }
    rows.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_too_one_process_reads_all_formats_while_a_job_converts_them() {
    let mixture = Mixture::new().await;
    let shop = Sandbox::empty();
    shop.sql("PRAGMA journal_mode = WAL; CREATE TABLE records (id INTEGER PRIMARY KEY, value TEXT, held TEXT)");
    let app = shop.database();
    for (stored, held) in mixture.values.iter().cycle().take(ROWS) {
        app.execute("INSERT INTO records (value, held) VALUES (?1, ?2)", (stored, held)).expect("a row");
    }
    mixture.keys.iter().for_each(|(file, key)| shop.secret(file, key));
    let policy = |reads: &str, readers: &str| {
        let columns =
            "[jobs]\nbatch_rows = 10\n[tables.records.columns.value]\nid = \"records.value\"\nring = \"main\"\n";
        let text = crate::harness::policy("sqlite:app.db");
        shop.write("enfold.toml", format!("{text}{columns}{reads}\n{readers}"));
    };
    let open = async || {
        let policy = policy::parse(&shop.read("enfold.toml"), &shop.path("enfold.toml"), &Variables::new());
        Enfold::open(policy.expect("a policy")).await.expect("it starts")
    };
    policy(&mixture.reads, &mixture.readers);
    shop.ok(&["init", "--prepare"]);
    let plan: Value = serde_json::from_slice(&shop.ok(&["plan", "--json"]).stdout).expect("JSON");
    mixture.must_be_recognised(&plan["tables"][0]["columns"][0], ROWS / KINDS);

    let enfold = open().await;
    assert_eq!(open_all(rows(&app), &enfold).await, ROWS);
    let (stop, reading) = (Arc::new(AtomicBool::new(false)), shop.database());
    let done = Arc::clone(&stop);
    let reader = tokio::spawn(async move {
        let mut read = 0;
        while !done.load(Ordering::Relaxed) {
            read += open_all(rows(&reading), &enfold).await;
        }
        (read, enfold)
    });
    tokio::task::block_in_place(|| shop.ok(&["apply", "--yes", "--canary", "25"]));
    assert_eq!(open_all(rows(&app), &open().await).await, ROWS);
    tokio::task::block_in_place(|| shop.ok(&["apply", "--yes"]));
    stop.store(true, Ordering::Relaxed);
    let (read, enfold) = reader.await.expect("no read failed");
    assert!(read > 0);
    assert_eq!(open_all(rows(&app), &enfold).await, ROWS);
    let envelopes = "SELECT count(*) FROM records WHERE value LIKE 'enf1:%'";
    let envelopes: i64 = app.query_row(envelopes, [], |row| row.get(0)).expect("counted");
    assert_eq!(usize::try_from(envelopes), Ok(ROWS));
    for reader in mixture.readers() {
        shop.ok(&["drop-reader", reader, "--yes"]);
    }
    policy("", "");
    assert_eq!(open_all(rows(&app), &open().await).await, ROWS);
    shop.ok(&["verify", "--all"]);
}
