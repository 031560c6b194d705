//! Opening SQLite files, and SQLite's errors in words that may be logged.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Code, Error, Result};

/// How long a statement waits for another connection's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens a file that exists.
pub fn open(path: &Path) -> Result<Connection> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a file, creating it if it is not there.
pub fn create(path: &Path) -> Result<Connection> {
    open_with(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

fn open_with(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let doing = || format!("cannot open the SQLite database `{}`", path.display());
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| failure(doing(), &e))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| failure(doing(), &e))?;
    // Opening reads nothing yet; this finds out whether it is a database at all.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(())).map_err(|e| failure(doing(), &e))?;
    Ok(connection)
}

/// `doing`: what was being done to what. SQLite's own text is left out: it may quote a value or a statement.
pub fn failure(doing: impl Into<String>, error: &rusqlite::Error) -> Error {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return Error::new(Code::DatabaseFailed, doing).cause(describe(error));
    };
    let (code, hint) = match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
            (Code::Busy, Some("another connection holds the file's lock; try again when it has ended"))
        }
        ErrorCode::DiskFull => (Code::DiskFull, Some("free space on the disk and try again")),
        ErrorCode::CannotOpen => (Code::DatabaseUnavailable, Some("check the path in the database URL")),
        ErrorCode::NotADatabase => (Code::DatabaseFailed, Some("the file is not a SQLite database")),
        ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied => {
            (Code::DatabaseDenied, Some("check the rights of the file and of its folder"))
        }
        _ => (Code::DatabaseFailed, None),
    };
    let made = Error::new(code, doing).cause(format!("SQLite answered {}", failure.extended_code));
    match hint {
        Some(hint) => made.hint(hint),
        None => made,
    }
}

/// The kind of an error that did not come from SQLite itself.
fn describe(error: &rusqlite::Error) -> &'static str {
    match error {
        rusqlite::Error::QueryReturnedNoRows => "no row where one was expected",
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
            "a column holds another type than expected"
        }
        rusqlite::Error::IntegralValueOutOfRange(..) => "a number is out of range",
        _ => "the driver refused the call",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_sqlite_quotes_is_in_no_error() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (email TEXT CHECK (length(email) < 3))").unwrap();
        for sql in ["INSERT INTO t VALUES ('ann@example.com')", "SELECT 'ann@example.com' FROM gone", "SELEC 'ann@'"] {
            let ours = failure("cannot write to `t`", &connection.execute_batch(sql).unwrap_err());
            assert!(!format!("{ours:?}").contains("ann@"), "{ours:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_a_database_is_said_to_be_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a text file, long enough to have a header of its own").unwrap();
        let error = open(file.path()).unwrap_err();
        assert_eq!(error.code(), Code::DatabaseFailed);
        assert!(error.hints().any(|h| h.contains("not a SQLite database")));
    }

    #[test]
    fn a_missing_file_is_unavailable_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone.db");
        assert_eq!(open(&path).unwrap_err().code(), Code::DatabaseUnavailable);
        assert!(!path.exists());
    }
}
