//! Values whose IV and tag stand in columns of their own, as the connections platform keeps them: read with them, converted,
//! and the columns emptied in the same UPDATE.

use enfold::policy::Scheme;
use enfold::{Companion, OpenRequest};
use enfold_jobs::ops::rollback;
use enfold_testkit::postgres::Database;
use rusqlite::Connection;
use tokio_postgres::Client;

use crate::*;

const ROWS: i64 = 300;

/// Made by Node's crypto: ciphertext and tag in one column, the IV in another.
const VECTORS: &str = "aes_gcm_node_beside";

const TABLE: &str =
    "CREATE TABLE connections (id bigint PRIMARY KEY, payload_ciphertext text, payload_iv text, payload_is text)";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "column"
[tables.TABLE.columns.payload_ciphertext]
id = "c.payload"
ring = "main"
reads = ["application"]
companions = { iv = "payload_iv" }
[tables.TABLE.columns.payload_ciphertext.indexes.eq]
[readers.application]
format = "aes-256-gcm"
key_encoding = "hex"
apart = ["iv"]
key_files = ["application.key"]
[jobs]
batch_rows = 50
max_requested_checkpoints = 10000
"#;

/// A row as the application reads it.
struct Stored {
    id: i64,
    ciphertext: String,
    iv: Option<String>,
    is: String,
}

/// Values with their IVs, and what they hold.
fn values() -> (String, Vec<[String; 3]>) {
    let case = case(VECTORS);
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let values = case["values"].as_array().unwrap().iter();
    let values = values.map(|v| [text(&v["stored"]), text(&v["beside"]["iv"]), text(&v["plaintext"])]);
    (text(&case["keys"][0]), values.collect())
}

