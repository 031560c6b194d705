//! Triggers that fire when a row is converted.

use enfold::Result;

use super::super::ask::p;
use super::Scene;
use crate::words::Word;

/// Bits of `pg_trigger.tgtype` (src/include/catalog/pg_trigger.h).
const ROW: i16 = 1;
const BEFORE: i16 = 1 << 1;

pub(super) async fn findings(scene: &mut Scene<'_>) -> Result<()> {
    // A trigger of a partitioned table has a clone on each partition (tgparentid); partitions may have others.
    // UPDATE OF names the columns that must be in the statement, or a generated column that follows from one. A trigger
    // enabled for replicas only (R) or disabled (D) does not fire in a conversion.
    let rows = scene
        .ask
        .rows(
            "SELECT t.tgname::text AS name, t.tgtype AS bits, f.oid::regprocedure::text AS calls, f.prosrc AS body,
                    t.tgrelid::regclass::text AS on_table, t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL AS sees_rows
             FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
             WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
               AND t.tgtype & 16 <> 0 AND t.tgname NOT LIKE 'enfold\\_%'
               AND (cardinality(t.tgattr::int2[]) = 0 OR EXISTS (
                    SELECT FROM pg_attribute a WHERE a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr::int2[])
                    AND (a.attname = ANY ($2) OR a.attgenerated <> '')))
             ORDER BY t.tgname, 5",
            &[p(&scene.relation.oids()), p(&scene.written())],
        )
        .await?;
    for row in rows {
        let (name, bits, calls): (String, i16, String) = (row.get("name"), row.get("bits"), row.get("calls"));
        let (body, on_table): (String, String) = (row.get("body"), row.get("on_table"));
        let each_row = bits & ROW != 0;
        let sees = each_row || row.get("sees_rows");
        let what = match (each_row, bits & BEFORE != 0) {
            (true, true) => "fires before each converted row and may rewrite or suppress it",
            (true, false) => "fires after each converted row and sees its old value",
            (false, _) if sees => "fires after each batch and sees the old values in a transition table",
            (false, _) => "fires with each batch",
        };
        let copies = if sees && writes_elsewhere(&body) { "; its function writes into a table" } else { "" };
        let says = format!("the trigger `{name}` on `{on_table}` {what} (it calls `{calls}`){copies}");
        let out = format!(
            "read `{calls}`, then set `{name} = \"fire\"` under the table's `triggers` in the policy, or have its owner \
             change it: ALTER TABLE {on_table} DISABLE TRIGGER {} stops it for applications as well",
            super::super::ident(&name)
        );
        let word = if each_row { Word::RowTrigger } else { Word::StatementTrigger };
        let settled = !sees || scene.policy.triggers.contains_key(&name);
        if sees && !scene.row_triggers.contains(&name) {
            scene.row_triggers.push(name);
        }
        if settled { scene.warn(word.finding(says)) } else { scene.refuse(word.finding(says).out(out)) }
    }
    Ok(())
}

/// Only a hint in a sentence: what a function really does is for a person to read.
fn writes_elsewhere(body: &str) -> bool {
    let body = body.to_lowercase();
    ["insert into", "copy ", "perform pg_notify", "merge into"].iter().any(|word| body.contains(word))
}
