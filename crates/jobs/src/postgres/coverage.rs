//! Notes what was seen of columns, for the view `enfold.coverage`. Nothing decides by it: it is for people.

use enfold::Result;
use enfold::policy::Mode;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::steps::names;
use super::{Param, Postgres, Purpose, counts};
use crate::model::{Census, ColumnNote, NotedColumn, NotedCounts, NotedVerification, TableName};

impl Postgres {
    /// False where the table is not there (an older program's job tables, or none) or this role may not write to it.
    pub(super) async fn write_column_notes(&self, notes: &[ColumnNote]) -> Result<bool> {
        let doing = self.doing("note what was seen of columns in");
        let tx = self.begin(Purpose::Own).await?;
        let may = "SELECT coalesce(pg_catalog.has_table_privilege(t, 'INSERT') AND pg_catalog.has_table_privilege(t, 'UPDATE'), false) \
                   FROM (SELECT pg_catalog.to_regclass('enfold.column_notes')) AS own (t)";
        if !tx.one(&doing, may, &[]).await?.get::<_, bool>(0) {
            tx.rollback().await?;
            return Ok(false);
        }
        let keeps = counts::may_keep(&tx, &doing).await?;
        for note in notes {
            let (checks, mode) = (checks(note), note.mode.map(Mode::word));
            let count = |of: fn(&Census) -> u64| note.census.as_ref().map(|c| i64::try_from(of(c)).unwrap_or(i64::MAX));
            let (rows, envelopes, plaintext) = (count(|c| c.rows), count(|c| c.envelopes), count(|c| c.plaintext));
            let (lookalikes, nulls) = (count(|c| c.lookalikes), count(|c| c.nulls));
            let params: [Param<'_>; 11] = [
                (&note.table.schema, Type::TEXT),
                (&note.table.table, Type::TEXT),
                (&note.column.name, Type::TEXT),
                (&note.ring, Type::TEXT),
                (&mode, Type::TEXT),
                (&checks, Type::TEXT_ARRAY),
                (&rows, Type::INT8),
                (&envelopes, Type::INT8),
                (&plaintext, Type::INT8),
                (&lookalikes, Type::INT8),
                (&nulls, Type::INT8),
            ];
            tx.query(&doing, NOTE, &params).await?;
            if keeps {
                counts::keep(&tx, &doing, note).await?;
            }
        }
        tx.commit().await?;
        Ok(true)
    }

    pub(super) async fn read_column_notes(&self) -> Result<Vec<NotedColumn>> {
        let doing = self.doing("read what was noted of columns in");
        let tx = self.begin(Purpose::Own).await?;
        let there = tx.one(&doing, "SELECT to_regclass('enfold.coverage') IS NOT NULL", &[]).await?;
        let rows = if there.get::<_, bool>(0) { tx.query(&doing, NOTED, &[]).await? } else { Vec::new() };
        tx.commit().await?;
        Ok(rows.iter().map(noted).collect())
    }
}

const NOTED: &str = "SELECT table_schema, table_name, column_name, enforced, rows, nulls, plaintext, envelopes, lookalikes, \
         (extract(epoch FROM counted_at) * 1000)::int8, verified_rows, verified_failed, \
         (extract(epoch FROM verified_at) * 1000)::int8 \
     FROM enfold.coverage ORDER BY 1, 2, 3";

fn noted(row: &Row) -> NotedColumn {
    let number = |at: usize| row.get::<_, Option<i64>>(at).unwrap_or_default().unsigned_abs();
    let counts = |at_ms| NotedCounts {
        rows: number(4),
        nulls: number(5),
        plaintext: number(6),
        envelopes: number(7),
        lookalikes: number(8),
        at_ms,
    };
    let verified = |at_ms| NotedVerification { rows: number(10), failed: number(11), at_ms };
    NotedColumn {
        table: TableName { schema: row.get(0), table: row.get(1) },
        column: row.get(2),
        enforced: row.get::<_, Option<bool>>(3).unwrap_or_default(),
        counted: row.get::<_, Option<i64>>(9).map(counts),
        verified: row.get::<_, Option<i64>>(12).map(verified),
    }
}

/// Who has no keys does not know the mode, and who did not count has no counts: what was known of either stays, with its
/// time.
const NOTE: &str = "INSERT INTO enfold.column_notes AS n (table_schema, table_name, column_name, ring, mode, mode_seen_at, checks, \
                           rows, envelopes, plaintext, lookalikes, nulls, counted_at) \
     VALUES ($1, $2, $3, $4, $5, CASE WHEN $5 IS NOT NULL THEN now() END, $6, $7, $8, $9, $10, $11, CASE WHEN $7 IS NOT NULL THEN now() END) \
     ON CONFLICT (table_schema, table_name, column_name) DO UPDATE SET ring = excluded.ring, checks = excluded.checks, \
       mode = coalesce(excluded.mode, n.mode), mode_seen_at = coalesce(excluded.mode_seen_at, n.mode_seen_at), \
       rows = coalesce(excluded.rows, n.rows), envelopes = coalesce(excluded.envelopes, n.envelopes), \
       plaintext = coalesce(excluded.plaintext, n.plaintext), lookalikes = coalesce(excluded.lookalikes, n.lookalikes), \
       nulls = coalesce(excluded.nulls, n.nulls), counted_at = coalesce(excluded.counted_at, n.counted_at)";

/// By name, all that must be there and valid for the table to refuse plaintext in the column.
fn checks(note: &ColumnNote) -> Vec<String> {
    let column = &note.column;
    let form = if column.member.is_some() { &column.name } else { column.holder() };
    let source = column.shadow.as_ref().filter(|_| !note.source_gone).map(|_| names::empty(&column.name));
    std::iter::once(names::check(form)).chain(source).collect()
}
