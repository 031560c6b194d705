//! One hash over everything that a plan relied on, so that a saved plan is known to be stale.

use enfold::Result;

use super::super::ask::p;
use super::Scene;

/// Changes with columns, types, constraints, triggers and what they call, rules, policies, partitions, identity and
/// the set of refusals; stays the same over what `apply` itself does, so that an interrupted plan can be run again:
/// what Enfold makes is left out, a type that is to be widened counts as text, and indexes over protected columns,
/// which the plan may drop, count by what they refuse only.
pub(super) async fn of(scene: &Scene<'_>) -> Result<String> {
    let relation = &scene.relation;
    let beside = scene.beside();
    let mut facts = vec![format!("{} {} {}", relation.kind, relation.persistence, relation.replica_identity)];
    for column in relation.columns.iter().filter(|c| !beside.contains(&c.name)) {
        let protected = scene.protected.iter().find(|p| p.column.number == column.number);
        let textual = protected.is_some_and(|p| p.judged.widen || matches!(column.base.as_str(), "text" | "varchar"));
        let sql_type = if textual { "text" } else { &column.sql_type };
        // A check takes over from the NOT NULL of what gets a shadow.
        let required = protected.and_then(|p| p.shadow.as_ref()).map_or(column.not_null, |shadow| shadow.required);
        facts.push(format!("column {} {sql_type} {required} {:?}", column.name, column.default));
    }
    facts.extend(relation.leaves.iter().map(|l| format!("partition {}", l.name)));
    facts.extend(scene.ask.texts(DEFINITIONS, &[p(&relation.oids()), p(&scene.names())]).await?);
    // The sentences of refusals hold counts; their words and columns do not.
    facts.extend(scene.refusals.iter().map(|f| format!("refusal {} {:?}", f.word, f.column)));
    facts.push(format!("policy {:?} {:?} {beside:?}", scene.policy.tenant, scene.policy.row_key));
    let text = facts.join("\n");
    let row = scene.ask.one("SELECT encode(sha256(convert_to($1, 'UTF8')), 'hex') AS hash", &[p(&text)]).await?;
    Ok(row.get("hash"))
}

const DEFINITIONS: &str = "
    SELECT d FROM (
        SELECT 'constraint ' || c.conrelid::regclass || ' ' || pg_get_constraintdef(c.oid) AS d FROM pg_constraint c
        WHERE c.conrelid = ANY ($1) AND c.conname NOT LIKE 'enfold\\_%' AND c.contype IN ('c', 'f', 'p')
        UNION ALL
        SELECT 'trigger ' || t.tgrelid::regclass || ' ' || t.tgenabled::text || ' ' || pg_get_triggerdef(t.oid) || ' ' || md5(f.prosrc)
        FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
        WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgname NOT LIKE 'enfold\\_%'
        UNION ALL
        SELECT 'rule ' || pg_get_ruledef(r.oid) FROM pg_rewrite r WHERE r.ev_class = ANY ($1)
        UNION ALL
        SELECT 'policy ' || o.polname || ' ' || coalesce(pg_get_expr(o.polqual, o.polrelid), '') FROM pg_policy o WHERE o.polrelid = ANY ($1)
        UNION ALL
        SELECT 'row security ' || c.relrowsecurity || c.relforcerowsecurity FROM pg_class c WHERE c.oid = ANY ($1)
        UNION ALL
        SELECT 'bound ' || c.oid::regclass || ' ' || pg_get_expr(c.relpartbound, c.oid) FROM pg_class c WHERE c.oid = ANY ($1) AND c.relispartition
        UNION ALL
        SELECT 'index ' || pg_get_indexdef(x.indexrelid) FROM pg_index x
        WHERE x.indrelid = ANY ($1) AND NOT x.indisprimary AND NOT EXISTS (
              SELECT FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid AND d.refobjid = x.indrelid AND a.attname = ANY ($2))
          AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum = ANY (x.indkey::int2[]) AND a.attname = ANY ($2))
          AND (SELECT relname FROM pg_class WHERE oid = x.indexrelid) NOT LIKE 'enfold\\_%'
    ) AS all_of_it(d) ORDER BY d COLLATE \"C\"";
