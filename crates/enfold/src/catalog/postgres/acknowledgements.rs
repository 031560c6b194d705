//! What processes say of the ring states that they go by. Time is the server's.

use std::time::Duration;

use tokio_postgres::Client;

use super::{number, signed, text};
use crate::Result;
use crate::catalog::{Acknowledgement, too_old_for_acknowledgements};
use crate::db::postgres::failure;

pub(super) const WRITING: &str = "cannot acknowledge a ring's state in the catalog";
pub(super) const READING: &str = "cannot read from the catalog by which states processes go";

const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

pub(super) async fn write(c: &Client, word: &Acknowledgement) -> Result<()> {
    has_room(c, WRITING).await?;
    let (epoch, holds) = (signed(word.epoch)?, i64::try_from(word.holds.as_millis()).unwrap_or(i64::MAX));
    let sql = format!(
        "INSERT INTO enfold.acknowledgements (ring, process, application, epoch, holds_until_ms)
         VALUES ($1, $2, $3, $4, {NOW_MS} + $5)
         ON CONFLICT (ring, process) DO UPDATE SET application = excluded.application, epoch = excluded.epoch,
             holds_until_ms = excluded.holds_until_ms"
    );
    let values = [text(&word.ring), text(&word.process), text(&word.application), number(&epoch), number(&holds)];
    c.execute_typed(&sql, &values).await.map_err(|e| failure(WRITING, &e))?;
    Ok(())
}

pub(super) async fn read(c: &Client, ring: &str) -> Result<Vec<Acknowledgement>> {
    has_room(c, READING).await?;
    // Those of processes that are long gone are of no use to anybody.
    let sql = format!(
        "WITH gone AS (DELETE FROM enfold.acknowledgements WHERE ring = $1 AND holds_until_ms < {NOW_MS} - 86400000)
         SELECT process, application, epoch, holds_until_ms - {NOW_MS} FROM enfold.acknowledgements
         WHERE ring = $1 AND holds_until_ms >= {NOW_MS} ORDER BY epoch, process"
    );
    let rows = c.query_typed(&sql, &[text(&ring)]).await.map_err(|e| failure(READING, &e))?;
    let word = |row: &tokio_postgres::Row| Acknowledgement {
        ring: ring.to_owned(),
        process: row.get(0),
        application: row.get(1),
        // What was not written by a program of ours goes by no state.
        epoch: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        holds: Duration::from_millis(row.get::<_, i64>(3).unsigned_abs()),
    };
    Ok(rows.iter().map(word).collect())
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &Client, doing: &str) -> Result<()> {
    let sql = "SELECT to_regclass('enfold.acknowledgements') IS NOT NULL";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure(doing, &e))?;
    if row.get(0) { Ok(()) } else { Err(too_old_for_acknowledgements()) }
}
