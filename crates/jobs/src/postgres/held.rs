//! How the values of one column of a policy are kept: in the column itself, as members of the documents in another, or as
//! envelopes in its shadow, because the column's own type (a date, a number, an array, …) has no room for them.
//!
//! A column of the last kind is the source of its shadow. Its values are sealed as the database prints them, under settings that make
//! what is printed the same in every session and exact, and are read back from that text alone.

use enfold::policy::{Document, Mark, Member};

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
    /// The member that holds them, where it is not the column as a whole.
    pub(crate) within: Option<Within>,
    /// What is written beside a member, and where.
    pub(crate) marks: Vec<(Mark, Within)>,
    /// A shadow is not there before somebody adds it.
    pub(crate) there: bool,
    pub(crate) source: Option<Source>,
    /// Columns beside it, in the order of the target's.
    pub(crate) companions: Vec<Beside>,
}

/// A column beside a value.
pub(crate) struct Beside {
    pub(crate) source: Source,
    pub(crate) is_bytes: bool,
}

/// Which member of the documents in a column it is, as SQL.
#[derive(Clone, Debug)]
pub(crate) enum Within {
    /// Of jsonb: the path.
    Json(String),
    /// Of a vertex or an edge of Apache AGE: the name of the property.
    Property(String),
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
        match &self.within {
            _ if !self.there => format!("NULL::{}", self.base.sent()),
            Some(place) => place.read(&format!("t.{}", self.holder)),
            None => format!("t.{}", self.holder),
        }
    }

    /// Whether there is a value at all.
    pub(super) fn is_filled(&self) -> String {
        let holder = format!("{} IS NOT NULL", self.holder());
        self.source.as_ref().map_or(holder.clone(), |source| format!("({} OR {holder})", source.is_filled()))
    }

    /// Whether there is a value with something beside it, which an envelope has not.
    pub(super) fn is_accompanied(&self) -> Option<String> {
        let filled: Vec<String> = self.companions.iter().map(|beside| beside.source.is_filled()).collect();
        (!filled.is_empty()).then(|| format!("({} IS NOT NULL AND ({}))", self.holder(), filled.join(" OR ")))
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

    /// Whether there is a question where a value is, or whether it can be read at all.
    pub(super) fn has_origin(&self) -> bool {
        self.source.is_some() || matches!(self.within, Some(Within::Property(_)))
    }

    /// Where the value is, as a number: see [`crate::store::Origin`]. `None` where there is no question.
    pub(super) fn origin(&self) -> Option<String> {
        if let Some(Within::Property(name)) = &self.within {
            let (_, is_odd) = property(&format!("t.{}", self.holder), name);
            return Some(format!("CASE WHEN {is_odd} THEN 3 ELSE 0 END"));
        }
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

impl Within {
    pub(super) fn of(member: &Member) -> Self {
        Self::at(member.document, &member.path)
    }

    /// The marks beside a member.
    pub(super) fn marks(member: &Member) -> Vec<(Mark, Self)> {
        let mark = |(mark, name): (&Mark, &String)| (*mark, Self::at(member.document, &member.beside(name)));
        member.marks.iter().map(mark).collect()
    }

    fn at(document: Document, path: &[String]) -> Self {
        let names: Vec<String> = path.iter().map(|name| literal(name)).collect();
        match document {
            Document::Json => Self::Json(format!("ARRAY[{}]::pg_catalog.text[]", names.join(", "))),
            Document::Graph => Self::Property(names.concat()),
        }
    }

    /// The member as jsonb; NULL where the document has none. Immutable, for checks.
    pub(super) fn read(&self, document: &str) -> String {
        match self {
            Self::Json(path) => format!("({document} OPERATOR(pg_catalog.#>) {path})"),
            Self::Property(name) => {
                let (printed, is_odd) = property(document, name);
                format!(
                    "(CASE WHEN {is_odd} THEN '{{\"agtype\": null}}'::pg_catalog.jsonb ELSE {printed}::pg_catalog.jsonb END)"
                )
            }
        }
    }

    /// The document with `value`, which is jsonb, in this place; as it is where `unless` is true. jsonb keeps a document that
    /// has no such member; a graph has every property that is set.
    pub(super) fn set(&self, document: &str, value: &str, unless: Option<&str>) -> String {
        self.put(document, value, unless, false)
    }

    /// As [`Self::set`], where jsonb too gets a member that it has not.
    pub(super) fn add(&self, document: &str, value: &str, unless: Option<&str>) -> String {
        self.put(document, value, unless, true)
    }

    fn put(&self, document: &str, value: &str, unless: Option<&str>, adds: bool) -> String {
        let either = |nothing: &str, something: String| match unless {
            Some(unless) => format!("CASE WHEN {unless} THEN {nothing} ELSE {something} END"),
            None => something,
        };
        match self {
            Self::Json(path) => {
                // An empty path changes nothing, whatever stands in the way of the right one.
                let path = either("ARRAY[]::pg_catalog.text[]", path.clone());
                format!("pg_catalog.jsonb_set({document}, {path}, {value}, {adds})")
            }
            Self::Property(name) => {
                // There is no cast to agtype; its input function reads JSON.
                let value = format!("ag_catalog.agtype_in(pg_catalog.textout(({value})::pg_catalog.text))");
                let property = format!("ag_catalog.agtype_build_map({name}, {value})");
                format!("ag_catalog.agtype_concat({document}, {})", either("ag_catalog.agtype_build_map()", property))
            }
        }
    }
}

/// The type of column that has such members.
pub(super) fn holds(document: Document) -> &'static str {
    match document {
        Document::Json => "jsonb",
        Document::Graph => "agtype",
    }
}

/// A property as agtype prints it, and whether that is no JSON, or none that is read back as the same: a number of type numeric or
/// with an exponent, one that is none, a vertex, an edge or a path. In a list or a map that is looked for in its text, so that a
/// text in there may be taken for one; then it is refused, and not changed.
fn property(document: &str, name: &str) -> (String, String) {
    let value = format!("ag_catalog.agtype_object_field({document}, {name})");
    let printed = format!("pg_catalog.textin(ag_catalog.agtype_out({value}))");
    let odd = "::(numeric|vertex|edge|path)|NaN|Infinity|[0-9][eE][+-]?[0-9]";
    let is_odd = format!("({printed} OPERATOR(pg_catalog.!~) '^\"' AND {printed} OPERATOR(pg_catalog.~) '{odd}')");
    (printed, is_odd)
}

impl Beside {
    /// Its exact bytes, or a number as it prints.
    pub(super) fn stored(&self) -> String {
        let column = &self.source.column;
        if self.is_bytes { format!("t.{column}::bytea") } else { format!("convert_to(t.{column}::text, 'UTF8')") }
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

/// What the type's output function makes of a value that is not NULL. A cast to text would do otherwise: it takes the
/// blanks from a char(n), and adds a mask to an inet.
fn print(value: &str) -> String {
    format!("pg_catalog.format('%s', {value})")
}
