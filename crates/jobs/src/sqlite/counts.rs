//! Keeps counts of columns, one beside the other, in `enfold_column_counts`. Nothing decides by them: they are for people.

use enfold::{Code, Error, Result};
use rusqlite::{Connection, Row, params};

use super::error::Doing;
use super::schema;
use crate::model::{ByVersion, ColumnNote, CountsSought, KeptCount, NotedCounts, TableName};

/// Keeps what was noted of a column at this moment, if that has counts, and lets go of those that may go. Nothing where the tables of jobs
/// are of an older program.
pub(super) fn keep(connection: &Connection, note: &ColumnNote, now: &str) -> Result<()> {
    if note.census.is_none() || schema::version(connection)? < schema::WITH_COUNTS {
        return Ok(());
    }
    let what = || "keep what was counted of columns".to_owned();
    let current = note.by_version.as_ref().map(|by| i64::try_from(by.current).unwrap_or(i64::MAX));
    let versions = note.by_version.as_ref().map(|by| serde_json::to_string(&by.versions).unwrap_or_default());
    let (table, column) = (&note.table.table, &note.column.name);
    connection.execute(KEEP, params![table, column, now, current, versions]).doing(what)?;
    connection.execute(THIN, params![table, column]).doing(what).map(|_| ())
}

/// As the view has it, so that what is kept is what people saw.
const KEEP: &str = "INSERT INTO enfold_column_counts (table_name, column_name, counted_at, mode, enforced, \
                           rows, envelopes, plaintext, lookalikes, nulls, under_current, by_version) \
     SELECT table_name, column_name, ?3, mode, coalesce(enforced, false), \
            rows, envelopes, plaintext, lookalikes, nulls, ?4, ?5 \
     FROM enfold_coverage WHERE table_name = ?1 COLLATE NOCASE AND column_name = ?2 COLLATE NOCASE";

/// Of those of more than 90 days ago one goes where a later one of its week found no less that is no envelope: so the last of
/// each week stays, and no leak is thinned away. A week begins on Monday, and the first of 1970 was a Thursday.
const THIN: &str = "DELETE FROM enfold_column_counts AS c \
     WHERE c.table_name = ?1 AND c.column_name = ?2 AND c.counted_at < datetime('now', '-90 days') \
       AND EXISTS (SELECT 1 FROM enfold_column_counts l \
                    WHERE l.table_name = ?1 AND l.column_name = ?2 AND l.counted_at > c.counted_at \
                      AND (unixepoch(l.counted_at) / 86400 + 3) / 7 = (unixepoch(c.counted_at) / 86400 + 3) / 7 \
                      AND l.plaintext + l.lookalikes >= c.plaintext + c.lookalikes)";

/// Nothing where the tables of jobs are not there, or of an older program.
pub(super) fn kept(connection: &Connection, sought: &CountsSought) -> Result<Vec<KeptCount>> {
    if schema::version(connection)? < schema::WITH_COUNTS {
        return Ok(Vec::new());
    }
    let (name, column) = sought.column.clone().unzip();
    let table = name.map(|name| name.table);
    let read = || -> rusqlite::Result<Vec<Option<KeptCount>>> {
        let values = params![table, column, sought.since_ms, sought.until_ms, sought.after, sought.limit];
        connection.prepare(KEPT)?.query_map(values, kept_count)?.collect()
    };
    let found = read().doing(|| "read what was counted of columns".to_owned())?;
    let whole: Option<Vec<KeptCount>> = found.into_iter().collect();
    whole.ok_or_else(|| Error::new(Code::Internal, "a count that was kept cannot be read back"))
}

const KEPT: &str = "SELECT id, table_name, column_name, mode, enforced, rows, nulls, plaintext, envelopes, lookalikes, \
            CAST(unixepoch(counted_at, 'subsec') * 1000 AS INTEGER), under_current, by_version \
     FROM enfold_column_counts \
     WHERE (?2 IS NULL OR (table_name = ?1 AND column_name = ?2)) \
       AND (?3 IS NULL OR unixepoch(counted_at, 'subsec') * 1000 >= ?3) AND (?4 IS NULL OR unixepoch(counted_at, 'subsec') * 1000 < ?4) \
       AND (?5 IS NULL OR id < ?5) \
     ORDER BY id DESC LIMIT ?6";

/// None where what it says of versions is not what was written.
fn kept_count(row: &Row<'_>) -> rusqlite::Result<Option<KeptCount>> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let by_version = match (row.get::<_, Option<i64>>(11)?, row.get::<_, Option<String>>(12)?) {
        (Some(current), Some(versions)) => match serde_json::from_str(&versions) {
            Ok(versions) => Some(ByVersion { versions, current: current.unsigned_abs() }),
            Err(_) => return Ok(None),
        },
        _ => None,
    };
    Ok(Some(KeptCount {
        place: row.get(0)?,
        table: TableName { schema: String::new(), table: row.get(1)? },
        column: row.get(2)?,
        mode: row.get(3)?,
        enforced: row.get(4)?,
        counts: NotedCounts {
            rows: number(5)?,
            nulls: number(6)?,
            plaintext: number(7)?,
            envelopes: number(8)?,
            lookalikes: number(9)?,
            at_ms: row.get(10)?,
        },
        by_version,
    }))
}
