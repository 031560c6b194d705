//! Requests that their callers named.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::Result;
use crate::catalog::{Begun, Holding, NamedRequest, too_old_for_requests};
use crate::db::sqlite::failure;

const DOING: &str = "cannot keep in the catalog which requests were done";

const NOW_MS: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

pub(super) fn begin(c: &Connection, request: &NamedRequest, holding: Holding) -> Result<Begun> {
    has_room(c)?;
    // One statement, so that of several who begin at once one holds it.
    let take = format!(
        "INSERT INTO enfold_named_requests (id, content, held_until_ms, kept_until_ms)
         VALUES (?1, ?2, {NOW_MS} + ?3, {NOW_MS} + ?4)
         ON CONFLICT (id) DO UPDATE SET held_until_ms = excluded.held_until_ms
             WHERE content = excluded.content AND answer IS NULL AND held_until_ms <= {NOW_MS}
         RETURNING intent"
    );
    let look = format!(
        "SELECT content = ?2, answer, max(held_until_ms - {NOW_MS}, 0) FROM enfold_named_requests WHERE id = ?1"
    );
    let begin = || -> rusqlite::Result<Begun> {
        c.execute(&format!("DELETE FROM enfold_named_requests WHERE kept_until_ms <= {NOW_MS}"), [])?;
        let values = params![request.id, request.content, ms(holding.held), ms(holding.kept)];
        if let Some(intent) = c.query_row(&take, values, |row| row.get(0)).optional()? {
            return Ok(Begun::ToDo { intent });
        }
        let found = c.query_row(&look, params![request.id, request.content], |row| {
            let (is_same, answer) = (row.get(0)?, row.get(1)?);
            Ok(match (is_same, answer) {
                (false, _) => Begun::Another,
                (true, Some(answer)) => Begun::Answered(answer),
                (true, None) => Begun::Running(Duration::from_millis(row.get::<_, i64>(2)?.unsigned_abs())),
            })
        });
        // Whoever was at it let go in between: it may be asked again at once.
        Ok(found.optional()?.unwrap_or(Begun::Running(Duration::ZERO)))
    };
    begin().map_err(|e| failure(DOING, &e))
}

pub(super) fn intend(c: &Connection, id: &[u8; 32], intent: &str) -> Result<()> {
    let sql = "UPDATE enfold_named_requests SET intent = ?2 WHERE id = ?1 AND answer IS NULL";
    c.execute(sql, params![id, intent]).map(drop).map_err(|e| failure(DOING, &e))
}

pub(super) fn end(c: &Connection, id: &[u8; 32], answer: Option<&str>) -> Result<()> {
    let ended = match answer {
        Some(answer) => c.execute(
            "UPDATE enfold_named_requests SET answer = ?2 WHERE id = ?1 AND answer IS NULL",
            params![id, answer],
        ),
        None => c.execute(
            "UPDATE enfold_named_requests SET held_until_ms = 0 WHERE id = ?1 AND answer IS NULL",
            params![id],
        ),
    };
    ended.map(drop).map_err(|e| failure(DOING, &e))
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_named_requests')";
    let there: bool = c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(DOING, &e))?;
    if there { Ok(()) } else { Err(too_old_for_requests()) }
}
