//! What SQLite says a table is: its columns, its kind, and the name under which its row id can be asked for.

use enfold::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension};

use super::error::Doing;
use super::names::{quote, same};

/// The three names SQLite gives the row id, unless a column takes them.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    View,
    Virtual,
    /// Belongs to a virtual table.
    Shadow,
}

#[derive(Clone, Debug)]
pub(super) struct ColumnShape {
    pub(super) name: String,
    pub(super) declared: String,
    pub(super) not_null: bool,
    /// The DEFAULT, as it was written.
    pub(super) default: Option<String>,
    /// Position in the primary key from 1; 0 outside it.
    pub(super) key: u32,
    pub(super) generated: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) without_rowid: bool,
    pub(super) strict: bool,
    /// The CREATE statement.
    pub(super) sql: String,
    pub(super) columns: Vec<ColumnShape>,
}

impl Shape {
    /// Reads a table's shape; `None` where there is no such table.
    pub(super) fn find(connection: &Connection, table: &str) -> Result<Option<Self>> {
        let what = || format!("read the shape of `{table}`");
        let found = connection
            .prepare_cached("SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE")
            .and_then(|mut s| {
                s.query_row([table], |row| {
                    let kind: String = row.get(1)?;
                    Ok((row.get::<_, String>(0)?, kind, row.get::<_, bool>(2)?, row.get::<_, bool>(3)?))
                })
                .optional()
            })
            .doing(what)?;
        let Some((name, kind, without_rowid, strict)) = found else { return Ok(None) };
        let kind = match kind.as_str() {
            "view" => Kind::View,
            "virtual" => Kind::Virtual,
            "shadow" => Kind::Shadow,
            _ => Kind::Table,
        };
        let sql: Option<String> = connection
            .prepare_cached("SELECT sql FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?1")
            .and_then(|mut s| s.query_row([&name], |row| row.get(0)).optional())
            .doing(what)?
            .flatten();
        let mut statement = connection
            .prepare_cached(
                "SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?1) ORDER BY cid",
            )
            .doing(what)?;
        let columns = statement
            .query_map([&name], |row| {
                Ok(ColumnShape {
                    name: row.get(0)?,
                    declared: row.get(1)?,
                    not_null: row.get(2)?,
                    key: row.get(3)?,
                    generated: row.get::<_, i64>(4)? >= 2,
                    default: row.get(5)?,
                })
            })
            .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
            .doing(what)?;
        Ok(Some(Self { name, kind, without_rowid, strict, sql: sql.unwrap_or_default(), columns }))
    }

    /// As [`Shape::find`]; a missing table is an error.
    pub(super) fn read(connection: &Connection, table: &str) -> Result<Self> {
        Self::find(connection, table)?.ok_or_else(|| {
            Error::new(Code::TableMissing, format!("there is no table `{table}` in the database"))
                .hint("run `enfold discover` to see the tables there are")
        })
    }

    pub(super) fn column(&self, name: &str) -> Option<&ColumnShape> {
        self.columns.iter().find(|c| same(&c.name, name))
    }

    /// As [`Shape::column`]; a missing column is an error. (SQLite would take a quoted name that is no column for a text.)
    pub(super) fn require(&self, name: &str) -> Result<&ColumnShape> {
        self.column(name).ok_or_else(|| {
            Error::new(Code::TableMissing, format!("there is no column `{name}` in `{}`", self.name))
                .hint(format!("run `enfold discover` to see the columns of `{}`", self.name))
        })
    }

    /// Primary key columns in key order.
    pub(super) fn key(&self) -> Vec<String> {
        let mut key: Vec<_> = self.columns.iter().filter(|c| c.key > 0).collect();
        key.sort_by_key(|c| c.key);
        key.into_iter().map(|c| c.name.clone()).collect()
    }

    /// The quoted name that means the row id.
    pub(super) fn rowid(&self) -> Result<String> {
        if self.kind != Kind::Table || self.without_rowid {
            return Err(Error::new(Code::PlanRefused, format!("`{}` has no row ids", self.name)).hint(NO_ROWID_WAY_OUT));
        }
        if let Some(name) = ROWID_NAMES.into_iter().find(|name| self.column(name).is_none()) {
            return Ok(name.to_owned());
        }
        // With all three names taken, only an INTEGER PRIMARY KEY still means the row id.
        match self.integer_key() {
            Some(column) => Ok(quote(&column.name)),
            None => Err(Error::new(
                Code::PlanRefused,
                format!("columns of `{}` hide all three names of the row id", self.name),
            )
            .hint("rename one of the columns `rowid`, `_rowid_`, `oid`")),
        }
    }

    /// The column that is the row id, if one is.
    fn integer_key(&self) -> Option<&ColumnShape> {
        let mut key = self.columns.iter().filter(|c| c.key > 0);
        let only = key.next()?;
        (key.next().is_none() && only.declared.eq_ignore_ascii_case("INTEGER")).then_some(only)
    }
}

/// The way out for tables without row ids.
pub(super) const NO_ROWID_WAY_OUT: &str = "copy it into an ordinary table (CREATE TABLE without `WITHOUT ROWID`, \
     INSERT … SELECT, DROP, RENAME) in one transaction, then plan again";
