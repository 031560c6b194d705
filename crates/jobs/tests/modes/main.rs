//! A column goes from an application of before to envelopes and back, mode by mode, while sessions of Enfold read and write it
//! that learn each mode from the catalog alone, and the application of before writes where it may. No read fails, no value is
//! lost, and in the end that application reads every row, as in the beginning.

#![cfg(all(feature = "sqlite", feature = "postgres"))]

mod forms;
mod old;
mod table;
mod walk;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::policy::{self, Mode, Variables};
use enfold::{CallContext, Code, Enfold, Form, PayloadType, Place};
use enfold_jobs::ops::audit::ColumnStatus;
use enfold_jobs::ops::{
    ApplyOptions, Observer, Pace, PlanOptions, Selection, Session, Silent, SweepEvent, apply, audit, enforce, plan,
    plan_drop_reader, rollback, step_back, verify,
};
use enfold_testkit::postgres::Database;

use crate::old::{KEY, OldApplication};
use crate::table::{Server, Table};

/// What the old application writes, as a reader is told it.
#[derive(Clone, Copy)]
struct Format {
    settings: &'static str,
    start: fn() -> OldApplication,
}

const FERNET: Format = Format { settings: "format = \"fernet\"", start: OldApplication::python };
const NODE: Format = Format {
    settings: "format = \"aes-256-gcm\"\nkey_encoding = \"base64\"\nencoding = \"hex\"\nseparator = \":\"\n\
               parts = [\"iv\", \"tag\", \"ciphertext\"]\niv_bytes = 16",
    start: OldApplication::node,
};

const ROWS: i64 = 150;

/// A database with the old application's values in it.
struct World {
    server: Server,
    folder: tempfile::TempDir,
    format: Format,
}

impl World {
    async fn new(server: Server, format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("old.key");
        std::fs::write(&key, KEY).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        server.create(folder.path()).await;
        let world = Self { server, folder, format };
        let (table, mut old) = (world.connect().await, (format.start)());
        for n in 0..ROWS {
            let value = format!("of {n}, before Enfold");
            assert!(table.write(n, &old.write(&value), &value).await);
        }
        world
    }

    async fn connect(&self) -> Box<dyn Table> {
        self.server.connect(self.folder.path()).await
    }

    /// A process of its own as far as Enfold goes.
    async fn open(&self, column: &str) -> enfold::Result<Enfold> {
        let (url, table, settings) = (self.server.url(), self.server.table(), self.format.settings);
        let text = format!(
            r#"
environment = "development"
[database]
url = "{url}"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "column"
[rings.main.cache]
max_unseen = "1s"
[tables."{table}".columns.secret]
id = "p.secret"
ring = "main"
{column}
[readers.old]
{settings}
key_files = ["old.key"]
[jobs]
batch_rows = 20
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#
        );
        let path: &Path = &self.folder.path().join("enfold.toml");
        Enfold::open(policy::parse(&text, path, &Variables::new()).unwrap()).await
    }

    async fn enfold(&self) -> Enfold {
        self.open(WRITES).await.unwrap()
    }

    fn column(&self) -> String {
        format!("{}.secret", self.server.table())
    }

    async fn operator(&self) -> Session {
        let enfold = self.enfold().await;
        let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.unwrap();
        Session::over(enfold, db, &who()).unwrap()
    }

    /// Whether every value is the old application's; it reads them all.
    async fn old_reads_everything(&self) {
        let (rows, mut old) = (self.connect().await.rows().await, (self.format.start)());
        let stored: Vec<&str> = rows.iter().map(|row| &*row.secret).collect();
        let is: Vec<&str> = rows.iter().map(|row| &*row.is).collect();
        assert_eq!(old.read(&stored), is);
        assert!(rows.len() >= usize::try_from(ROWS).unwrap());
    }
}

const WRITES: &str = "reads = [\"old\"]\nwrites = \"old\"";

async fn protect(session: &Session) -> enfold::Result<()> {
    let shown = plan(session, &PlanOptions::default()).await?;
    assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
    apply(session, &shown, &ApplyOptions::default(), &Silent).await.map(|_| ())
}

