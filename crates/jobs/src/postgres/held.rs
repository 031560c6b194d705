//! How the values of one column of a policy are kept: in the column itself, as members of the documents in another, or as
//! envelopes in its shadow, because the column's own type (a date, a number, an array, …) has no room for them.
//!
//! A column of the last kind is the source of its shadow. Its values are sealed as the database prints them, under settings that make
//! what is printed the same in every session and exact, and are read back from that text alone.

use super::literal;
use super::shape::Base;

/// What a transaction sets in which values of a source are printed or read: ISO dates in UTC, every digit of a number.
pub(super) const SPELLING: &str = "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = postgres; SET LOCAL TimeZone = 'UTC'; \
     SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = hex; ";

/// One column of a target as it stands in the table.
pub(crate) struct Held {
    /// Quoted name of the column that holds the envelopes.
    pub(crate) holder: String,
    /// Of that column.
    pub(crate) base: Base,
    /// The path of the member that holds them, as SQL, where it is not the column as a whole.
    pub(crate) path: Option<String>,
    /// A shadow is not there before somebody adds it.
    pub(crate) there: bool,
    pub(crate) source: Option<Source>,
}

/// The source of a shadow.
pub(crate) struct Source {
    /// Quoted.
    pub(crate) column: String,
    /// The type under its domains, without a modifier, quoted and qualified: what a text is cast to. The assignment to
    /// the column does the rest, and refuses what does not fit.
    pub(crate) sql_type: String,
}

impl Held {
    /// What holds the envelopes, of the table `t`.
    pub(super) fn holder(&self) -> String {
        match &self.path {
            _ if !self.there => format!("NULL::{}", self.base.sent()),
            Some(path) => member("t", &self.holder, path),
            None => format!("t.{}", self.holder),
        }
    }

    /// Whether there is a value at all.
    pub(super) fn is_filled(&self) -> String {
        let holder = format!("{} IS NOT NULL", self.holder());
        self.source.as_ref().map_or(holder.clone(), |source| format!("({} OR {holder})", source.is_filled()))
    }

    /// Whether there is a value that is no envelope; `envelope` is the condition that the holder's is one.
    pub(super) fn is_plain(&self, envelope: &str) -> String {
        let holder = format!("({} IS NOT NULL AND NOT {envelope})", self.holder());
        self.source.as_ref().map_or(holder.clone(), |source| format!("({} OR {holder})", source.is_filled()))
    }

    /// The exact bytes of the value, wherever it is.
    pub(super) fn stored(&self) -> String {
        let holder = self.base.stored(&self.holder());
        let Some(source) = &self.source else { return holder };
        let printed = match self.base {
            Base::Bytea => format!("pg_catalog.convert_to({}, 'UTF8')", source.printed()),
            Base::Text | Base::Json | Base::Jsonb => source.printed(),
        };
        format!("CASE WHEN {} THEN {printed} ELSE {holder} END", source.is_filled())
    }

    /// Where the value is, as a number: see [`crate::store::Origin`]. `None` where there is no question.
    pub(super) fn origin(&self) -> Option<String> {
        let source = self.source.as_ref()?;
        let printed = source.printed();
        // Read, and printed once more. A type that prints two values alike is refused by the plan.
        let again = print(&source.read(&printed));
        Some(format!(
            "CASE WHEN NOT {} THEN 0 WHEN {} IS NOT NULL THEN 2 {unread} \
             WHEN {again} COLLATE \"C\" = {printed} COLLATE \"C\" THEN 1 ELSE 3 END",
            source.is_filled(),
            self.holder(),
            unread = source.is_unread(),
        ))
    }

    /// Whether a value is too large to be read with many others, decided without fetching it.
    pub(super) fn large(&self) -> String {
        let holder = self.base.large(&self.holder());
        match &self.source {
            None => holder,
            Some(source) => {
                format!(
                    "coalesce({holder}, false) OR coalesce(pg_catalog.pg_column_size(t.{}) > 2000, false)",
                    source.column
                )
            }
        }
    }
}

impl Source {
    pub(super) fn is_filled(&self) -> String {
        format!("t.{} IS NOT NULL", self.column)
    }

    /// What is printed and cannot be read, for which the whole batch would fail: of all types that a plan takes only the least
    /// time of an interval (Postgres 15).
    fn is_unread(&self) -> String {
        match self.sql_type.contains("interval") {
            true => format!("WHEN pg_catalog.strpos({}, '-2562047788:00:54.775808') > 0 THEN 3", self.printed()),
            false => String::new(),
        }
    }

    /// The value as text, of the table `t`.
    pub(super) fn printed(&self) -> String {
        print(&format!("t.{}", self.column))
    }

    /// Whether it holds what was sent, which is text or nothing.
    pub(super) fn same(&self, sent: &str) -> String {
        format!(
            "CASE WHEN {sent} IS NULL THEN t.{0} IS NULL ELSE t.{0} IS NOT NULL AND {1} COLLATE \"C\" = {sent} END",
            self.column,
            self.printed()
        )
    }

    /// A text as a value of the type.
    pub(super) fn read(&self, text: &str) -> String {
        format!("({text})::{}", self.sql_type)
    }
}

/// The path of a member as SQL.
pub(super) fn path(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
    format!("ARRAY[{}]::pg_catalog.text[]", names.join(", "))
}

/// A member of the document in a column, whose name is quoted; NULL where there is none.
pub(super) fn member(row: &str, column: &str, path: &str) -> String {
    format!("({row}.{column} OPERATOR(pg_catalog.#>) {path})")
}

/// The same in a constraint, where rows have no alias.
pub(super) fn unaliased(column: &str, path: &str) -> String {
    format!("({column} OPERATOR(pg_catalog.#>) {path})")
}

/// What the type's output function makes of a value that is not NULL. A cast to text would do otherwise: it takes the
/// blanks from a char(n), and adds a mask to an inet.
fn print(value: &str) -> String {
    format!("pg_catalog.format('%s', {value})")
}
