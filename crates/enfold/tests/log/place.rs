//! A catalog on a real database, and somebody who may write to its tables.

use std::path::PathBuf;
use std::sync::Arc;

use enfold::catalog::{Catalog, PostgresCatalog, SqliteCatalog};
use enfold::db::postgres::Endpoint;
use enfold_testkit::postgres::Database;

use super::common::World;

pub(crate) struct Stored {
    pub(crate) world: World,
    /// What the table is called.
    pub(crate) events: &'static str,
    admin: Admin,
}

enum Admin {
    Sqlite(PathBuf),
    Postgres(tokio_postgres::Client),
}

pub(crate) async fn sqlite() -> Stored {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let catalog = SqliteCatalog::create(&path).unwrap();
    catalog.migrate().await.unwrap();
    let world = World { dir, ..World::over(Arc::new(catalog)) };
    Stored { world, events: "enfold_events", admin: Admin::Sqlite(path) }
}

pub(crate) async fn postgres(database: &Database) -> Stored {
    let catalog = PostgresCatalog::connect(Endpoint::parse_text(&database.url()).unwrap()).await.unwrap();
    catalog.migrate().await.unwrap();
    let world = World::over(Arc::new(catalog));
    Stored { world, events: "enfold.events", admin: Admin::Postgres(database.connect().await) }
}

impl Stored {
    pub(crate) async fn run(&self, sql: &str) {
        match &self.admin {
            Admin::Sqlite(path) => rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap(),
            Admin::Postgres(client) => client.batch_execute(sql).await.unwrap(),
        }
    }

    /// Remembers the log as it is.
    pub(crate) async fn keep(&self) {
        self.run(&format!("CREATE TABLE kept AS SELECT at_ms, event, writer, seq FROM {}", self.events)).await;
    }

    pub(crate) async fn put_back(&self) {
        let events = self.events;
        self.run(&format!(
            "DELETE FROM {events};
             INSERT INTO {events} (at_ms, event, writer, seq) SELECT at_ms, event, writer, seq FROM kept;
             DROP TABLE kept"
        ))
        .await;
    }
}
