//! Indexes over the policy's columns: which they are, and what uniqueness they keep.

use enfold::Result;

use super::super::error::Doing;
use super::super::names::same;
use super::super::schema::PREFIX;
use super::super::tokens::mentions;
use super::Findings;
use crate::database::{IndexFacts, IndexKind};
use crate::words::Word;

struct Index {
    name: String,
    unique: bool,
    /// `c` for CREATE INDEX, `u` for a UNIQUE constraint, `pk` for the primary key.
    origin: String,
    sql: Option<String>,
    /// Plain columns; `None` for an expression.
    columns: Vec<Option<String>>,
    bytes: i64,
}

impl Findings<'_> {
    pub(super) fn indexes(&mut self) -> Result<Vec<IndexFacts>> {
        let mut facts = Vec::new();
        for index in self.all_indexes()? {
            let columns: Vec<String> = self.policy.columns.keys().filter(|c| index.is_over(c)).cloned().collect();
            if columns.is_empty() || index.name.starts_with(PREFIX) {
                continue;
            }
            if index.unique {
                self.uniqueness(&index, &columns);
            }
            if index.origin == "c" {
                for column in &columns {
                    let says = format!("index `{}` is over `{column}`", index.name);
                    self.warnings.push(Word::IndexUseless.about(column, says));
                }
                facts.push(IndexFacts {
                    kind: IndexKind::Plain,
                    drop: format!("DROP INDEX \"{}\"", index.name.replace('"', "\"\"")),
                    name: index.name,
                    columns,
                    unique: index.unique,
                    drop_first: false,
                    scans: None,
                    bytes: index.bytes.cast_unsigned(),
                });
            }
        }
        Ok(facts)
    }

    /// Equal values become different envelopes: whoever kept them apart must be replaced by a unique blind index over
    /// the same columns, the tenant aside.
    fn uniqueness(&mut self, index: &Index, columns: &[String]) {
        if index.origin == "pk" {
            return;
        }
        for column in columns {
            let replaced = {
                let own = self.policy.columns.get(column).into_iter().flat_map(|c| c.indexes.values());
                own.chain(self.policy.indexes.values()).any(|i| i.unique && i.over.iter().any(|c| same(c, column)))
            };
            if !replaced {
                let kind = if index.origin == "u" { "a UNIQUE constraint" } else { "a unique index" };
                let says = format!("{kind} (`{}`) keeps the values of `{column}` apart", index.name);
                self.refusals.push(Word::UniqueWithoutBlindIndex.about(column, says));
            }
        }
    }

    fn all_indexes(&self) -> Result<Vec<Index>> {
        let what = || format!("list the indexes of `{}`", self.shape.name);
        self.connection
            .prepare(
                "SELECT l.name, l.\"unique\", l.origin, s.sql,
                        (SELECT json_group_array(iif(i.cid >= 0, i.name, NULL)) FROM pragma_index_info(l.name) i),
                        (SELECT coalesce(sum(pgsize), 0) FROM dbstat d WHERE d.name = l.name AND d.aggregate = TRUE)
                   FROM pragma_index_list(?1) l JOIN sqlite_schema s ON s.type = 'index' AND s.name = l.name
                  ORDER BY l.seq",
            )
            .and_then(|mut s| {
                s.query_map([&self.shape.name], |row| {
                    let columns: String = row.get(4)?;
                    Ok(Index {
                        name: row.get(0)?,
                        unique: row.get(1)?,
                        origin: row.get(2)?,
                        sql: row.get(3)?,
                        columns: serde_json::from_str(&columns).unwrap_or_default(),
                        bytes: row.get(5)?,
                    })
                })?
                .collect()
            })
            .doing(what)
    }
}

impl Index {
    /// Whether the index holds the column, computes from it or filters by it.
    fn is_over(&self, column: &str) -> bool {
        self.columns.iter().flatten().any(|c| same(c, column))
            || self.sql.as_deref().is_some_and(|sql| mentions(sql, column))
    }
}
