//! What the system catalogs say of a table that a sweep must know: types, leaf partitions, triggers, unique indexes.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use enfold::{Code, Error, Result};
use tokio_postgres::types::Type;

use super::held::{self, Beside, Held, SPELLING, Source, Within};
use super::session::{Purpose, Tx};
use super::{Postgres, ident, prune, qualified};
use crate::model::{Storage, TableName, Target, TargetColumn};

/// A shape is looked up again after this long: a trigger or an index may have come.
const KEPT: Duration = Duration::from_secs(5);

pub(crate) struct Shape {
    /// In the order of [`Target::columns`].
    pub(crate) columns: Vec<Held>,
    /// Of [`Target::tenant`].
    pub(crate) tenant: Option<PartType>,
    /// In the order of [`Target::row_key`].
    pub(crate) row_key: Vec<PartType>,
    /// Tables that hold the rows: the table itself, or its leaf partitions. Quoted names.
    pub(crate) leaves: Vec<Leaf>,
    /// `FOR NO KEY UPDATE`, or `FOR UPDATE` where a written column is in a unique index: Postgres takes that lock for
    /// the update in any case, and taking it later would mean to wait for whoever holds `FOR KEY SHARE`.
    pub(crate) lock: &'static str,
    /// Columns of indexes, none of them in a unique one, that an update sets to what they are. Postgres then takes the
    /// index for one whose key changes, and does not look through a full leaf for versions that are dead by now: a
    /// sweep writes each row once, so that saves little and cost 40 % of its time (measured with two indexes beside the
    /// key, in random order). The indexes grow as under any update of all rows; a rewrite or a REINDEX makes them small.
    /// None where a trigger could take it for a change.
    pub(crate) unwritten: Vec<String>,
    /// Users' row triggers that run before an update, and may alter or swallow it.
    pub(crate) triggers_before: bool,
    /// Users' triggers that run after it, and may write the row again.
    pub(crate) triggers_after: bool,
    /// Of a pruning: which rows go, as a condition on `t`. Its triggers are those of a deletion, and its lock is the stronger.
    pub(crate) doomed: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) relation: String,
    pub(crate) blocks: u64,
    /// The planner's estimate; `None` where the table was never analysed.
    pub(crate) rows: Option<u64>,
}

/// The type under a column's domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// text, varchar, citext
    Text,
    Bytea,
    Json,
    Jsonb,
}

/// How a tenant or a bound column becomes a part of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartType {
    Int,
    Uuid,
    Text,
    Bytes,
}

impl Postgres {
    pub(crate) async fn shape(&self, target: &Target) -> Result<Arc<Shape>> {
        let kept = self.shapes.lock().unwrap_or_else(PoisonError::into_inner).get(&key(target)).cloned();
        if let Some((at, shape)) = kept
            && at.elapsed() < KEPT
        {
            return Ok(shape);
        }
        self.shape_now(target).await
    }

    /// As it is at this moment, with the number of blocks.
    pub(crate) async fn shape_now(&self, target: &Target) -> Result<Arc<Shape>> {
        let tx = self.begin(Purpose::Own).await?;
        let shape = Arc::new(load(&tx, target).await?);
        tx.commit().await?;
        let mut shapes = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.insert(key(target), (Instant::now(), Arc::clone(&shape)));
        Ok(shape)
    }
}

/// A table is swept for other columns at other times, and its shape is that of the columns.
fn key(target: &Target) -> String {
    let columns: Vec<_> = target.columns.iter().map(|c| (&c.name, &c.shadow, &c.member, &c.companions)).collect();
    let indexes = target.indexes.iter().map(|i| &i.column);
    let names: Vec<&String> = indexes.chain(&target.tenant).chain(&target.row_key).collect();
    format!("{} {columns:?} {names:?} {:?}", target.policy_table, target.prune)
}

