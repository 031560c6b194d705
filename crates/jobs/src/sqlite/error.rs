//! SQLite's result codes as Enfold's errors. SQLite's own text is never passed on: a trigger may put a value into it.

use enfold::{Code, Error, Result};
use rusqlite::{ErrorCode, ffi};

/// Says what was being done when SQLite refused.
pub(super) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| convert(&error, what()))
    }
}

/// The error without its text.
pub(super) fn convert(error: &rusqlite::Error, what: String) -> Error {
    let Some(raw) = error.sqlite_error() else {
        return Error::new(Code::Internal, what).cause(kind(error));
    };
    let said = format!("SQLite result {} ({})", raw.extended_code, ffi::code_to_str(raw.extended_code));
    match raw.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::new(Code::Busy, what)
            .cause(said)
            .hint("another connection holds the database; end its transaction, or run the command again"),
        ErrorCode::DiskFull => Error::new(Code::DiskFull, what)
            .cause(said)
            .hint("the transaction was rolled back; make room and run the command again"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            Error::new(Code::DatabaseDenied, what)
                .cause(said)
                .hint("make the database file and its folder writable for this user")
        }
        ErrorCode::CannotOpen => Error::new(Code::DatabaseUnavailable, what)
            .cause(said)
            .hint("check the path and the rights of the database file"),
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => Error::new(Code::DatabaseFailed, what)
            .cause(said)
            .hint("run `PRAGMA integrity_check` on the file, and restore it from a backup where that complains"),
        _ => Error::new(Code::DatabaseFailed, what).cause(said),
    }
}

/// Which of rusqlite's own errors it is: their texts may quote what was read.
fn kind(error: &rusqlite::Error) -> &'static str {
    match error {
        rusqlite::Error::QueryReturnedNoRows => "the query returned no row",
        rusqlite::Error::InvalidColumnType(..) | rusqlite::Error::FromSqlConversionFailure(..) => {
            "a value has another type than expected"
        }
        rusqlite::Error::IntegralValueOutOfRange(..) => "a number is out of range",
        rusqlite::Error::Utf8Error(..) => "a text is not UTF-8",
        rusqlite::Error::InvalidPath(..) | rusqlite::Error::NulError(..) => "the path is not usable",
        _ => "the SQLite driver refused",
    }
}

/// Why the database would not take one row, where it is that row's fault alone; `None` for what concerns all of them.
pub(super) fn row_refusal(error: &rusqlite::Error) -> Option<String> {
    let raw = error.sqlite_error()?;
    let reason = match raw.extended_code {
        ffi::SQLITE_CONSTRAINT_CHECK => "a check constraint refused the new value",
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => "a unique index refused the new value",
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => "a foreign key refused the change",
        ffi::SQLITE_CONSTRAINT_NOTNULL => "a NOT NULL constraint refused the new value",
        ffi::SQLITE_CONSTRAINT_TRIGGER => "a trigger refused the change",
        ffi::SQLITE_CONSTRAINT_DATATYPE => "the column of a STRICT table refused the new value's type",
        _ if raw.code == ErrorCode::ConstraintViolation => "a constraint refused the new value",
        _ if raw.code == ErrorCode::TooBig => "the new value is larger than SQLite allows",
        _ => return None,
    };
    Some(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn what_a_trigger_says_does_not_reach_the_error() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(
            "CREATE TABLE t(v TEXT); CREATE TRIGGER g BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'secret value'); END;",
        )
        .unwrap();
        let error = db.execute("INSERT INTO t VALUES ('x')", []).unwrap_err();
        assert!(error.to_string().contains("secret"), "the driver's text does quote it");
        let ours = convert(&error, "write `t`".to_owned());
        assert!(!format!("{ours:?}").contains("secret"));
        assert_eq!(row_refusal(&error).as_deref(), Some("a trigger refused the change"));
    }

    #[test]
    fn a_full_database_is_disk_full() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t(v BLOB); PRAGMA max_page_count = 4;").unwrap();
        let error = db.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap_err();
        assert_eq!(convert(&error, String::new()).code(), Code::DiskFull);
    }
}
