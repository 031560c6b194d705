//! Rows of root keys.

use enfold_core::KeyId;
use tokio_postgres::types::FromSql;
use tokio_postgres::{Client, GenericClient, Row};

use super::{bytes, key_id, number, text};
use crate::Result;
use crate::catalog::{RootAbout, RootKey, ids_from, ids_stored, restored, too_old_for_roots};
use crate::db::postgres::failure;

pub(super) const ENTERING: &str = "cannot enter a root key in the catalog";
pub(super) const READING: &str = "cannot read root keys from the catalog";

pub(super) async fn ensure(c: &Client, root: &RootKey) -> Result<RootKey> {
    // Looked for first: every start comes by here, and one that only reads needs no right to write.
    if let Some(known) = find(c, &root.uri).await? {
        return Ok(known);
    }
    let id = root.id.as_bytes().as_slice();
    c.execute_typed(
        "INSERT INTO enfold.root_keys (id, uri) VALUES ($1, $2) ON CONFLICT (uri) DO NOTHING",
        &[bytes(&id), text(&root.uri)],
    )
    .await
    .map_err(|e| failure(ENTERING, &e))?;
    // Read again: another start may have been first.
    Ok(find(c, &root.uri).await?.unwrap_or_else(|| root.clone()))
}

pub(super) async fn all(c: &Client) -> Result<Vec<RootKey>> {
    let rows = c.query_typed("SELECT * FROM enfold.root_keys ORDER BY uri", &[]).await;
    rows.map_err(|e| failure(READING, &e))?.iter().map(root_key).collect()
}

pub(super) async fn describe(c: &Client, uri: &str, about: &RootAbout) -> Result<()> {
    has_room(c).await?;
    let version = about.version.map(i64::from);
    c.execute_typed(
        "UPDATE enfold.root_keys SET alias = $2, description = $3, resolved = $4, service_state = $5, version = $6,
             described_ms = $7, rotated_ms = $8 WHERE uri = $1",
        &[
            text(&uri),
            text(&about.alias),
            text(&about.description),
            text(&about.resolved),
            text(&about.service_state),
            number(&version),
            number(&about.described_ms),
            number(&about.rotated_ms),
        ],
    )
    .await
    .map_err(|e| failure(ENTERING, &e))?;
    Ok(())
}

pub(super) async fn restore(c: &mut Client, uri: &str, id: KeyId) -> Result<RootKey> {
    let tx = c.transaction().await.map_err(|e| failure(ENTERING, &e))?;
    has_room(&tx).await?;
    tx.execute_typed(
        "INSERT INTO enfold.root_keys (id, uri) VALUES ($1, $2) ON CONFLICT (uri) DO NOTHING",
        &[bytes(&id.as_bytes().as_slice()), text(&uri)],
    )
    .await
    .map_err(|e| failure(ENTERING, &e))?;
    let locked = "SELECT * FROM enfold.root_keys WHERE uri = $1 FOR UPDATE";
    let row = tx.query_typed_one(locked, &[text(&uri)]).await.map_err(|e| failure(ENTERING, &e))?;
    let mut root = root_key(&row)?;
    (root.id, root.other_ids) = restored(&root, id);
    tx.execute_typed(
        "UPDATE enfold.root_keys SET id = $2, other_ids = $3 WHERE uri = $1",
        &[text(&uri), bytes(&root.id.as_bytes().as_slice()), bytes(&ids_stored(&root.other_ids))],
    )
    .await
    .map_err(|e| failure(ENTERING, &e))?;
    tx.commit().await.map_err(|e| failure(ENTERING, &e))?;
    Ok(root)
}

async fn find(c: &Client, uri: &str) -> Result<Option<RootKey>> {
    let row = c.query_typed_opt("SELECT * FROM enfold.root_keys WHERE uri = $1", &[text(&uri)]).await;
    row.map_err(|e| failure(ENTERING, &e))?.as_ref().map(root_key).transpose()
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &impl GenericClient) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('enfold.root_keys')
                   AND attname = 'described_ms' AND NOT attisdropped)";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure("cannot read the catalog's version", &e))?;
    if row.get(0) { Ok(()) } else { Err(too_old_for_roots()) }
}

fn root_key(row: &Row) -> Result<RootKey> {
    Ok(RootKey {
        id: key_id(row.get("id"))?,
        uri: row.get("uri"),
        other_ids: ids_from(known(row, "other_ids")),
        about: RootAbout {
            alias: known(row, "alias"),
            description: known(row, "description"),
            resolved: known(row, "resolved"),
            service_state: known(row, "service_state"),
            version: known::<i64>(row, "version").and_then(|version| u32::try_from(version).ok()),
            created_ms: known(row, "created_ms"),
            described_ms: known(row, "described_ms"),
            rotated_ms: known(row, "rotated_ms"),
        },
    })
}

/// A catalog of an earlier schema has fewer columns.
fn known<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Option<T> {
    row.columns().iter().position(|column| column.name() == name).and_then(|at| row.get(at))
}
