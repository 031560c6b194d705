//! Rows that are written by an epoch of the ring's state, and publications: neither overtakes the other.
//!
//! An advisory lock stands for the epoch, and ends with the transaction. A lock on the state's row would ask for the right to
//! update it, which nobody who makes data keys has.

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::{signed, text};
use crate::Result;
use crate::catalog::outdated;
use crate::db::postgres::failure;

/// Refuses where the ring's state is not of this epoch; until the transaction ends none is published.
pub(super) async fn must_go_by(tx: &Transaction<'_>, ring: &str, by: Option<u64>) -> Result<()> {
    let Some(by) = by else { return Ok(()) };
    lock(tx, ring, "pg_advisory_xact_lock_shared").await?;
    // A statement of its own, which sees what was published while the lock was waited for.
    let sql = "SELECT FROM enfold.ring_states WHERE ring = $1 AND epoch = $2";
    let by = signed(by)?;
    let found = tx.query_typed(sql, &[text(&ring), (&by, Type::INT8)]).await.map_err(|e| failure(DOING, &e))?;
    if found.is_empty() { Err(outdated(ring)) } else { Ok(()) }
}

/// For whoever publishes: those who write by the epoch that is there have ended, and others wait.
pub(super) async fn wait_for_writers(tx: &Transaction<'_>, ring: &str) -> Result<()> {
    lock(tx, ring, "pg_advisory_xact_lock").await
}

const DOING: &str = "cannot hold the epoch of a ring's state in the catalog";

async fn lock(tx: &Transaction<'_>, ring: &str, how: &str) -> Result<()> {
    let sql = format!("SELECT pg_catalog.{how}(pg_catalog.hashtext('enfold.ring_states'), pg_catalog.hashtext($1))");
    tx.query_typed(&sql, &[text(&ring)]).await.map_err(|e| failure(DOING, &e))?;
    Ok(())
}
