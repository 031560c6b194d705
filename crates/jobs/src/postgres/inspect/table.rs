//! The table itself: its kind, its columns, its partitions, its key, its size.

use enfold::policy::TablePolicy;
use enfold::{Code, Error, Result};
use tokio_postgres::Row;

use super::super::ask::{Ask, count, p};
use crate::model::TableName;

/// A table as the catalogs describe it.
pub(super) struct Relation {
    pub oid: u32,
    pub name: TableName,
    /// `pg_class.relkind` and `relpersistence`.
    pub kind: String,
    pub persistence: String,
    pub inherits: bool,
    pub replica_identity: String,
    /// The planner's estimate, over all partitions.
    pub rows: u64,
    pub heap_bytes: u64,
    pub toast_bytes: u64,
    pub index_bytes: u64,
    pub index_count: u32,
    pub key: Vec<String>,
    pub columns: Vec<Column>,
    /// Partitions that hold rows; empty for an ordinary table.
    pub leaves: Vec<Leaf>,
    /// This role may read the table, and sees every row of it.
    pub readable: bool,
    sql_name: String,
}

#[derive(Clone)]
pub(super) struct Leaf {
    pub oid: u32,
    pub table: TableName,
    /// Quoted and qualified, as SQL wants it.
    pub name: String,
    pub foreign: bool,
}

/// A column with its type followed through domains to the base type.
#[derive(Clone)]
pub(super) struct Column {
    pub name: String,
    pub number: i16,
    /// As Postgres prints it.
    pub sql_type: String,
    /// `pg_type.typname` of the base type, and whether it is one of Postgres' own.
    pub base: String,
    /// The base type as Postgres prints it.
    pub base_type: String,
    pub base_kind: String,
    pub base_category: String,
    /// The base type's modifier: 4 more than the n of varchar(n), or -1.
    pub modifier: i32,
    /// The domain's name, fully qualified, when the type is one.
    pub domain: Option<String>,
    pub not_null: bool,
    pub default: Option<String>,
    pub generated: bool,
    pub identity: bool,
    /// A collation other than the database's.
    pub collation: Option<String>,
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// The JSON column of which `name` is a path: `profile.email`, `profile->>'email'`, `profile[0]`.
    pub(super) fn json_path(&self, name: &str) -> Option<&str> {
        let base = name.split(['.', '-', '[', '#']).next()?.trim();
        self.column(base).filter(|c| c.base.starts_with("json") && base != name).map(|c| c.name.as_str())
    }

    /// Quoted and qualified, as SQL wants it.
    pub(super) fn sql_name(&self) -> String {
        self.sql_name.clone()
    }

    /// The table and its partitions.
    pub(super) fn oids(&self) -> Vec<u32> {
        std::iter::once(self.oid).chain(self.leaves.iter().map(|l| l.oid)).collect()
    }
}

/// `schema.table` of a policy; a name without a schema is in `public`.
pub(in crate::postgres) fn table_name(policy: &str) -> TableName {
    let (schema, table) = policy.split_once('.').unwrap_or(("public", policy));
    TableName { schema: schema.to_owned(), table: table.to_owned() }
}

/// Reads the table's definition; `table-missing` when it is not there.
pub(super) async fn load(ask: &Ask<'_>, policy: &TablePolicy) -> Result<Relation> {
    let name = table_name(&policy.name);
    let row = ask.rows(RELATION, &[p(&name.schema), p(&name.table)]).await?.into_iter().next();
    let Some(row) = row else { return Err(missing(ask, policy, &name).await?) };
    let oid: u32 = row.get("oid");
    let mut relation = Relation {
        oid,
        name,
        kind: row.get("kind"),
        persistence: row.get("persistence"),
        inherits: row.get("inherits"),
        replica_identity: row.get("replica_identity"),
        rows: 0,
        heap_bytes: 0,
        toast_bytes: 0,
        index_bytes: 0,
        index_count: 0,
        key: row.get("key"),
        columns: Vec::new(),
        leaves: leaves(ask, oid).await?,
        readable: row.get("readable"),
        sql_name: row.get("sql_name"),
    };
    // Nobody may be behind a foreign partition's server.
    relation.readable &= !relation.leaves.iter().any(|l| l.foreign);
    relation.columns = columns(ask, oid).await?;
    size(ask, &mut relation).await?;
    Ok(relation)
}

const RELATION: &str = "
    SELECT c.oid, c.relkind::text AS kind, c.relpersistence::text AS persistence, c.relreplident::text AS replica_identity,
           format('%I.%I', n.nspname, c.relname) AS sql_name,
           c.relkind IN ('r', 'p') AND NOT row_security_active(c.oid) AND has_table_privilege(c.oid, 'SELECT') AS readable,
           EXISTS (SELECT FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                   WHERE (i.inhrelid = c.oid AND NOT c.relispartition
                          -- What every label of a graph of Apache AGE inherits from; its rows are only read through it.
                          AND NOT (p.relname IN ('_ag_label_vertex', '_ag_label_edge') AND p.relnamespace = c.relnamespace))
                      OR (i.inhparent = c.oid AND p.relkind <> 'p')) AS inherits,
           coalesce((SELECT array_agg(a.attname::text ORDER BY k.n)
                     FROM pg_index x, unnest(x.indkey::int2[]) WITH ORDINALITY k(attnum, n), pg_attribute a
                     WHERE x.indrelid = c.oid AND x.indisprimary AND a.attrelid = c.oid AND a.attnum = k.attnum
                       AND k.n <= x.indnkeyatts), '{}') AS key
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";

