//! Access in emergencies.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::as_stored;
use crate::Result;
use crate::catalog::{StoredEmergency, too_old_for_emergencies};
use crate::db::sqlite::failure;

const READING: &str = "cannot read emergencies from the catalog";
const WRITING: &str = "cannot write an emergency to the catalog";
const COLUMNS: &str = "SELECT id, revision, at_ms, document, mac FROM enfold_emergencies";

pub(super) fn put(c: &Connection, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool> {
    if !has_room(c, WRITING)? {
        return Err(too_old_for_emergencies());
    }
    let StoredEmergency { id, revision, at_ms, document, mac } = emergency;
    let revision = as_stored(*revision);
    let written = match expected {
        None => c.execute(
            "INSERT INTO enfold_emergencies (id, revision, at_ms, document, mac) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
            params![id, revision, at_ms, document, mac],
        ),
        Some(expected) => c.execute(
            "UPDATE enfold_emergencies SET revision = ?2, document = ?3, mac = ?4 WHERE id = ?1 AND revision = ?5",
            params![id, revision, document, mac, as_stored(expected)],
        ),
    };
    written.map(|rows| rows == 1).map_err(|e| failure(WRITING, &e))
}

pub(super) fn one(c: &Connection, id: &str) -> Result<Option<StoredEmergency>> {
    if !has_room(c, READING)? {
        return Ok(None);
    }
    let found = c.query_row(&format!("{COLUMNS} WHERE id = ?1"), [id], read);
    found.optional().map_err(|e| failure(READING, &e))
}

pub(super) fn newest(c: &Connection, limit: u32) -> Result<Vec<StoredEmergency>> {
    if !has_room(c, READING)? {
        return Ok(Vec::new());
    }
    let failed = |e: rusqlite::Error| failure(READING, &e);
    let mut statement = c.prepare(&format!("{COLUMNS} ORDER BY at_ms DESC, id LIMIT ?1")).map_err(failed)?;
    let rows = statement.query_map([limit], read).map_err(failed)?;
    rows.collect::<rusqlite::Result<_>>().map_err(failed)
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredEmergency> {
    // A negative revision can only have been written by hand; the document's own counts.
    let revision = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
    Ok(StoredEmergency { id: row.get(0)?, revision, at_ms: row.get(2)?, document: row.get(3)?, mac: row.get(4)? })
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection, doing: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_emergencies')";
    c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(doing, &e))
}
