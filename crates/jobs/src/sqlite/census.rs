//! Counting what columns hold, by stored form, in SQL.

use enfold::Result;
use rusqlite::Connection;

use super::error::Doing;
use super::forms;

use super::names::{printed, quote, same};
use super::shape::Shape;
use crate::model::{Census, Goal, Storage, Target};

/// Rows named for each column that holds plaintext.
const EXAMPLES: usize = 5;

/// Counts each column of the target; `sample` rows spread over the table, or all of them.
pub(super) fn census(connection: &Connection, target: &Target, sample: Option<u64>) -> Result<Vec<Census>> {
    let shape = Shape::read(connection, &target.table.table)?;
    let rows = rows(connection, &shape, sample)?;
    // A key that is itself converted would print values.
    let printable = !target.key.iter().any(|k| target.columns.iter().any(|c| same(&c.name, k)));
    let key = if printable { target.key.as_slice() } else { &[] };
    target.columns.iter().map(|column| count(connection, &shape, &rows, key, &column.name, column.storage)).collect()
}

/// Which rows are looked at: a condition over the table, and the row ids it refers to as `?1`.
pub(super) struct Rows {
    condition: &'static str,
    rowid: String,
    ids: String,
}

/// At most `sample` rows, the first at or after each of as many places spread over the range of row ids.
pub(super) fn rows(connection: &Connection, shape: &Shape, sample: Option<u64>) -> Result<Rows> {
    let all = Rows { condition: "?1 = ?1", rowid: String::new(), ids: "[]".to_owned() };
    let Some(sample) = sample else { return Ok(all) };
    let Ok(rowid) = shape.rowid() else { return Ok(all) };
    let ids = spread(connection, shape, &rowid, sample)?;
    let ids = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    Ok(Rows { condition: " IN (SELECT value FROM json_each(?1))", rowid, ids: format!("[{ids}]") })
}

impl Rows {
    pub(super) fn from(&self, table: &str) -> String {
        format!("{} WHERE {}{}", quote(table), self.rowid, self.condition)
    }

    pub(super) fn ids(&self) -> &str {
        &self.ids
    }
}

