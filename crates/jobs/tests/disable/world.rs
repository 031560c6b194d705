//! Two tables, protected, on either database; and what the tests do there.

use std::path::PathBuf;
use std::time::Duration;

use enfold::{CallContext, Enfold, KeyId, Leaving, Whose};
use enfold_jobs::ops::{
    ApplyOptions, Disable, PlanOptions, Reencryption, Session, Silent, Tried, WorkOptions, apply, disable,
    disable_within, plan, plan_reencryption, request_reencryption, work,
};
use enfold_testkit::postgres::Database;
use enfold_testkit::postgres_private::Server;

use crate::common;

/// Long enough for every process to take a state in, and for the word of a short life to run out.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const TABLES: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, org INTEGER NOT NULL, name TEXT, email TEXT);
    INSERT INTO users VALUES (1, 1, 'Ada', 'ada@example.com'), (2, 2, 'Bob', 'bob@example.com'), (3, 1, 'Cy', 'cy@example.com');
    CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
    INSERT INTO notes VALUES (1, 'a note'), (2, 'another');";

/// Shadows and members of documents, which Postgres has besides.
const MORE: &str = "ALTER TABLE users ADD COLUMN born date; UPDATE users SET born = '1990-01-01';
    ALTER TABLE users ADD COLUMN profile jsonb; UPDATE users SET profile = jsonb_build_object('phone', '555', 'n', id);";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[rings.main.cache]
max_unseen = "1s"
[rings.main.rotation]
cadence = "90d"
[tables."SCHEMAusers".columns.email]
id = "u.email"
ring = "main"
[tables."SCHEMAnotes".columns.body]
id = "n.body"
ring = "main"
[jobs]
max_requested_checkpoints = 10000
"#;

/// Each tenant has a data key, and of two blind indexes one is across tenants.
const POLICY_TENANTS: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
[rings.main.cache]
max_unseen = "1s"
[tables."SCHEMAusers"]
tenant = "org"
[tables."SCHEMAusers".columns.email]
id = "u.email"
ring = "main"
[tables."SCHEMAusers".columns.email.indexes.eq]
column = "email_eq"
[tables."SCHEMAusers".columns.email.indexes.login]
column = "email_login"
cross_tenant = true
[jobs]
max_requested_checkpoints = 10000
"#;

const POLICY_MORE: &str = r#"
[tables."public.users".columns.born]
id = "u.born"
ring = "main"
shadow = "born_enf"
[tables."public.users".columns.phone]
id = "u.phone"
ring = "main"
within = "profile"
path = "$.phone"
"#;

pub(crate) enum Place {
    Postgres(Box<Database>),
    Sqlite(PathBuf),
}

pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) text: String,
    pub(crate) enfold: Enfold,
    pub(crate) session: Session,
}

impl World {
    pub(crate) async fn postgres() -> Self {
        Self::on_postgres(&format!("{TABLES}{MORE}"), &format!("{POLICY}{POLICY_MORE}")).await
    }

    pub(crate) async fn sqlite() -> Self {
        Self::on_sqlite(POLICY).await
    }

    /// On a server of the test's own, whose replicas hold up nobody else.
    pub(crate) async fn on_server(server: &Server) -> Self {
        // A job would wait for the replica, which is not what is tested.
        let policy = format!("{POLICY}max_replica_lag = \"1h\"\n");
        Self::in_database(Database::create_on(&server.url()).await, TABLES, &policy).await
    }

    pub(crate) async fn tenants_on_postgres() -> Self {
        Self::on_postgres(TABLES, POLICY_TENANTS).await
    }

    pub(crate) async fn tenants_on_sqlite() -> Self {
        Self::on_sqlite(POLICY_TENANTS).await
    }

    async fn on_postgres(tables: &str, policy: &str) -> Self {
        Self::in_database(Database::create().await, tables, policy).await
    }

    async fn in_database(database: Database, tables: &str, policy: &str) -> Self {
        database.connect().await.batch_execute(tables).await.unwrap();
        let policy = policy.replace("SCHEMA", "public.").replace("DATABASE", &database.url());
        Self::over(Place::Postgres(Box::new(database)), tempfile::tempdir().unwrap(), policy).await
    }

