//! The log of events: entries of chains, and the checkpoints that vouch for them.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::as_stored;
use crate::Result;
use crate::catalog::{EventPage, EventQuery, too_old_for_chains};
use crate::db::sqlite::failure;
use crate::events::{Entry, Event, SignedCheckpoint, WriterId};

const APPENDING: &str = "cannot append events to the catalog";
const REMOVING: &str = "cannot remove events from the catalog";
const READING: &str = "cannot read the log of events from the catalog";

pub(super) fn append(c: &mut Connection, entries: &[Entry]) -> Result<()> {
    let chains = has_chains(c, APPENDING)?;
    let write = |tx: &Transaction<'_>| -> rusqlite::Result<()> {
        let mut insert = tx.prepare_cached(if chains {
            "INSERT INTO enfold_events (at_ms, event, writer, seq) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (writer, seq) WHERE writer IS NOT NULL DO NOTHING"
        } else {
            "INSERT INTO enfold_events (at_ms, event) VALUES (?1, ?2)"
        })?;
        for entry in entries {
            let (at, line) = (entry.event.at_ms, entry.line());
            match chains {
                true => insert.execute(params![at, line, entry.writer.as_bytes(), as_stored(entry.seq)])?,
                false => insert.execute(params![at, line])?,
            };
        }
        Ok(())
    };
    c.transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(|tx| {
            write(&tx)?;
            tx.commit()
        })
        .map_err(|e| failure(APPENDING, &e))
}

pub(super) fn find(c: &Connection, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>> {
    let (order, follows) = if page.oldest_first { ("ASC", ">") } else { ("DESC", "<") };
    // What is not asked about is NULL, and compares with nothing.
    let sql = format!(
        "SELECT id, event FROM enfold_events
                WHERE at_ms >= ?1 AND at_ms < ?2
                  AND (?3 IS NULL OR event ->> 'kind' IN (SELECT value FROM json_each(?3)))
                  AND (?4 IS NULL OR event ->> 'key' IN (SELECT value FROM json_each(?4)))
                  AND (?5 IS NULL OR event ->> 'subject' IN (SELECT value FROM json_each(?5)))
                  AND (?6 IS NULL OR event ->> 'column' = ?6) AND (?7 IS NULL OR event ->> 'actor' = ?7)
                  AND (?9 IS NULL OR id {follows} ?9)
                ORDER BY id {order} LIMIT ?8"
    );
    let some = |words: &Option<Vec<String>>| words.as_ref().map(|words| serde_json::json!(words).to_string());
    let values = params![
        query.since_ms.unwrap_or(i64::MIN),
        query.until_ms.unwrap_or(i64::MAX),
        some(&query.kinds),
        some(&query.keys),
        some(&query.subjects),
        query.column,
        query.actor,
        query.limit,
        page.after,
    ];
    let mut select = c.prepare_cached(&sql).map_err(|e| failure(READING, &e))?;
    let found = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?));
    let rows = select.query_map(values, found).map_err(|e| failure(READING, &e))?;
    let event = |row: rusqlite::Result<(i64, String)>| {
        let (place, line) = row.map_err(|e| failure(READING, &e))?;
        Ok((place, Event::from_json(&line)?))
    };
    rows.map(event).collect()
}

/// From writer to writer along the index: their entries are not read.
pub(super) fn heads(c: &Connection) -> Result<Vec<(WriterId, u64)>> {
    let sql = "WITH RECURSIVE writers (writer) AS (
                   SELECT min(writer) FROM enfold_events WHERE writer IS NOT NULL
                   UNION ALL
                   SELECT (SELECT min(e.writer) FROM enfold_events e WHERE e.writer > w.writer)
                   FROM writers w WHERE w.writer IS NOT NULL)
               SELECT w.writer, (SELECT max(e.seq) FROM enfold_events e WHERE e.writer = w.writer)
               FROM writers w WHERE w.writer IS NOT NULL";
    let head = |row: &Row<'_>| Ok((WriterId::from_bytes(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs()));
    several(c, sql, [], head)
}

pub(super) fn of(c: &Connection, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
    let sql = "SELECT seq, event FROM enfold_events WHERE writer = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    several(c, sql, params![writer.as_bytes(), as_stored(after), limit], |row| {
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
    })
}

pub(super) fn unchained(c: &Connection, after: i64, limit: u32) -> Result<Vec<(i64, String)>> {
    let sql = "SELECT id, event FROM enfold_events WHERE writer IS NULL AND id > ?1 ORDER BY id LIMIT ?2";
    several(c, sql, params![after, limit], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(super) fn checkpoints(c: &Connection, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>> {
    let sql =
        "SELECT number, document, signature FROM enfold_log_checkpoints WHERE number > ?1 ORDER BY number LIMIT ?2";
    several(c, sql, params![as_stored(after), limit], checkpoint)
}

pub(super) fn last_checkpoint(c: &Connection) -> Result<Option<SignedCheckpoint>> {
    must_have_chains(c)?;
    let sql = "SELECT number, document, signature FROM enfold_log_checkpoints ORDER BY number DESC LIMIT 1";
    c.query_row(sql, [], checkpoint).optional().map_err(|e| failure(READING, &e))
}

pub(super) fn add_checkpoint(c: &Connection, new: &SignedCheckpoint) -> Result<bool> {
    must_have_chains(c)?;
    let sql = "INSERT INTO enfold_log_checkpoints (number, document, signature) VALUES (?1, ?2, ?3)
               ON CONFLICT (number) DO NOTHING";
    let added = c.execute(sql, params![as_stored(new.number), new.document, new.signature]);
    Ok(added.map_err(|e| failure(APPENDING, &e))? == 1)
}

pub(super) fn remove(c: &Connection, writer: WriterId, upto: u64, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM enfold_events WHERE writer = ?1 AND seq IN
                   (SELECT seq FROM enfold_events WHERE writer = ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3)";
    removed(c, sql, params![writer.as_bytes(), as_stored(upto), limit])
}

pub(super) fn remove_checkpoints(c: &Connection, upto: u64, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM enfold_log_checkpoints WHERE number IN
                   (SELECT number FROM enfold_log_checkpoints WHERE number <= ?1 ORDER BY number LIMIT ?2)";
    removed(c, sql, params![as_stored(upto), limit])
}

fn removed(c: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<u64> {
    must_have_chains(c)?;
    c.execute(sql, values).map(|rows| rows as u64).map_err(|e| failure(REMOVING, &e))
}

fn several<T>(
    c: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    must_have_chains(c)?;
    let mut select = c.prepare_cached(sql).map_err(|e| failure(READING, &e))?;
    let rows = select.query_map(values, read).map_err(|e| failure(READING, &e))?;
    rows.collect::<rusqlite::Result<_>>().map_err(|e| failure(READING, &e))
}

fn checkpoint(row: &Row<'_>) -> rusqlite::Result<SignedCheckpoint> {
    let number: i64 = row.get(0)?;
    Ok(SignedCheckpoint { number: number.unsigned_abs(), document: row.get(1)?, signature: row.get(2)? })
}

fn must_have_chains(c: &Connection) -> Result<()> {
    if has_chains(c, READING)? { Ok(()) } else { Err(too_old_for_chains()) }
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_chains(c: &Connection, doing: &str) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_log_checkpoints')";
    c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(doing, &e))
}