fn spread(connection: &Connection, shape: &Shape, rowid: &str, sample: u64) -> Result<Vec<i64>> {
    let what = || format!("sample `{}`", shape.name);
    let table = quote(&shape.name);
    let (first, last): (Option<i64>, Option<i64>) = connection
        .query_row(
            &format!("SELECT (SELECT min({rowid}) FROM {table}), (SELECT max({rowid}) FROM {table})"),
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .doing(what)?;
    let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
    let mut at = connection.prepare(&format!("SELECT min({rowid}) FROM {table} WHERE {rowid} >= ?1")).doing(what)?;
    let mut ids = Vec::new();
    let width = i128::from(last) - i128::from(first) + 1;
    let steps = i128::from(sample).min(width).max(1);
    let mut next = i128::from(first);
    for step in 0..steps {
        // Where rows are dense the places are exact; in a gap, the next row stands for all the places in it.
        let place = next.max(i128::from(first) + width * step / steps);
        let Ok(place) = i64::try_from(place) else { break };
        let Some(id) = at.query_row([place], |row| row.get::<_, Option<i64>>(0)).doing(what)? else { break };
        ids.push(id);
        next = i128::from(id) + 1;
    }
    Ok(ids)
}

fn count(
    connection: &Connection,
    shape: &Shape,
    rows: &Rows,
    key: &[String],
    column: &str,
    storage: Storage,
) -> Result<Census> {
    let what = || format!("count what `{}.{column}` holds", shape.name);
    let name = quote(column);
    let (is, like) = (forms::envelope(&name, storage), forms::begins_like_one(&name, storage));
    let from = rows.from(&shape.name);
    let mut census = connection
        .query_row(
            &format!("SELECT count(*), coalesce(sum({name} IS NULL), 0), coalesce(sum({is}), 0), coalesce(sum({like} AND NOT {is}), 0) FROM {from}"),
            [rows.ids()],
            |row| {
                let (total, nulls, envelopes, lookalikes) =
                    (number(row, 0)?, number(row, 1)?, number(row, 2)?, number(row, 3)?);
                let plaintext = total - nulls - envelopes - lookalikes;
                Ok(Census { rows: total, nulls, plaintext, envelopes, lookalikes, ..Census::default() })
            },
        )
        .doing(what)?;
    if census.plaintext > 0 {
        census.examples = examples(connection, shape, rows, key, &format!("{name} IS NOT NULL AND NOT {like}"))?;
    }
    let prefix = forms::key_prefix(&name, storage);
    let mut statement = connection
        .prepare(&format!("SELECT CAST({prefix} AS BLOB), count(*) FROM {from} AND {is} GROUP BY 1"))
        .doing(what)?;
    let mut found = statement.query([rows.ids()]).doing(what)?;
    while let Some(row) = found.next().doing(what)? {
        let prefix: Vec<u8> = row.get(0).doing(what)?;
        if let Some(id) = forms::key_id(&prefix, storage) {
            // Kinds under one key id are counted together.
            *census.by_key.entry(id).or_default() += number(row, 1).doing(what)?;
        }
    }
    Ok(census)
}

/// The first few rows that meet `condition`, as a person would name them.
fn examples(
    connection: &Connection,
    shape: &Shape,
    rows: &Rows,
    key: &[String],
    condition: &str,
) -> Result<Vec<String>> {
    let what = || format!("name rows of `{}`", shape.name);
    let names: Vec<String> = if key.is_empty() { vec!["rowid".to_owned()] } else { key.to_vec() };
    let columns = match shape.rowid() {
        Ok(rowid) if key.is_empty() => rowid,
        Err(_) if key.is_empty() => return Ok(Vec::new()),
        _ => key.iter().map(|k| quote(k)).collect::<Vec<_>>().join(", "),
    };
    let sql = format!("SELECT {columns} FROM {} AND {condition} LIMIT {EXAMPLES}", rows.from(&shape.name));
    connection
        .prepare(&sql)
        .and_then(|mut s| {
            s.query_map([rows.ids()], |row| {
                let parts =
                    names.iter().enumerate().map(|(i, name)| Ok(format!("{name}={}", printed(row.get_ref(i)?))));
                Ok(parts.collect::<rusqlite::Result<Vec<_>>>()?.join(","))
            })?
            .collect()
        })
        .doing(what)
}

fn number(row: &rusqlite::Row<'_>, i: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(i).map(|n| u64::try_from(n).unwrap_or(0))
}

/// How many rows do not yet satisfy `goal` by their stored form.
pub(super) fn remaining(connection: &Connection, goal: Goal, target: &Target) -> Result<u64> {
    let shape = Shape::read(connection, &target.table.table)?;
    let envelope = |i: usize| forms::envelope(&quote(&target.columns[i].name), target.columns[i].storage);
    let plain = |i: usize| format!("({} IS NOT NULL AND NOT {})", quote(&target.columns[i].name), envelope(i));
    let columns = 0..target.columns.len();
    let unindexed = target.indexes.iter().map(|index| {
        let any: Vec<_> =
            index.over.iter().map(|i| format!("{} IS NOT NULL", quote(&target.columns[*i].name))).collect();
        format!("({} IS NULL AND ({}))", quote(&index.column), any.join(" OR "))
    });
    let conditions: Vec<String> = match goal {
        Goal::Protect => columns.map(plain).chain(unindexed).collect(),
        Goal::Verify => columns.map(plain).collect(),
        Goal::Unprotect => columns.map(envelope).collect(),
        Goal::Index => unindexed.collect(),
    };
    if conditions.is_empty() {
        return Ok(0);
    }
    let sql = format!("SELECT count(*) FROM {} WHERE {}", quote(&shape.name), conditions.join(" OR "));
    connection
        .query_row(&sql, [], |row| number(row, 0))
        .doing(|| format!("count the rows of `{}` that are left", shape.name))
}
