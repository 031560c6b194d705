//! Notes what was seen of columns, for the view `enfold_coverage`. Nothing decides by it: it is for people.

use enfold::Result;
use enfold::policy::Mode;
use rusqlite::{Connection, Row, TransactionBehavior, params};

use super::error::Doing;
use super::{counts, schema, steps};
use crate::model::{Census, ColumnNote, NotedColumn, NotedCounts, NotedVerification, TableName};

/// Who has no keys does not know the mode, and who did not count has no counts: what was known of either stays, with its time.
const NOTE: &str = "INSERT INTO enfold_column_notes AS n (table_name, column_name, ring, mode, mode_seen_at, checks, \
                           rows, envelopes, plaintext, lookalikes, nulls, counted_at) \
     VALUES (?1, ?2, ?3, ?4, iif(?4 IS NULL, NULL, datetime()), ?5, ?6, ?7, ?8, ?9, ?10, iif(?6 IS NULL, NULL, datetime())) \
     ON CONFLICT (table_name, column_name) DO UPDATE SET ring = excluded.ring, checks = excluded.checks, \
       mode = coalesce(excluded.mode, n.mode), mode_seen_at = coalesce(excluded.mode_seen_at, n.mode_seen_at), \
       rows = coalesce(excluded.rows, n.rows), envelopes = coalesce(excluded.envelopes, n.envelopes), \
       plaintext = coalesce(excluded.plaintext, n.plaintext), lookalikes = coalesce(excluded.lookalikes, n.lookalikes), \
       nulls = coalesce(excluded.nulls, n.nulls), counted_at = coalesce(excluded.counted_at, n.counted_at)";

/// False where the tables of jobs are not there, or of an older program: an audit makes none.
pub(super) fn note(connection: &mut Connection, notes: &[ColumnNote]) -> Result<bool> {
    if schema::version(connection)? < schema::WITH_COVERAGE {
        return Ok(false);
    }
    let what = || "note what was seen of columns".to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    // One moment for all: they were counted together. To the millisecond, for somebody may count twice in a second.
    let now: String =
        transaction.query_row("SELECT strftime('%Y-%m-%d %H:%M:%f')", [], |row| row.get(0)).doing(what)?;
    for note in notes {
        let checks = steps::check_names(&note.table, &note.column.name);
        let checks = serde_json::to_string(&checks).unwrap_or_default();
        let count = |of: fn(&Census) -> u64| note.census.as_ref().map(|c| i64::try_from(of(c)).unwrap_or(i64::MAX));
        let values = params![
            note.table.table,
            note.column.name,
            note.ring,
            note.mode.map(Mode::word),
            checks,
            count(|c| c.rows),
            count(|c| c.envelopes),
            count(|c| c.plaintext),
            count(|c| c.lookalikes),
            count(|c| c.nulls),
        ];
        transaction.execute(NOTE, values).doing(what)?;
        counts::keep(&transaction, note, &now)?;
    }
    transaction.commit().doing(what)?;
    Ok(true)
}

/// Nothing where the tables of jobs are not there, or of an older program.
pub(super) fn noted(connection: &Connection) -> Result<Vec<NotedColumn>> {
    if schema::version(connection)? < schema::WITH_COVERAGE {
        return Ok(Vec::new());
    }
    let read =
        || -> rusqlite::Result<Vec<NotedColumn>> { connection.prepare(NOTED)?.query_map([], noted_column)?.collect() };
    read().doing(|| "read what was noted of columns".to_owned())
}

const NOTED: &str = "SELECT table_name, column_name, enforced, rows, nulls, plaintext, envelopes, lookalikes, \
         unixepoch(counted_at) * 1000, verified_rows, verified_failed, unixepoch(verified_at) * 1000 \
     FROM enfold_coverage ORDER BY 1, 2";

fn noted_column(row: &Row<'_>) -> rusqlite::Result<NotedColumn> {
    let number = |at: usize| row.get::<_, Option<i64>>(at).map(|number| number.unwrap_or_default().unsigned_abs());
    let counted = match row.get::<_, Option<i64>>(8)? {
        Some(at_ms) => Some(NotedCounts {
            rows: number(3)?,
            nulls: number(4)?,
            plaintext: number(5)?,
            envelopes: number(6)?,
            lookalikes: number(7)?,
            at_ms,
        }),
        None => None,
    };
    let verified = match row.get::<_, Option<i64>>(11)? {
        Some(at_ms) => Some(NotedVerification { rows: number(9)?, failed: number(10)?, at_ms }),
        None => None,
    };
    Ok(NotedColumn {
        table: TableName { schema: String::new(), table: row.get(0)? },
        column: row.get(1)?,
        enforced: row.get::<_, Option<bool>>(2)?.unwrap_or_default(),
        counted,
        verified,
    })
}
