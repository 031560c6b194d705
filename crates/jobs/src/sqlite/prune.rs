//! Rows that a rule dooms, as a condition; and what goes along with them.

use enfold::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension};

use super::error::Doing;
use super::names::{literal, quote, same};
use super::shape::Shape;
use super::survey::table_names;
use crate::database::Counts;
use crate::model::{Prune, TableName, Target};
use crate::prune::{ForeignKey, OnDelete, Prunable, Spelling, along};

const SPELLING: Spelling = Spelling { table: |table| quote(&table.table), column: quote };

/// Which rows go, as a condition on `t`. A value decides by its own class: a column may hold others than it was declared for.
pub(super) fn condition(prune: &Prune, shape: &Shape) -> Result<String> {
    let column = format!("t.{}", quote(&shape.require(&prune.column)?.name));
    let old = match prune.unit {
        Some(unit) => format!("typeof({column}) IN ('integer', 'real') AND {column} < {}", prune.before(unit)),
        // SQLite reads a time alone as one of the year 2000, and `now` as now: a date must be there.
        None => format!(
            "typeof({column}) = 'text' AND {column} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*' \
             AND julianday({column}) < julianday({} / 1000.0, 'unixepoch')",
            prune.before_ms
        ),
    };
    let mut all = vec![old];
    for (name, values) in &prune.only {
        let values: Vec<String> = values.iter().map(|value| literal(value)).collect();
        all.push(format!("CAST(t.{} AS TEXT) IN ({})", quote(&shape.require(name)?.name), values.join(", ")));
    }
    Ok(all.join(" AND "))
}

/// How many rows go.
pub(super) fn remaining(connection: &Connection, prune: &Prune, target: &Target) -> Result<u64> {
    let shape = Shape::read(connection, &target.table.table)?;
    let sql = format!("SELECT count(*) FROM {} t WHERE {}", quote(&shape.name), condition(prune, &shape)?);
    count(connection, &sql, target)
}

pub(super) fn look(connection: &Connection, target: &Target, counts: Counts) -> Result<Prunable> {
    let Some(prune) = &target.prune else { return Err(Error::new(Code::Internal, "a pruning without a rule")) };
    let shape = Shape::read(connection, &target.table.table)?;
    shape.rowid()?;
    let doomed = condition(prune, &shape)?;
    let mut found = Vec::new();
    // Names are compared without regard to case, so the foreign keys' are made those of the tables.
    let target = Target { table: TableName { schema: String::new(), table: shape.name.clone() }, ..target.clone() };
    for (mut one, counted) in along(&target, &foreign_keys(connection)?, &doomed, &SPELLING) {
        let counted = counted.filter(|_| counts == Counts::Taken);
        one.rows = counted.map(|sql| count(connection, &sql, &target)).transpose()?;
        found.push(one);
    }
    let (mut rows, mut going) = (0, 0);
    if counts == Counts::Taken {
        rows = count(connection, &format!("SELECT count(*) FROM {}", quote(&shape.name)), &target)?;
        going = remaining(connection, prune, &target)?;
    }
    Ok(Prunable { key: shape.key(), rows, doomed: going, along: found, triggers: triggers(connection, &shape.name)? })
}

fn count(connection: &Connection, sql: &str, target: &Target) -> Result<u64> {
    let rows: i64 = connection
        .query_row(sql, [], |row| row.get(0))
        .doing(|| format!("count what goes of `{}`", target.policy_table))?;
    Ok(rows.cast_unsigned())
}

/// Triggers on a deletion, as their text says it; a word too many is named rather than one too few.
fn triggers(connection: &Connection, table: &str) -> Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
                AND sql LIKE '%DELETE%' AND name NOT LIKE 'enfold\\_%' ESCAPE '\\' ORDER BY name",
        )
        .and_then(|mut s| s.query_map([table], |row| row.get(0))?.collect())
        .doing(|| format!("list the triggers of `{table}`"))
}

fn foreign_keys(connection: &Connection) -> Result<Vec<ForeignKey>> {
    let tables = table_names(connection)?;
    let mut keys = Vec::new();
    for child in &tables {
        keys.extend(foreign_keys_of(connection, child, &tables)?);
    }
    Ok(keys)
}

fn foreign_keys_of(connection: &Connection, child: &str, tables: &[String]) -> Result<Vec<ForeignKey>> {
    let what = || format!("list the foreign keys of `{child}`");
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    let mut statement = connection
        .prepare_cached(
            "SELECT id, \"table\", on_delete, \"from\", \"to\", seq FROM pragma_foreign_key_list(?1) ORDER BY id, seq",
        )
        .doing(what)?;
    let mut found = statement.query([child]).doing(what)?;
    while let Some(row) = found.next().doing(what)? {
        let (id, named, on_delete): (i64, String, String) =
            (row.get(0).doing(what)?, row.get(1).doing(what)?, row.get(2).doing(what)?);
        let (from, to): (String, Option<String>) = (row.get(3).doing(what)?, row.get(4).doing(what)?);
        // A key to a table that is not there refers to no row.
        let Some(parent) = tables.iter().find(|table| same(table, &named)) else { continue };
        let seq: u32 = row.get(5).doing(what)?;
        let to = match to {
            Some(to) => to,
            // The primary key is meant.
            None => {
                Shape::read(connection, parent)?.key().get(seq as usize).cloned().unwrap_or_else(|| "rowid".to_owned())
            }
        };
        match keys.last_mut().filter(|(last, _)| *last == id) {
            Some((_, key)) => key.columns.push((from, to)),
            None => {
                let name = |table: &str| TableName { schema: String::new(), table: table.to_owned() };
                let on_delete = match on_delete.as_str() {
                    "CASCADE" => OnDelete::Cascade,
                    "SET NULL" => OnDelete::SetNull,
                    "SET DEFAULT" => OnDelete::SetDefault,
                    _ => OnDelete::Refuse,
                };
                let indexed = leads_an_index(connection, child, &from)?;
                let (child, parent) = (name(child), name(parent));
                keys.push((
                    id,
                    ForeignKey { child, parent, columns: vec![(from, to)], on_delete, readable: true, indexed },
                ));
            }
        }
    }
    Ok(keys.into_iter().map(|(_, key)| key).collect())
}

/// Whether rows are found by `column`: it is the row id, or an index over the whole table begins with it.
fn leads_an_index(connection: &Connection, table: &str, column: &str) -> Result<bool> {
    let found: Option<bool> = connection
        .prepare_cached(
            "SELECT true FROM pragma_index_list(?1) l, pragma_index_info(l.name) i \
              WHERE NOT l.partial AND i.seqno = 0 AND i.name = ?2 COLLATE NOCASE \
             UNION ALL SELECT true FROM pragma_table_info(?1) c WHERE c.pk = 1 AND c.name = ?2 COLLATE NOCASE LIMIT 1",
        )
        .and_then(|mut s| s.query_row([table, column], |row| row.get(0)).optional())
        .doing(|| format!("list the indexes of `{table}`"))?;
    Ok(found.unwrap_or(false))
}
