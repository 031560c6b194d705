//! Rows that a rule dooms, as a condition; and what goes along with them, from the catalogs.

use enfold::policy::TimeUnit;
use enfold::{Code, Error, Result};
use tokio_postgres::types::Type;

use super::shape::table_oid;
use super::{Postgres, Purpose, Tx, ident, literal, qualified};
use crate::database::Counts;
use crate::model::{Prune, TableName, Target};
use crate::prune::{ForeignKey, OnDelete, Prunable, Spelling, along};

/// Which rows go, as a condition on `t`. `base`: the type under a column's domains, by its bare name.
pub(super) fn condition<'t>(prune: &Prune, table: &str, base: impl Fn(&str) -> Result<&'t str>) -> Result<String> {
    let of = base(&prune.column)?;
    let column = format!("t.{}", ident(&prune.column));
    let moment = format!("pg_catalog.to_timestamp({} / 1000.0::float8)", prune.before_ms);
    let old = match (of, prune.unit) {
        ("timestamptz", None) => format!("{column} < {moment}"),
        ("timestamp", None) => format!("{column} < ({moment} AT TIME ZONE 'UTC')"),
        // A day is over when the next one begins.
        ("date", None) => format!("{column} < ({moment} AT TIME ZONE 'UTC')::date"),
        ("int4" | "int8" | "numeric" | "float8", Some(unit)) => format!("{column} < {}", prune.before(unit)),
        (of, unit) => return Err(refused(prune, table, of, unit)),
    };
    let mut all = vec![old];
    for (column, values) in &prune.only {
        base(column)?;
        let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
        all.push(format!("t.{}::text COLLATE \"C\" IN ({})", ident(column), values.join(", ")));
    }
    Ok(all.join(" AND "))
}

fn refused(prune: &Prune, table: &str, of: &str, unit: Option<TimeUnit>) -> Error {
    let error = Error::new(
        Code::TypeRefused,
        format!("`{table}.{}` is of type `{of}` and does not say since when", prune.column),
    );
    match (of, unit) {
        ("int4" | "int8" | "numeric" | "float8", None) => error
            .hint(format!("say in `prune.{}` what it counts: `unit = \"seconds\"` or `\"milliseconds\"`", prune.rule)),
        (_, Some(_)) => error.hint(format!("take `unit` out of `prune.{}`: it is for numbers", prune.rule)),
        _ => error.hint("name a column of type timestamptz, timestamp or date, or a number with its `unit`"),
    }
}

const SPELLING: Spelling = Spelling { table: qualified, column: ident };

impl Postgres {
    pub(super) async fn look_at_doomed(&self, target: &Target, counts: Counts) -> Result<Prunable> {
        let shape = self.shape_now(target).await?;
        let Some(doomed) = &shape.doomed else {
            return Err(Error::new(Code::Internal, "a pruning without a rule"));
        };
        let doing = format!("cannot count what goes of `{}`", target.policy_table);
        let tx = self.begin(Purpose::Count).await?;
        let oid = table_oid(&tx, &target.table).await?;
        let count = |row: &tokio_postgres::Row, at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
        let (mut rows, mut going, mut found) = (0, 0, Vec::new());
        if counts == Counts::Taken {
            let table = qualified(&target.table);
            let sql = format!("SELECT count(*), count(*) FILTER (WHERE {doomed}) FROM {table} t");
            let row = tx.one(&doing, &sql, &[]).await?;
            (rows, going) = (count(&row, 0), count(&row, 1));
        }
        for (mut one, counted) in along(target, &foreign_keys(&tx, &doing).await?, doomed, &SPELLING) {
            if let Some(sql) = counted.filter(|_| counts == Counts::Taken) {
                one.rows = Some(count(&tx.one(&doing, &sql, &[]).await?, 0));
            }
            found.push(one);
        }
        let names = |rows: Vec<tokio_postgres::Row>| rows.iter().map(|row| row.get(0)).collect();
        let key = names(tx.query(&doing, KEY, &[(&oid, Type::OID)]).await?);
        let triggers = names(tx.query(&doing, TRIGGERS, &[(&oid, Type::OID)]).await?);
        tx.commit().await?;
        Ok(Prunable { key, rows, doomed: going, along: found, triggers })
    }
}

const KEY: &str = "SELECT a.attname::text FROM pg_catalog.pg_index i \
     CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
     WHERE i.indrelid = $1 AND i.indisprimary ORDER BY k.n";

/// Of the table and its partitions, those that people made.
const TRIGGERS: &str = "SELECT DISTINCT tgname::text FROM pg_catalog.pg_trigger \
     WHERE NOT tgisinternal AND tgenabled IN ('O', 'A') AND tgname NOT LIKE 'enfold\\_%' AND tgtype & 8 = 8 \
       AND tgrelid IN (SELECT $1 UNION SELECT relid FROM pg_catalog.pg_partition_tree($1)) ORDER BY 1";

/// Of the whole database; those that partitions have from their table are left out.
async fn foreign_keys(tx: &Tx, doing: &str) -> Result<Vec<ForeignKey>> {
    let sql = "SELECT cn.nspname::text, c.relname::text, pn.nspname::text, p.relname::text, k.confdeltype::text, \
               ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, n) \
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum ORDER BY u.n), \
               ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, n) \
                       JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum ORDER BY u.n), \
               pg_catalog.has_table_privilege(k.conrelid, 'SELECT'), \
               EXISTS (SELECT FROM pg_catalog.pg_index i \
                        WHERE i.indrelid = k.conrelid AND i.indpred IS NULL AND i.indkey[0] = ANY (k.conkey)) \
         FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace \
         JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace \
         WHERE k.contype = 'f' AND k.conparentid = 0 ORDER BY 1, 2, k.conname";
    let rows = tx.query(doing, sql, &[]).await?;
    let key = |row: &tokio_postgres::Row| {
        let (children, parents): (Vec<String>, Vec<String>) = (row.get(5), row.get(6));
        ForeignKey {
            child: TableName { schema: row.get(0), table: row.get(1) },
            parent: TableName { schema: row.get(2), table: row.get(3) },
            columns: children.into_iter().zip(parents).collect(),
            on_delete: match row.get::<_, &str>(4) {
                "c" => OnDelete::Cascade,
                "n" => OnDelete::SetNull,
                "d" => OnDelete::SetDefault,
                _ => OnDelete::Refuse,
            },
            readable: row.get(7),
            indexed: row.get(8),
        }
    };
    Ok(rows.iter().map(key).collect())
}
