//! Which recorded statements use a protected column in a way that an envelope breaks.
//!
//! `pg_stat_statements` puts parameters in the place of most constants, but not of all (utility statements keep
//! theirs): a statement is named by its `queryid`, and its text is never repeated.

use std::collections::BTreeMap;

use enfold::Result;
use zeroize::Zeroizing;

use super::super::{OWN, ident, literal};
use super::Scene;
use super::uses::{Use, uses};
use crate::words::Word;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    let schema = scene
        .ask
        .texts("SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'", &[])
        .await?
        .pop();
    let Some(schema) = schema else {
        scene.warn(Word::StatementsUnknown.finding("pg_stat_statements is not installed in this database").out(
            "set shared_preload_libraries = 'pg_stat_statements', restart, CREATE EXTENSION pg_stat_statements, and plan again after a usual week",
        ));
        return Ok(());
    };
    let sql = format!(
        "SELECT s.queryid::text, s.calls, s.query FROM {}.pg_stat_statements s
         WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND position({} IN s.query) = 0 AND (position({} IN lower(s.query)) > 0 OR s.queryid IS NULL)",
        ident(&schema),
        literal(OWN),
        literal(&scene.relation.name.table.to_lowercase()),
    );
    let Some(rows) = scene.ask.attempt(&sql).await? else {
        scene.warn(Word::StatementsUnknown.finding("pg_stat_statements is installed and cannot be read"));
        return Ok(());
    };
    let mut hidden = 0;
    let mut found: BTreeMap<(usize, Use), Vec<(String, i64)>> = BTreeMap::new();
    for row in rows {
        let (id, text): (Option<String>, Option<Zeroizing<String>>) =
            (row.get(0), row.get::<_, Option<String>>(2).map(Zeroizing::new));
        let (Some(id), Some(text)) = (id, text) else {
            hidden += 1;
            continue;
        };
        for (at, protected) in scene.protected.iter().enumerate() {
            for one in uses(&text, &scene.relation.name.table, &protected.column.name) {
                found.entry((at, one)).or_default().push((id.clone(), row.get(1)));
            }
        }
    }
    if hidden > 0 {
        scene.warn(
            Word::StatementsUnknown
                .finding(format!("{hidden} recorded statements belong to roles whose texts this role may not see")),
        );
    }
    for ((at, one), mut statements) in found {
        let name = scene.protected[at].column.name.clone();
        statements.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
        let calls: i64 = statements.iter().map(|(_, calls)| calls).sum();
        let ids: Vec<&str> = statements.iter().take(5).map(|(id, _)| id.as_str()).collect();
        let (word, does) = words(one);
        let says = format!(
            "{} recorded statements {does} `{name}`, {calls} calls in all (queryid {})",
            statements.len(),
            ids.join(", ")
        );
        let out = format!(
            "{}; SELECT query FROM {}.pg_stat_statements WHERE queryid = {}",
            word.way_out(),
            ident(&schema),
            ids[0]
        );
        scene.warn(word.about(&name, says).out(out));
    }
    Ok(())
}

fn words(one: Use) -> (Word, &'static str) {
    match one {
        Use::Equality => (Word::QueryEquality, "look for equal"),
        Use::Order => (Word::QueryOrder, "sort by or compare the order of"),
        Use::Pattern => (Word::QueryPattern, "search"),
        Use::Group => (Word::QueryGroup, "group by or count distinct"),
        Use::Expression => (Word::QueryExpression, "compute something from"),
        Use::Join => (Word::QueryJoin, "join by"),
    }
}
