//! Indexes over protected columns: useless once values are sealed, keepers of plaintext until they are dropped, and the
//! only ones who keep a column unique.

use enfold::Result;
use enfold::policy::IndexPolicy;
use enfold_core::index::Normaliser;
use tokio_postgres::Row;

use super::super::ask::{count, p};
use super::super::ident;
use super::constraints::positions;
use super::{Scene, accepts, listed, sizes};
use crate::database::{IndexFacts, IndexKind};
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene.ask.rows(INDEXES, &[p(&scene.relation.oid), p(&scene.names()), p(&scene.relation.oids())]).await?;
    for row in rows {
        let index = Index::of(&row);
        if scene.blind_indexes().any(|(_, blind)| index.columns.contains(&blind.column)) {
            continue;
        }
        one(scene, &index).await?;
    }
    blind_columns(scene);
    Ok(())
}

/// Indexes of the table that hold a protected column, compute from it, filter by it, or hold a generated column that is
/// computed from it. `pg_depend` has every column that an index mentions; a column of a constraint's index hangs on the
/// constraint.
const INDEXES: &str = "
    WITH derived AS (
        SELECT g.attnum, a.attname FROM pg_attrdef f
        JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
        JOIN pg_attribute g ON g.attrelid = $1 AND g.attnum = f.adnum AND g.attgenerated <> ''
        JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = d.refobjsubid AND a.attname = ANY ($2)
        WHERE f.adrelid = $1
        UNION SELECT attnum, attname FROM pg_attribute WHERE attrelid = $1 AND attname = ANY ($2)
    ), touched AS (
        SELECT x.indexrelid, array_agg(DISTINCT v.attname::text) AS columns
        FROM pg_index x JOIN derived v ON v.attnum = ANY (x.indkey::int2[])
             OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = v.attnum)
        WHERE x.indrelid = $1 GROUP BY 1
    )
    SELECT n.nspname || '.' || i.relname AS name, format('%I.%I', n.nspname, i.relname) AS sql_name, i.relname::text AS plain_name, t.columns,
           x.indisunique AS is_unique, x.indisexclusion AS is_exclusion, x.indisprimary AS is_primary, am.amname::text AS method,
           c.conname::text AS constraint_name,
           i.relkind = 'I' AS partitioned,
           pg_get_expr(x.indpred, x.indrelid) AS predicate,
           ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, false) FROM generate_series(1, x.indnatts::int) k
                 WHERE (x.indkey::int2[])[k - 1] = 0) AS expressions,
           coalesce(ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(n, at), pg_attribute a
                 WHERE a.attrelid = $1 AND a.attnum = k.n AND k.at <= x.indnkeyatts), '{}') AS key,
           (SELECT coalesce(sum(pg_relation_size(l.relid)), 0)::int8 FROM pg_partition_tree(x.indexrelid) l WHERE l.isleaf) AS bytes,
           (SELECT coalesce(sum(s.idx_scan), 0)::int8 FROM pg_stat_all_indexes s
            WHERE s.indexrelid = x.indexrelid OR s.relid = ANY ($3) AND s.indexrelid IN (SELECT relid FROM pg_partition_tree(x.indexrelid))) AS scans
    FROM touched t JOIN pg_index x ON x.indexrelid = t.indexrelid JOIN pg_class i ON i.oid = x.indexrelid
         JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am am ON am.oid = i.relam
         LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype IN ('p', 'u', 'x')
    ORDER BY 1";

struct Index {
    name: String,
    sql_name: String,
    plain_name: String,
    columns: Vec<String>,
    unique: bool,
    exclusion: bool,
    primary: bool,
    method: String,
    constraint: Option<String>,
    partitioned: bool,
    predicate: Option<String>,
    expressions: Vec<String>,
    /// Plain key columns, expressions left out.
    key: Vec<String>,
    bytes: u64,
    scans: u64,
}

