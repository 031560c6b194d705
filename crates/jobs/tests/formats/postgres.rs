//! On Postgres: Fernet and pgcrypto, in text and in bytes.

use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

use crate::*;

const ROWS: i64 = 400;

/// What pgcrypto itself makes of a text.
const SEALED: &str = "pgp_sym_encrypt($1::text, 'correct horse battery staple', 'cipher-algo=aes256')";

pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) app: Client,
    pub(crate) folder: tempfile::TempDir,
}

impl Fixture {
    /// Addresses: even rows by Fernet, odd ones by pgcrypto, in armour. Notes: by pgcrypto, as bytes.
    pub(crate) async fn new() -> Self {
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

    pub(crate) async fn open(&self, reads: [&str; 2]) -> enfold::Result<Enfold> {
        Enfold::open(self.policy(reads)).await
    }
}

/// Opens every row as it is at the moment; how many.
pub(crate) async fn read_all(app: &Client, enfold: &Enfold) -> u64 {
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

pub(crate) const READS: [&str; 2] = ["reads = [\"fernet\", \"armor\"]", "reads = [\"message\"]"];

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
    let same =
        "SELECT count(*) FILTER (WHERE email_eq = $1), count(*) FILTER (WHERE email_is = 'ann@example.com') FROM users";
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
