//! Which rows are looked at: all of them, or some that are spread over the table.

use enfold::Result;
use rusqlite::Connection;

use super::error::Doing;
use super::names::quote;
use super::shape::Shape;

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

/// The row ids of at most `sample` rows, spread over the table.
pub(super) fn spread(connection: &Connection, shape: &Shape, rowid: &str, sample: u64) -> Result<Vec<i64>> {
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
