//! Rows of data keys, with their wraps.

use std::collections::BTreeSet;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient, Row, Transaction};

use super::{Param, bytes, key_id, number, out_of_range, text};
use crate::Result;
use crate::catalog::{CustomerLayer, DataKeyRow, KeyStatus, Purpose, Swap, Wrap, too_old_for_customers};
use crate::db::postgres::failure;

/// All columns, by name: a catalog of the earlier schema has fewer.
pub(super) const SELECT_KEY: &str = "SELECT k.*,
        array_agg(w.root ORDER BY w.root COLLATE \"C\") FILTER (WHERE w.root IS NOT NULL) AS roots,
        array_agg(w.wrapped ORDER BY w.root COLLATE \"C\") FILTER (WHERE w.root IS NOT NULL) AS wrapped
    FROM enfold.data_keys k LEFT JOIN enfold.data_key_wraps w ON w.ring = k.ring AND w.key_id = k.id";
pub(super) const GROUP_KEY: &str = "GROUP BY k.ring, k.id";

pub(super) fn reading(ring: &str) -> String {
    format!("cannot read a data key of ring `{ring}`")
}

pub(super) async fn find(
    c: &impl GenericClient,
    ring: &str,
    purpose: Purpose,
    scope: &str,
    version: u32,
) -> Result<Option<DataKeyRow>> {
    let wanted = "k.ring = $1 AND k.purpose = $2 AND k.scope = $3 AND k.version = $4";
    let (purpose, version) = (purpose.as_str(), i64::from(version));
    let values = [text(&ring), text(&purpose), text(&scope), number(&version)];
    one(c, wanted, &values, ring).await
}

pub(super) async fn one(
    c: &impl GenericClient,
    wanted: &str,
    values: &[Param<'_>],
    ring: &str,
) -> Result<Option<DataKeyRow>> {
    // At most one of them is there.
    Ok(several(c, wanted, values, ring).await?.pop())
}

pub(super) async fn several(
    c: &impl GenericClient,
    wanted: &str,
    values: &[Param<'_>],
    ring: &str,
) -> Result<Vec<DataKeyRow>> {
    let sql = format!("{SELECT_KEY} WHERE {wanted} {GROUP_KEY}");
    let rows = c.query_typed(&sql, values).await.map_err(|e| failure(reading(ring), &e))?;
    rows.iter().map(data_key).collect()
}

pub(super) fn data_key(row: &Row) -> Result<DataKeyRow> {
    let roots: Option<Vec<String>> = row.get("roots");
    let wrapped: Option<Vec<Vec<u8>>> = row.get("wrapped");
    let wraps = roots.unwrap_or_default().into_iter().zip(wrapped.unwrap_or_default());
    Ok(DataKeyRow {
        id: key_id(row.get("id"))?,
        ring: row.get("ring"),
        purpose: Purpose::parse(row.get("purpose"))?,
        scope: row.get("scope"),
        version: u32::try_from(row.get::<_, i64>("version")).map_err(|_| out_of_range("version"))?,
        status: KeyStatus::parse(row.get("status"))?,
        created_ms: row.get("created_ms"),
        wraps: wraps.map(|(root, wrapped)| Wrap { root, wrapped }).collect(),
        customer: customer_layer(row),
        mac: row.get("mac"),
    })
}

fn customer_layer(row: &Row) -> Option<CustomerLayer> {
    if !row.columns().iter().any(|column| column.name() == "customer_root") {
        return None;
    }
    // A layer that is not whole is a changed row, which its MAC shows.
    let part = |name| row.get::<_, Option<Vec<u8>>>(name).unwrap_or_default();
    let root: Option<String> = row.get("customer_root");
    root.map(|root| CustomerLayer { root, wrapped: part("customer_wrapped"), sealed: part("customer_sealed") })
}

/// Asked each time: another process may bring the schema up to date while this one runs.
pub(super) async fn takes_customer_layers(c: &impl GenericClient) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('enfold.data_keys')
                   AND attname = 'customer_sealed' AND NOT attisdropped)";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure("cannot read the catalog's version", &e))?;
    if row.get(0) { Ok(()) } else { Err(too_old_for_customers()) }
}

/// How many rows it made: none where the version is taken.
pub(super) async fn insert_row(
    tx: &Transaction<'_>,
    key: &DataKeyRow,
) -> std::result::Result<u64, tokio_postgres::Error> {
    let (id, version) = (key.id.as_bytes().as_slice(), i64::from(key.version));
    let (purpose, status) = (key.purpose.as_str(), key.status.as_str());
    let mut values = vec![
        text(&key.ring),
        bytes(&id),
        text(&purpose),
        text(&key.scope),
        number(&version),
        text(&status),
        number(&key.created_ms),
        bytes(&key.mac),
    ];
    let (names, places) = match &key.customer {
        None => ("", ""),
        Some(layer) => {
            values.extend([text(&layer.root), bytes(&layer.wrapped), bytes(&layer.sealed)]);
            (", customer_root, customer_wrapped, customer_sealed", ", $9, $10, $11")
        }
    };
    let sql = format!(
        "INSERT INTO enfold.data_keys (ring, id, purpose, scope, version, status, created_ms, mac{names})
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8{places})
         ON CONFLICT (ring, purpose, scope, version) DO NOTHING"
    );
    tx.execute_typed(&sql, &values).await
}

/// Those that are there stay: whoever replaces them deletes them first.
pub(super) async fn insert_wraps(tx: &Transaction<'_>, key: &DataKeyRow, doing: &str) -> Result<()> {
    let id = key.id.as_bytes().as_slice();
    let roots = key.wraps.iter().map(|w| w.root.as_str()).collect::<Vec<_>>();
    let wrapped = key.wraps.iter().map(|w| w.wrapped.as_slice()).collect::<Vec<_>>();
    tx.execute_typed(
        "INSERT INTO enfold.data_key_wraps (ring, key_id, root, wrapped)
         SELECT $1, $2, r, w FROM unnest($3::text[], $4::bytea[]) AS u (r, w)
         ON CONFLICT (ring, key_id, root) DO NOTHING",
        &[text(&key.ring), bytes(&id), (&roots, Type::TEXT_ARRAY), (&wrapped, Type::BYTEA_ARRAY)],
    )
    .await
    .map_err(|e| failure(doing, &e))?;
    Ok(())
}

/// Rows are locked in the order of their ids, so that two who do this wait for each other and for nothing else. Who comes
/// second finds another MAC, and nothing to do.
pub(super) async fn swap(c: &mut Client, ring: &str, swaps: &[Swap], by: Option<u64>) -> Result<Vec<bool>> {
    let doing = || format!("cannot replace wraps of data keys of ring `{ring}`");
    let tx = c.transaction().await.map_err(|e| failure(doing(), &e))?;
    super::epochs::must_go_by(&tx, ring, by).await?;
    let ids = swaps.iter().map(|swap| swap.key.id.as_bytes().as_slice()).collect::<Vec<_>>();
    let expected = swaps.iter().map(|swap| swap.expected.as_slice()).collect::<Vec<_>>();
    let macs = swaps.iter().map(|swap| swap.key.mac.as_slice()).collect::<Vec<_>>();
    let changed = tx
        .query_typed(
            "WITH seen AS (
                 SELECT k.id, u.mac FROM enfold.data_keys k
                 JOIN unnest($2::bytea[], $3::bytea[], $4::bytea[]) AS u (id, expected, mac) ON k.id = u.id
                 WHERE k.ring = $1 AND k.mac = u.expected ORDER BY k.id FOR UPDATE OF k)
             UPDATE enfold.data_keys k SET mac = seen.mac FROM seen WHERE k.ring = $1 AND k.id = seen.id RETURNING k.id",
            &[
                text(&ring),
                (&ids, Type::BYTEA_ARRAY),
                (&expected, Type::BYTEA_ARRAY),
                (&macs, Type::BYTEA_ARRAY),
            ],
        )
        .await
        .map_err(|e| failure(doing(), &e))?;
    let changed = changed.iter().map(|row| key_id(row.get(0))).collect::<Result<BTreeSet<_>>>()?;
    let mut ids = Vec::with_capacity(changed.len());
    let (mut keys, mut roots, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
    for key in swaps.iter().map(|swap| &swap.key).filter(|key| changed.contains(&key.id)) {
        ids.push(key.id.as_bytes().as_slice());
        for wrap in &key.wraps {
            keys.push(key.id.as_bytes().as_slice());
            roots.push(wrap.root.as_str());
            wrapped.push(wrap.wrapped.as_slice());
        }
    }
    let delete = "DELETE FROM enfold.data_key_wraps WHERE ring = $1 AND key_id = ANY($2)";
    tx.execute_typed(delete, &[text(&ring), (&ids, Type::BYTEA_ARRAY)]).await.map_err(|e| failure(doing(), &e))?;
    tx.execute_typed(
        "INSERT INTO enfold.data_key_wraps (ring, key_id, root, wrapped)
         SELECT $1, * FROM unnest($2::bytea[], $3::text[], $4::bytea[])",
        &[text(&ring), (&keys, Type::BYTEA_ARRAY), (&roots, Type::TEXT_ARRAY), (&wrapped, Type::BYTEA_ARRAY)],
    )
    .await
    .map_err(|e| failure(doing(), &e))?;
    let layered = swaps.iter().map(|swap| &swap.key).filter(|key| changed.contains(&key.id));
    replace_layers(&tx, ring, layered).await.map_err(|e| failure(doing(), &e))?;
    tx.commit().await.map_err(|e| failure(doing(), &e))?;
    Ok(swaps.iter().map(|swap| changed.contains(&swap.key.id)).collect())
}

/// Of those that have one. A catalog of the earlier schema has no columns for them, and is asked for none.
async fn replace_layers(
    tx: &Transaction<'_>,
    ring: &str,
    keys: impl Iterator<Item = &DataKeyRow>,
) -> std::result::Result<(), tokio_postgres::Error> {
    let (mut ids, mut roots, mut wrapped, mut sealed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, layer) in keys.filter_map(|key| Some((key, key.customer.as_ref()?))) {
        ids.push(key.id.as_bytes().as_slice());
        roots.push(layer.root.as_str());
        wrapped.push(layer.wrapped.as_slice());
        sealed.push(layer.sealed.as_slice());
    }
    if ids.is_empty() {
        return Ok(());
    }
    let sql =
        "UPDATE enfold.data_keys k SET customer_root = u.root, customer_wrapped = u.wrapped, customer_sealed = u.sealed
               FROM unnest($2::bytea[], $3::text[], $4::bytea[], $5::bytea[]) AS u (id, root, wrapped, sealed)
               WHERE k.ring = $1 AND k.id = u.id";
    let values = [
        text(&ring),
        (&ids as &(dyn ToSql + Sync), Type::BYTEA_ARRAY),
        (&roots, Type::TEXT_ARRAY),
        (&wrapped, Type::BYTEA_ARRAY),
        (&sealed, Type::BYTEA_ARRAY),
    ];
    tx.execute_typed(sql, &values).await.map(drop)
}
