//! Certificates of destructions.

use rusqlite::{Connection, OptionalExtension};

use crate::Result;
use crate::catalog::too_old_for_certificates;
use crate::db::sqlite::failure;

const DOING: &str = "cannot keep certificates in the catalog";

pub(super) fn keep(c: &Connection, ring: &str, subject: &str, certificate: &str) -> Result<()> {
    has_room(c)?;
    let sql = "INSERT INTO enfold_certificates (ring, subject, certificate) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    c.execute(sql, [ring, subject, certificate]).map_err(|e| failure(DOING, &e))?;
    Ok(())
}

pub(super) fn find(c: &Connection, ring: &str, subject: &str) -> Result<Option<String>> {
    has_room(c)?;
    let sql = "SELECT certificate FROM enfold_certificates WHERE ring = ?1 AND subject = ?2";
    c.query_row(sql, [ring, subject], |row| row.get(0)).optional().map_err(|e| failure(DOING, &e))
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_certificates')";
    let there: bool = c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(DOING, &e))?;
    if there { Ok(()) } else { Err(too_old_for_certificates()) }
}
