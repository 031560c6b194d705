//! What reads the column inside the database: views, materialised views, rules, functions, statistics objects.

use enfold::Result;

use super::super::ask::p;
use super::{Scene, listed};
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    views(scene).await?;
    rules(scene).await?;
    functions(scene).await?;
    statistics(scene).await
}

async fn views(scene: &mut Scene<'_>) -> Result<()> {
    // A view over a view is found through it; which columns it passes on is not followed.
    let rows = scene
        .ask
        .rows(
            "WITH RECURSIVE direct AS (
                 SELECT DISTINCT r.ev_class AS oid, a.attname::text AS name
                 FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
                      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attname = ANY ($2)
                           AND (a.attnum = d.refobjsubid OR d.refobjsubid = 0)
                 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
                   AND d.refobjid = ANY ($1) AND r.ev_class <> ALL ($1)
             ), all_views(oid, name, through) AS (
                 SELECT oid, name, NULL::oid FROM direct
                 UNION
                 SELECT r.ev_class, v.name, v.oid FROM all_views v
                 JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
                 JOIN pg_rewrite r ON r.oid = d.objid WHERE r.ev_class <> v.oid
             )
             SELECT DISTINCT ON (c.oid, v.name) v.oid::regclass::text AS view, v.name, c.relkind = 'm' AS materialised,
                    v.through::regclass::text AS through
             FROM all_views v JOIN pg_class c ON c.oid = v.oid ORDER BY c.oid, v.name, v.through NULLS FIRST",
            &[p(&scene.relation.oids()), p(&scene.names())],
        )
        .await?;
    for row in rows {
        let (view, column): (String, String) = (row.get("view"), row.get("name"));
        let through: Option<String> = row.get("through");
        let via = through.map(|t| format!(" through `{t}`")).unwrap_or_default();
        let materialised: bool = row.get("materialised");
        let kind = if materialised { "materialised view" } else { "view" };
        let says = format!("the {kind} `{view}` reads `{column}`{via}");
        if scene.protected.iter().any(|p| p.column.name == column && p.judged.widen) && via.is_empty() {
            let drop = if materialised { "DROP MATERIALIZED VIEW" } else { "DROP VIEW" };
            let out = format!(
                "keep SELECT pg_get_viewdef('{}'), then {drop} {view}, apply, and create it again",
                view.replace('\'', "''")
            );
            scene.refuse(Word::ViewBlocksWidening.about(&column, format!("{says}, whose type is to change")).out(out));
        } else if materialised {
            let out = format!("REFRESH MATERIALIZED VIEW {view} after the conversion, then audit --residue");
            scene.warn(Word::MaterialisedView.about(&column, says).out(out));
        } else {
            scene.warn(Word::View.about(&column, says));
        }
    }
    Ok(())
}

async fn rules(scene: &mut Scene<'_>) -> Result<()> {
    // ev_type: 1 SELECT, 2 UPDATE, 3 INSERT, 4 DELETE. Only those on UPDATE meet a conversion.
    let rows = scene
        .ask
        .texts(
            "SELECT r.rulename::text FROM pg_rewrite r WHERE r.ev_class = ANY ($1) AND r.ev_type = '2' AND r.ev_enabled IN ('O', 'A') ORDER BY 1",
            &[p(&scene.relation.oids())],
        )
        .await?;
    for rule in rows {
        let table = scene.relation.sql_name();
        let says = format!("the rule `{rule}` rewrites every UPDATE of `{table}`");
        scene.refuse(Word::Rule.finding(says).out(format!("DROP RULE {} ON {table}", super::super::ident(&rule))));
    }
    Ok(())
}

async fn functions(scene: &mut Scene<'_>) -> Result<()> {
    for name in scene.names() {
        // A body that Postgres parsed (BEGIN ATOMIC) depends on the column; any other is only text to it.
        let found = scene
            .ask
            .texts(
                "SELECT f.oid::regprocedure::text FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
                 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'enfold')
                   AND f.oid NOT IN (SELECT tgfoid FROM pg_trigger WHERE tgrelid = ANY ($3))
                   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')
                   AND (position(lower($1) IN lower(f.prosrc)) > 0 AND position(lower($2) IN lower(f.prosrc)) > 0
                        OR EXISTS (SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                                   WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refobjid = ANY ($3) AND a.attname = $2))
                 ORDER BY 1",
                &[p(&scene.relation.name.table), p(&name), p(&scene.relation.oids())],
            )
            .await?;
        if !found.is_empty() {
            let says = format!("{} mention the table and `{name}`", listed(&found, 5));
            scene.warn(Word::FunctionReads.about(&name, says));
        }
    }
    Ok(())
}

async fn statistics(scene: &mut Scene<'_>) -> Result<()> {
    let rows = scene
        .ask
        .rows(
            "SELECT format('%I.%I', n.nspname, s.stxname) AS name, min(a.attname::text) AS column
             FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
                  JOIN pg_attribute a ON a.attrelid = s.stxrelid AND a.attname = ANY ($2)
             WHERE s.stxrelid = ANY ($1) AND (a.attnum = ANY (s.stxkeys::int2[]) OR EXISTS (
                   SELECT FROM pg_depend d WHERE d.classid = 'pg_statistic_ext'::regclass AND d.objid = s.oid
                   AND d.refobjid = s.stxrelid AND d.refobjsubid = a.attnum))
             GROUP BY 1 ORDER BY 1",
            &[p(&scene.relation.oids()), p(&scene.names())],
        )
        .await?;
    for row in rows {
        let (name, column): (String, String) = (row.get(0), row.get(1));
        let says = format!("the statistics object `{name}` covers `{column}`");
        scene.warn(
            Word::ExtendedStatistics.about(&column, says).out(format!("DROP STATISTICS {name} after the conversion")),
        );
    }
    Ok(())
}
