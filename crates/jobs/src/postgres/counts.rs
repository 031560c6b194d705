//! Keeps counts of columns, one beside the other, in `enfold.column_counts`. Nothing decides by them: they are for people.

use std::collections::BTreeMap;

use enfold::{Code, Error, Result};
use tokio_postgres::Row;
use tokio_postgres::types::{Json, Type};

use super::{Param, Postgres, Purpose, Tx};
use crate::model::{ByVersion, ColumnNote, CountsSought, KeptCount, NotedCounts, TableName};

/// Whether there is a place for counts, and this role may keep them.
pub(super) async fn may_keep(tx: &Tx, doing: &str) -> Result<bool> {
    let sql = "SELECT coalesce(bool_and(pg_catalog.has_table_privilege(pg_catalog.to_regclass(o.name), o.privilege)), false) \
               FROM (VALUES ('enfold.column_counts', 'SELECT'), ('enfold.column_counts', 'INSERT'), \
                            ('enfold.column_counts', 'DELETE'), ('enfold.coverage', 'SELECT')) o (name, privilege) \
               WHERE pg_catalog.to_regclass('enfold.column_counts') IS NOT NULL";
    Ok(tx.one(doing, sql, &[]).await?.get(0))
}

/// Keeps what was just noted of a column, if that has counts, and lets go of those that may go.
pub(super) async fn keep(tx: &Tx, doing: &str, note: &ColumnNote) -> Result<()> {
    if note.census.is_none() {
        return Ok(());
    }
    let current = note.by_version.as_ref().map(|by| i64::try_from(by.current).unwrap_or(i64::MAX));
    let versions = note.by_version.as_ref().map(|by| Json(&by.versions));
    let params: [Param<'_>; 5] = [
        (&note.table.schema, Type::TEXT),
        (&note.table.table, Type::TEXT),
        (&note.column.name, Type::TEXT),
        (&current, Type::INT8),
        (&versions, Type::JSONB),
    ];
    tx.query(doing, KEEP, &params).await?;
    tx.query(doing, THIN, &params[..3]).await.map(|_| ())
}

/// As the view has it, so that what is kept is what people saw.
const KEEP: &str = "INSERT INTO enfold.column_counts (table_schema, table_name, column_name, counted_at, mode, enforced, \
                           rows, envelopes, plaintext, lookalikes, nulls, under_current, by_version) \
     SELECT table_schema, table_name, column_name, counted_at, mode, coalesce(enforced, false), \
            rows, envelopes, plaintext, lookalikes, nulls, $4, $5 \
     FROM enfold.coverage WHERE table_schema = $1 AND table_name = $2 AND column_name = $3";

/// Of those of more than 90 days ago one goes where a later one of its week found no less that is no envelope: so the last of
/// each week stays, and no leak is thinned away.
const THIN: &str = "DELETE FROM enfold.column_counts c USING enfold.column_counts l \
     WHERE c.table_schema = $1 AND c.table_name = $2 AND c.column_name = $3 AND c.counted_at < now() - interval '90 days' \
       AND l.table_schema = $1 AND l.table_name = $2 AND l.column_name = $3 AND l.counted_at > c.counted_at \
       AND date_trunc('week', l.counted_at AT TIME ZONE 'UTC') = date_trunc('week', c.counted_at AT TIME ZONE 'UTC') \
       AND l.plaintext + l.lookalikes >= c.plaintext + c.lookalikes";

impl Postgres {
    pub(super) async fn read_kept_counts(&self, sought: &CountsSought) -> Result<Vec<KeptCount>> {
        let doing = self.doing("read what was counted of columns in");
        let tx = self.begin(Purpose::Own).await?;
        let may = "SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('enfold.column_counts'), 'SELECT'), false)";
        let mut rows = Vec::new();
        if tx.one(&doing, may, &[]).await?.get(0) {
            let (name, column) = sought.column.clone().unzip();
            let (schema, table) = name.map(|name| (name.schema, name.table)).unzip();
            let limit = i64::from(sought.limit);
            let params: [Param<'_>; 7] = [
                (&schema, Type::TEXT),
                (&table, Type::TEXT),
                (&column, Type::TEXT),
                (&sought.since_ms, Type::INT8),
                (&sought.until_ms, Type::INT8),
                (&sought.after, Type::INT8),
                (&limit, Type::INT8),
            ];
            rows = tx.query(&doing, KEPT, &params).await?;
        }
        tx.commit().await?;
        rows.iter().map(kept).collect()
    }
}

const KEPT: &str = "SELECT id, table_schema, table_name, column_name, mode, enforced, rows, nulls, plaintext, envelopes, lookalikes, \
            (extract(epoch FROM counted_at) * 1000)::int8, under_current, by_version \
     FROM enfold.column_counts \
     WHERE ($3 IS NULL OR (table_schema = $1 AND table_name = $2 AND column_name = $3)) \
       AND ($4 IS NULL OR counted_at >= to_timestamp($4 / 1000.0)) AND ($5 IS NULL OR counted_at < to_timestamp($5 / 1000.0)) \
       AND ($6 IS NULL OR id < $6) \
     ORDER BY id DESC LIMIT $7";

fn kept(row: &Row) -> Result<KeptCount> {
    let number = |at: usize| row.get::<_, i64>(at).unsigned_abs();
    let by_version = match (row.get::<_, Option<i64>>(12), row.try_get::<_, Option<Json<BTreeMap<u32, u64>>>>(13)) {
        (Some(current), Ok(Some(Json(versions)))) => Some(ByVersion { versions, current: current.unsigned_abs() }),
        (_, Ok(_)) => None,
        (_, Err(_)) => return Err(Error::new(Code::Internal, "a count that was kept cannot be read back")),
    };
    Ok(KeptCount {
        place: row.get(0),
        table: TableName { schema: row.get(1), table: row.get(2) },
        column: row.get(3),
        mode: row.get(4),
        enforced: row.get(5),
        counts: NotedCounts {
            rows: number(6),
            nulls: number(7),
            plaintext: number(8),
            envelopes: number(9),
            lookalikes: number(10),
            at_ms: row.get(11),
        },
        by_version,
    })
}
