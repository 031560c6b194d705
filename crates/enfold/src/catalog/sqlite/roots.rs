//! Rows of root keys.

use enfold_core::KeyId;
use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use crate::Result;
use crate::catalog::{RootAbout, RootKey, ids_from, ids_stored, restored, too_old_for_roots};
use crate::db::sqlite::failure;

const ENTERING: &str = "cannot enter a root key in the catalog";
const ENTER: &str = "INSERT INTO enfold_root_keys (id, uri) VALUES (?1, ?2) ON CONFLICT (uri) DO NOTHING";
/// All columns, by name: a catalog of an earlier schema has fewer.
const SELECT: &str = "SELECT * FROM enfold_root_keys";

pub(super) fn ensure(c: &Connection, root: &RootKey) -> Result<RootKey> {
    let write = || {
        // Looked for first: every start comes by here, and a start need not wait for who is writing.
        let find = || c.query_row(&format!("{SELECT} WHERE uri = ?1"), [&root.uri], root_key).optional();
        if let Some(known) = find()? {
            return Ok(known);
        }
        c.execute(ENTER, params![root.id.as_bytes(), root.uri])?;
        Ok(find()?.unwrap_or_else(|| root.clone()))
    };
    write().map_err(|e| failure(ENTERING, &e))
}

pub(super) fn all(c: &Connection) -> Result<Vec<RootKey>> {
    let read = || -> rusqlite::Result<Vec<RootKey>> {
        c.prepare(&format!("{SELECT} ORDER BY uri"))?.query_map([], root_key)?.collect()
    };
    read().map_err(|e| failure("cannot read root keys from the catalog", &e))
}

pub(super) fn describe(c: &Connection, uri: &str, about: &RootAbout) -> Result<()> {
    has_room(c)?;
    c.execute(
        "UPDATE enfold_root_keys SET alias = ?2, description = ?3, resolved = ?4, service_state = ?5, version = ?6,
             described_ms = ?7, rotated_ms = ?8 WHERE uri = ?1",
        params![
            uri,
            about.alias,
            about.description,
            about.resolved,
            about.service_state,
            about.version,
            about.described_ms,
            about.rotated_ms
        ],
    )
    .map_err(|e| failure(ENTERING, &e))?;
    Ok(())
}

pub(super) fn restore(c: &mut Connection, uri: &str, id: KeyId) -> Result<RootKey> {
    has_room(c)?;
    let tx = c.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failure(ENTERING, &e))?;
    let write = || -> rusqlite::Result<RootKey> {
        tx.execute(ENTER, params![id.as_bytes(), uri])?;
        let mut root = tx.query_row(&format!("{SELECT} WHERE uri = ?1"), [uri], root_key)?;
        (root.id, root.other_ids) = restored(&root, id);
        tx.execute(
            "UPDATE enfold_root_keys SET id = ?2, other_ids = ?3 WHERE uri = ?1",
            params![uri, root.id.as_bytes(), ids_stored(&root.other_ids)],
        )?;
        Ok(root)
    };
    let root = write().map_err(|e| failure(ENTERING, &e))?;
    tx.commit().map_err(|e| failure(ENTERING, &e))?;
    Ok(root)
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('enfold_root_keys') WHERE name = 'described_ms')";
    let there: bool =
        c.query_row(sql, [], |r| r.get(0)).map_err(|e| failure("cannot read the catalog's version", &e))?;
    if there { Ok(()) } else { Err(too_old_for_roots()) }
}

fn root_key(row: &Row<'_>) -> rusqlite::Result<RootKey> {
    Ok(RootKey {
        id: KeyId::from_bytes(row.get("id")?),
        uri: row.get("uri")?,
        other_ids: ids_from(known(row, "other_ids")?),
        about: RootAbout {
            alias: known(row, "alias")?,
            description: known(row, "description")?,
            resolved: known(row, "resolved")?,
            service_state: known(row, "service_state")?,
            version: known(row, "version")?,
            created_ms: known(row, "created_ms")?,
            described_ms: known(row, "described_ms")?,
            rotated_ms: known(row, "rotated_ms")?,
        },
    })
}

fn known<T: FromSql>(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<T>> {
    match row.get(name) {
        Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        found => found,
    }
}
