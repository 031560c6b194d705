//! Copies of plaintext outside the live values of a column: other columns, statistics, old indexes, full-text tables,
//! free pages, the unwiped room in used pages, the write-ahead log and the journal.
//!
//! With probes (values known to have been in a column) every byte of the files is searched; without, only what can be
//! told without them is told. What lies outside the files (backups, copies, blocks that the file system freed) cannot
//! be looked into; backups are named.

mod files;
mod matcher;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use enfold::Result;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use self::matcher::Matcher;
use super::error::Doing;
use super::names::{quote, same};
use super::schema::PREFIX;
use super::shape::Shape;
use super::survey::table_names;
use super::tokens::mentions;
use super::wal_bytes;
use crate::database::{Probe, Residue};
use crate::model::Target;
use crate::words::Kind;

/// Where something was found, for which column, and how often (`None`: it can only be named).
type Found = BTreeMap<(Kind, String, Option<String>), Option<u64>>;

pub(super) fn residue(
    connection: &Connection,
    path: &Path,
    target: &Target,
    probes: &[(String, zeroize::Zeroizing<Vec<u8>>)],
) -> Result<Vec<Residue>> {
    let matcher = Matcher::new(probes);
    let mut found = Found::new();
    let live = live_copies(connection, target, &matcher, &mut found)?;
    statistics(connection, &matcher, &mut found)?;
    indexes(connection, target, &mut found)?;
    full_text(connection, target, &mut found)?;
    if matcher.is_empty() {
        uncounted(connection, path, &mut found)?;
    } else {
        files::search(connection, path, target, &matcher, &live, &mut found)?;
    }
    found.insert((Kind::BaseBackup, "copies and backups of the database file".to_owned(), None), None);
    Ok(found.into_iter().map(|((kind, place, column), n)| report(kind, &place, column.as_deref(), n, target)).collect())
}

/// Takes the probes out of their borrowed type, so that they can go to another thread.
pub(super) fn owned(probes: &[Probe]) -> Vec<(String, zeroize::Zeroizing<Vec<u8>>)> {
    probes.iter().map(|p| (p.column.clone(), p.value.clone())).collect()
}

fn add(found: &mut Found, kind: Kind, place: impl Into<String>, column: Option<&str>, n: u64) {
    let entry = found.entry((kind, place.into(), column.map(str::to_owned))).or_insert(Some(0));
    *entry = Some(entry.unwrap_or(0) + n);
}

fn report(kind: Kind, place: &str, column: Option<&str>, n: Option<u64>, target: &Target) -> Residue {
    let table = &target.table.table;
    let clear = match kind {
        Kind::FreePages => format!("run `enfold apply`, whose last step rewrites `{table}`, or `PRAGMA secure_delete = ON; VACUUM`"),
        Kind::RollbackLog => {
            "end the readers that keep it, then `PRAGMA wal_checkpoint(TRUNCATE)`; a rollback journal goes with the next transaction".to_owned()
        }
        Kind::OldIndex => format!("DROP INDEX {place}, then VACUUM", place = quote(place)),
        Kind::Statistics => format!("ANALYZE {}", quote(table)),
        _ => kind.clear().to_owned(),
    };
    kind.residue(place, column, n, clear)
}

/// Looks at every live value of every column. Returns the tables in which probes are live: their pages tell nothing
/// more.
fn live_copies(
    connection: &Connection,
    target: &Target,
    matcher: &Matcher,
    found: &mut Found,
) -> Result<BTreeSet<String>> {
    let mut live = BTreeSet::new();
    if matcher.is_empty() {
        return Ok(live);
    }
    for table in table_names(connection)? {
        let Some(shape) = Shape::find(connection, &table)? else { continue };
        for column in &shape.columns {
            let ours = same(&table, &target.table.table) && target.columns.iter().any(|c| same(&c.name, &column.name));
            let sql = format!("SELECT {} FROM {}", quote(&column.name), quote(&table));
            // A virtual table may keep nothing that can be selected; its own tables are searched as bytes below.
            let Ok(mut statement) = connection.prepare(&sql) else { continue };
            let Ok(mut rows) = statement.query([]) else { continue };
            while let Ok(Some(row)) = rows.next() {
                let (ValueRef::Text(bytes) | ValueRef::Blob(bytes)) =
                    row.get_ref(0).doing(|| format!("search `{table}`"))?
                else {
                    continue;
                };
                for of in matcher.in_value(bytes) {
                    live.insert(table.clone());
                    if !ours {
                        add(found, Kind::SameValues, format!("{table}.{}", column.name), Some(of), 1);
                    }
                }
            }
        }
    }
    Ok(live)
}

/// sqlite_stat4 keeps whole index entries as samples.
fn statistics(connection: &Connection, matcher: &Matcher, found: &mut Found) -> Result<()> {
    let what = || "search the planner's statistics".to_owned();
    let there = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat4'", [], |_| Ok(()))
        .optional()
        .doing(what)?;
    if there.is_none() {
        return Ok(());
    }
    let mut statement = connection.prepare("SELECT idx, sample FROM sqlite_stat4").doing(what)?;
    let mut rows = statement.query([]).doing(what)?;
    while let Some(row) = rows.next().doing(what)? {
        let (index, ValueRef::Blob(sample)) = (row.get::<_, String>(0).doing(what)?, row.get_ref(1).doing(what)?)
        else {
            continue;
        };
        for of in matcher.in_value(sample) {
            add(found, Kind::Statistics, format!("sqlite_stat4, samples of `{index}`"), Some(of), 1);
        }
    }
    Ok(())
}

/// Indexes over the columns that are still there: they hold what the rows hold.
fn indexes(connection: &Connection, target: &Target, found: &mut Found) -> Result<()> {
    for (name, sql) in objects(connection, "type = 'index' AND tbl_name = ?1 COLLATE NOCASE", &target.table.table)? {
        if name.starts_with(PREFIX) {
            continue;
        }
        for column in target.columns.iter().filter(|c| mentions(&sql, &c.name)) {
            found.insert((Kind::OldIndex, name.clone(), Some(column.name.clone())), None);
        }
    }
    Ok(())
}

/// Full-text tables hold the words of values, which no search for whole values finds.
fn full_text(connection: &Connection, target: &Target, found: &mut Found) -> Result<()> {
    for (name, sql) in
        objects(connection, "type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%USING fts%' AND ?1 = ?1", "")?
    {
        for column in target.columns.iter().filter(|c| mentions(&sql, &c.name)) {
            found.insert((Kind::SameValues, format!("full-text table {name}"), Some(column.name.clone())), None);
        }
    }
    Ok(())
}

fn objects(connection: &Connection, condition: &str, value: &str) -> Result<Vec<(String, String)>> {
    connection
        .prepare(&format!("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND {condition}"))
        .and_then(|mut s| s.query_map([value], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .doing(|| "read the schema".to_owned())
}

/// What can be told without knowing what to look for.
fn uncounted(connection: &Connection, path: &Path, found: &mut Found) -> Result<()> {
    let free: i64 = connection
        .query_row("PRAGMA freelist_count", [], |row| row.get(0))
        .doing(|| "count the free pages".to_owned())?;
    if free > 0 {
        found.insert((Kind::FreePages, format!("{free} free pages"), None), None);
    }
    if wal_bytes(path) > 0 {
        found.insert((Kind::RollbackLog, format!("{}-wal", path.display()), None), None);
    }
    Ok(())
}
