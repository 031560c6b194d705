//! What `discover` asks: the tables there are, and a sample of their values.

use enfold::Result;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::error::Doing;
use super::names::{quote, same};
use super::sampling;
use super::schema::PREFIX;
use super::shape::{Kind, Shape};
use crate::database::{ColumnSurvey, TableSurvey};
use crate::hex::hex;
use crate::model::TableName;

/// Every table a user made: not SQLite's, not Enfold's, not the insides of virtual tables.
pub(super) fn survey(connection: &Connection) -> Result<Vec<TableSurvey>> {
    let mut found = Vec::new();
    for name in table_names(connection)? {
        let Some(shape) = Shape::find(connection, &name)? else { continue };
        if matches!(shape.kind, Kind::Table | Kind::Virtual) {
            found.push(table(connection, &shape)?);
        }
    }
    Ok(found)
}

/// Names of the user's tables and virtual tables, in alphabetical order.
pub(super) fn table_names(connection: &Connection) -> Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')
                AND substr(name, 1, 7) NOT IN ('sqlite_', ?1) ORDER BY name",
        )
        .and_then(|mut s| s.query_map([PREFIX], |row| row.get(0))?.collect())
        .doing(|| "list the tables".to_owned())
}

fn table(connection: &Connection, shape: &Shape) -> Result<TableSurvey> {
    let what = || format!("look at `{}`", shape.name);
    let rows: i64 = connection
        .query_row(&format!("SELECT count(*) FROM {}", quote(&shape.name)), [], |row| row.get(0))
        .doing(what)?;
    let key = shape.key();
    let unique = unique_columns(connection, &shape.name)?;
    let references = references(connection, &shape.name)?;
    let columns = shape
        .columns
        .iter()
        .map(|column| ColumnSurvey {
            name: column.name.clone(),
            sql_type: column.declared.clone(),
            comment: None,
            primary_key: column.key > 0,
            unique: unique.iter().any(|u| same(u, &column.name)) || (key.len() == 1 && column.key > 0),
            references: references.iter().find(|(from, _)| same(from, &column.name)).map(|(_, to)| to.clone()),
            nullable: !column.not_null && column.key == 0,
        })
        .collect();
    Ok(TableSurvey {
        table: TableName { schema: String::new(), table: shape.name.clone() },
        comment: None,
        rows: rows.cast_unsigned(),
        columns,
    })
}

/// Columns that a unique index covers alone.
fn unique_columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    connection
        .prepare_cached(
            "SELECT max(i.name) FROM pragma_index_list(?1) l, pragma_index_info(l.name) i
              WHERE l.\"unique\" AND NOT l.partial GROUP BY l.name HAVING count(*) = 1 AND max(i.name) IS NOT NULL",
        )
        .and_then(|mut s| s.query_map([table], |row| row.get(0))?.collect())
        .doing(|| format!("list the indexes of `{table}`"))
}

/// Referring column and `table.column` that it refers to.
fn references(connection: &Connection, table: &str) -> Result<Vec<(String, String)>> {
    connection
        .prepare_cached(
            "SELECT \"from\", \"table\" || '.' || coalesce(\"to\", 'rowid') FROM pragma_foreign_key_list(?1)",
        )
        .and_then(|mut s| s.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .doing(|| format!("list the foreign keys of `{table}`"))
}

/// At most `limit` rows' values of `columns`, as text, spread over the table.
pub(super) fn sample(
    connection: &Connection,
    table: &TableName,
    columns: &[String],
    limit: u32,
) -> Result<Vec<Vec<Option<String>>>> {
    let shape = Shape::read(connection, &table.table)?;
    let what = || format!("sample `{}`", shape.name);
    for column in columns {
        shape.require(column)?;
    }
    let rows = sampling::rows(connection, &shape, Some(u64::from(limit)))?;
    let list = columns.iter().map(|c| quote(c)).collect::<Vec<_>>().join(", ");
    let mut statement =
        connection.prepare(&format!("SELECT {list} FROM {} LIMIT {limit}", rows.from(&shape.name))).doing(what)?;
    statement
        .query_map([rows.ids()], |row| (0..columns.len()).map(|i| row.get_ref(i).map(text)).collect())
        .and_then(Iterator::collect)
        .doing(what)
}

/// A value as text: what is not UTF-8 as hexadecimal digits.
fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(n) => Some(n.to_string()),
        ValueRef::Real(x) => Some(x.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Some(std::str::from_utf8(bytes).map_or_else(|_| hex(bytes), str::to_owned))
        }
    }
}
