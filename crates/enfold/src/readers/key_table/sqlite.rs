//! The table of keys in SQLite.

use std::path::PathBuf;

use rusqlite::types::ValueRef;
use zeroize::Zeroizing;

use super::{Row, columns};
use crate::Result;
use crate::db::blocking;
use crate::db::sqlite::{failure, open};
use crate::policy::KeyTablePolicy;

const DOING: &str = "cannot read the table of keys";

/// Opened for each look: the table is read on misses only.
pub(super) struct Source(PathBuf);

impl Source {
    pub(super) fn new(path: &str) -> Self {
        Self(path.into())
    }

    pub(super) async fn read(&self, policy: &KeyTablePolicy, wanted: &[String]) -> Result<Vec<(String, Row)>> {
        let (path, policy, wanted) = (self.0.clone(), policy.clone(), wanted.to_vec());
        blocking(move || {
            let connection = open(&path)?;
            read(&connection, &policy, &wanted).map_err(|error| failure(DOING, &error))
        })
        .await
    }
}

fn read(
    connection: &rusqlite::Connection,
    policy: &KeyTablePolicy,
    wanted: &[String],
) -> rusqlite::Result<Vec<(String, Row)>> {
    // A quoted name that is no column would be taken for a text; with the table's name before it, it is an error.
    let table = quoted(&policy.table);
    let column = |name: Option<&String>| name.map_or("NULL".to_owned(), |name| format!("{table}.{}", quoted(name)));
    let names = columns(policy).map(column);
    let sql = format!("SELECT {} FROM {table} WHERE CAST({} AS TEXT) = ?1", names.join(", "), names[0]);
    let mut statement = connection.prepare(&sql)?;
    let mut found = Vec::new();
    for name in wanted {
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let text = |at| row.get_ref(at).map(|value| bytes(value).and_then(|b| String::from_utf8(b).ok()));
            let secret = |at| row.get_ref(at).map(|value| bytes(value).map(Zeroizing::new));
            let row = Row { version: text(1)?, root: text(2)?, data_key: secret(3)?, key: secret(4)? };
            found.push((name.clone(), row));
        }
    }
    Ok(found)
}

fn bytes(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Integer(number) => Some(number.to_string().into_bytes()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        ValueRef::Null | ValueRef::Real(_) => None,
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