fn who() -> CallContext {
    CallContext::new("test", "modes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_on_postgres_with_fernet_of_python() {
    walk::walk(World::new(Server::Postgres(Box::new(Database::create().await)), FERNET).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_on_sqlite_with_aes_gcm_of_node() {
    walk::walk(World::new(Server::Sqlite, NODE).await).await;
}

/// Asks to stop once something was changed.
#[derive(Default)]
struct StopSoon(AtomicBool);

impl Observer for StopSoon {
    fn progress(&self, event: &SweepEvent) {
        self.0.fetch_or(event.progress.rows_changed > 0, Ordering::Relaxed);
    }

    fn stop_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_that_was_stopped_goes_on_where_it_was() {
    let world = World::new(Server::Sqlite, NODE).await;
    let session = world.operator().await;
    protect(&session).await.unwrap();
    let error = rollback(&session, &Selection::All, &Pace::default(), &StopSoon::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::Interrupted);
    let sealed =
        async || world.connect().await.rows().await.iter().filter(|row| row.secret.starts_with("enf1:")).count();
    let left = sealed().await;
    assert!(left > 0 && left < usize::try_from(ROWS).unwrap(), "{left}");
    let begun = session.db.store().jobs().await.unwrap().len();
    // The readers are signed already: nobody takes the values that went back for plaintext.
    assert_eq!(world.open("").await.err().unwrap().code(), Code::ReaderMissing);

    let report = rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(session.db.store().jobs().await.unwrap().len(), begun, "the same job went on");
    assert_eq!(report.tables[0].formats["secret"], "old");
    assert_eq!(report.tables[0].readers["secret"].by_reader["old"], u64::try_from(ROWS).unwrap());
    assert_eq!(sealed().await, 0);
    world.old_reads_everything().await;
    // Nothing is left to do; and a second time does no harm.
    assert_eq!(rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().tables[0].rows_changed, 0);
}

/// Plaintext that somebody left is none of a rollback's business, and is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_encrypted_stays_as_it_is_and_is_counted() {
    let world = World::new(Server::Postgres(Box::new(Database::create().await)), FERNET).await;
    let session = world.operator().await;
    protect(&session).await.unwrap();
    assert!(world.connect().await.write(3, "plain", "plain").await);
    let report = rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    let found = &report.tables[0].readers["secret"];
    assert_eq!((found.by_reader["old"], found.plaintext), (149, 1));
    assert_eq!(report.tables[0].rows_changed, 149);
    let audited = audit(session.db.as_ref(), &session.policy, &Selection::All, None).await.unwrap();
    assert_eq!(audited.columns[0].status, ColumnStatus::Leaks);
    assert!(world.connect().await.write(3, &(FERNET.start)().write("plain"), "plain").await);
    let audited = audit(session.db.as_ref(), &session.policy, &Selection::All, None).await.unwrap();
    assert_eq!(audited.columns[0].status, ColumnStatus::Foreign);
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    assert_eq!(shown.tables[0].columns[0].readers.as_ref().unwrap().by_reader["old"], 150);
    assert!(shown.has_changes(), "it can be taken up again");
    let found = verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!((found.tables[0].failed, found.tables[0].readers["secret"].by_reader["old"]), (150, 150));
}

/// Where Enfold writes before anything is converted, whoever lacks the reader would take for plaintext what it writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_signed_before_anything_is_converted_where_somebody_says_so() {
    let world = World::new(Server::Sqlite, NODE).await;
    let session = world.operator().await;
    assert!(world.open("").await.is_ok(), "nothing is signed");
    let done = step_back(&session, &Selection::All, Mode::Hybrid, &Silent).await.unwrap();
    assert!(done.columns.is_empty(), "its mode is weaker already");
    let done = step_back(&session, &Selection::All, Mode::Legacy, &Silent).await.unwrap();
    assert_eq!(done.columns, [world.column()]);
    assert_eq!(world.open("").await.err().unwrap().code(), Code::ReaderMissing);
    world.old_reads_everything().await;
    // An empty table is no reason to drop what the next value is written in.
    let empty = World { server: Server::Sqlite, folder: tempfile::tempdir().unwrap(), format: NODE };
    empty.server.create(empty.folder.path()).await;
    let needed = plan_drop_reader(&empty.operator().await, "old").await.err().unwrap();
    assert_eq!(needed.code(), Code::ReaderNeeded);
    assert!(needed.causes().any(|cause| cause.contains("0 values, and new ones are written so")), "{needed}");
    protect(&session).await.unwrap();
}

/// Without `writes` a rollback stores plaintext, as it always did; a policy that pins the mode stops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_mode_is_not_stepped_back_from_and_without_a_writer_there_is_plaintext() {
    let world = World::new(Server::Sqlite, NODE).await;
    let session = world.operator().await;
    protect(&session).await.unwrap();
    let with = async |column: &str| {
        let enfold = world.open(column).await.unwrap();
        let db = enfold_jobs::connect(&enfold.policy().database, None).await.unwrap();
        Session::over(enfold, db, &who()).unwrap()
    };
    let pinned = with(&format!("{WRITES}\nmin_mode = \"hybrid\"")).await;
    let refused = step_back(&pinned, &Selection::All, Mode::Legacy, &Silent).await.unwrap_err();
    assert_eq!(refused.code(), Code::PlanRefused);
    step_back(&pinned, &Selection::All, Mode::Hybrid, &Silent).await.unwrap();
    let plain = with("reads = [\"old\"]").await;
    rollback(&plain, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(world.connect().await.rows().await.iter().all(|row| row.secret == row.is));
}
