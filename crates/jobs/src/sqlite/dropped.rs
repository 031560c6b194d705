//! Indexes that hold plaintext: dropped with a record of what they were, and made again from it.

use enfold::Result;
use rusqlite::{Connection, OptionalExtension};

use super::error::Doing;
use super::names::{literal, quote};
use super::schema;
use super::steps::{describe, together};
use super::tokens::mentions;
use crate::database::SchemaStep;
use crate::model::TableName;

/// The statements that [`restore`] would run are rows of this answer: they are not known before it is asked.
pub(super) fn listing(table: &TableName) -> String {
    format!("SELECT definition FROM enfold_dropped_indexes WHERE table_name = {}", literal(&table.table))
}

/// Record and drop in one transaction. What belongs to a constraint has no statement, and no plan asks for its drop.
pub(super) fn drop(connection: &mut Connection, step: &SchemaStep, index: &str) -> Result<()> {
    schema::ensure(connection)?;
    let record = format!(
        "INSERT OR REPLACE INTO enfold_dropped_indexes (index_name, table_name, definition) \
         SELECT name, tbl_name, sql FROM sqlite_schema \
          WHERE type = 'index' AND name = {} COLLATE NOCASE AND sql IS NOT NULL",
        literal(index)
    );
    together(connection, step, &[record, format!("DROP INDEX IF EXISTS {}", quote(index))])
}

/// Each index in a transaction of its own, together with the end of its record.
pub(super) fn restore(
    connection: &mut Connection,
    step: &SchemaStep,
    table: &TableName,
    sealed: &[String],
) -> Result<()> {
    // Databases that an older Enfold converted have no record.
    if !is_there(connection, step, "enfold_dropped_indexes")? {
        return Ok(());
    }
    for (index, definition) in recorded(connection, step, table)? {
        if sealed.iter().any(|column| mentions(&definition, column)) {
            continue;
        }
        let forget = format!("DELETE FROM enfold_dropped_indexes WHERE index_name = {}", literal(&index));
        // Somebody may have made it again already.
        let make = if is_there(connection, step, &index)? { None } else { Some(definition) };
        let statements: Vec<String> = make.into_iter().chain([forget]).collect();
        together(connection, step, &statements).map_err(|error| {
            error
                .hint(format!("no value is sealed any more; only the index `{index}` is missing"))
                .hint("settle what stands in its way and run `enfold rollback` again, or delete its row from enfold_dropped_indexes")
        })?;
    }
    Ok(())
}

fn recorded(connection: &Connection, step: &SchemaStep, table: &TableName) -> Result<Vec<(String, String)>> {
    connection
        .prepare("SELECT index_name, definition FROM enfold_dropped_indexes WHERE table_name = ?1 ORDER BY index_name")
        .and_then(|mut s| s.query_map([&table.table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .doing(|| describe(step))
}

fn is_there(connection: &Connection, step: &SchemaStep, name: &str) -> Result<bool> {
    let found = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE", [name], |_| Ok(()))
        .optional()
        .doing(|| describe(step))?;
    Ok(found.is_some())
}
