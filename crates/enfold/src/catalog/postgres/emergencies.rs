//! Access in emergencies.

use tokio_postgres::{Client, Row};

use super::{bytes, number, signed, text};
use crate::Result;
use crate::catalog::{StoredEmergency, too_old_for_emergencies};
use crate::db::postgres::failure;

pub(super) const READING: &str = "cannot read emergencies from the catalog";
pub(super) const WRITING: &str = "cannot write an emergency to the catalog";
const COLUMNS: &str = "SELECT id, revision, at_ms, document, mac FROM enfold.emergencies";

pub(super) async fn put(c: &Client, emergency: &StoredEmergency, expected: Option<u64>) -> Result<bool> {
    if !has_room(c, WRITING).await? {
        return Err(too_old_for_emergencies());
    }
    let StoredEmergency { id, revision, at_ms, document, mac } = emergency;
    let revision = signed(*revision)?;
    let written = match expected {
        None => {
            let sql = "INSERT INTO enfold.emergencies (id, revision, at_ms, document, mac) VALUES ($1, $2, $3, $4, $5) \
                       ON CONFLICT DO NOTHING";
            c.execute_typed(sql, &[text(id), number(&revision), number(at_ms), bytes(document), bytes(mac)]).await
        }
        Some(expected) => {
            let sql =
                "UPDATE enfold.emergencies SET revision = $2, document = $3, mac = $4 WHERE id = $1 AND revision = $5";
            let expected = signed(expected)?;
            let values = [text(id), number(&revision), bytes(document), bytes(mac), number(&expected)];
            c.execute_typed(sql, &values).await
        }
    };
    written.map(|rows| rows == 1).map_err(|e| failure(WRITING, &e))
}

pub(super) async fn one(c: &Client, id: &str) -> Result<Option<StoredEmergency>> {
    if !has_room(c, READING).await? {
        return Ok(None);
    }
    let rows = c.query_typed(&format!("{COLUMNS} WHERE id = $1"), &[text(&id)]).await;
    Ok(rows.map_err(|e| failure(READING, &e))?.first().map(read))
}

pub(super) async fn newest(c: &Client, limit: u32) -> Result<Vec<StoredEmergency>> {
    if !has_room(c, READING).await? {
        return Ok(Vec::new());
    }
    let rows =
        c.query_typed(&format!("{COLUMNS} ORDER BY at_ms DESC, id LIMIT $1"), &[number(&i64::from(limit))]).await;
    Ok(rows.map_err(|e| failure(READING, &e))?.iter().map(read).collect())
}

fn read(row: &Row) -> StoredEmergency {
    // A negative revision can only have been written by hand; the document's own is the one that counts.
    let revision = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
    StoredEmergency { id: row.get(0), revision, at_ms: row.get(2), document: row.get(3), mac: row.get(4) }
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &Client, doing: &str) -> Result<bool> {
    let sql = "SELECT to_regclass('enfold.emergencies') IS NOT NULL";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure(doing, &e))?;
    Ok(row.get(0))
}
