//! Requests that their callers named. Time is the server's.

use std::time::Duration;

use tokio_postgres::Client;

use super::{bytes, number, text};
use crate::Result;
use crate::catalog::{Begun, Holding, NamedRequest, too_old_for_requests};
use crate::db::postgres::failure;

pub(super) const DOING: &str = "cannot keep in the catalog which requests were done";

const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

pub(super) async fn begin(c: &Client, request: &NamedRequest, holding: Holding) -> Result<Begun> {
    has_room(c).await?;
    let (id, content) = (request.id.as_slice(), request.content.as_slice());
    let gone = format!("DELETE FROM enfold.named_requests WHERE kept_until_ms <= {NOW_MS}");
    c.execute_typed(&gone, &[]).await.map_err(|e| failure(DOING, &e))?;
    // One statement, so that of several who begin at once one holds it.
    let take = format!(
        "INSERT INTO enfold.named_requests AS r (id, content, held_until_ms, kept_until_ms)
         VALUES ($1, $2, {NOW_MS} + $3, {NOW_MS} + $4)
         ON CONFLICT (id) DO UPDATE SET held_until_ms = excluded.held_until_ms
             WHERE r.content = excluded.content AND r.answer IS NULL AND r.held_until_ms <= {NOW_MS}
         RETURNING intent"
    );
    let (held, kept) = (ms(holding.held), ms(holding.kept));
    let values = [bytes(&id), bytes(&content), number(&held), number(&kept)];
    let taken = c.query_typed(&take, &values).await.map_err(|e| failure(DOING, &e))?;
    if let Some(row) = taken.first() {
        return Ok(Begun::ToDo { intent: row.get(0) });
    }
    let look = format!(
        "SELECT content = $2, answer, greatest(held_until_ms - {NOW_MS}, 0) FROM enfold.named_requests WHERE id = $1"
    );
    let found = c.query_typed(&look, &[bytes(&id), bytes(&content)]).await.map_err(|e| failure(DOING, &e))?;
    // Whoever was at it let go in between: it may be asked again at once.
    let Some(row) = found.first() else { return Ok(Begun::Running(Duration::ZERO)) };
    Ok(match (row.get::<_, bool>(0), row.get::<_, Option<String>>(1)) {
        (false, _) => Begun::Another,
        (true, Some(answer)) => Begun::Answered(answer),
        (true, None) => Begun::Running(Duration::from_millis(row.get::<_, i64>(2).unsigned_abs())),
    })
}

pub(super) async fn intend(c: &Client, id: &[u8; 32], intent: &str) -> Result<()> {
    let sql = "UPDATE enfold.named_requests SET intent = $2 WHERE id = $1 AND answer IS NULL";
    c.execute_typed(sql, &[bytes(&id.as_slice()), text(&intent)]).await.map_err(|e| failure(DOING, &e))?;
    Ok(())
}

pub(super) async fn end(c: &Client, id: &[u8; 32], answer: Option<&str>) -> Result<()> {
    let id = id.as_slice();
    let ended = match answer {
        Some(answer) => {
            let sql = "UPDATE enfold.named_requests SET answer = $2 WHERE id = $1 AND answer IS NULL";
            c.execute_typed(sql, &[bytes(&id), text(&answer)]).await
        }
        None => {
            let sql = "UPDATE enfold.named_requests SET held_until_ms = 0 WHERE id = $1 AND answer IS NULL";
            c.execute_typed(sql, &[bytes(&id)]).await
        }
    };
    ended.map(drop).map_err(|e| failure(DOING, &e))
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_room(c: &Client) -> Result<()> {
    let sql = "SELECT to_regclass('enfold.named_requests') IS NOT NULL";
    let row = c.query_typed_one(sql, &[]).await.map_err(|e| failure(DOING, &e))?;
    if row.get(0) { Ok(()) } else { Err(too_old_for_requests()) }
}
