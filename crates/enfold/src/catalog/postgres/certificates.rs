//! Certificates of destructions.

use tokio_postgres::Client;

use super::text;
use crate::Result;
use crate::catalog::too_old_for_certificates;
use crate::db::postgres::failure;

pub(super) const DOING: &str = "cannot keep certificates in the catalog";

pub(super) async fn keep(c: &Client, ring: &str, subject: &str, certificate: &str) -> Result<()> {
    has_room(c).await?;
    let sql = "INSERT INTO enfold.certificates (ring, subject, certificate) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    let values = [text(&ring), text(&subject), text(&certificate)];
    c.execute_typed(sql, &values).await.map_err(|e| failure(DOING, &e))?;
    Ok(())
}

pub(super) async fn find(c: &Client, ring: &str, subject: &str) -> Result<Option<String>> {
    has_room(c).await?;
    let sql = "SELECT certificate FROM enfold.certificates WHERE ring = $1 AND subject = $2";
    let rows = c.query_typed(sql, &[text(&ring), text(&subject)]).await.map_err(|e| failure(DOING, &e))?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &Client) -> Result<()> {
    let sql = "SELECT to_regclass('enfold.certificates') IS NOT NULL";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure(DOING, &e))?;
    if row.get(0) { Ok(()) } else { Err(too_old_for_certificates()) }
}
