//! Counting what columns hold by stored form, in one pass over the table. The form is the core's to tell: what counts
//! as an envelope here is what the codec would take for one. (As SQL expressions, [`super::forms`], the same took ten
//! times as long: SQLite matches patterns character by character.)

use std::collections::{HashMap, HashSet};

use enfold::Result;
use enfold_core::stored::{Stored, detect};
use enfold_core::{Envelope, KeyId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::error::Doing;
use super::names::{printed, quote, same};
use super::shape::Shape;
use super::store::cell_bytes;
use super::{prune, sampling};
use crate::model::{Census, Goal, Storage, Target};
use crate::recognise::{Recognised, Recogniser};

/// Rows named for each column that holds plaintext.
const EXAMPLES: usize = 5;

/// Counts each column of the target; `sample` rows spread over the table, or all of them.
pub(super) fn census(connection: &Connection, target: &Target, sample: Option<u64>) -> Result<Vec<Census>> {
    let shape = Shape::read(connection, &target.table.table)?;
    let what = || format!("count what `{}` holds", shape.name);
    let label = Label::new(&shape, target)?;
    for column in &target.columns {
        shape.require(&column.name)?;
    }
    let list: String = target.columns.iter().map(|c| format!("{}, ", quote(&c.name))).collect();
    let rows = sampling::rows(connection, &shape, sample)?;
    let sql = format!("SELECT {list}{} FROM {}", label.list, rows.from(&shape.name));
    let mut statement = connection.prepare(&sql).doing(what)?;
    let mut found = statement.query([rows.ids()]).doing(what)?;
    let mut counts = vec![Census::default(); target.columns.len()];
    let mut keys: Vec<HashMap<KeyId, u64>> = vec![HashMap::new(); target.columns.len()];
    while let Some(row) = found.next().doing(what)? {
        for (i, (column, census)) in target.columns.iter().zip(&mut counts).enumerate() {
            census.rows += 1;
            match form(row.get_ref(i).doing(what)?, column.storage) {
                Form::Null => census.nulls += 1,
                Form::Lookalike => census.lookalikes += 1,
                Form::Envelope { key } => {
                    census.envelopes += 1;
                    *keys[i].entry(key).or_default() += 1;
                }
                Form::Plain => {
                    census.plaintext += 1;
                    if census.examples.len() < EXAMPLES {
                        census.examples.push(label.of(row, target.columns.len()).doing(what)?);
                    }
                }
            }
        }
    }
    for (census, keys) in counts.iter_mut().zip(keys) {
        census.by_key = keys.into_iter().map(|(key, n)| (key.to_string(), n)).collect();
    }
    Ok(counts)
}

/// What readers make of the values of a column that are no envelopes.
pub(super) fn recognise(
    connection: &Connection,
    target: &Target,
    at: usize,
    by: &Recogniser,
    sample: Option<u64>,
) -> Result<Recognised> {
    let shape = Shape::read(connection, &target.table.table)?;
    let what = || format!("look at the values of `{}`", shape.name);
    let column = &target.columns[at];
    shape.require(&column.name)?;
    let rows = sampling::rows(connection, &shape, sample)?;
    column.companions.values().try_for_each(|name| shape.require(name).map(|_| ()))?;
    let names = std::iter::once(&column.name).chain(column.companions.values()).map(|name| quote(name));
    let sql = format!("SELECT {} FROM {}", names.collect::<Vec<_>>().join(", "), rows.from(&shape.name));
    let mut statement = connection.prepare(&sql).doing(what)?;
    let mut values = statement.query([rows.ids()]).doing(what)?;
    let mut found = Recognised::default();
    while let Some(row) = values.next().doing(what)? {
        let value = row.get_ref(0).doing(what)?;
        match (form(value, column.storage), value) {
            (Form::Null | Form::Envelope { .. }, _) => {}
            (_, ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => {
                let beside = (1..=column.companions.len()).map(|at| row.get_ref(at).map(cell_bytes));
                let beside = beside.collect::<rusqlite::Result<Vec<_>>>().doing(what)?;
                by.count(bytes, &beside.iter().map(Option::as_deref).collect::<Vec<_>>(), &mut found);
            }
            _ => found.plaintext += 1,
        }
    }
    Ok(found)
}

/// How many rows do not yet satisfy `goal` by their stored form.
pub(super) fn remaining(connection: &Connection, goal: Goal, target: &Target) -> Result<u64> {
    if let Some(rule) = &target.prune {
        return prune::remaining(connection, rule, target);
    }
    let shape = Shape::read(connection, &target.table.table)?;
    let what = || format!("count the rows of `{}` that are left", shape.name);
    let indexes = if matches!(goal, Goal::Protect | Goal::Index) { target.indexes.as_slice() } else { &[] };
    // An envelope has nothing beside it.
    let accompanied = if goal == Goal::Protect { target.columns.as_slice() } else { &[] };
    let companions: Vec<(usize, &String)> =
        accompanied.iter().enumerate().flat_map(|(at, c)| c.companions.values().map(move |name| (at, name))).collect();
    let names = target.columns.iter().map(|c| &c.name).chain(indexes.iter().map(|i| &i.column));
    let names = names.chain(companions.iter().map(|(_, name)| *name));
    let mut list = Vec::new();
    for name in names {
        shape.require(name)?;
        list.push(quote(name));
    }
    let columns = target.columns.len();
    let mut statement =
        connection.prepare(&format!("SELECT {} FROM {}", list.join(", "), quote(&shape.name))).doing(what)?;
    let mut found = statement.query([]).doing(what)?;
    let mut left = 0;
    while let Some(row) = found.next().doing(what)? {
        let null = |i: usize| row.get_ref(i).map(|value| matches!(value, ValueRef::Null));
        let unindexed = indexes.iter().enumerate().try_fold(false, |any, (i, index)| {
            let values = index.over.iter().try_fold(false, |some, c| Ok::<_, rusqlite::Error>(some || !null(*c)?))?;
            Ok::<_, rusqlite::Error>(any || (values && null(columns + i)?))
        });
        let mut beside = companions.iter().enumerate();
        let first = columns + indexes.len();
        let left_behind = beside
            .try_fold(false, |any, (i, (at, _))| Ok::<_, rusqlite::Error>(any || (!null(*at)? && !null(first + i)?)));
        let open = unindexed.doing(what)?
            || left_behind.doing(what)?
            || goal != Goal::Index && any_left(row, goal, target).doing(what)?;
        left += u64::from(open);
    }
    Ok(left)
}

/// How many rows have an envelope under one of these keys.
pub(super) fn under(connection: &Connection, target: &Target, keys: &HashSet<KeyId>) -> Result<u64> {
    let shape = Shape::read(connection, &target.table.table)?;
    let what = || format!("count what is under former data keys in `{}`", shape.name);
    target.columns.iter().try_for_each(|column| shape.require(&column.name).map(|_| ()))?;
    let list = target.columns.iter().map(|c| quote(&c.name)).collect::<Vec<_>>().join(", ");
    let mut statement = connection.prepare(&format!("SELECT {list} FROM {}", quote(&shape.name))).doing(what)?;
    let mut found = statement.query([]).doing(what)?;
    let mut rows = 0;
    while let Some(row) = found.next().doing(what)? {
        let under = target.columns.iter().enumerate().try_fold(false, |any, (i, column)| {
            let held = form(row.get_ref(i)?, column.storage);
            Ok::<_, rusqlite::Error>(any || matches!(held, Form::Envelope { key } if keys.contains(&key)))
        });
        rows += u64::from(under.doing(what)?);
    }
    Ok(rows)
}

/// Whether a value of the row is not in the form that the goal wants.
fn any_left(row: &Row<'_>, goal: Goal, target: &Target) -> rusqlite::Result<bool> {
    for (i, column) in target.columns.iter().enumerate() {
        let found = form(row.get_ref(i)?, column.storage);
        let left = match goal {
            Goal::Unprotect => matches!(found, Form::Envelope { .. }),
            // Which keys are former ones no stored form says.
            Goal::Reencrypt => false,
            _ => matches!(found, Form::Plain | Form::Lookalike),
        };
        if left {
            return Ok(true);
        }
    }
    Ok(false)
}

enum Form {
    Null,
    Plain,
    Envelope { key: KeyId },
    Lookalike,
}

/// What a cell holds. A value of another storage class than the column's is plaintext, whatever its bytes are.
fn form(value: ValueRef<'_>, storage: Storage) -> Form {
    let bytes = match (value, storage) {
        (ValueRef::Null, _) => return Form::Null,
        (ValueRef::Text(bytes), Storage::Text | Storage::Json) | (ValueRef::Blob(bytes), Storage::Bytes) => bytes,
        _ => return Form::Plain,
    };
    match detect(storage.form(), bytes) {
        Stored::Plain => Form::Plain,
        Stored::Lookalike(_) => Form::Lookalike,
        Stored::Envelope(bytes) => match Envelope::parse(&bytes) {
            Ok(envelope) => Form::Envelope { key: envelope.key_id() },
            Err(_) => Form::Lookalike,
        },
    }
}

/// How a row is named to people.
struct Label {
    names: Vec<String>,
    /// The columns that say it, as SQL.
    list: String,
}

impl Label {
    fn new(shape: &Shape, target: &Target) -> Result<Self> {
        // A key that is itself converted would print values.
        let printable = !target.key.iter().any(|k| target.columns.iter().any(|c| same(&c.name, k)));
        if target.key.is_empty() || !printable {
            return Ok(Self { names: vec!["rowid".to_owned()], list: shape.rowid()? });
        }
        for name in &target.key {
            shape.require(name)?;
        }
        let list = target.key.iter().map(|k| quote(k)).collect::<Vec<_>>().join(", ");
        Ok(Self { names: target.key.clone(), list })
    }

    /// The row's name; its columns begin at `at`.
    fn of(&self, row: &Row<'_>, at: usize) -> rusqlite::Result<String> {
        let parts = self.names.iter().enumerate().map(|(i, name)| {
            let value = row.get_ref(at + i)?;
            Ok(format!("{name}={}", printed(value)))
        });
        Ok(parts.collect::<rusqlite::Result<Vec<_>>>()?.join(","))
    }
}