    async fn on_sqlite(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch(TABLES).unwrap();
        Self::over(Place::Sqlite(path), folder, policy.replace("SCHEMA", "").replace("DATABASE", "sqlite:app.db")).await
    }

    async fn over(place: Place, folder: tempfile::TempDir, text: String) -> Self {
        let (enfold, session) = open(&folder, &text).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        Self { place, folder, text, enfold, session }
    }

    /// Another session with this policy.
    pub(crate) async fn another(&self, text: &str) -> (Enfold, Session) {
        open(&self.folder, text).await
    }

    /// Statements as the application sends them; the database's answer where it refuses.
    pub(crate) async fn run(&self, sql: &str) -> Result<(), String> {
        match &self.place {
            Place::Postgres(database) => {
                let done = database.connect().await.batch_execute(sql).await;
                done.map_err(|error| error.as_db_error().map_or("lost".to_owned(), |e| e.message().to_owned()))
            }
            Place::Sqlite(path) => {
                let db = rusqlite::Connection::open(path).unwrap();
                db.busy_timeout(Duration::from_secs(10)).unwrap();
                db.execute_batch(sql).map_err(|error| error.to_string())
            }
        }
    }

    /// One text.
    pub(crate) async fn text(&self, sql: &str) -> String {
        match &self.place {
            Place::Postgres(database) => database.connect().await.query_one(sql, &[]).await.unwrap().get(0),
            Place::Sqlite(path) => {
                rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
            }
        }
    }

    /// Has another data key seal; the former one.
    pub(crate) async fn rotate(&self) -> KeyId {
        let operator = self.enfold.operator().unwrap();
        let rotated = operator.rotate_many("main", Whose::Everybody, &context()).await.unwrap();
        rotated[0].previous_key.unwrap()
    }

    /// Moves every value to the data key that seals.
    pub(crate) async fn reencrypt(&self) {
        let wanted = Reencryption { leaving: Leaving::default(), ..Reencryption::default() };
        let plan = plan_reencryption(&self.session, &wanted).await.unwrap();
        let asked = request_reencryption(&self.session, &wanted, &plan).await.unwrap();
        let options = WorkOptions {
            name: "worker".to_owned(),
            version: "test".to_owned(),
            until_idle: true,
            only: Some(asked.iter().map(|asked| asked.job).collect()),
        };
        let report = work(&self.session, &options, &Silent).await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }

    pub(crate) async fn disable(&self, key: KeyId) -> Tried {
        disable(&self.session, &wanted(&[key])).await.unwrap()
    }

    pub(crate) async fn disable_at_last(&self, key: KeyId) -> Tried {
        disable_within(&self.session, &wanted(&[key]), PATIENCE, &Silent).await.unwrap()
    }

    pub(crate) async fn status(&self, key: KeyId) -> &'static str {
        self.enfold.data_key(key).await.unwrap().expect("its row").status.as_str()
    }
}

async fn open(folder: &tempfile::TempDir, text: &str) -> (Enfold, Session) {
    common::open(text, folder.path(), &context()).await.unwrap()
}

pub(crate) fn context() -> CallContext {
    CallContext::new("test", "out of use")
}

pub(crate) fn wanted(keys: &[KeyId]) -> Disable<'_> {
    static CONTEXT: std::sync::OnceLock<CallContext> = std::sync::OnceLock::new();
    Disable { ring: "main", keys, minimum: None, context: CONTEXT.get_or_init(context) }
}

/// Both databases, one test for each.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres {
            $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(crate::world::World::postgres().await).await; } )*
        }
        mod sqlite {
            $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(crate::world::World::sqlite().await).await; } )*
        }
    };
}
pub(crate) use on_both;

/// The same where each tenant has a data key.
macro_rules! on_tenants {
    ($($name:ident)*) => {
        mod postgres {
            $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(crate::world::World::tenants_on_postgres().await).await; } )*
        }
        mod sqlite {
            $( #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(crate::world::World::tenants_on_sqlite().await).await; } )*
        }
    };
}
pub(crate) use on_tenants;
