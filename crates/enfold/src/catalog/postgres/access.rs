//! The access list.

use tokio_postgres::Client;

use super::{bytes, number, signed};
use crate::Result;
use crate::catalog::{SignedAccess, too_old_for_access};
use crate::db::postgres::failure;

pub(super) const READING: &str = "cannot read the access list from the catalog";
pub(super) const WRITING: &str = "cannot write the access list to the catalog";

pub(super) async fn read(c: &Client) -> Result<Option<SignedAccess>> {
    if !has_room(c, READING).await? {
        return Ok(None);
    }
    let sql = "SELECT epoch, document, signature FROM enfold.access_list";
    let rows = c.query_typed(sql, &[]).await.map_err(|e| failure(READING, &e))?;
    Ok(rows.first().map(|row| SignedAccess {
        // A negative epoch can only have been written by hand; the document's own is the one that counts.
        epoch: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
        document: row.get(1),
        signature: row.get(2),
    }))
}

pub(super) async fn publish(c: &Client, list: &SignedAccess, expected: Option<u64>) -> Result<bool> {
    if !has_room(c, WRITING).await? {
        return Err(too_old_for_access());
    }
    let epoch = signed(list.epoch)?;
    let written = match expected {
        None => {
            let sql = "INSERT INTO enfold.access_list (epoch, document, signature) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            c.execute_typed(sql, &[number(&epoch), bytes(&list.document), bytes(&list.signature)]).await
        }
        Some(expected) => {
            let sql = "UPDATE enfold.access_list SET epoch = $1, document = $2, signature = $3 WHERE epoch = $4";
            let expected = signed(expected)?;
            let values = [number(&epoch), bytes(&list.document), bytes(&list.signature), number(&expected)];
            c.execute_typed(sql, &values).await
        }
    };
    written.map(|rows| rows == 1).map_err(|e| failure(WRITING, &e))
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &Client, doing: &str) -> Result<bool> {
    let sql = "SELECT to_regclass('enfold.access_list') IS NOT NULL";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure(doing, &e))?;
    Ok(row.get(0))
}
