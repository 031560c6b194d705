//! Somebody with every right on the catalog's database and none on the keys.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::sync::Arc;

use enfold::catalog::{PostgresCatalog, SqliteCatalog};
use enfold::db::postgres::Endpoint;
use enfold_testkit::postgres::Database;

use super::common::World;

pub enum Hand {
    Sqlite(rusqlite::Connection),
    /// The database goes with it.
    Postgres(Box<(tokio_postgres::Client, Database)>),
}

impl Hand {
    /// A world whose catalog is in SQLite, and a hand on that.
    pub async fn on_sqlite() -> (World, Self) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let catalog = SqliteCatalog::create(&path).unwrap();
        let hand = Self::Sqlite(rusqlite::Connection::open(&path).unwrap());
        let mut world = World::over(Arc::new(catalog));
        world.dir = dir;
        (world, hand)
    }

    pub async fn on_postgres() -> (World, Self) {
        let database = Database::create().await;
        let endpoint = Endpoint::parse_text(&database.url()).unwrap();
        let catalog = PostgresCatalog::connect(endpoint).await.unwrap();
        let client = database.connect().await;
        (World::over(Arc::new(catalog)), Self::Postgres(Box::new((client, database))))
    }

    /// `@` is the prefix of the catalog's tables.
    pub async fn change(&self, sql: &str) {
        match self {
            Self::Sqlite(c) => c.execute_batch(&sql.replace('@', "enfold_")).unwrap(),
            Self::Postgres(both) => both.0.batch_execute(&sql.replace('@', "enfold.")).await.unwrap(),
        }
    }

    /// Every row of an answer, as text.
    pub async fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        match self {
            Self::Sqlite(c) => {
                let mut statement = c.prepare(&sql.replace('@', "enfold_")).unwrap();
                let columns = statement.column_count();
                let truth = (0..columns).map(|at| statement.column_name(at).unwrap().contains("IS NOT NULL"));
                let truth: Vec<bool> = truth.collect();
                let text = |row: &rusqlite::Row<'_>, at: usize| match row.get_ref(at).unwrap() {
                    rusqlite::types::ValueRef::Null => String::new(),
                    rusqlite::types::ValueRef::Integer(n) if truth[at] => (n == 1).to_string(),
                    rusqlite::types::ValueRef::Integer(n) => n.to_string(),
                    other => other.as_str().unwrap().to_owned(),
                };
                let rows = statement.query_map([], |row| Ok((0..columns).map(|at| text(row, at)).collect()));
                rows.unwrap().map(|row| row.unwrap()).collect()
            }
            Self::Postgres(both) => {
                let messages = both.0.simple_query(&sql.replace('@', "enfold.")).await.unwrap();
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                let cell = |cell: Option<&str>| match cell {
                    Some("t") => "true".to_owned(),
                    Some("f") => "false".to_owned(),
                    cell => cell.unwrap_or_default().to_owned(),
                };
                rows.map(|row| (0..row.len()).map(|at| cell(row.get(at))).collect()).collect()
            }
        }
    }

    pub fn hex(&self, bytes: &[u8]) -> String {
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self {
            Self::Sqlite(_) => format!("x'{hex}'"),
            Self::Postgres(..) => format!("'\\x{hex}'::bytea"),
        }
    }
}

/// Each case on both databases, with a `Scene` made from the world and the hand.
#[macro_export]
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite { $( #[tokio::test] async fn $name() {
            super::$name(super::Scene::over(super::hand::Hand::on_sqlite().await).await).await;
        } )* }
        mod postgres { $( #[tokio::test] async fn $name() {
            super::$name(super::Scene::over(super::hand::Hand::on_postgres().await).await).await;
        } )* }
    };
}
