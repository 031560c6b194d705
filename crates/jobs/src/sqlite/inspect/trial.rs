//! Trying it out: whether the table's constraints take an envelope, asked of SQLite itself. A copy of the table's
//! definition is made in a database in memory, some of its rows are put there as they are and then with an envelope
//! in the column. Nothing is written to the file.

use enfold::Result;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::super::error::Doing;
use super::super::names::{quote, same};
use super::super::sampling;
use super::super::tokens::{expression_mentions, expressions};
use super::Findings;
use crate::database::ColumnFacts;
use crate::model::Storage;
use crate::words::Word;

/// Rows tried.
const ROWS: u64 = 100;

impl Findings<'_> {
    pub(super) fn trial(&mut self, columns: &[ColumnFacts]) -> Result<()> {
        for column in columns {
            let Some(storage) = column.storage else { continue };
            if !self.compiles(&column.name) {
                continue;
            }
            let checks = expressions(&self.shape.sql, "CHECK");
            if !checks.iter().any(|e| expression_mentions(e, &column.name)) && !self.shape.strict {
                continue;
            }
            let says = match self.takes_envelopes(&column.name, storage)? {
                Taken::All => {
                    let says = format!("a CHECK constraint mentions `{}`", column.name);
                    self.warnings.push(Word::CheckBlind.about(&column.name, says));
                    continue;
                }
                Taken::Unknown => format!("a CHECK constraint over `{}` could not be tried out", column.name),
                Taken::Refused => format!("a CHECK constraint over `{}` refuses envelopes", column.name),
            };
            self.refusals.push(
                Word::CheckConstraint.about(&column.name, says).out(
                    "make the table again without the constraint (SQLite cannot drop one), and check the value in the application",
                ),
            );
        }
        Ok(())
    }

    /// Whether an UPDATE of the column can be prepared here: a trigger or an index may call a function, or name a
    /// collation, that only the application defines.
    fn compiles(&mut self, column: &str) -> bool {
        let sql = format!("UPDATE {} SET {} = ?1 WHERE 0", quote(&self.shape.name), quote(column));
        let prepared = self.connection.prepare(&sql).is_ok();
        if !prepared {
            let says = format!("SQLite cannot prepare an UPDATE of `{column}` outside the application");
            self.refusals.push(Word::UpdateFails.about(column, says));
        }
        prepared
    }

    fn takes_envelopes(&self, column: &str, storage: Storage) -> Result<Taken> {
        let what = || format!("try envelopes in `{}.{column}`", self.shape.name);
        let memory = Connection::open_in_memory().doing(what)?;
        let made =
            memory.execute_batch("PRAGMA foreign_keys = OFF").and_then(|()| memory.execute_batch(&self.shape.sql));
        if made.is_err() {
            return Ok(Taken::Unknown);
        }
        let names: Vec<&str> = self.shape.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str()).collect();
        let Some(at) = names.iter().position(|n| same(n, column)) else { return Ok(Taken::Unknown) };
        let list = names.iter().map(|n| quote(n)).collect::<Vec<_>>().join(", ");
        let marks = vec!["?"; names.len()].join(", ");
        let insert = format!("INSERT INTO {} ({list}) VALUES ({marks})", quote(&self.shape.name));
        let delete = format!("DELETE FROM {}", quote(&self.shape.name));
        let rows = sampling::rows(self.connection, self.shape, Some(ROWS))?;
        let mut select =
            self.connection.prepare(&format!("SELECT {list} FROM {}", rows.from(&self.shape.name))).doing(what)?;
        let mut found = select.query([rows.ids()]).doing(what)?;
        let mut tried = false;
        while let Some(row) = found.next().doing(what)? {
            let Ok(mut values) = (0..names.len()).map(|i| row.get::<_, Value>(i)).collect::<rusqlite::Result<Vec<_>>>()
            else {
                continue;
            };
            memory.execute_batch(&delete).doing(what)?;
            // A row that its own constraints refuse today says nothing about envelopes.
            if values[at] == Value::Null || memory.execute(&insert, params_from_iter(&values)).is_err() {
                continue;
            }
            memory.execute_batch(&delete).doing(what)?;
            values[at] = sample_envelope(storage);
            match memory.execute(&insert, params_from_iter(&values)) {
                Ok(_) => tried = true,
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => return Ok(Taken::Refused),
                Err(_) => return Ok(Taken::Unknown),
            }
        }
        Ok(if tried { Taken::All } else { self.without_rows(&memory, &insert, names.len(), at, storage) })
    }

    /// With no row to go by, a row of nothing but the envelope: NULL passes a CHECK, so only what the column itself
    /// breaks shows.
    fn without_rows(&self, memory: &Connection, insert: &str, columns: usize, at: usize, storage: Storage) -> Taken {
        let mut values = vec![Value::Null; columns];
        values[at] = sample_envelope(storage);
        match memory.execute(insert, params_from_iter(&values)) {
            Ok(_) => Taken::All,
            Err(error) => match error.sqlite_error().map(|e| e.extended_code) {
                Some(rusqlite::ffi::SQLITE_CONSTRAINT_CHECK) => Taken::Refused,
                _ => Taken::Unknown,
            },
        }
    }
}

enum Taken {
    All,
    Refused,
    /// The definition cannot be made outside the application, or no row tells.
    Unknown,
}

/// Something of an envelope's form and least length.
fn sample_envelope(storage: Storage) -> Value {
    let mut bytes = vec![0xf9, 0xe9, 0xdf, 1, 0x11];
    bytes.resize(21, 0xa5);
    bytes.extend([2, 0]);
    bytes.resize(120, 0xa5);
    let text = enfold_core::text::encode(&bytes);
    match storage {
        Storage::Bytes => Value::Blob(bytes),
        Storage::Text => Value::Text(text),
        Storage::Json => Value::Text(format!("\"{text}\"")),
    }
}