async fn load(tx: &Tx, target: &Target) -> Result<Shape> {
    let oid = table_oid(tx, &target.table).await?;
    let types = column_types(tx, oid).await?;
    let find = |name: &str| {
        types.iter().find(|column| column.name == name).map(|column| column.base.as_str()).ok_or_else(|| {
            Error::new(Code::TableMissing, format!("there is no column `{}.{name}`", target.policy_table))
        })
    };
    let columns = target.columns.iter().map(|column| held(&types, column, target)).collect::<Result<_>>()?;
    let part = |name: &String| find(name).and_then(|base| PartType::of(base, &target.policy_table, name));
    let tenant = target.tenant.as_ref().map(part).transpose()?;
    let row_key = target.row_key.iter().map(part).collect::<Result<_>>()?;
    let doomed = target.prune.as_ref().map(|rule| prune::condition(rule, &target.policy_table, find)).transpose()?;

    let leaves = leaves(tx, oid, &target.table).await?;
    let names: Vec<&str> = target
        .columns
        .iter()
        .flat_map(|c| [c.name.as_str(), c.holder()])
        .chain(target.indexes.iter().map(|i| i.column.as_str()))
        .chain(target.companions().map(String::as_str))
        .collect();
    // As pg_trigger numbers events: DELETE or UPDATE.
    let fires_on: i16 = if doomed.is_some() { 8 } else { 16 };
    let row = tx
        .one(
            &format!("cannot look up the indexes and triggers of `{}`", target.policy_table),
            "SELECT \
               EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a \
                         ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
                       WHERE i.indrelid = $1 AND i.indisunique AND i.indpred IS NULL AND a.attname = ANY ($2)) AS keyed, \
               coalesce(bool_or(t.tgtype & 2 = 2), false) AS before, \
               coalesce(bool_or(t.tgtype & 2 = 0), false) AS after \
             FROM pg_catalog.pg_trigger t \
             WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgname NOT LIKE 'enfold\\_%' AND t.tgtype & $3 = $3 \
               AND t.tgrelid IN (SELECT $1 UNION SELECT relid FROM pg_catalog.pg_partition_tree($1))",
            &[(&oid, Type::OID), (&names, Type::TEXT_ARRAY), (&fires_on, Type::INT2)],
        )
        .await?;
    let (triggers_before, triggers_after) = (row.get("before"), row.get("after"));
    let unwritten = if triggers_before || triggers_after || doomed.is_some() {
        Vec::new()
    } else {
        unwritten(tx, oid, &names, target).await?
    };
    Ok(Shape {
        columns,
        tenant,
        row_key,
        leaves,
        lock: if doomed.is_some() || row.get("keyed") { "FOR UPDATE" } else { "FOR NO KEY UPDATE" },
        unwritten,
        triggers_before,
        triggers_after,
        doomed,
    })
}

