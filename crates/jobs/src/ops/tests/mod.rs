//! Whole operations on a real SQLite file, with keys that live in the test.

mod blind_indexes;
mod indexes;
mod interrupted;
mod lifecycle;
mod real;
mod residue;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enfold::Result;
use enfold::events::Event;
use enfold::policy::{self, Lookalikes, Mode, Variables};
use rusqlite::Connection;

use super::keys::{Keys, Reader};
use super::{Observer, Plan, PlanOptions, Session, StepEvent, SweepEvent};
use crate::codec::Codec;
use crate::columns::tests::TestCells;
use crate::columns::{ColumnCodec, Protected};
use crate::database::Database;
use crate::sqlite::{Sqlite, SqliteOptions};

const POLICY: &str = r#"
environment = "development"
[database]
url = "sqlite:app.db"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[tables.users]
tenant = "org"
[tables.users.columns.email]
id = "c1"
ring = "main"
[tables.users.columns.email.indexes.eq]
column = "email_eq"
normalise = ["trim", "lower"]
[tables.users.columns.note]
id = "c2"
ring = "main"
[jobs]
batch_rows = 50
"#;

const SCHEMA: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, email TEXT, note TEXT);";

/// Modes and readers in memory; a key for each column.
struct TestKeys {
    modes: Mutex<BTreeMap<String, Mode>>,
    readers: Mutex<Vec<Reader>>,
    /// What the log of events was told.
    log: Mutex<Vec<Event>>,
    codec: ColumnCodec,
}

impl TestKeys {
    fn new() -> Self {
        let protected = |(name, id): (&str, &str)| {
            let cells = Arc::new(TestCells::new(id));
            (name.to_owned(), Protected { cells, lookalikes: Lookalikes::Refuse })
        };
        let codec = ColumnCodec::new([("users.email", "c1"), ("users.note", "c2")].map(protected).into());
        Self { modes: Mutex::default(), readers: Mutex::default(), log: Mutex::default(), codec }
    }
}

#[async_trait]
impl Keys for TestKeys {
    async fn modes(&self, columns: &[String]) -> Result<Vec<Mode>> {
        let modes = self.modes.lock().unwrap();
        Ok(columns.iter().map(|column| modes.get(column).copied().unwrap_or(Mode::Legacy)).collect())
    }

    async fn set_modes(&self, columns: &[(String, Mode)]) -> Result<()> {
        self.modes.lock().unwrap().extend(columns.iter().cloned());
        Ok(())
    }

    async fn readers(&self) -> Result<Vec<Reader>> {
        Ok(self.readers.lock().unwrap().clone())
    }

    async fn rotate_due(&self, _: i64) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn log(&self, event: Event) {
        self.log.lock().unwrap().push(event);
    }

    async fn rotate_due_roots(&self, _: i64, _: &(dyn Fn() -> bool + Sync)) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn codec(&self) -> &dyn Codec {
        &self.codec
    }
}

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    /// The application's own connection.
    app: Connection,
    keys: Arc<TestKeys>,
    session: Session,
}

impl Fixture {
    /// So many users; every seventh has no e-mail.
    fn new(users: u32) -> Self {
        Self::with(users, POLICY)
    }

    fn with(users: u32, policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(SCHEMA).unwrap();
        app.execute_batch("BEGIN").unwrap();
        for n in 1..=users {
            let email = (n % 7 != 0).then(|| format!("Person{n}@example.org"));
            let note = format!("note of person {n}: Zoë");
            app.execute("INSERT INTO users VALUES (?, ?, ?, ?)", rusqlite::params![n, n % 3, email, note]).unwrap();
        }
        app.execute_batch("COMMIT").unwrap();
        let policy = policy::parse(policy, &folder.path().join("enfold.toml"), &Variables::new()).unwrap();
        let db: Arc<dyn Database> = Arc::new(Sqlite::open(&path, &SqliteOptions::default()).unwrap());
        let keys = Arc::new(TestKeys::new());
        let session = Session { policy: Arc::new(policy), db, keys: Arc::clone(&keys) as Arc<dyn Keys> };
        Self { _folder: folder, path, app, keys, session }
    }

    async fn plan(&self) -> Plan {
        super::plan(&self.session, &PlanOptions::default()).await.unwrap()
    }

    fn count(&self, condition: &str) -> u32 {
        self.app.query_row(&format!("SELECT count(*) FROM users WHERE {condition}"), [], |row| row.get(0)).unwrap()
    }

    /// Every row as the application sees it.
    fn rows(&self) -> Vec<(i64, i64, Option<String>, Option<String>)> {
        let mut statement = self.app.prepare("SELECT id, org, email, note FROM users ORDER BY id").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        rows.map(std::result::Result::unwrap).collect()
    }

    /// What the log of events was told.
    fn logged(&self) -> Vec<Event> {
        self.keys.log.lock().unwrap().clone()
    }

    fn mode(&self, column: &str) -> Mode {
        self.keys.modes.lock().unwrap().get(column).copied().unwrap_or(Mode::Legacy)
    }

    /// Whether the text stands anywhere in the bytes of the file or of its log.
    fn file_holds(&self, text: &str) -> bool {
        let wal = PathBuf::from(format!("{}-wal", self.path.display()));
        [self.path.as_path(), wal.as_path()].into_iter().any(|file| holds(file, text))
    }
}

fn holds(file: &Path, text: &str) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Writes down what it is told, and asks to stop after so many questions.
struct Witness {
    steps: Mutex<Vec<StepEvent>>,
    progress: Mutex<Vec<SweepEvent>>,
    stop_after: AtomicU32,
}

impl Witness {
    fn new() -> Self {
        Self::stopping_after(u32::MAX)
    }

    fn stopping_after(questions: u32) -> Self {
        Self { steps: Mutex::default(), progress: Mutex::default(), stop_after: AtomicU32::new(questions) }
    }

    fn done(&self) -> Vec<String> {
        let steps = self.steps.lock().unwrap();
        steps.iter().filter(|s| s.state == super::StepState::Done).map(|s| s.says.clone()).collect()
    }
}

impl Observer for Witness {
    fn step(&self, event: &StepEvent) {
        self.steps.lock().unwrap().push(event.clone());
    }

    fn progress(&self, event: &SweepEvent) {
        self.progress.lock().unwrap().push(event.clone());
    }

    fn stop_requested(&self) -> bool {
        let left = self.stop_after.load(Ordering::Relaxed);
        self.stop_after.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }
}
