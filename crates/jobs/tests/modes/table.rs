//! The table `people`: a secret, and in `is` what it holds, which the tests alone write and read.

use std::path::Path;
use std::sync::Mutex;

use async_trait::async_trait;
use enfold_testkit::postgres::Database;
use rusqlite::Connection;
use tokio_postgres::Client;

pub(crate) const TABLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY, secret text, secret_is text)";

/// A row as it stands, and what it holds.
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) secret: String,
    pub(crate) is: String,
}

/// A session of an application.
#[async_trait]
pub(crate) trait Table: Send + Sync {
    async fn rows(&self) -> Vec<Row>;

    /// Whether the database took it.
    async fn write(&self, id: i64, secret: &str, is: &str) -> bool;
}

/// Where the table is.
pub(crate) enum Server {
    Postgres(Box<Database>),
    Sqlite,
}

impl Server {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url(),
            Self::Sqlite => "sqlite:app.db".to_owned(),
        }
    }

    /// As the policy names it.
    pub(crate) fn table(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "public.people",
            Self::Sqlite => "people",
        }
    }

    pub(crate) async fn create(&self, folder: &Path) {
        match self {
            Self::Postgres(database) => database.connect().await.batch_execute(TABLE).await.unwrap(),
            Self::Sqlite => sqlite(folder).execute_batch(&format!("PRAGMA journal_mode = WAL; {TABLE}")).unwrap(),
        }
    }

    pub(crate) async fn connect(&self, folder: &Path) -> Box<dyn Table> {
        match self {
            Self::Postgres(database) => Box::new(database.connect().await),
            Self::Sqlite => Box::new(Mutex::new(sqlite(folder))),
        }
    }
}

fn sqlite(folder: &Path) -> Connection {
    let app = Connection::open(folder.join("app.db")).unwrap();
    app.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
    app
}

const ROWS: &str = "SELECT id, secret, secret_is FROM people ORDER BY id";

#[async_trait]
impl Table for Client {
    async fn rows(&self) -> Vec<Row> {
        let rows = self.query(ROWS, &[]).await.unwrap();
        rows.iter().map(|row| Row { id: row.get(0), secret: row.get(1), is: row.get(2) }).collect()
    }

    async fn write(&self, id: i64, secret: &str, is: &str) -> bool {
        let sql = "INSERT INTO people VALUES ($1, $2, $3)
                   ON CONFLICT (id) DO UPDATE SET secret = excluded.secret, secret_is = excluded.secret_is";
        self.execute(sql, &[&id, &secret, &is]).await.is_ok()
    }
}

#[async_trait]
impl Table for Mutex<Connection> {
    async fn rows(&self) -> Vec<Row> {
        let app = self.lock().unwrap();
        let mut all = app.prepare(ROWS).unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok(Row { id: row.get(0)?, secret: row.get(1)?, is: row.get(2)? });
        all.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    async fn write(&self, id: i64, secret: &str, is: &str) -> bool {
        let sql = "INSERT INTO people VALUES (?1, ?2, ?3)
                   ON CONFLICT (id) DO UPDATE SET secret = excluded.secret, secret_is = excluded.secret_is";
        self.lock().unwrap().execute(sql, (id, secret, is)).is_ok()
    }
}
