//! The text of a policy as a tree in which every key and value knows where it was written.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::words::path_text;
use crate::{Code, Error};

/// Where a key or a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Text),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Entry>),
    /// A number with a point, a date, an integer beyond 64 bits: no setting takes one.
    Other(&'static str),
}

/// A string. Only what stands in the file itself may be repeated on the screen; a variable may hold a secret.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub value: String,
    pub from_variable: bool,
}

/// A key of a table.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands, which for a table is its header.
    pub place: Place,
    pub node: Node,
}

/// Everything that is wrong with a policy.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<(Place, String, Code)>,
    hints: Vec<String>,
}

impl Findings {
    /// `message`: what is wrong with the key at `path`; an empty path is the file itself.
    pub(super) fn add(&mut self, place: &Place, path: &[String], message: impl AsRef<str>) {
        self.add_as(Code::PolicyInvalid, place, path, message);
    }

    /// As [`Self::add`], for what has a code of its own.
    pub(super) fn add_as(&mut self, code: Code, place: &Place, path: &[String], message: impl AsRef<str>) {
        let message = message.as_ref();
        let line = if path.is_empty() { message.to_owned() } else { format!("{}: {message}", path_text(path)) };
        let finding = (place.clone(), line, code);
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    pub(super) fn hint(&mut self, hint: impl Into<String>) {
        let hint = hint.into();
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// One error with a cause for each finding, in the order of the file, as `enfold.toml:12: path: message`. Its code
    /// is that of the findings where they share one.
    pub(super) fn into_error(mut self, file: &str) -> Error {
        self.found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut codes = self.found.iter().map(|(_, _, code)| *code);
        let first = codes.next().unwrap_or(Code::PolicyInvalid);
        let code = if codes.all(|code| code == first) { first } else { Code::PolicyInvalid };
        let many = if self.found.len() == 1 { "1 error".to_owned() } else { format!("{} errors", self.found.len()) };
        let mut error = Error::new(code, format!("the policy `{file}` has {many}"));
        for (place, line, _) in self.found {
            error = error.cause(match place {
                Place::Line(number) => format!("{file}:{number}: {line}"),
                Place::Variable(name) => format!("{name}: {line}"),
            });
        }
        for hint in self.hints {
            error = error.hint(hint);
        }
        error
    }
}

/// Reads TOML; what cannot be read is added to the findings, and the rest is returned.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Node {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = Place::Line(error.span().map_or(1, |span| lines.at(span.start)));
        // The parser's message names what it expected; unlike its rendering, it does not quote the line.
        findings.add(&place, &[], format!("not TOML: {}", error.message()));
    }
    Node { place: Place::Line(1), value: convert_table(table.get_ref(), &lines) }
}

fn convert_table(table: &DeTable<'_>, lines: &Lines) -> Value {
    let entries = table.iter().map(|(key, value)| {
        let place = Place::Line(lines.at(key.span().start));
        let node = Node { place: place.clone(), value: convert(value.get_ref(), lines) };
        (key.get_ref().to_string(), Entry { place, node })
    });
    Value::Table(entries.collect())
}

fn convert(value: &DeValue<'_>, lines: &Lines) -> Value {
    match value {
        DeValue::String(text) => Value::Text(Text { value: text.to_string(), from_variable: false }),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Node {
                    place: Place::Line(lines.at(item.span().start)),
                    value: convert(item.get_ref(), lines),
                })
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, lines),
        DeValue::Float(_) => Value::Other("a number with a point"),
        DeValue::Datetime(_) => Value::Other("a date"),
    }
}

impl Value {
    /// What it is, for "expected …, found …".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Boolean(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// Byte offsets of the lines of a text.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line that holds a byte, from 1.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }
}
