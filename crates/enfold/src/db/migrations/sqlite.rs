//! Applying migrations to SQLite. Tables of ours begin with `enfold_` there.

use rusqlite::Connection;

use super::{Applied, Migration, pending, usable};
use crate::Result;
use crate::db::sqlite::failure;

/// Brings a series of tables up to date, in one immediate transaction: a second process waits for the first.
pub fn migrate(connection: &mut Connection, series: &str, all: &[Migration]) -> Result<()> {
    let doing = || format!("cannot bring the tables of `{series}` up to date");
    let tx = connection
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .map_err(|e| failure(doing(), &e))?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS enfold_migrations (
             series TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, checksum BLOB NOT NULL,
             applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (series, version)) WITHOUT ROWID",
    )
    .map_err(|e| failure(doing(), &e))?;
    for migration in pending(series, all, &applied(&tx, series)?)? {
        let doing = || format!("cannot apply migration {} (`{}`) of `{series}`", migration.version, migration.name);
        tx.execute_batch(migration.sql).map_err(|e| failure(doing(), &e))?;
        tx.execute(
            "INSERT INTO enfold_migrations (series, version, name, checksum) VALUES (?1, ?2, ?3, ?4)",
            rusqlite::params![series, migration.version, migration.name, migration.checksum()],
        )
        .map_err(|e| failure(doing(), &e))?;
    }
    tx.commit().map_err(|e| failure(doing(), &e))
}

/// Whether this program can work with the tables of `series` as they are.
pub fn check(connection: &Connection, series: &str, all: &[Migration], oldest: u32) -> Result<()> {
    let exists: bool = connection
        .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'enfold_migrations')", [], |r| r.get(0))
        .map_err(|e| failure(format!("cannot read the schema version of `{series}`"), &e))?;
    let applied = if exists { applied(connection, series)? } else { Vec::new() };
    usable(series, all, oldest, &applied)
}

fn applied(connection: &Connection, series: &str) -> Result<Vec<Applied>> {
    let read = || -> rusqlite::Result<Vec<Applied>> {
        connection
            .prepare("SELECT version, checksum FROM enfold_migrations WHERE series = ?1 ORDER BY version")?
            .query_map([series], |r| Ok(Applied { version: r.get(0)?, checksum: r.get(1)? }))?
            .collect()
    };
    read().map_err(|e| failure(format!("cannot read the schema version of `{series}`"), &e))
}
