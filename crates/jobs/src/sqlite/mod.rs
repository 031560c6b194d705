//! SQLite: its rows as the engine moves them ([`crate::store::Store`]), its schema as a plan sees it and a step changes
//! it ([`crate::database::Database`]).
//!
//! Not here: what is sealed and how (the codec's), which steps are taken and when (the operations').

mod census;
mod counts;
mod coverage;
mod database;
mod disabling;
mod dropped;
mod error;
mod forms;
mod generations;
mod identity;
mod inspect;
mod names;
mod pool;
mod prune;
mod residue;
mod sampling;
mod schema;
mod shape;
mod steps;
mod store;
mod survey;
#[cfg(test)]
mod tests;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use enfold::Result;

use self::pool::Pool;

/// How a SQLite database is opened.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// How long a transaction waits for the write lock that somebody else holds.
    pub lock_timeout: Duration,
    /// SQL run on every new connection, such as `PRAGMA max_page_count = …`.
    pub settings: String,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(5), settings: String::new() }
    }
}

/// One database file. The application may have it open meanwhile, in this process or in others.
pub struct Sqlite {
    pool: Pool,
    opened: Instant,
}

impl Sqlite {
    /// Opens an existing file; one that is missing is not created.
    pub fn open(path: &Path, options: &SqliteOptions) -> Result<Self> {
        Ok(Self { pool: Pool::open(path, options.lock_timeout, &options.settings)?, opened: Instant::now() })
    }

    pub fn path(&self) -> &Path {
        self.pool.path()
    }
}

/// A file beside the database: `-wal`, `-journal`, `-shm`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Length of the write-ahead log, 0 where there is none.
fn wal_bytes(path: &Path) -> u64 {
    std::fs::metadata(beside(path, "-wal")).map_or(0, |meta| meta.len())
}
