//! Constraints, defaults and generated columns: what would refuse an envelope, and what would copy it.

use enfold::Result;

use super::super::ask::p;
use super::super::ident;
use super::{Protected, Scene, accepts};
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    defaults(scene);
    primary_and_partition_keys(scene).await?;
    checks(scene).await?;
    foreign_keys(scene).await?;
    generated(scene).await
}

fn defaults(scene: &mut Scene<'_>) {
    for at in 0..scene.protected.len() {
        let column = &scene.protected[at].column;
        // `NULL::character varying` is how Postgres prints DEFAULT NULL.
        let nothing = |d: &str| d == "NULL" || d.starts_with("NULL::");
        // A document without members has none that is plain.
        let is_member = scene.protected[at].within.is_some();
        let empty = |d: &str| is_member && ["'{}'::jsonb", "ag_catalog.agtype_build_map()"].contains(&d);
        let plain = column.default.as_deref().is_some_and(|d| !nothing(d) && !empty(d));
        if plain && !column.generated {
            let (name, table) = (column.name.clone(), scene.relation.sql_name());
            let says = format!("`{name}` has a default, which would be stored as plaintext");
            let out = format!("ALTER TABLE {table} ALTER COLUMN {} DROP DEFAULT", ident(&name));
            scene.refuse(Word::PlaintextDefault.about(&name, says).out(out));
        }
    }
}

async fn primary_and_partition_keys(scene: &mut Scene<'_>) -> Result<()> {
    for name in scene.names() {
        if scene.relation.key.contains(&name) {
            scene.refuse(Word::PrimaryKey.about(&name, format!("`{name}` is part of the primary key")));
        }
    }
    // The columns of a partition key, those in its expressions too, depend on the table itself (StorePartitionKey).
    let keys = scene
        .ask
        .texts(
            "SELECT DISTINCT a.attname::text FROM pg_partition_tree($1) t
                    JOIN pg_partitioned_table k ON k.partrelid = t.relid
                    JOIN pg_attribute a ON a.attrelid = k.partrelid AND a.attname = ANY ($2)
             WHERE a.attnum = ANY (k.partattrs::int2[])
                OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = k.partrelid
                           AND d.objsubid = a.attnum AND d.refclassid = 'pg_class'::regclass AND d.refobjid = k.partrelid
                           AND d.refobjsubid = 0)
             ORDER BY 1",
            &[p(&scene.relation.oid), p(&scene.names())],
        )
        .await?;
    for name in keys {
        scene.refuse(Word::PartitionKey.about(&name, format!("`{name}` is part of the partition key")));
    }
    Ok(())
}

async fn checks(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT c.conname::text AS name, pg_get_expr(c.conbin, c.conrelid) AS condition,
                    array_agg(a.attname::text ORDER BY a.attname) AS columns
             FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
             WHERE c.conrelid = $1 AND c.contype = 'c' AND a.attname = ANY ($2) AND c.conname NOT LIKE 'enfold\\_%'
             GROUP BY c.oid, c.conname, c.conbin, c.conrelid ORDER BY 1",
            &[p(&scene.relation.oid), p(&scene.checked())],
        )
        .await?;
    for row in rows {
        let (name, condition, columns): (String, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
        let at = positions(scene, &columns);
        let mut takes = !at.is_empty();
        // Each column alone, as in the mixed period, and all of them, as in the end.
        for one in at.iter().map(std::slice::from_ref).chain((at.len() > 1).then_some(at.as_slice())) {
            takes = takes && accepts::condition(scene, &condition, one).await?;
        }
        let about = about(scene, &columns);
        if takes {
            let says = format!("the check `{name}` takes every envelope");
            scene.warn(Word::CheckBlind.about(&about, says));
        } else {
            let says = format!("the check `{name}` refuses envelopes, or only takes short ones");
            let out = format!("ALTER TABLE {} DROP CONSTRAINT {}", scene.relation.sql_name(), ident(&name));
            scene.refuse(Word::CheckConstraint.about(&about, says).out(out));
        }
    }
    Ok(())
}

/// Where the named columns are among the protected ones that can hold an envelope.
pub(super) fn positions(scene: &Scene<'_>, columns: &[String]) -> Vec<usize> {
    let found = scene.protected.iter().enumerate();
    found.filter(|(_, p)| p.judged.storage.is_some() && is_among(p, columns)).map(|(at, _)| at).collect()
}

