//! The access list.

use rusqlite::{Connection, OptionalExtension, params};

use super::as_stored;
use crate::Result;
use crate::catalog::{SignedAccess, too_old_for_access};
use crate::db::sqlite::failure;

const READING: &str = "cannot read the access list from the catalog";
const WRITING: &str = "cannot write the access list to the catalog";

pub(super) fn read(c: &Connection) -> Result<Option<SignedAccess>> {
    if !has_room(c, READING)? {
        return Ok(None);
    }
    let sql = "SELECT epoch, document, signature FROM enfold_access_list";
    let list = c.query_row(sql, [], |row| {
        // A negative epoch can only have been written by hand; the document's own counts.
        let epoch = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
        Ok(SignedAccess { epoch, document: row.get(1)?, signature: row.get(2)? })
    });
    list.optional().map_err(|e| failure(READING, &e))
}

pub(super) fn publish(c: &Connection, list: &SignedAccess, expected: Option<u64>) -> Result<bool> {
    if !has_room(c, WRITING)? {
        return Err(too_old_for_access());
    }
    let epoch = as_stored(list.epoch);
    let written = match expected {
        None => c.execute(
            "INSERT INTO enfold_access_list (one, epoch, document, signature) VALUES (1, ?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![epoch, list.document, list.signature],
        ),
        Some(expected) => c.execute(
            "UPDATE enfold_access_list SET epoch = ?1, document = ?2, signature = ?3 WHERE epoch = ?4",
            params![epoch, list.document, list.signature, as_stored(expected)],
        ),
    };
    written.map(|rows| rows == 1).map_err(|e| failure(WRITING, &e))
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection, doing: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_access_list')";
    c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(doing, &e))
}
