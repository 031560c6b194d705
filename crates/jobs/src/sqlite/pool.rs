//! Connections. rusqlite is synchronous, so every call runs on tokio's blocking threads with a connection taken from
//! a small set of idle ones; readers run beside each other, writers of this process queue for one permit (SQLite lets
//! only one write anyway, and a queue is fairer than its polling).
//!
//! A connection goes back to the set only with no transaction open.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold::{Code, Error, Result};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::error::{Doing, convert};

/// Idle connections kept; more are opened when needed and closed afterwards.
const IDLE: usize = 4;
/// Prepared statements kept by each connection.
const STATEMENTS: usize = 64;

#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    path: PathBuf,
    busy: Duration,
    /// Run on every new connection, after our own settings.
    settings: String,
    idle: Mutex<Vec<Connection>>,
    writer: Semaphore,
}

impl Pool {
    /// Opens the first connection, so that a wrong path is an error now. The file must exist.
    pub(super) fn open(path: &Path, busy: Duration, settings: &str) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::new(
                Code::DatabaseUnavailable,
                format!("cannot open the database `{}`", path.display()),
            )
            .cause("there is no such file")
            .hint("check the path in the database URL; in enfold.toml it starts at that file's folder"));
        }
        let pool = Self(Arc::new(Inner {
            path: path.to_owned(),
            busy,
            settings: settings.to_owned(),
            idle: Mutex::default(),
            writer: Semaphore::new(1),
        }));
        let first = pool.0.take()?;
        pool.0.put_back(first);
        Ok(pool)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` on a connection. For reading only: writers use [`Pool::write`].
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.blocking(work).await
    }

    /// Runs `work` on a connection once no other writer of this pool is at it.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let permit = inner.writer.acquire().await;
        let done = self.blocking(work).await;
        drop(permit);
        done
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let run = tokio::task::spawn_blocking(move || {
            let mut connection = inner.take()?;
            let done = work(&mut connection);
            if connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok() {
                inner.put_back(connection);
            }
            done
        });
        match run.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::new(Code::Interrupted, "the program is ending while the database is used")),
        }
    }
}

thread_local! {
    /// How long calls on this thread wait for a lock, and since when the present one does.
    static WAITED: Cell<(Duration, Option<Instant>)> = const { Cell::new((Duration::ZERO, None)) };
}

/// SQLite's own handler sleeps up to a tenth of a second at a time: beside writers that begin again at once it never
/// finds the lock free. Nobody is told when it is, so one asks each millisecond.
fn wait_for_lock(asked: i32) -> bool {
    let (limit, since) = WAITED.get();
    let since = since.filter(|_| asked > 0).unwrap_or_else(Instant::now);
    WAITED.set((limit, Some(since)));
    if since.elapsed() >= limit {
        return false;
    }
    std::thread::sleep(Duration::from_millis(1));
    true
}

impl Inner {
    fn take(&self) -> Result<Connection> {
        WAITED.set((self.busy, None));
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.connect(), Ok)
    }

    fn put_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }

    fn connect(&self) -> Result<Connection> {
        let what = || format!("cannot open the database `{}`", self.path.display());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).doing(what)?;
        connection.busy_handler(Some(wait_for_lock)).doing(what)?;
        // secure_delete: what we overwrite is overwritten in the file as well. foreign_keys: a reference that our
        // change would break refuses the row instead of breaking. recursive_triggers and the journal mode stay as
        // they are: the journal mode is the application's choice.
        connection.execute_batch("PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON;").doing(what)?;
        connection.execute_batch(&self.settings).map_err(|e| convert(&e, what()))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // The first look at the file: what is no database is refused here, by name.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).doing(what)?;
        Ok(connection)
    }
}
