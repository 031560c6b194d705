//! Says which columns of a table hold personal or secret data, from names, types, comments, keys and sampled values.
//!
//! A function of what it is given: it reads no database and keeps nothing. Findings carry a class, a confidence and the
//! evidence as counts, never a value, so they may be printed, logged and saved.
//!
//! How a class is decided: the *name* of a column is a claim, its *values* are the test. Classes with a checksum or a
//! grammar of their own (e-mail, IBAN, card and national numbers, tokens, addresses on the Internet) are found by
//! values alone, whatever the column is called. Classes that any text could be (a person's name, a birth date, free
//! text) need a claim as well, or the titles of songs would be people.
//!
//! ```
//! use enfold_discover::{Class, ColumnInput, TableInput, classify};
//!
//! let table = TableInput {
//!     name: "users".into(),
//!     comment: None,
//!     columns: vec![
//!         ColumnInput::new("id", "bigint").values(["1", "2"]),
//!         ColumnInput::new("login", "text").values(["ada@example.com", "grace@example.org"]),
//!     ],
//! };
//! let findings = classify(&table);
//! assert_eq!(findings.len(), 1);
//! assert_eq!(findings[0].column, "login");
//! assert_eq!(findings[0].class, Class::Email);
//! ```

mod classes;
mod detect;
mod json;
mod score;
mod words;

use serde::{Deserialize, Serialize};

pub use classes::Class;

/// A table with a sample of its values.
pub struct TableInput {
    pub name: String,
    pub comment: Option<String>,
    pub columns: Vec<ColumnInput>,
}

/// A column with a sample of its values, as text.
pub struct ColumnInput {
    pub name: String,
    /// As the database prints it.
    pub sql_type: String,
    pub comment: Option<String>,
    pub primary_key: bool,
    /// What a foreign key of it points at; such a column is a key, not a value.
    pub references: Option<String>,
    pub values: Vec<Option<String>>,
}

impl ColumnInput {
    pub fn new(name: impl Into<String>, sql_type: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            sql_type: sql_type.into(),
            comment: None,
            primary_key: false,
            references: None,
            values: Vec::new(),
        }
    }

    #[must_use]
    pub fn values<T: Into<String>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.values = values.into_iter().map(|v| Some(v.into())).collect();
        self
    }
}

/// A column, or a path inside a JSON column, that should not be stored in the clear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub column: String,
    /// `$.contact.email` inside a JSON column; arrays are `[]`.
    pub path: Option<String>,
    pub class: Class,
    /// Percent. What is reported is 50 or more; from 75 a policy may take it without a person's look.
    pub confidence: u8,
    pub evidence: Evidence,
}

/// Why, in counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Values looked at that were neither NULL nor empty.
    pub sampled: u32,
    /// How many of them have the form of the class.
    pub matched: u32,
    /// The word of the column's or table's name, or of the comment, that claims the class.
    pub named: Option<String>,
}

/// The least confidence that is reported.
pub const REPORTED: u8 = 50;

/// Findings of a table, in the order of its columns; at most one for a column, any number for paths in a JSON column.
pub fn classify(table: &TableInput) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        table.columns.iter().filter(|c| c.references.is_none()).flat_map(|c| classify_column(table, c)).collect();
    // A town or a postcode is personal beside a person, and a plain fact in a list of towns.
    let personal = findings.iter().any(|f| f.class.names_a_person());
    findings.retain(|f| f.confidence >= REPORTED && (personal || f.class != Class::Locality));
    findings
}

fn classify_column(table: &TableInput, column: &ColumnInput) -> Vec<Finding> {
    let claim = words::Claim::of(table, column);
    let values: Vec<&str> = column.values.iter().flatten().map(|v| v.trim()).filter(|v| !v.is_empty()).collect();
    if json::is_json(&column.sql_type, &values) {
        return json::leaves(&values)
            .into_iter()
            .filter_map(|leaf| {
                let claim = words::Claim::of_leaf(table, &leaf.key);
                let values: Vec<&str> = leaf.values.iter().map(String::as_str).collect();
                finding(column, Some(leaf.path), &claim, "text", &values)
            })
            .collect();
    }
    finding(column, None, &claim, &column.sql_type, &values).into_iter().collect()
}

fn finding(
    column: &ColumnInput,
    path: Option<String>,
    claim: &words::Claim,
    sql_type: &str,
    values: &[&str],
) -> Option<Finding> {
    let best = score::best(claim, sql_type, column.primary_key, values)?;
    Some(Finding {
        column: column.name.clone(),
        path,
        class: best.class,
        confidence: best.confidence,
        evidence: best.evidence,
    })
}
