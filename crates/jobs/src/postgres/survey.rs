//! What `discover` reads: every table that a user made, and a bounded sample of values spread over one.

use std::collections::BTreeMap;

use enfold::{Code, Error, Result};
use tokio_postgres::Row;

use super::ask::{Ask, count, p};
use super::{Postgres, Purpose, ident, qualified};
use crate::database::{ColumnSurvey, TableSurvey};
use crate::model::TableName;

impl Postgres {
    /// Tables and partitioned tables (partitions are parts of theirs), materialised views left out; nothing of the
    /// system's, of extensions or of Enfold's own.
    pub async fn survey_tables(&self) -> Result<Vec<TableSurvey>> {
        let tx = self.begin(Purpose::Count).await?;
        let ask = Ask::new(&tx, self.doing("list the tables of"));
        let tables = ask.rows(TABLES, &[]).await?;
        let mut columns: BTreeMap<u32, Vec<ColumnSurvey>> = BTreeMap::new();
        for row in ask.rows(COLUMNS, &[]).await? {
            columns.entry(row.get("relation")).or_default().push(column(&row));
        }
        let survey = tables
            .iter()
            .map(|row| TableSurvey {
                table: TableName { schema: row.get("schema"), table: row.get("name") },
                comment: row.get("comment"),
                rows: count(row, "rows"),
                columns: columns.remove(&row.get("oid")).unwrap_or_default(),
            })
            .collect();
        tx.rollback().await?;
        Ok(survey)
    }

    /// At most `limit` rows, at most 4,096 characters of a value. The same rows as long as the table does not
    /// change. Fails with `database-denied` where row-level security would hide rows.
    pub async fn sample_values(
        &self,
        table: &TableName,
        columns: &[String],
        limit: u32,
    ) -> Result<Vec<Vec<Option<String>>>> {
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let tx = self.begin(Purpose::Count).await?;
        let ask = Ask::new(&tx, format!("cannot sample `{}.{}`", table.schema, table.table));
        ask.set("SET LOCAL statement_timeout = '60s'").await?;
        let types = types(&ask, table, columns).await?;
        let expressions: Vec<String> = columns.iter().map(|c| as_text(c, types.get(c).map(String::as_str))).collect();
        let pages = pages(&ask, table).await?;
        let mut share = percentage(pages, limit);
        let rows = loop {
            let sample = match share {
                100 => String::new(),
                share => format!(" TABLESAMPLE SYSTEM ({share}) REPEATABLE (1)"),
            };
            let sql = format!(
                "SELECT {} FROM {}{sample} ORDER BY md5(ctid::text) LIMIT {limit}",
                expressions.join(", "),
                qualified(table)
            );
            let rows = ask.rows(&sql, &[]).await.map_err(hidden)?;
            // Pages may be nearly empty, after many rows were deleted.
            if rows.len() >= limit as usize / 2 || share == 100 {
                break rows;
            }
            share = (share * 8).min(100);
        };
        tx.rollback().await?;
        Ok(rows.iter().map(|row| (0..columns.len()).map(|at| row.get(at)).collect()).collect())
    }
}

/// Characters of one value that a sample shows. Enough for every form that discovery knows; a longer JSON document is
/// left out, because a part of one is none.
const LONGEST: u32 = 4096;
const LONGEST_JSON: u32 = 1 << 16;

/// Pages that are read whole instead of being sampled.
const FEW_PAGES: u64 = 256;

const TABLES: &str = "
    SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, obj_description(c.oid, 'pg_class') AS comment,
           (SELECT coalesce(sum(CASE WHEN l.reltuples > 0 THEN l.reltuples ELSE coalesce(s.n_live_tup, 0) END), 0)::int8
            FROM (SELECT c.oid AS relid UNION SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf) parts
            JOIN pg_class l ON l.oid = parts.relid AND l.relkind = 'r'
            LEFT JOIN pg_stat_all_tables s ON s.relid = l.oid) AS rows
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'enfold')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 2, 3";

const COLUMNS: &str = "
    SELECT a.attrelid AS relation, a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS sql_type,
           col_description(a.attrelid, a.attnum) AS comment, NOT a.attnotnull AS nullable,
           EXISTS (SELECT FROM pg_index x WHERE x.indrelid = a.attrelid AND x.indisprimary AND a.attnum = ANY (x.indkey::int2[])) AS primary_key,
           EXISTS (SELECT FROM pg_index x WHERE x.indrelid = a.attrelid AND x.indisunique AND x.indnkeyatts = 1
                   AND x.indpred IS NULL AND (x.indkey::int2[])[0] = a.attnum) AS is_unique,
           (SELECT format('%s.%s.%s', fn.nspname, fc.relname, fa.attname)
            FROM pg_constraint k JOIN pg_class fc ON fc.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
                 JOIN pg_attribute fa ON fa.attrelid = fc.oid AND fa.attnum = k.confkey[array_position(k.conkey, a.attnum)]
            WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND a.attnum = ANY (k.conkey) ORDER BY k.conname LIMIT 1) AS refers
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
      AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'enfold')
    ORDER BY a.attrelid, a.attnum";

fn column(row: &Row) -> ColumnSurvey {
    ColumnSurvey {
        name: row.get("name"),
        sql_type: row.get("sql_type"),
        comment: row.get("comment"),
        primary_key: row.get("primary_key"),
        unique: row.get("is_unique"),
        references: row.get("refers"),
        nullable: row.get("nullable"),
    }
}

/// The base types of the wanted columns, which settle how a value becomes text.
async fn types(ask: &Ask<'_>, table: &TableName, columns: &[String]) -> Result<BTreeMap<String, String>> {
    let rows = ask
        .rows(
            "SELECT a.attname::text, b.typname::text
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                  JOIN pg_type t ON t.oid = a.atttypid JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
             WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = ANY ($3) AND a.attnum > 0 AND NOT a.attisdropped",
            &[p(&table.schema), p(&table.table), p(&columns.to_vec())],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn as_text(column: &str, base: Option<&str>) -> String {
    let name = ident(column);
    match base {
        // Printable bytes stay readable, the others are escaped.
        Some("bytea") => format!("encode(substr({name}, 1, {LONGEST}), 'escape')"),
        Some("json" | "jsonb") => {
            format!("CASE WHEN octet_length({name}::text) <= {LONGEST_JSON} THEN {name}::text END")
        }
        // A cast would add the mask of a single address, which its own spelling leaves out.
        Some("inet") => format!("CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END"),
        _ => format!("left({name}::text, {LONGEST})"),
    }
}

async fn pages(ask: &Ask<'_>, table: &TableName) -> Result<u64> {
    let row = ask
        .one(
            "SELECT coalesce(sum(pg_relation_size(p.relid)), 0)::int8 / current_setting('block_size')::int8 AS pages
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
                  LATERAL (SELECT c.oid AS relid UNION SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf) p
             WHERE n.nspname = $1 AND c.relname = $2",
            &[p(&table.schema), p(&table.table)],
        )
        .await?;
    Ok(count(&row, "pages"))
}

/// How much of the table to look at, in whole percents: enough pages that `limit` rows come from many of them.
fn percentage(pages: u64, limit: u32) -> u64 {
    let wanted = u64::from(limit).max(FEW_PAGES);
    if pages <= wanted { 100 } else { (wanted * 100).div_ceil(pages).clamp(1, 100) }
}

fn hidden(error: Error) -> Error {
    if error.code() == Code::DatabaseDenied {
        error.hint(
            "under row-level security only a part of the rows would be seen: use a role with BYPASSRLS, or the owner",
        )
    } else {
        error
    }
}
