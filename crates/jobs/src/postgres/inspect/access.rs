//! Rights, ownership, row-level security, and the columns that values are bound to.

use enfold::Result;

use super::super::ask::p;
use super::super::ident;
use super::{Scene, listed, sizes};
use crate::database::Counts;
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    rights(scene).await?;
    row_security(scene).await?;
    bound_columns(scene).await
}

async fn rights(scene: &mut Scene<'_>) -> Result<()> {
    let table = scene.relation.sql_name();
    let row = scene
        .ask
        .one(
            "SELECT current_user::text AS role, has_table_privilege(c.oid, 'SELECT') AS reads,
                    has_table_privilege(c.oid, 'UPDATE') AS writes, pg_has_role(c.relowner, 'USAGE') AS owns,
                    pg_get_userbyid(c.relowner)::text AS owner,
                    EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attacl IS NOT NULL) AS columns
             FROM pg_class c WHERE c.oid = $1",
            &[p(&scene.relation.oid)],
        )
        .await?;
    let role: String = row.get("role");
    let missing: Vec<_> = [("SELECT", "reads"), ("UPDATE", "writes")]
        .iter()
        .filter(|(_, has)| !row.get::<_, bool>(*has))
        .map(|(r, _)| *r)
        .collect();
    if !missing.is_empty() {
        let rights = missing.join(", ");
        scene.refuse(
            Word::MissingRight
                .finding(format!("`{role}` has not the right {rights} on `{table}`"))
                .out(format!("GRANT {rights} ON {table} TO {}", ident(&role))),
        );
    }
    if !row.get::<_, bool>("owns") {
        let owner: String = row.get("owner");
        scene.warn(Word::NotOwner.finding(format!("`{table}` belongs to `{owner}`, and `{role}` is no member of it")));
    }
    if row.get::<_, bool>("columns") && !scene.beside().is_empty() {
        scene.warn(Word::ColumnGrants.finding(format!("rights on `{table}` are granted by column")));
    }
    Ok(())
}

async fn row_security(scene: &mut Scene<'_>) -> Result<()> {
    let row = scene
        .ask
        .one(
            "SELECT row_security_active(c.oid) AS hides, c.relrowsecurity AS on, c.relforcerowsecurity AS forced,
                    current_user::text AS role
             FROM pg_class c WHERE c.oid = $1",
            &[p(&scene.relation.oid)],
        )
        .await?;
    let (table, role) = (scene.relation.sql_name(), row.get::<_, String>("role"));
    if row.get::<_, bool>("hides") {
        let out = if row.get::<_, bool>("forced") {
            format!("ALTER ROLE {} BYPASSRLS, or run as a role that has it", ident(&role))
        } else {
            format!("ALTER ROLE {} BYPASSRLS, or run as the owner of {table}", ident(&role))
        };
        let says = format!("row-level security is on for `{table}`, and `{role}` is subject to it: rows may be hidden");
        scene.refuse(Word::RowSecurityHides.finding(says).out(out));
    } else if row.get::<_, bool>("on") {
        let says = format!("row-level security is on for `{table}`; `{role}` is not subject to it");
        scene.warn(Word::RowSecurity.finding(says));
    }
    // A policy's dependencies name the columns that it reads.
    let policies = scene
        .ask
        .rows(
            "SELECT o.polname::text AS policy, a.attname::text AS name
             FROM pg_policy o JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = o.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = ANY ($1)
                  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE a.attname = ANY ($2) ORDER BY 1, 2",
            &[p(&scene.relation.oids()), p(&scene.names())],
        )
        .await?;
    for row in policies {
        let (policy, column): (String, String) = (row.get("policy"), row.get("name"));
        let says = format!("the row-level security policy `{policy}` reads `{column}`");
        scene.refuse(Word::RowSecurityReads.about(&column, says));
    }
    Ok(())
}

async fn bound_columns(scene: &mut Scene<'_>) -> Result<()> {
    let mut bound: Vec<String> = scene.policy.tenant.iter().chain(&scene.policy.row_key).cloned().collect();
    bound.dedup();
    for name in &bound {
        let Some(column) = scene.relation.column(name).cloned() else { continue };
        if scene.policy.columns.contains_key(name) {
            scene.refuse(
                Word::BoundProtected.finding(format!("values are to be bound to `{name}`, which is itself protected")),
            );
        }
        if !matches!(column.base.as_str(), "int2" | "int4" | "int8" | "text" | "varchar" | "citext" | "uuid" | "bytea")
        {
            scene.refuse(
                Word::BoundType.finding(format!("values cannot be bound to `{name}`, which is {}", column.sql_type)),
            );
        }
        if !column.not_null && scene.relation.readable {
            let says = match scene.counts {
                Counts::Taken => {
                    let empty = sizes::rows_now(scene, &format!("{} IS NULL", ident(name))).await?;
                    format!("`{name}` may be NULL, and is in {empty} rows")
                }
                Counts::LeftOut => format!("`{name}` may be NULL"),
            };
            scene.warn(Word::BoundNullable.finding(says).out(format!(
                "fill it, then ALTER TABLE {} ALTER COLUMN {} SET NOT NULL",
                scene.relation.sql_name(),
                ident(name)
            )));
        }
    }
    row_key_is_unique(scene).await?;
    cascades(scene, &bound).await
}

async fn row_key_is_unique(scene: &mut Scene<'_>) -> Result<()> {
    let key = scene.policy.row_key.clone();
    if key.is_empty() {
        return Ok(());
    }
    let row = scene
        .ask
        .one(
            "SELECT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = $1 AND x.indisunique AND x.indpred IS NULL AND x.indexprs IS NULL
                    AND (SELECT array_agg(a.attname::text) FROM unnest(x.indkey::int2[]) WITH ORDINALITY k(n, at), pg_attribute a
                         WHERE a.attrelid = $1 AND a.attnum = k.n AND k.at <= x.indnkeyatts) <@ $2) AS covered",
            &[p(&scene.relation.oid), p(&key)],
        )
        .await?;
    if !row.get::<_, bool>("covered") {
        scene.warn(
            Word::RowKeyNotUnique.finding(format!("no unique index lies within the row key {}", listed(&key, 5))),
        );
    }
    Ok(())
}

async fn cascades(scene: &mut Scene<'_>, bound: &[String]) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT c.conname::text AS constraint, a.attname::text AS name, c.confrelid::regclass::text AS parent
             FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
             WHERE c.conrelid = $1 AND c.contype = 'f' AND c.confupdtype IN ('c', 'n', 'd') AND a.attname = ANY ($2) ORDER BY 1, 2",
            &[p(&scene.relation.oid), p(&bound.to_vec())],
        )
        .await?;
    for row in rows {
        let (constraint, column, parent): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let says =
            format!("`{constraint}` changes `{column}` when the key of `{parent}` changes (ON UPDATE CASCADE or SET)");
        scene.warn(Word::BoundCascade.finding(says));
    }
    Ok(())
}
