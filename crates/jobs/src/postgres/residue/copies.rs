//! Other columns of the database that hold the same values. Values are compared here: the server is sent none.

use enfold::Result;
use zeroize::Zeroizing;

use super::super::ask::{Ask, count, p};
use super::super::{ident, qualified};
use super::Search;
use crate::model::TableName;
use crate::words::Kind;

/// Tables up to this size are compared whole, larger ones by a sample of about this size.
const WHOLE: u64 = 1 << 28;
/// Bytes of one value: a longer one is left out.
const LONGEST: u32 = 1 << 16;
const FETCH: u32 = 2000;

struct Candidate {
    oid: u32,
    table: TableName,
    columns: Vec<String>,
    bytes: u64,
    readable: bool,
}

/// Answers how many values were found in other columns of the target's own table.
pub(super) async fn look(search: &mut Search<'_>) -> Result<u64> {
    let mut in_this_table = 0;
    if search.needles.none() {
        let place = "other columns: not compared, for no value of this one is known";
        search.found.push(Kind::SameValues.residue(place, None, None, "audit again with keys that open its values"));
        return Ok(0);
    }
    for candidate in candidates(search).await? {
        let name = qualified(&candidate.table);
        if !candidate.readable {
            let place = format!("{name}: not compared, this role may not read all of it");
            let clear = format!("GRANT SELECT ON {name}, and audit again");
            search.found.push(Kind::SameValues.residue(place, None, None, clear));
            continue;
        }
        let found = compare(search, &candidate).await?;
        for (column, rows) in candidate.columns.iter().zip(found) {
            if rows == 0 {
                continue;
            }
            if search.oids.contains(&candidate.oid) {
                in_this_table += rows;
            }
            let part = if candidate.bytes > WHOLE { ", in a sample" } else { "" };
            let place = format!("{name}.{}: rows with known values{part}", ident(column));
            let clear = format!(
                "add {}.{column} to the policy, or UPDATE {name} SET {} = NULL",
                candidate.table.table,
                ident(column)
            );
            search.found.push(Kind::SameValues.residue(place, Some(column), Some(rows), clear));
        }
    }
    Ok(in_this_table)
}

/// Columns of every table whose type could hold the values, the target's own left out. Small numbers and booleans hold
/// nothing that could be told from chance.
async fn candidates(search: &Search<'_>) -> Result<Vec<Candidate>> {
    let mut own = search.columns.clone();
    own.extend(search.target.indexes.iter().map(|i| i.column.clone()));
    let rows = search
        .ask
        .rows(
            "SELECT c.oid, n.nspname::text AS schema, c.relname::text AS name, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
                    coalesce((SELECT sum(pg_relation_size(t.relid)) FROM pg_partition_tree(c.oid) t WHERE t.isleaf), pg_relation_size(c.oid))::int8 AS bytes,
                    has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid) AS readable
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
                  JOIN pg_type t ON t.oid = a.atttypid
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
               AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'enfold')
               AND a.attnum > 0 AND NOT a.attisdropped AND NOT (c.oid = ANY ($1) AND a.attname = ANY ($2))
               AND t.typcategory NOT IN ('B', 'G', 'X') AND t.typname NOT IN ('int2', 'int4', 'oid', 'float4', 'float8', 'tsvector')
             GROUP BY c.oid, n.nspname, c.relname ORDER BY 2, 3",
            &[p(&search.oids), p(&own)],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| Candidate {
            oid: row.get("oid"),
            table: TableName { schema: row.get("schema"), table: row.get("name") },
            columns: row.get("columns"),
            bytes: count(row, "bytes"),
            readable: row.get("readable"),
        })
        .collect())
}

/// Rows with a known value, for each column. Read through a cursor, so that memory does not grow with the table.
async fn compare(search: &Search<'_>, candidate: &Candidate) -> Result<Vec<u64>> {
    let texts: Vec<String> = candidate
        .columns
        .iter()
        .map(|column| {
            let name = ident(column);
            format!("CASE WHEN octet_length({name}::text) <= {LONGEST} THEN {name}::text END")
        })
        .collect();
    let sample = match candidate.bytes {
        0..=WHOLE => String::new(),
        bytes => format!(" TABLESAMPLE SYSTEM ({})", (100 * WHOLE).div_ceil(bytes)),
    };
    let ask: &Ask<'_> = search.ask;
    ask.set(&format!(
        "DECLARE enfold_compare NO SCROLL CURSOR FOR SELECT {} FROM {}{sample}",
        texts.join(", "),
        qualified(&candidate.table)
    ))
    .await?;
    let mut found = vec![0; candidate.columns.len()];
    loop {
        let rows = ask.rows(&format!("FETCH {FETCH} FROM enfold_compare"), &[]).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            for (at, found) in found.iter_mut().enumerate() {
                let cell = row.get::<_, Option<String>>(at).map(Zeroizing::new);
                *found += u64::from(cell.is_some_and(|cell| search.needles.in_cell(cell.as_bytes())));
            }
        }
    }
    ask.set("CLOSE enfold_compare").await?;
    Ok(found)
}