impl Index {
    fn of(row: &Row) -> Self {
        Self {
            name: row.get("name"),
            sql_name: row.get("sql_name"),
            plain_name: row.get("plain_name"),
            columns: row.get("columns"),
            unique: row.get("is_unique"),
            exclusion: row.get("is_exclusion"),
            primary: row.get("is_primary"),
            method: row.get("method"),
            constraint: row.get("constraint_name"),
            partitioned: row.get("partitioned"),
            predicate: row.get("predicate"),
            expressions: row.get("expressions"),
            key: row.get("key"),
            bytes: count(row, "bytes"),
            scans: count(row, "scans"),
        }
    }

    fn kind(&self) -> IndexKind {
        IndexKind::of(self.constraint.clone(), self.partitioned)
    }

    fn drop(&self, table: &str) -> String {
        match self.kind() {
            IndexKind::Constraint(constraint) => format!("ALTER TABLE {table} DROP CONSTRAINT {}", ident(&constraint)),
            // Postgres drops an index of a partitioned table with a lock only.
            IndexKind::Partitioned => format!("DROP INDEX {}", self.sql_name),
            IndexKind::Plain => format!("DROP INDEX CONCURRENTLY {}", self.sql_name),
        }
    }
}

async fn one(scene: &mut Scene<'_>, index: &Index) -> Result<()> {
    let table = scene.relation.sql_name();
    let (name, column) = (&index.plain_name, &index.columns[0]);
    if index.exclusion {
        let says = format!("the exclusion constraint `{name}` compares `{column}`");
        scene.refuse(Word::ExclusionConstraint.about(column, says).out(index.drop(&table)));
        return Ok(());
    }
    let at = positions(scene, &index.columns);
    let mut computes = true;
    for expression in index.expressions.iter().chain(&index.predicate) {
        computes = computes && accepts::expression(scene, &format!("({expression})"), &at).await?;
    }
    if !computes {
        let says = format!("the index `{name}` computes something from `{column}` that fails on an envelope");
        scene.refuse(Word::IndexRefuses.about(column, says).out(index.drop(&table)));
    }
    if index.unique && !index.primary {
        unique(scene, index);
    }
    // The primary key has a refusal of its own.
    if index.primary {
        return Ok(());
    }
    let drop_first = too_long(scene, index, &at);
    if drop_first {
        let says = format!("the longest values of `{column}` do not fit into the index `{name}` once they are sealed");
        scene.warn(Word::IndexTooLong.about(column, says).out(index.drop(&table)));
    }
    // Other members are found by it still. What it keeps of these are dead entries.
    if at.iter().any(|at| scene.protected[*at].within.is_some()) && !drop_first {
        let says =
            format!("the index `{name}` over `{column}` finds no sealed member, and holds dead entries of plaintext");
        scene.warn(
            Word::IndexUseless
                .about(column, says)
                .out(format!("REINDEX INDEX CONCURRENTLY {} afterwards", index.sql_name)),
        );
        return Ok(());
    }
    let used = match index.scans {
        0 => "it was not read since the statistics were reset".to_owned(),
        n => format!("it was read {n} times since the statistics were reset"),
    };
    let what = match (&index.predicate, index.expressions.is_empty()) {
        (Some(_), _) => "partial index",
        (None, false) => "expression index",
        (None, true) => "index",
    };
    let says = format!(
        "the {what} `{name}` over {} ({}, {}) holds plaintext and will find nothing; {used}",
        listed(&index.columns, 4),
        index.method,
        sizes::in_words(index.bytes)
    );
    scene.warn(Word::IndexUseless.about(column, says).out(format!("{}; look up by a blind index", index.drop(&table))));
    let facts = IndexFacts {
        name: index.name.clone(),
        columns: index.columns.clone(),
        unique: index.unique,
        drop_first,
        scans: Some(index.scans),
        bytes: index.bytes,
        kind: index.kind(),
        drop: index.drop(&table),
    };
    scene.indexes.push(facts);
    Ok(())
}

