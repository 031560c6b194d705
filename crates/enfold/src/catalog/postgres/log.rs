//! The log of events: entries of chains, and the checkpoints that vouch for them.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::{bytes, number, out_of_range, signed, text};
use crate::Result;
use crate::catalog::{EventPage, EventQuery, too_old_for_chains};
use crate::db::postgres::failure;
use crate::events::{Entry, Event, SignedCheckpoint, WriterId};

pub(super) const APPENDING: &str = "cannot append events to the catalog";
pub(super) const REMOVING: &str = "cannot remove events from the catalog";
pub(super) const READING: &str = "cannot read the log of events from the catalog";

/// `chains`: whether the schema was seen to have room for them. It never loses that again, and each batch is waited for.
pub(super) async fn append(c: &Client, entries: &[Entry], chains: &AtomicBool) -> Result<()> {
    let at = entries.iter().map(|entry| entry.event.at_ms).collect::<Vec<_>>();
    let lines = entries.iter().map(Entry::line).collect::<Vec<_>>();
    let (at, lines) = ((&at as _, Type::INT8_ARRAY), (&lines as _, Type::TEXT_ARRAY));
    if !chains.load(Ordering::Relaxed) {
        chains.store(has_chains(c, APPENDING).await?, Ordering::Relaxed);
    }
    if !chains.load(Ordering::Relaxed) {
        let sql = "INSERT INTO enfold.events (at_ms, event) SELECT * FROM unnest($1::bigint[], $2::text[])";
        c.execute_typed(sql, &[at, lines]).await.map_err(|e| failure(APPENDING, &e))?;
        return Ok(());
    }
    let writers = entries.iter().map(|entry| entry.writer.as_bytes().as_slice()).collect::<Vec<_>>();
    let seqs = entries.iter().map(|entry| signed(entry.seq)).collect::<Result<Vec<_>>>()?;
    let sql = "INSERT INTO enfold.events (at_ms, event, writer, seq) \
               SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bigint[]) \
               ON CONFLICT (writer, seq) WHERE writer IS NOT NULL DO NOTHING";
    let (writers, seqs) = ((&writers as _, Type::BYTEA_ARRAY), (&seqs as _, Type::INT8_ARRAY));
    c.execute_typed(sql, &[at, lines, writers, seqs]).await.map_err(|e| failure(APPENDING, &e))?;
    Ok(())
}

pub(super) async fn find(c: &Client, query: &EventQuery, page: EventPage) -> Result<Vec<(i64, Event)>> {
    let (order, follows) = if page.oldest_first { ("ASC", ">") } else { ("DESC", "<") };
    // What is not asked about is NULL, and compares with nothing.
    let sql = format!(
        "SELECT id, event FROM (SELECT id, event, event::jsonb AS e FROM enfold.events \
                                  WHERE at_ms >= $1 AND at_ms < $2 AND ($9::bigint IS NULL OR id {follows} $9) OFFSET 0) events \
               WHERE ($3::text[] IS NULL OR e ->> 'kind' = ANY ($3)) \
                 AND ($4::text[] IS NULL OR e ->> 'key' = ANY ($4)) \
                 AND ($5::text[] IS NULL OR e ->> 'subject' = ANY ($5)) \
                 AND ($6::text IS NULL OR e ->> 'column' = $6) AND ($7::text IS NULL OR e ->> 'actor' = $7) \
               ORDER BY id {order} LIMIT $8"
    );
    let (since, until) = (query.since_ms.unwrap_or(i64::MIN), query.until_ms.unwrap_or(i64::MAX));
    let limit = i64::from(query.limit);
    let values = [
        number(&since),
        number(&until),
        (&query.kinds as _, Type::TEXT_ARRAY),
        (&query.keys as _, Type::TEXT_ARRAY),
        (&query.subjects as _, Type::TEXT_ARRAY),
        text(&query.column),
        text(&query.actor),
        number(&limit),
        number(&page.after),
    ];
    let rows = c.query_typed(&sql, &values).await.map_err(|e| failure(READING, &e))?;
    rows.iter().map(|row| Ok((row.get(0), Event::from_json(row.get(1))?))).collect()
}

/// From writer to writer along the index: their entries are not read.
pub(super) async fn heads(c: &Client) -> Result<Vec<(WriterId, u64)>> {
    must_have_chains(c).await?;
    // Postgres has no min() of bytea before version 18.
    let sql = "WITH RECURSIVE writers AS ( \
                   (SELECT writer FROM enfold.events WHERE writer IS NOT NULL ORDER BY writer LIMIT 1) \
                   UNION ALL \
                   SELECT (SELECT e.writer FROM enfold.events e WHERE e.writer > w.writer ORDER BY e.writer LIMIT 1) \
                   FROM writers w WHERE w.writer IS NOT NULL) \
               SELECT w.writer, (SELECT max(e.seq) FROM enfold.events e WHERE e.writer = w.writer) \
               FROM writers w WHERE w.writer IS NOT NULL";
    let rows = c.query_typed(sql, &[]).await.map_err(|e| failure(READING, &e))?;
    let head = |row: &Row| {
        let writer: Vec<u8> = row.get(0);
        let writer = writer.try_into().map(WriterId::from_bytes).map_err(|_| out_of_range("writer of events"))?;
        Ok((writer, row.get::<_, i64>(1).unsigned_abs()))
    };
    rows.iter().map(head).collect()
}

