//! `[prune.RULE]`: which rows are deleted when they have grown old enough.
//!
//! A rule compares columns with values and holds no SQL. What it deletes can so be counted, checked against foreign keys and
//! told to a person before, in the same words as afterwards; a predicate could be true of other rows when it runs than when
//! it was shown. What a comparison cannot say, a generated column of the table can.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::columns::table_name;
use super::model::TablePolicy;
use super::raw::DurationText;
use super::resolve::{Resolver, duration, keys};
use super::url::Scheme;

/// Rows that are deleted when they have grown old enough, by `enfold prune`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawPrune {
    /// The table: `"schema.table"` on Postgres, `table` on SQLite. It needs no protected columns.
    #[schemars(extend("x-required" = true))]
    pub table: Option<String>,
    /// The column that says since when: of a type with a date, or a number with a `unit`. A time without a zone is taken for
    /// UTC. Rows in which it is NULL stay.
    #[schemars(extend("x-required" = true))]
    pub column: Option<String>,
    /// How long ago that must be: `0s` for what is past.
    #[schemars(extend("x-required" = true))]
    pub older_than: Option<DurationText>,
    /// What a number in `column` counts since 1970.
    pub unit: Option<TimeUnit>,
    /// Only rows in which each of these columns holds one of its values, compared as text.
    pub only: BTreeMap<String, Vec<String>>,
    /// Tables of which foreign keys may delete or change rows when a row goes (ON DELETE CASCADE, SET NULL, SET DEFAULT),
    /// spelt as `table`. `enfold prune` stops where there is one that is not named.
    pub takes_along: Vec<String>,
    /// How often workers do it by themselves. None: when somebody runs `enfold prune`. Workers do only what somebody has run
    /// and confirmed, with the rule as it is.
    #[schemars(extend("x-minimum" = "1m"))]
    pub every: Option<DurationText>,
}

/// What a number that stands for a moment counts, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    Seconds,
    Milliseconds,
}

/// Which rows are deleted when they have grown old enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunePolicy {
    /// As in the policy's `tables`.
    pub table: String,
    /// The column that says since when.
    pub column: String,
    pub older_than: Duration,
    /// What `column` counts, where it is a number.
    pub unit: Option<TimeUnit>,
    /// Columns with the values of which each must hold one.
    pub only: BTreeMap<String, Vec<String>>,
    /// Tables of which foreign keys may delete or change rows.
    pub takes_along: BTreeSet<String>,
    /// How often workers do it.
    pub every: Option<Duration>,
}

pub(super) fn resolve(
    at: &mut Resolver<'_>,
    raw: BTreeMap<String, RawPrune>,
    tables: &BTreeMap<String, TablePolicy>,
    scheme: Option<Scheme>,
) -> BTreeMap<String, PrunePolicy> {
    raw.into_iter().filter_map(|(name, raw)| Some((name.clone(), rule(at, &name, raw, tables, scheme)?))).collect()
}

fn rule(
    at: &mut Resolver<'_>,
    name: &str,
    raw: RawPrune,
    tables: &BTreeMap<String, TablePolicy>,
    scheme: Option<Scheme>,
) -> Option<PrunePolicy> {
    let path = |key: &str| keys(&["prune", name, key]);
    let table = at.required(raw.table, &path("table"), "table = \"…\"");
    let column = at.required(raw.column, &path("column"), "column = \"expires_at\"");
    let older_than = at.required(raw.older_than, &path("older_than"), "older_than = \"30d\"");
    if let Some(table) = &table {
        table_name(at, table, &path("table"), scheme);
    }
    for (number, table) in raw.takes_along.iter().enumerate() {
        table_name(at, table, &keys(&["prune", name, "takes_along", &number.to_string()]), scheme);
    }
    let policy = table.as_ref().and_then(|table| tables.get(table));
    let protected = |column: &str| policy.is_some_and(|table| table.columns.contains_key(column));
    if column.as_deref().is_some_and(protected) {
        at.report(&path("column"), "the column is protected: what is stored in it says nothing of time");
    }
    for (column, values) in &raw.only {
        let path = keys(&["prune", name, "only", column]);
        if protected(column) {
            at.report(&path, "the column is protected: what is stored in it compares with nothing");
        } else if values.is_empty() {
            at.report(&path, "no value is named, so no row would be meant");
        }
    }
    Some(PrunePolicy {
        table: table?,
        column: column?,
        older_than: duration(&older_than?),
        unit: raw.unit,
        only: raw.only,
        takes_along: raw.takes_along.into_iter().collect(),
        every: raw.every.as_ref().map(duration),
    })
}