/// What is in row `n`: every tenth is plaintext, with nothing beside it.
fn row(n: i64, values: &[[String; 3]]) -> (String, Option<String>, String) {
    let [ciphertext, iv, is] = &values[usize::try_from(n).unwrap() % values.len()];
    match n % 10 {
        9 => ("plain".to_owned(), None, "plain".to_owned()),
        _ => (ciphertext.clone(), Some(iv.clone()), is.clone()),
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    key_file(folder.path(), "application.key", &values().0);
    folder
}

fn policy(folder: &Path, url: &str) -> Policy {
    let table = if url.starts_with("sqlite") { "connections" } else { "\"public.connections\"" };
    let text = POLICY.replace("DATABASE", url).replace("TABLE", table);
    policy::parse(&text, &folder.join("enfold.toml"), &Variables::new()).unwrap()
}

fn column(enfold: &Enfold) -> Column {
    let schema = if enfold.policy().database.scheme() == Scheme::Postgres { "public." } else { "" };
    enfold.column(&format!("{schema}connections.payload_ciphertext")).unwrap()
}

async fn read(column: &Column, row: &Stored) -> enfold::Result<String> {
    let beside: Vec<_> = row.iv.iter().map(|iv| (Companion::Iv, iv.as_bytes())).collect();
    let stored = row.ciphertext.as_bytes();
    let request = OpenRequest { place: Place::none(), form: Form::Text, stored, beside: &beside };
    let opened = column.open_many(&who(), &[request]).await.remove(0)?;
    Ok(String::from_utf8(opened.value.to_vec()).unwrap())
}

async fn read_all(rows: Vec<Stored>, enfold: &Enfold) -> u64 {
    let column = column(enfold);
    for row in &rows {
        assert_eq!(read(&column, row).await.unwrap_or_else(|e| panic!("row {}: {e}", row.id)), row.is);
    }
    rows.len() as u64
}

struct Postgres {
    database: Database,
    app: Client,
    folder: tempfile::TempDir,
}

impl Postgres {
    async fn new() -> Self {
        let database = Database::create().await;
        let app = database.connect().await;
        app.batch_execute(TABLE).await.unwrap();
        let (_, values) = values();
        for n in 0..ROWS {
            let (ciphertext, iv, is) = row(n, &values);
            app.execute("INSERT INTO connections VALUES ($1, $2, $3, $4)", &[&n, &ciphertext, &iv, &is]).await.unwrap();
        }
        app.batch_execute("ANALYZE connections").await.unwrap();
        Self { database, app, folder: folder() }
    }

    async fn open(&self) -> Enfold {
        Enfold::open(policy(self.folder.path(), &self.database.url())).await.unwrap()
    }

    async fn count(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM connections WHERE {condition}");
        self.app.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

async fn rows(app: &Client) -> Vec<Stored> {
    let rows = app.query("SELECT id, payload_ciphertext, payload_iv, payload_is FROM connections", &[]).await.unwrap();
    let stored =
        |row: &tokio_postgres::Row| Stored { id: row.get(0), ciphertext: row.get(1), iv: row.get(2), is: row.get(3) };
    rows.iter().map(stored).collect()
}

/// Writes until it is told to stop: through Enfold where it may, with nothing beside the value, and before that as the old
/// application does. How many of each.
async fn write(app: Client, enfold: Enfold, stop: Arc<AtomicBool>, as_before: Arc<AtomicU64>) -> u64 {
    let (column, (_, values)) = (column(&enfold), values());
    let sql = "UPDATE connections SET payload_ciphertext = $1, payload_iv = $2, payload_is = $3 WHERE id = $4";
    let mut sealed = 0;
    for n in (0..ROWS).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let value = format!("payload number {n}");
        match column.seal(&who(), &Place::none(), Form::Text, PayloadType::Text, value.as_bytes()).await {
            Ok(envelope) => {
                let envelope = String::from_utf8(envelope).unwrap();
                app.execute(sql, &[&envelope, &None::<String>, &value, &n]).await.unwrap();
                sealed += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), Code::PlaintextRefused);
                let (ciphertext, iv, is) = row(n, &values);
                app.execute(sql, &[&ciphertext, &iv, &is, &n]).await.unwrap();
                as_before.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    sealed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_with_their_iv_beside_them_become_envelopes_alone_under_writers_and_readers() {
    let fixture = Postgres::new().await;
    let enfold = fixture.open().await;
    let session = session(&enfold).await;
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
    let found = shown.tables[0].columns[0].readers.clone().unwrap();
    assert_eq!((found.by_reader["application"], found.plaintext), (270, 30));

    let (stop, as_before) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let app = fixture.database.connect().await;
    let writer = tokio::spawn(write(app, enfold.clone(), Arc::clone(&stop), Arc::clone(&as_before)));
    let (app, reading, done) = (fixture.database.connect().await, enfold.clone(), Arc::clone(&stop));
    let reader = tokio::spawn(async move {
        let mut read = 0;
        while !done.load(Ordering::Relaxed) {
            read += read_all(rows(&app).await, &reading).await;
        }
        read
    });
    while as_before.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 0 && reader.await.unwrap() > 0);

    assert_eq!(fixture.count("payload_iv IS NOT NULL OR payload_ciphertext NOT LIKE 'enf1:%'").await, 0);
    assert_eq!(read_all(rows(&fixture.app).await, &enfold).await, 300);
    assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    std::fs::remove_file(fixture.folder.path().join("application.key")).unwrap();
    assert_eq!(read_all(rows(&fixture.app).await, &fixture.open().await).await, 300);
}

/// An IV that is damaged, or gone, makes an error of the row and of no other; nothing of it is emptied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_whose_iv_is_another_stays_with_it() {
    let fixture = Postgres::new().await;
    let enfold = fixture.open().await;
    let session = session(&enfold).await;
    let damage = "UPDATE connections SET payload_iv = CASE id WHEN 3 THEN 'AAAAAAAAAAAAAAAA' WHEN 5 THEN '!' END WHERE id IN (3, 5)";
    fixture.app.batch_execute(damage).await.unwrap();
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    let error = apply(&session, &shown, &ApplyOptions::default(), &Silent).await.err().unwrap();
    assert_eq!(error.code(), Code::RowsFailed);
    assert_eq!(fixture.count("id IN (3, 5) AND payload_iv IS NOT NULL").await, 2);
    assert_eq!(fixture.count("payload_iv IS NULL AND payload_ciphertext LIKE 'enf1:%'").await, 298);
    let column = column(&enfold);
    for row in rows(&fixture.app).await.iter().filter(|row| row.id == 3 || row.id == 5) {
        assert_eq!(read(&column, row).await.unwrap_err().code(), Code::OpenFailed);
    }
    // Something beside it that no reader of the column has there is no plaintext either.
    let beside = [(Companion::Tag, &b"x"[..])];
    let request = OpenRequest { place: Place::none(), form: Form::Text, stored: b"ann", beside: &beside };
    assert_eq!(column.open_many(&who(), &[request]).await.remove(0).err().unwrap().code(), Code::ValueInvalid);
}

/// What somebody left beside an envelope is not read with it, and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_beside_an_envelope_is_emptied_and_a_rollback_leaves_plaintext_alone() {
    let fixture = Postgres::new().await;
    let enfold = fixture.open().await;
    let session = session(&enfold).await;
    let protect = async || {
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    };
    protect().await;
    let left = "UPDATE connections SET payload_iv = 'AAAAAAAAAAAAAAAA' WHERE id < 7";
    fixture.app.batch_execute(left).await.unwrap();
    assert_eq!(read_all(rows(&fixture.app).await, &enfold).await, 300);
    // A plain value has the job look.
    fixture.app.batch_execute("UPDATE connections SET payload_ciphertext = payload_is WHERE id = 9").await.unwrap();
    protect().await;
    assert_eq!(fixture.count("payload_iv IS NOT NULL").await, 0);

    fixture.app.batch_execute(left).await.unwrap();
    let (_, values) = values();
    let [ciphertext, iv, is] = &values[2];
    let old = "UPDATE connections SET payload_ciphertext = $1, payload_iv = $2, payload_is = $3 WHERE id = 20";
    fixture.app.execute(old, &[ciphertext, iv, is]).await.unwrap();
    rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("payload_ciphertext <> payload_is OR payload_iv IS NOT NULL").await, 0);
}