/// The first protected column that a constraint over `columns` is about.
fn about(scene: &Scene<'_>, columns: &[String]) -> String {
    let names = scene.names();
    let own = columns.iter().find(|column| names.contains(column)).cloned();
    let beside = || scene.protected.iter().find(|p| is_among(p, columns)).map(|p| p.column.name.clone());
    own.or_else(beside).unwrap_or_default()
}

/// Whether it, or what stands beside it, is one of `columns`.
fn is_among(protected: &Protected, columns: &[String]) -> bool {
    std::iter::once(&protected.column.name).chain(&protected.companions).any(|name| columns.contains(name))
}

async fn foreign_keys(scene: &mut Scene<'_>) -> Result<()> {
    // A constraint of a partitioned table has a child for each partition; the topmost is the one to drop.
    let rows = scene
        .ask
        .rows(
            "SELECT c.conname::text AS name, c.conrelid::regclass::text AS child, c.confrelid::regclass::text AS parent,
                    a.attname::text AS column, c.conrelid = $1 AND a.attnum = ANY (c.conkey) AS refers,
                    c.confrelid = $1 AND a.attnum = ANY (c.confkey) AS referred
             FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = $1 AND a.attname = ANY ($2)
             WHERE c.contype = 'f' AND c.conparentid = 0 AND (c.conrelid = $1 AND a.attnum = ANY (c.conkey)
                   OR c.confrelid = $1 AND a.attnum = ANY (c.confkey)) ORDER BY 1, 4",
            &[p(&scene.relation.oid), p(&scene.names())],
        )
        .await?;
    for row in rows {
        let (name, child, parent): (String, String, String) = (row.get("name"), row.get("child"), row.get("parent"));
        let column: String = row.get("column");
        let out =
            format!("ALTER TABLE {child} DROP CONSTRAINT {}; then join by a key that is not protected", ident(&name));
        if row.get("refers") {
            let says = format!("the foreign key `{name}` makes `{column}` refer to `{parent}`");
            scene.refuse(Word::ForeignKey.about(&column, says).out(out.clone()));
        }
        if row.get("referred") {
            let says = format!("the foreign key `{name}` of `{child}` refers to `{column}`");
            scene.refuse(Word::ReferencedKey.about(&column, says).out(out));
        }
    }
    Ok(())
}

async fn generated(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT g.attname::text AS name, pg_get_expr(f.adbin, f.adrelid) AS expression, format_type(g.atttypid, g.atttypmod) AS sql_type,
                    array_agg(DISTINCT a.attname::text) AS columns, g.attnotnull AS not_null
             FROM pg_attribute g JOIN pg_attrdef f ON f.adrelid = g.attrelid AND f.adnum = g.attnum
                  JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = g.attrelid
                  JOIN pg_attribute a ON a.attrelid = g.attrelid AND a.attnum = d.refobjsubid AND a.attnum <> g.attnum
             WHERE g.attrelid = $1 AND g.attgenerated <> '' AND a.attname = ANY ($2)
             GROUP BY g.attname, f.adbin, f.adrelid, g.atttypid, g.atttypmod, g.attnotnull ORDER BY 1",
            &[p(&scene.relation.oid), p(&scene.names())],
        )
        .await?;
    for row in rows {
        let (name, expression, sql_type): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let columns: Vec<String> = row.get(3);
        let at = positions(scene, &columns);
        let widened = at.iter().any(|at| scene.protected[*at].judged.widen);
        // Of a column with a shadow it is computed from NULL.
        let empty = row.get("not_null") && at.iter().any(|at| scene.protected[*at].shadow.is_some());
        let computed =
            !at.is_empty() && !empty && accepts::expression(scene, &format!("({expression})::{sql_type}"), &at).await?;
        let out = format!("ALTER TABLE {} DROP COLUMN {}", scene.relation.sql_name(), ident(&name));
        if !computed || widened {
            let why = if computed {
                "a column below it cannot change its type"
            } else {
                "it cannot be computed from an envelope"
            };
            let says = format!("the generated column `{name}` is computed from `{}`: {why}", columns[0]);
            scene.refuse(Word::GeneratedColumn.about(&columns[0], says).out(out));
        } else {
            let says = format!("the generated column `{name}` is computed from `{}`", columns[0]);
            scene.warn(Word::GeneratedRecomputed.about(&columns[0], says).out(out));
        }
    }
    Ok(())
}