pub(super) async fn of(c: &Client, writer: WriterId, after: u64, limit: u32) -> Result<Vec<(u64, String)>> {
    must_have_chains(c).await?;
    let sql = "SELECT seq, event FROM enfold.events WHERE writer = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let (writer, after, limit) = (writer.as_bytes().as_slice(), signed(after)?, i64::from(limit));
    let rows = c.query_typed(sql, &[bytes(&writer), number(&after), number(&limit)]).await;
    let entry = |row: &Row| (row.get::<_, i64>(0).unsigned_abs(), row.get(1));
    Ok(rows.map_err(|e| failure(READING, &e))?.iter().map(entry).collect())
}

pub(super) async fn unchained(c: &Client, after: i64, limit: u32) -> Result<Vec<(i64, String)>> {
    must_have_chains(c).await?;
    let sql = "SELECT id, event FROM enfold.events WHERE writer IS NULL AND id > $1 ORDER BY id LIMIT $2";
    let rows = c.query_typed(sql, &[number(&after), number(&i64::from(limit))]).await;
    Ok(rows.map_err(|e| failure(READING, &e))?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

pub(super) async fn checkpoints(c: &Client, after: u64, limit: u32) -> Result<Vec<SignedCheckpoint>> {
    must_have_chains(c).await?;
    let sql =
        "SELECT number, document, signature FROM enfold.log_checkpoints WHERE number > $1 ORDER BY number LIMIT $2";
    let rows = c.query_typed(sql, &[number(&signed(after)?), number(&i64::from(limit))]).await;
    Ok(rows.map_err(|e| failure(READING, &e))?.iter().map(checkpoint).collect())
}

pub(super) async fn last_checkpoint(c: &Client) -> Result<Option<SignedCheckpoint>> {
    must_have_chains(c).await?;
    let sql = "SELECT number, document, signature FROM enfold.log_checkpoints ORDER BY number DESC LIMIT 1";
    let rows = c.query_typed(sql, &[]).await.map_err(|e| failure(READING, &e))?;
    Ok(rows.first().map(checkpoint))
}

pub(super) async fn add_checkpoint(c: &Client, new: &SignedCheckpoint) -> Result<bool> {
    must_have_chains(c).await?;
    let sql = "INSERT INTO enfold.log_checkpoints (number, document, signature) VALUES ($1, $2, $3) \
               ON CONFLICT (number) DO NOTHING";
    let at = signed(new.number)?;
    let values = [number(&at), text(&new.document), text(&new.signature)];
    Ok(c.execute_typed(sql, &values).await.map_err(|e| failure(APPENDING, &e))? == 1)
}

pub(super) async fn remove(c: &Client, writer: WriterId, upto: u64, limit: u32) -> Result<u64> {
    must_have_chains(c).await?;
    let sql = "DELETE FROM enfold.events WHERE writer = $1 AND seq IN \
                   (SELECT seq FROM enfold.events WHERE writer = $1 AND seq <= $2 ORDER BY seq LIMIT $3)";
    let (writer, upto, limit) = (writer.as_bytes().as_slice(), signed(upto)?, i64::from(limit));
    let removed = c.execute_typed(sql, &[bytes(&writer), number(&upto), number(&limit)]).await;
    removed.map_err(|e| failure(REMOVING, &e))
}

pub(super) async fn remove_checkpoints(c: &Client, upto: u64, limit: u32) -> Result<u64> {
    must_have_chains(c).await?;
    let sql = "DELETE FROM enfold.log_checkpoints WHERE number IN \
                   (SELECT number FROM enfold.log_checkpoints WHERE number <= $1 ORDER BY number LIMIT $2)";
    let (upto, limit) = (signed(upto)?, i64::from(limit));
    let removed = c.execute_typed(sql, &[number(&upto), number(&limit)]).await;
    removed.map_err(|e| failure(REMOVING, &e))
}

fn checkpoint(row: &Row) -> SignedCheckpoint {
    SignedCheckpoint { number: row.get::<_, i64>(0).unsigned_abs(), document: row.get(1), signature: row.get(2) }
}

async fn must_have_chains(c: &Client) -> Result<()> {
    if has_chains(c, READING).await? { Ok(()) } else { Err(too_old_for_chains()) }
}

/// Asked each time: another process may bring the schema up to date while this one runs.
async fn has_chains(c: &Client, doing: &str) -> Result<bool> {
    let sql = "SELECT to_regclass('enfold.log_checkpoints') IS NOT NULL";
    Ok(c.query_typed_one(sql, &[]).await.map_err(|e| failure(doing, &e))?.get(0))
}
