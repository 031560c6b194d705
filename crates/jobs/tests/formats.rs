//! Tables that other products encrypted, converted in place: half of a column in one format, half in another, with an old
//! application and a new one at work all the while.

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

/// Values that the product itself made, with what they hold, and the key.
fn vectors(name: &str) -> (String, Vec<(String, String)>) {
    let path = format!("{}/../../vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let case: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
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
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.unwrap();
    Session::over(enfold.clone(), db, &who()).unwrap()
}

fn who() -> CallContext {
    CallContext::new("test", "conversion")
}

async fn opened(column: &Column, form: Form, stored: &[u8]) -> enfold::Result<String> {
    let opened = column.open(&who(), &Place::none(), form, stored).await?;
    Ok(String::from_utf8(opened.value.to_vec()).unwrap())
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use rusqlite::Connection;

    use super::*;

    const ROWS: usize = 240;

    struct Fixture {
        folder: tempfile::TempDir,
        app: Connection,
    }

    impl Fixture {
        /// Even rows by Fernet, odd ones by Cloak; `is` is what each holds. Every tenth is plaintext.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let app = connect(folder.path());
            app.execute_batch(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT, email_is TEXT, note TEXT, note_is TEXT)",
            )
            .unwrap();
            let (fernet, cloak) = (vectors("fernet"), vectors("cloak"));
            key_file(folder.path(), "fernet.key", &fernet.0);
            key_file(folder.path(), "cloak.key", &cloak.0);
            let plain = ("plain@example.com".to_owned(), "plain@example.com".to_owned());
            for n in 0..ROWS {
                let values = if n % 2 == 0 { &fernet.1 } else { &cloak.1 };
                let (stored, is) = if n % 10 == 9 { &plain } else { &values[n / 2 % values.len()] };
                app.execute("INSERT INTO users VALUES (?1, ?2, ?3, ?2, ?3)", (i64::try_from(n).unwrap(), stored, is))
                    .unwrap();
            }
            Self { folder, app }
        }

        fn policy(&self, reads: &str) -> Policy {
            policy(self.folder.path(), "sqlite:app.db", "users", [reads, reads], READERS)
        }

        fn rows(&self) -> Vec<Row> {
            rows(&self.app)
        }

        async fn read_all(&self, enfold: &Enfold) {
            read_all(self.rows(), enfold).await;
        }
    }

    /// An address and a note, each with what it is.
    struct Row {
        email: String,
        email_is: String,
        note: String,
        note_is: String,
    }

    fn connect(folder: &Path) -> Connection {
        let app = Connection::open(folder.join("app.db")).unwrap();
        app.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        app
    }

    fn rows(app: &Connection) -> Vec<Row> {
        let mut all = app.prepare("SELECT email, email_is, note, note_is FROM users ORDER BY id").unwrap();
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row { email: row.get(0)?, email_is: row.get(1)?, note: row.get(2)?, note_is: row.get(3)? })
        };
        all.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    async fn read_all(rows: Vec<Row>, enfold: &Enfold) {
        let (email, note) = (enfold.column("users.email").unwrap(), enfold.column("users.note").unwrap());
        for row in rows {
            assert_eq!(opened(&email, Form::Text, row.email.as_bytes()).await.unwrap(), row.email_is);
            assert_eq!(opened(&note, Form::Text, row.note.as_bytes()).await.unwrap(), row.note_is);
        }
    }

    /// Writes notes and reads everything until it is told to stop: through Enfold where it may, and before that with tokens
    /// as the old application makes them. How many of each it wrote.
    async fn work(app: Connection, enfold: Enfold, stop: Arc<AtomicBool>, as_before: Arc<AtomicU64>) -> u64 {
        let note = enfold.column("users.note").unwrap();
        let (_, tokens) = vectors("fernet");
        let write = "UPDATE users SET note = ?1, note_is = ?2 WHERE id = ?3";
        let mut sealed = 0;
        for n in (0..ROWS).cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (id, value) = (i64::try_from(n).unwrap(), format!("note number {n}"));
            match note.seal(&who(), &Place::none(), Form::Text, PayloadType::Text, value.as_bytes()).await {
                Ok(stored) => {
                    app.execute(write, (String::from_utf8(stored).unwrap(), value, id)).unwrap();
                    sealed += 1;
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::PlaintextRefused);
                    let (token, is) = &tokens[n % tokens.len()];
                    app.execute(write, (token, is, id)).unwrap();
                    as_before.fetch_add(1, Ordering::Relaxed);
                }
            }
            if n % 40 == 0 {
                let rows = rows(&app);
                read_all(rows, &enfold).await;
            }
        }
        sealed
    }

    const READS: &str = "reads = [\"fernet\", \"cloak\"]";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_formats_and_plaintext_become_envelopes_and_the_keys_can_go() {
        let fixture = Fixture::new();
        let enfold = Enfold::open(fixture.policy(READS)).await.unwrap();
        let session = session(&enfold).await;
        fixture.read_all(&enfold).await;

        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        let found = shown.tables[0].columns[0].readers.clone().unwrap();
        assert_eq!(found.by_reader, [("cloak".to_owned(), 96), ("fernet".to_owned(), 120)].into());
        assert_eq!((found.plaintext, shown.tables[0].columns[0].census.plaintext), (24, 240));
        let notes = Selection::columns(&session.policy, &["users.note".to_owned()]).unwrap();
        let found = verify(&session, &notes, &Pace::default(), &Silent).await.unwrap();
        assert_eq!(found.tables[0].failed, 240);
        assert_eq!(found.tables[0].readers["note"].by_reader["cloak"], 96);
        let error = &found.tables[0].errors[0];
        assert!(error.reason.contains("reader `fernet`") && error.code == "plaintext-found", "{error:?}");

        let (stop, as_before) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let app = connect(fixture.folder.path());
        let working = tokio::spawn(work(app, enfold.clone(), Arc::clone(&stop), Arc::clone(&as_before)));
        while as_before.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        assert!(working.await.unwrap() > 0, "nothing was written through Enfold meanwhile");
        fixture.read_all(&enfold).await;
        assert!(fixture.rows().iter().all(|row| row.email.starts_with("enf1:") && row.note.starts_with("enf1:")));
        let audited = audit(session.db.as_ref(), &session.policy, &Selection::All, None).await.unwrap();
        assert!(!audited.leaks() && audited.columns[0].readers.as_ref().unwrap().looked_at() == 0);
        // The blind index is that of the plaintext, whatever the value was stored as.
        let email = enfold.column("users.email").unwrap();
        let wanted = email.index_to_store(&who(), "eq", &Place::none(), "ann@example.com").await.unwrap();
        let found: i64 = fixture
            .app
            .query_row("SELECT count(*) FROM users WHERE email_eq = ?1", [wanted], |row| row.get(0))
            .unwrap();
        let wanted = fixture.rows().iter().filter(|row| row.email_is == "ann@example.com").count();
        assert_eq!(usize::try_from(found).unwrap(), wanted);

        let without = Enfold::open(fixture.policy("")).await.err().unwrap();
        assert_eq!(without.code(), Code::ReaderMissing);
        enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        for key in ["fernet.key", "cloak.key"] {
            std::fs::remove_file(fixture.folder.path().join(key)).unwrap();
        }
        for reads in [READS, ""] {
            fixture.read_all(&Enfold::open(fixture.policy(reads)).await.unwrap()).await;
        }
    }

    /// One damaged value, and one under a key that nobody has: each is an error of its row, and stays as it is.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_value_that_does_not_open_stays_and_the_others_are_converted() {
        let fixture = Fixture::new();
        fixture.app.execute("UPDATE users SET email = substr(email, 1, length(email) - 8) WHERE id = 4", []).unwrap();
        let (_, others) = vectors("sqlalchemy_utils_fernet");
        fixture.app.execute("UPDATE users SET email = ?1 WHERE id = 5", [&others[2].0]).unwrap();
        let before = fixture.rows();
        let enfold = Enfold::open(fixture.policy(READS)).await.unwrap();
        let session = session(&enfold).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        let error = apply(&session, &shown, &ApplyOptions::default(), &Silent).await.err().unwrap();
        assert_eq!(error.code(), Code::RowsFailed);
        let after = fixture.rows();
        for (n, Row { email, note, .. }) in after.iter().enumerate() {
            let stays = n == 4 || n == 5;
            assert_eq!(*email == before[n].email, stays, "row {n}");
            assert!(stays || (email.starts_with("enf1:") && note.starts_with("enf1:")), "row {n}");
        }
        let column = enfold.column("users.email").unwrap();
        for n in [4, 5] {
            let refused = opened(&column, Form::Text, after[n].email.as_bytes()).await.err().unwrap();
            assert_eq!(refused.code(), Code::OpenFailed);
        }
        assert!(enforce(&session, &Selection::All, &Pace::default(), &Silent).await.is_err());
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use enfold_testkit::postgres::Database;
    use tokio_postgres::Client;

    use super::*;

    const ROWS: i64 = 400;

    /// What pgcrypto itself makes of a text.
    const SEALED: &str = "pgp_sym_encrypt($1::text, 'correct horse battery staple', 'cipher-algo=aes256')";

    struct Fixture {
        database: Database,
        app: Client,
        folder: tempfile::TempDir,
    }

    impl Fixture {
        /// Addresses: even rows by Fernet, odd ones by pgcrypto, in armour. Notes: by pgcrypto, as bytes.
        async fn new() -> Self {
            let database = Database::create().await;
            let app = database.connect().await;
            app.batch_execute(
                "CREATE EXTENSION pgcrypto;
                 CREATE TABLE users (id bigint PRIMARY KEY, email text, email_is text, note bytea, note_is text)",
            )
            .await
            .unwrap();
            let folder = tempfile::tempdir().unwrap();
            let (key, values) = vectors("fernet");
            key_file(folder.path(), "fernet.key", &key);
            key_file(folder.path(), "passphrase", PASSPHRASE);
            let armored = format!("INSERT INTO users VALUES ($2, armor({SEALED}), $1, {SEALED}, $1)");
            let token = format!("INSERT INTO users VALUES ($2, $3, $1, {SEALED}, $1)");
            for n in 0..ROWS {
                let (stored, is) = &values[usize::try_from(n / 2).unwrap() % values.len()];
                if n % 2 == 0 {
                    app.execute(&token, &[is, &n, stored]).await.unwrap();
                } else {
                    app.execute(&armored, &[is, &n]).await.unwrap();
                }
            }
            app.batch_execute("ANALYZE users").await.unwrap();
            Self { database, app, folder }
        }

        fn policy(&self, reads: [&str; 2]) -> Policy {
            policy(self.folder.path(), &self.database.url(), "\"public.users\"", reads, READERS)
        }

        async fn open(&self, reads: [&str; 2]) -> enfold::Result<Enfold> {
            Enfold::open(self.policy(reads)).await
        }
    }

    /// Opens every row as it is at the moment; how many.
    async fn read_all(app: &Client, enfold: &Enfold) -> u64 {
        let email = enfold.column("public.users.email").unwrap();
        let note = enfold.column("public.users.note").unwrap();
        let rows = app.query("SELECT email, email_is, note, note_is, id FROM users", &[]).await.unwrap();
        for row in &rows {
            let id: i64 = row.get(4);
            let stored: String = row.get(0);
            let found = opened(&email, Form::Text, stored.as_bytes()).await.unwrap_or_else(|e| panic!("row {id}: {e}"));
            assert_eq!(found, row.get::<_, String>(1), "the address of row {id}");
            let found = opened(&note, Form::Bytes, row.get(2)).await.unwrap_or_else(|e| panic!("row {id}: {e}"));
            assert_eq!(found, row.get::<_, String>(3), "the note of row {id}");
        }
        rows.len() as u64
    }

    const READS: [&str; 2] = ["reads = [\"fernet\", \"armor\"]", "reads = [\"message\"]"];

    /// Writes notes until it is told to stop: through Enfold where it may, and before that as the old application does.
    async fn write_notes(app: Client, enfold: Enfold, stop: Arc<AtomicBool>, as_before: Arc<AtomicU64>) -> u64 {
        let note = enfold.column("public.users.note").unwrap();
        let old = format!("UPDATE users SET note = {SEALED}, note_is = $1 WHERE id = $2");
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            let (id, value) = (written % ROWS, format!("note number {written}"));
            match note.seal(&who(), &Place::none(), Form::Bytes, PayloadType::Bytes, value.as_bytes()).await {
                Ok(sealed) => {
                    let new = "UPDATE users SET note = $1, note_is = $2 WHERE id = $3";
                    app.execute(new, &[&sealed, &value, &id]).await.unwrap();
                }
                Err(error) => {
                    assert_eq!(error.code(), Code::PlaintextRefused);
                    app.execute(&old, &[&value, &id]).await.unwrap();
                    as_before.fetch_add(1, Ordering::Relaxed);
                }
            }
            written += 1;
        }
        u64::try_from(written).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_formats_become_envelopes_under_an_old_and_a_new_application() {
        let fixture = Fixture::new().await;
        let enfold = fixture.open(READS).await.unwrap();
        let session = session(&enfold).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
        let found = |column: usize| shown.tables[0].columns[column].readers.clone().unwrap();
        assert_eq!(found(0).by_reader, [("armor".to_owned(), 200), ("fernet".to_owned(), 200)].into());
        assert_eq!((found(0).plaintext, found(1).by_reader["message"]), (0, 400));
        let audited = audit(session.db.as_ref(), &session.policy, &Selection::All, None).await.unwrap();
        assert_eq!(audited.columns[0].readers.as_ref().unwrap().by_reader["armor"], 200);

        let (stop, as_before) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let app = fixture.database.connect().await;
        let writer = tokio::spawn(write_notes(app, enfold.clone(), Arc::clone(&stop), Arc::clone(&as_before)));
        let (app, reading, done) = (fixture.database.connect().await, enfold.clone(), Arc::clone(&stop));
        let reader = tokio::spawn(async move {
            let mut read = 0;
            while !done.load(Ordering::Relaxed) {
                read += read_all(&app, &reading).await;
            }
            read
        });
        while as_before.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        let (written, read) = (writer.await.unwrap(), reader.await.unwrap());
        assert!(written > as_before.load(Ordering::Relaxed) && read > 0, "{written} written, {read} read");

        assert_eq!(read_all(&fixture.app, &enfold).await, 400);
        let plain =
            "SELECT count(*) FROM users WHERE email NOT LIKE 'enf1:%' OR substring(note FROM 1 FOR 3) <> '\\xf9e9df'";
        assert_eq!(fixture.app.query_one(plain, &[]).await.unwrap().get::<_, i64>(0), 0);
        let email = enfold.column("public.users.email").unwrap();
        let wanted = email.index_to_store(&who(), "eq", &Place::none(), "ann@example.com").await.unwrap();
        let same = "SELECT count(*) FILTER (WHERE email_eq = $1), count(*) FILTER (WHERE email_is = 'ann@example.com') FROM users";
        let row = fixture.app.query_one(same, &[&wanted]).await.unwrap();
        assert!(row.get::<_, i64>(0) > 0 && row.get::<_, i64>(0) == row.get::<_, i64>(1));
        assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_enforcing_the_old_keys_are_proved_unnecessary_by_starting_without_them() {
        let fixture = Fixture::new().await;
        let enfold = fixture.open(READS).await.unwrap();
        let session = session(&enfold).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        assert_eq!(fixture.open(["", READS[1]]).await.err().unwrap().code(), Code::ReaderMissing);
        enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        for key in ["fernet.key", "passphrase"] {
            std::fs::remove_file(fixture.folder.path().join(key)).unwrap();
        }
        for reads in [READS, ["", ""]] {
            assert_eq!(read_all(&fixture.app, &fixture.open(reads).await.unwrap()).await, 400);
        }
        // What an old application still writes is refused by the database, and would be by every reader.
        let old = format!("UPDATE users SET note = {SEALED} WHERE id = 1");
        assert!(fixture.app.execute(&old, &[&"again"]).await.is_err());
    }
}