async fn missing(ask: &Ask<'_>, policy: &TablePolicy, name: &TableName) -> Result<Error> {
    let rows = ask
        .rows(
            "SELECT n.nspname::text || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
               AND (lower(c.relname) = lower($1) OR n.nspname = $2) ORDER BY lower(c.relname) <> lower($1), 1 LIMIT 8",
            &[p(&name.table), p(&name.schema)],
        )
        .await?;
    let near: Vec<String> = rows.iter().map(|r| format!("`{}`", r.get::<_, String>(0))).collect();
    let error =
        Error::new(Code::TableMissing, format!("the policy names the table `{}`, which is not there", policy.name));
    let error = if near.is_empty() { error } else { error.hint(format!("tables near it are {}", near.join(", "))) };
    Ok(error.hint("nothing was changed; correct the policy or the database URL, and plan again"))
}

async fn leaves(ask: &Ask<'_>, oid: u32) -> Result<Vec<Leaf>> {
    let rows = ask
        .rows(
            "SELECT c.oid, n.nspname::text, c.relname::text, format('%I.%I', n.nspname, c.relname), c.relkind = 'f'
             FROM pg_partition_tree($1) t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE t.isleaf AND c.oid <> $1 ORDER BY 4",
            &[p(&oid)],
        )
        .await?;
    let leaf = |r: &Row| Leaf {
        oid: r.get(0),
        table: TableName { schema: r.get(1), table: r.get(2) },
        name: r.get(3),
        foreign: r.get(4),
    };
    Ok(rows.iter().map(leaf).collect())
}

async fn columns(ask: &Ask<'_>, oid: u32) -> Result<Vec<Column>> {
    // A domain's modifier lies in the innermost domain that sets one.
    let rows = ask
        .rows(
            "WITH RECURSIVE follow(attnum, typ, modifier) AS (
                 SELECT attnum, atttypid, atttypmod FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
                 UNION ALL
                 SELECT f.attnum, t.typbasetype, CASE WHEN f.modifier >= 0 THEN f.modifier ELSE t.typtypmod END
                 FROM follow f JOIN pg_type t ON t.oid = f.typ WHERE t.typtype = 'd')
             SELECT a.attname::text AS name, a.attnum AS number, format_type(a.atttypid, a.atttypmod) AS sql_type,
                    b.typname::text AS base, format_type(b.oid, f.modifier) AS base_type, b.typtype::text AS base_kind, b.typcategory::text AS base_category, f.modifier,
                    CASE WHEN t.typtype = 'd' THEN format('%I.%I', tn.nspname, t.typname) END AS domain,
                    a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default_expression,
                    a.attgenerated <> '' AS generated, a.attidentity <> '' AS identity,
                    CASE WHEN a.attcollation NOT IN (0, t.typcollation) OR NOT coalesce(co.collisdeterministic, true)
                         THEN co.collname::text END AS collation
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace tn ON tn.oid = t.typnamespace
                  JOIN follow f ON f.attnum = a.attnum JOIN pg_type b ON b.oid = f.typ AND b.typtype <> 'd'
                  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                  LEFT JOIN pg_collation co ON co.oid = a.attcollation
             WHERE a.attrelid = $1 ORDER BY a.attnum",
            &[p(&oid)],
        )
        .await?;
    Ok(rows.iter().map(column).collect())
}

fn column(row: &Row) -> Column {
    Column {
        name: row.get("name"),
        number: row.get("number"),
        sql_type: row.get("sql_type"),
        base: row.get("base"),
        base_type: row.get("base_type"),
        base_kind: row.get("base_kind"),
        base_category: row.get("base_category"),
        modifier: row.get("modifier"),
        domain: row.get("domain"),
        not_null: row.get("not_null"),
        default: row.get("default_expression"),
        generated: row.get("generated"),
        identity: row.get("identity"),
        collation: row.get("collation"),
    }
}

async fn size(ask: &Ask<'_>, relation: &mut Relation) -> Result<()> {
    // A table that was never analysed has reltuples -1, one that was empty then has 0: then the statistics collector's
    // count is the better one.
    let row = ask
        .one(
            "SELECT coalesce(sum(CASE WHEN c.reltuples > 0 THEN c.reltuples ELSE s.n_live_tup END), 0)::int8 AS rows,
                    coalesce(sum(pg_table_size(c.oid) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)), 0)::int8 AS heap,
                    coalesce(sum(pg_total_relation_size(nullif(c.reltoastrelid, 0))), 0)::int8 AS toast,
                    coalesce(sum(pg_indexes_size(c.oid)), 0)::int8 AS indexes,
                    (SELECT count(*) FROM pg_index WHERE indrelid = $1)::int8 AS index_count
             FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
             WHERE c.oid = ANY ($2) AND c.relkind = 'r'",
            &[p(&relation.oid), p(&relation.oids())],
        )
        .await?;
    relation.rows = count(&row, "rows");
    relation.heap_bytes = count(&row, "heap");
    relation.toast_bytes = count(&row, "toast");
    relation.index_bytes = count(&row, "indexes");
    relation.index_count = u32::try_from(count(&row, "index_count")).unwrap_or(u32::MAX);
    Ok(())
}
