//! What processes say of the ring states that they go by.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::as_stored;
use crate::Result;
use crate::catalog::{Acknowledgement, too_old_for_acknowledgements};
use crate::db::sqlite::failure;

const WRITING: &str = "cannot acknowledge a ring's state in the catalog";
const READING: &str = "cannot read from the catalog by which states processes go";

const NOW_MS: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

pub(super) fn write(c: &Connection, word: &Acknowledgement) -> Result<()> {
    has_room(c, WRITING)?;
    let holds = i64::try_from(word.holds.as_millis()).unwrap_or(i64::MAX);
    let sql = format!(
        "INSERT INTO enfold_acknowledgements (ring, process, application, epoch, holds_until_ms)
         VALUES (?1, ?2, ?3, ?4, {NOW_MS} + ?5)
         ON CONFLICT (ring, process) DO UPDATE SET application = excluded.application, epoch = excluded.epoch,
             holds_until_ms = excluded.holds_until_ms"
    );
    c.execute(&sql, params![word.ring, word.process, word.application, as_stored(word.epoch), holds])
        .map_err(|e| failure(WRITING, &e))?;
    Ok(())
}

pub(super) fn read(c: &Connection, ring: &str) -> Result<Vec<Acknowledgement>> {
    has_room(c, READING)?;
    // Those of processes that are long gone are of no use to anybody.
    let gone = format!("DELETE FROM enfold_acknowledgements WHERE ring = ?1 AND holds_until_ms < {NOW_MS} - 86400000");
    let sql = format!(
        "SELECT process, application, epoch, holds_until_ms - {NOW_MS} FROM enfold_acknowledgements
         WHERE ring = ?1 AND holds_until_ms >= {NOW_MS} ORDER BY epoch, process"
    );
    let read = || -> rusqlite::Result<Vec<Acknowledgement>> {
        c.execute(&gone, [ring])?;
        let word = |row: &rusqlite::Row<'_>| {
            Ok(Acknowledgement {
                ring: ring.to_owned(),
                process: row.get(0)?,
                application: row.get(1)?,
                // What was not written by a program of ours goes by no state.
                epoch: u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0),
                holds: Duration::from_millis(row.get::<_, i64>(3)?.unsigned_abs()),
            })
        };
        c.prepare_cached(&sql)?.query_map([ring], word)?.collect()
    };
    read().map_err(|e| failure(READING, &e))
}

/// Asked each time: another process may bring the schema up to date while this one runs.
fn has_room(c: &Connection, doing: &str) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'enfold_acknowledgements')";
    let there: bool = c.query_row(sql, [], |row| row.get(0)).map_err(|e| failure(doing, &e))?;
    if there { Ok(()) } else { Err(too_old_for_acknowledgements()) }
}