fn sqlite_rows(app: &Connection) -> Vec<Stored> {
    let mut all = app.prepare("SELECT id, payload_ciphertext, payload_iv, payload_is FROM connections").unwrap();
    let row = |row: &rusqlite::Row<'_>| {
        Ok(Stored { id: row.get(0)?, ciphertext: row.get(1)?, iv: row.get(2)?, is: row.get(3)? })
    };
    all.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_too_the_iv_goes_with_the_value() {
    let folder = folder();
    let app = Connection::open(folder.path().join("app.db")).unwrap();
    app.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    app.execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLE}")).unwrap();
    let (_, values) = values();
    for n in 0..ROWS {
        let (ciphertext, iv, is) = row(n, &values);
        app.execute("INSERT INTO connections VALUES (?1, ?2, ?3, ?4)", (n, ciphertext, iv, is)).unwrap();
    }
    let enfold = Enfold::open(policy(folder.path(), "sqlite:app.db")).await.unwrap();
    let session = session(&enfold).await;
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    let found = shown.tables[0].columns[0].readers.clone().unwrap();
    assert_eq!((found.by_reader["application"], found.plaintext), (270, 30));
    app.execute("UPDATE connections SET payload_iv = '!' WHERE id = 3", []).unwrap();
    let error = apply(&session, &shown, &ApplyOptions::default(), &Silent).await.err().unwrap();
    assert_eq!(error.code(), Code::RowsFailed);
    let [ciphertext, iv, is] = &values[0];
    let mend = "UPDATE connections SET payload_ciphertext = ?1, payload_iv = ?2, payload_is = ?3 WHERE id = 3";
    app.execute(mend, [ciphertext, iv, is]).unwrap();
    app.execute("UPDATE connections SET payload_iv = 'AAAAAAAAAAAAAAAA' WHERE id = 4", []).unwrap();
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    let rows = sqlite_rows(&app);
    assert!(rows.iter().all(|row| row.iv.is_none() && row.ciphertext.starts_with("enf1:")));
    assert_eq!(read_all(rows, &enfold).await, 300);
}
