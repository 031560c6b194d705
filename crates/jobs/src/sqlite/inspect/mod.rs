//! What a plan must know of one table: columns, counts, and everything around the table that a conversion would break
//! or that would keep plaintext. Reads only.

mod columns;
mod indexes;
mod surroundings;
mod trial;

use aws_lc_rs::digest::{SHA256, digest};
use enfold::Result;
use enfold::policy::TablePolicy;
use rusqlite::Connection;

use super::error::Doing;
use super::names::{quote, same};
use super::schema::PREFIX;
use super::shape::{Kind, NO_ROWID_WAY_OUT, Shape};
use super::tokens::expressions;
use crate::database::{Counts, Finding, Growth, TableFacts};
use crate::hex::hex;
use crate::model::{Storage, TableName};
use crate::words::Word;

/// What was found so far about one table.
struct Findings<'a> {
    connection: &'a Connection,
    shape: &'a Shape,
    policy: &'a TablePolicy,
    counts: Counts,
    refusals: Vec<Finding>,
    warnings: Vec<Finding>,
}

pub(super) fn inspect(connection: &Connection, policy: &TablePolicy, counts: Counts) -> Result<TableFacts> {
    let shape = Shape::read(connection, &policy.name)?;
    let mut findings =
        Findings { connection, shape: &shape, policy, counts, refusals: Vec::new(), warnings: Vec::new() };
    let mut facts = TableFacts {
        table: TableName { schema: String::new(), table: shape.name.clone() },
        fingerprint: fingerprint(connection, &shape, policy)?,
        rows: 0,
        bytes: 0,
        index_count: 0,
        key: shape.key(),
        columns: Vec::new(),
        refusals: Vec::new(),
        warnings: Vec::new(),
        row_triggers: Vec::new(),
        partitions: Vec::new(),
        indexes: Vec::new(),
        connected: Vec::new(),
        growth: Growth::default(),
    };
    if findings.can_be_swept()? {
        facts.columns = findings.columns()?;
        facts.indexes = findings.indexes()?;
        facts.row_triggers = findings.surroundings()?;
        findings.trial(&facts.columns)?;
        findings.one_writer()?;
        if counts == Counts::Taken {
            measure(connection, &shape, &mut facts)?;
        }
    }
    facts.refusals = findings.refusals;
    facts.warnings = findings.warnings;
    Ok(facts)
}

impl Findings<'_> {
    fn protects(&self, column: &str) -> bool {
        self.policy.columns.keys().any(|c| same(c, column))
    }

    /// What rules the whole table out, so that nothing else is worth looking at.
    fn can_be_swept(&mut self) -> Result<bool> {
        let name = &self.shape.name;
        if self.shape.kind != Kind::Table {
            self.refusals.push(Word::NotATable.finding(format!("`{name}` is a view or a virtual table")));
        } else if self.shape.without_rowid {
            let says = format!("`{name}` is a WITHOUT ROWID table");
            self.refusals.push(Word::WithoutRowid.finding(says).out(NO_ROWID_WAY_OUT));
        } else if let Err(error) = self.shape.rowid() {
            self.refusals.push(Word::WithoutRowid.finding(error.message()));
        }
        let encoding: String = self
            .connection
            .query_row("PRAGMA encoding", [], |row| row.get(0))
            .doing(|| "read the database's encoding".to_owned())?;
        if encoding != "UTF-8" {
            self.refusals.push(Word::Encoding.finding(format!("the database is encoded in {encoding}")));
        }
        Ok(self.refusals.is_empty())
    }

    /// SQLite has one write lock: whoever writes meanwhile must be ready to wait for it.
    fn one_writer(&mut self) -> Result<()> {
        let mode: String = self
            .connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .doing(|| "read the journal mode".to_owned())?;
        let readers = if mode == "wal" { "" } else { ", and readers and the job wait for each other" };
        self.warnings.push(Word::OneWriter.finding(format!(
            "journal mode `{mode}`: each batch holds the file's one write lock for about 100 ms{readers}"
        )));
        Ok(())
    }
}