/// [`Shape::unwritten`]: the first column of each index that this role may set and that is not in a unique index, whose
/// columns Postgres guards with a stronger lock.
async fn unwritten(tx: &Tx, oid: u32, written: &[&str], target: &Target) -> Result<Vec<String>> {
    let rows = tx
        .query(
            &format!("cannot look up the indexes of `{}`", target.policy_table),
            "WITH tree AS (SELECT $1 AS relid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1)), \
                  keys AS (SELECT i.indexrelid, i.indisunique, k.n, a.attname \
                             FROM pg_catalog.pg_index i JOIN tree ON tree.relid = i.indrelid \
                             CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n) \
                             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                            WHERE k.n <= i.indnkeyatts AND a.attgenerated = '' AND a.attidentity <> 'a') \
             SELECT DISTINCT name FROM ( \
               SELECT DISTINCT ON (k.indexrelid) k.attname::text AS name FROM keys k \
                WHERE k.attname <> ALL ($2) \
                  AND NOT EXISTS (SELECT FROM keys u WHERE u.indisunique AND u.attname = k.attname) \
                  AND NOT EXISTS (SELECT FROM tree WHERE NOT pg_catalog.has_column_privilege(tree.relid, k.attname::text, 'UPDATE')) \
                ORDER BY k.indexrelid, k.n) AS first ORDER BY name",
            &[(&oid, Type::OID), (&written, Type::TEXT_ARRAY)],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The table's oid; `TableMissing` where there is none.
pub(crate) async fn table_oid(tx: &Tx, table: &TableName) -> Result<u32> {
    let name = qualified(table);
    let row = tx
        .one(
            &format!("cannot look for the table `{name}`"),
            "SELECT pg_catalog.to_regclass($1)::oid",
            &[(&name, Type::TEXT)],
        )
        .await?;
    row.get::<_, Option<u32>>(0).ok_or_else(|| {
        Error::new(Code::TableMissing, format!("there is no table `{}.{}`", table.schema, table.table))
            .hint("correct the name in `enfold.toml`, or run `enfold discover` to see what is there")
    })
}

/// How a column of the target is kept.
fn held(types: &[ColumnType], column: &TargetColumn, target: &Target) -> Result<Held> {
    let find = |name: &str| types.iter().find(|of| of.name == name);
    let missing = || {
        let name = format!("{}.{}", target.policy_table, column.name);
        Error::new(Code::TableMissing, format!("there is no column `{name}`"))
    };
    let base = |of: &ColumnType| Base::of(&of.base, column.storage, &target.policy_table, &of.name);
    let Some(shadow) = &column.shadow else {
        let of = find(column.holder()).ok_or_else(missing)?;
        let (base, within) = match &column.member {
            None => (base(of)?, None),
            // Whatever holds it, a member is looked at and sent as jsonb.
            Some(member) if of.base == held::holds(member.document) => (Base::Jsonb, Some(Within::of(member))),
            Some(_) => return Err(refused(&of.base, &target.policy_table, &column.name)),
        };
        let companions = column.companions.values().map(|name| find(name).ok_or_else(missing).map(beside));
        let companions = companions.collect::<Result<_>>()?;
        let marks = column.member.as_ref().map(Within::marks).unwrap_or_default();
        return Ok(Held { holder: ident(column.holder()), base, within, marks, there: true, source: None, companions });
    };
    let (source, shadow_type) = (find(&column.name), find(shadow));
    // Either may be missing: the shadow before it is added, the source after it was dropped. Not both.
    if source.is_none() && shadow_type.is_none() {
        return Err(missing());
    }
    let base = match shadow_type {
        Some(there) => base(there)?,
        None if column.storage == Storage::Bytes => Base::Bytea,
        None => Base::Text,
    };
    let source = source.map(|of| Source { column: ident(&of.name), sql_type: of.sql_type.clone() });
    let (holder, there) = (ident(shadow), shadow_type.is_some());
    Ok(Held { holder, base, within: None, marks: Vec::new(), there, source, companions: Vec::new() })
}

fn beside(of: &ColumnType) -> Beside {
    let source = Source { column: ident(&of.name), sql_type: of.sql_type.clone() };
    Beside { source, is_bytes: of.base == "bytea" }
}

struct ColumnType {
    name: String,
    /// The type under its domains, by its bare name.
    base: String,
    /// The same, quoted and qualified.
    sql_type: String,
}

/// Columns and the types under their domains.
async fn column_types(tx: &Tx, oid: u32) -> Result<Vec<ColumnType>> {
    let rows = tx
        .query(
            "cannot look up the columns of a table",
            "WITH RECURSIVE under AS ( \
               SELECT a.attname, a.atttypid AS type FROM pg_catalog.pg_attribute a \
                WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped \
               UNION ALL \
               SELECT u.attname, t.typbasetype FROM under u JOIN pg_catalog.pg_type t ON t.oid = u.type AND t.typtype = 'd') \
             SELECT u.attname::text, t.typname::text, pg_catalog.format('%I.%I', n.nspname, t.typname) \
             FROM under u JOIN pg_catalog.pg_type t ON t.oid = u.type AND t.typtype <> 'd' \
             JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace",
            &[(&oid, Type::OID)],
        )
        .await?;
    Ok(rows.iter().map(|row| ColumnType { name: row.get(0), base: row.get(1), sql_type: row.get(2) }).collect())
}

pub(crate) async fn leaves(tx: &Tx, oid: u32, table: &TableName) -> Result<Vec<Leaf>> {
    let rows = tx
        .query(
            &format!("cannot look up the partitions of `{}`", table.table),
            "SELECT n.nspname::text, c.relname::text, c.relkind::text, c.reltuples::float8, \
                    pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::int8 \
             FROM (SELECT relid FROM pg_catalog.pg_partition_tree($1) WHERE isleaf UNION SELECT $1::oid) l \
             JOIN pg_catalog.pg_class c ON c.oid = l.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind <> 'p' ORDER BY 1, 2",
            &[(&oid, Type::OID)],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let (schema, name, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            if kind != "r" {
                return Err(Error::new(Code::PlanRefused, format!("`{schema}.{name}` is not a table of this server"))
                    .hint("views and foreign tables cannot be converted: name the table that holds the rows"));
            }
            let (tuples, blocks): (f64, i64) = (row.get(3), row.get(4));
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an estimate, checked to be positive"
            )]
            let rows = (tuples >= 0.0).then_some(tuples as u64);
            let relation = qualified(&TableName { schema, table: name });
            Ok(Leaf { relation, blocks: u64::try_from(blocks).unwrap_or(0), rows })
        })
        .collect()
}