/// A third of a page, which is what a B-tree entry may have (BTMaxItemSize), less the entry's header and rounding.
const LONGEST_ENTRY: u32 = 2704 - 32;

fn too_long(scene: &Scene<'_>, index: &Index, at: &[usize]) -> bool {
    // A hash index keeps a hash, and GIN cuts what it takes apart; the others keep the value.
    let keeps = !matches!(index.method.as_str(), "hash" | "gin");
    // What has a shadow is empty once its values are sealed.
    let longest = at
        .iter()
        .map(|at| &scene.protected[*at])
        .filter(|p| p.shadow.is_none())
        .filter_map(|p| Some(accepts::stored_bytes(p.judged.storage?, p.sizes.longest)));
    keeps && longest.sum::<u32>() > LONGEST_ENTRY
}

/// Uniqueness must pass to a blind index that calls equal what this index calls equal, over rows that it covers.
fn unique(scene: &mut Scene<'_>, index: &Index) {
    let folded = index.expressions.iter().any(|e| e.to_lowercase().contains("lower("));
    for at in positions(scene, &index.columns) {
        let column = scene.protected[at].column.clone();
        let folds = folded || column.base == "citext";
        let table_wide = scene.policy.indexes.values().filter(|i| i.over.contains(&scene.protected[at].name));
        let name = &scene.protected[at].name;
        let own = scene.policy.columns.get(name).into_iter().flat_map(|c| c.indexes.values());
        let candidates: Vec<&IndexPolicy> = own.chain(table_wide).filter(|i| i.unique).collect();
        let loose = scene.protected[at].shadow.as_ref().is_some_and(|s| !s.alone && !s.same_when_equal);
        let lacks = match candidates.as_slice() {
            _ if loose => Some(format!(
                "equal values of {} may be printed differently, so that no blind index can",
                column.sql_type
            )),
            [] => Some("no blind index of the policy is unique".to_owned()),
            found => {
                let crosses = scene.policy.tenant.as_ref().is_some_and(|t| !index.key.contains(t));
                found.iter().map(|i| lack(i, folds, crosses)).min_by_key(Option::is_some).flatten()
            }
        };
        if let Some(lack) = lacks {
            let name = &index.plain_name;
            let says = format!("`{name}` keeps `{}` unique, and {lack}", column.name);
            scene.refuse(Word::UniqueWithoutBlindIndex.about(&column.name, says));
        }
    }
}

fn lack(blind: &IndexPolicy, folds: bool, crosses: bool) -> Option<String> {
    if folds && !blind.normalise.iter().any(|n| matches!(n, Normaliser::Lower | Normaliser::Email)) {
        Some(format!("the blind index in `{}` does not take upper and lower case for equal: add `lower`", blind.column))
    } else if crosses && !blind.cross_tenant {
        Some(format!("the blind index in `{}` is unique for each tenant only: set `cross_tenant = true`", blind.column))
    } else {
        None
    }
}

fn blind_columns(scene: &mut Scene<'_>) {
    let columns: Vec<String> = scene.blind_indexes().map(|(_, i)| i.column.clone()).collect();
    let shadows = scene.protected.iter().filter_map(|p| p.shadow.as_ref());
    let mut added = scene.protected.iter().any(|p| p.judged.widen) || shadows.into_iter().any(|shadow| !shadow.there);
    for name in columns {
        match scene.relation.column(&name) {
            Some(column) if column.base != "bytea" => {
                let says = format!("`{name}`, which is to hold a blind index, is {}", column.sql_type);
                scene.refuse(Word::IndexColumnType.finding(says));
            }
            Some(_) => {}
            None => added = true,
        }
    }
    if added {
        let says = format!("`{}` gets a column or a type changes", scene.relation.sql_name());
        scene.warn(Word::CachedPlans.finding(says));
    }
}