/// Everything a plan relied on, except what its own steps change: blind-index columns, Enfold's triggers and indexes,
/// indexes over the policy's columns (which a step drops).
fn fingerprint(connection: &Connection, shape: &Shape, policy: &TablePolicy) -> Result<String> {
    let mut text = String::new();
    let ours = |name: &str| {
        let of_columns = policy.columns.values().flat_map(|c| c.indexes.values());
        policy.indexes.values().chain(of_columns).any(|i| same(&i.column, name))
    };
    for c in shape.columns.iter().filter(|c| !ours(&c.name)) {
        text.push_str(&format!("{:?}\n", (&c.name, &c.declared, c.not_null, c.key, c.generated, &c.default)));
    }
    for word in ["CHECK", "AS"] {
        text.push_str(&format!("{word} {:?}\n", expressions(&shape.sql, word)));
    }
    text.push_str(&format!("{:?}\n", (shape.kind as u8, shape.without_rowid, shape.strict)));
    let keys: Vec<String> = connection
        .prepare("SELECT json_array(\"from\", \"table\", \"to\", on_update) FROM pragma_foreign_key_list(?1) ORDER BY id, seq")
        .and_then(|mut s| s.query_map([&shape.name], |row| row.get(0))?.collect())
        .doing(|| format!("read the foreign keys of `{}`", shape.name))?;
    text.push_str(&keys.join("\n"));
    let triggers: Vec<String> = connection
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE AND substr(name, 1, 7) <> ?2 ORDER BY name")
        .and_then(|mut s| s.query_map((&shape.name, PREFIX), |row| row.get(0))?.collect())
        .doing(|| format!("read the triggers of `{}`", shape.name))?;
    text.push_str(&triggers.join("\n"));
    let sum = digest(&SHA256, text.as_bytes());
    Ok(hex(&sum.as_ref()[..16]))
}

/// Row, byte and growth figures.
fn measure(connection: &Connection, shape: &Shape, facts: &mut TableFacts) -> Result<()> {
    let what = || format!("measure `{}`", shape.name);
    let rows: i64 = connection
        .query_row(&format!("SELECT count(*) FROM {}", quote(&shape.name)), [], |row| row.get(0))
        .doing(what)?;
    facts.rows = rows.cast_unsigned();
    let count: i64 = connection
        .query_row("SELECT count(*) FROM pragma_index_list(?1)", [&shape.name], |row| row.get(0))
        .doing(what)?;
    facts.index_count = u32::try_from(count).unwrap_or(u32::MAX);
    let bytes: Option<i64> = connection
        .query_row(
            "SELECT sum(pgsize) FROM dbstat WHERE aggregate = TRUE AND name IN
                    (SELECT name FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('table', 'index'))",
            [&shape.name],
            |row| row.get(0),
        )
        .doing(what)?;
    facts.bytes = bytes.unwrap_or(0).cast_unsigned();
    let (file, mode): (i64, String) = connection
        .query_row(
            "SELECT page_count * page_size, journal_mode FROM pragma_page_count, pragma_page_size, pragma_journal_mode",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .doing(what)?;
    let grown: u64 = facts
        .columns
        .iter()
        .map(|c| {
            let values = c.census.plaintext + c.census.lookalikes;
            // 99 bytes more, and a third for the text form; a tenth for pages that are split.
            let envelope = 99 + u64::from(c.average_bytes);
            let stored = if c.storage == Some(Storage::Bytes) { envelope } else { 5 + envelope.div_ceil(3) * 4 };
            values * stored.saturating_sub(u64::from(c.average_bytes)) * 11 / 10
        })
        .sum();
    let file = file.cast_unsigned() + grown;
    // VACUUM writes the file once more beside it and, with a write-ahead log, once more into the log.
    facts.growth = Growth { disk: grown + file, wal: if mode == "wal" { file } else { 0 } };
    Ok(())
}