impl Shape {
    /// What a transaction sets before it reads or writes values of the target.
    pub(crate) fn settings(&self) -> &'static str {
        if self.columns.iter().any(|held| held.source.is_some()) { SPELLING } else { "" }
    }
}

impl Base {
    fn of(name: &str, storage: Storage, table: &str, column: &str) -> Result<Self> {
        let base = match name {
            "text" | "varchar" | "citext" => Base::Text,
            "bytea" => Base::Bytea,
            "json" => Base::Json,
            "jsonb" => Base::Jsonb,
            _ => return Err(refused(name, table, column)),
        };
        let fits = match storage {
            Storage::Text => base == Base::Text,
            Storage::Bytes => base == Base::Bytea,
            Storage::Json => matches!(base, Base::Json | Base::Jsonb),
        };
        if fits { Ok(base) } else { Err(refused(name, table, column)) }
    }

    /// The array type in which its values are sent.
    pub(crate) fn array(self) -> Type {
        if self == Base::Bytea { Type::BYTEA_ARRAY } else { Type::TEXT_ARRAY }
    }

    /// The type in which its values are sent, as SQL.
    pub(crate) fn sent(self) -> &'static str {
        if self == Base::Bytea { "bytea" } else { "text" }
    }

    /// The exact stored bytes of `column`.
    pub(crate) fn stored(self, column: &str) -> String {
        match self {
            Base::Bytea => format!("{column}::bytea"),
            Base::Text | Base::Json | Base::Jsonb => format!("{column}::text"),
        }
    }

    /// What the column is set to, from the value as sent. Never an explicit cast to the column's own type, which would
    /// cut a long value off instead of refusing it.
    pub(crate) fn assigned(self, sent: &str) -> String {
        match self {
            Base::Text | Base::Bytea => sent.to_owned(),
            Base::Json => format!("{sent}::json"),
            Base::Jsonb => format!("{sent}::jsonb"),
        }
    }

    /// Whether `column` holds what was sent, byte for byte. Collation "C" compares bytes; a json document that was sent
    /// to jsonb is stored in jsonb's own spelling.
    pub(crate) fn same(self, column: &str, sent: &str) -> String {
        match self {
            Base::Bytea => format!("{column}::bytea IS NOT DISTINCT FROM {sent}"),
            Base::Text | Base::Json => format!("{column}::text COLLATE \"C\" IS NOT DISTINCT FROM {sent}"),
            Base::Jsonb => format!("{column}::text COLLATE \"C\" IS NOT DISTINCT FROM {sent}::jsonb::text"),
        }
    }

    /// Whether a value is too large to be read with many others, decided without fetching it.
    pub(crate) fn large(self, column: &str) -> String {
        match self {
            Base::Text => format!("octet_length({column}::text) > 8192"),
            Base::Bytea => format!("octet_length({column}::bytea) > 8192"),
            // Rendering it would fetch it; what is stored in 2,000 bytes seldom renders to much.
            Base::Json | Base::Jsonb => format!("pg_catalog.pg_column_size({column}) > 2000"),
        }
    }
}

impl PartType {
    fn of(name: &str, table: &str, column: &str) -> Result<Self> {
        match name {
            "int2" | "int4" | "int8" => Ok(PartType::Int),
            "uuid" => Ok(PartType::Uuid),
            "text" | "varchar" | "citext" => Ok(PartType::Text),
            "bytea" => Ok(PartType::Bytes),
            _ => Err(Error::new(
                Code::TypeRefused,
                format!("`{table}.{column}` is of type `{name}` and cannot be bound"),
            )
            .hint("tenant and bound columns are integers, uuid, text or bytea")),
        }
    }

    pub(crate) fn read(self, column: &str) -> String {
        match self {
            PartType::Int => format!("{column}::int8"),
            PartType::Uuid => format!("{column}::uuid"),
            PartType::Text => format!("{column}::text"),
            PartType::Bytes => format!("{column}::bytea"),
        }
    }
}

fn refused(name: &str, table: &str, column: &str) -> Error {
    Error::new(Code::TypeRefused, format!("`{table}.{column}` is of type `{name}` and cannot hold an envelope"))
        .hint("run `enfold plan` to see the way out")
}
