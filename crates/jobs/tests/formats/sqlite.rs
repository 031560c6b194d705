//! On SQLite: Fernet and Cloak, with plaintext between.

use rusqlite::Connection;

use crate::*;

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
    let found: i64 =
        fixture.app.query_row("SELECT count(*) FROM users WHERE email_eq = ?1", [wanted], |row| row.get(0)).unwrap();
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
