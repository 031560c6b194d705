//! What stands around the table: triggers, views, foreign keys, generated columns, full-text tables.

use enfold::Result;

use super::super::error::Doing;
use super::super::names::same;
use super::super::schema::PREFIX;
use super::super::tokens::{expression_mentions, expressions, mentions, update_trigger_columns};
use super::Findings;
use crate::words::Word;

struct Object {
    kind: String,
    name: String,
    table: String,
    sql: String,
}

impl Findings<'_> {
    /// Returns the names of the row triggers that fire when a row is converted.
    pub(super) fn surroundings(&mut self) -> Result<Vec<String>> {
        let objects = self.objects()?;
        let row_triggers = self.triggers(&objects);
        self.views(&objects);
        self.full_text(&objects);
        self.generated();
        self.foreign_keys()?;
        self.positional_inserts();
        Ok(row_triggers)
    }

    fn objects(&self) -> Result<Vec<Object>> {
        self.connection
            .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND substr(name, 1, 7) <> ?1 ORDER BY name")
            .and_then(|mut s| {
                s.query_map([PREFIX], |row| {
                    Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
                })?
                .collect()
            })
            .doing(|| "read the schema".to_owned())
    }

    fn triggers(&mut self, objects: &[Object]) -> Vec<String> {
        let mut fire = Vec::new();
        let policy = self.policy;
        for trigger in objects.iter().filter(|o| o.kind == "trigger") {
            if same(&trigger.table, &self.shape.name) {
                let Some(of) = update_trigger_columns(&trigger.sql) else { continue };
                if of.is_empty() || of.iter().any(|c| self.converted(c)) {
                    let says = format!("trigger `{}` fires on every converted row", trigger.name);
                    let settled = policy.triggers.contains_key(&trigger.name);
                    let finding = Word::RowTrigger.finding(says);
                    if settled {
                        self.warnings.push(finding);
                    } else {
                        self.refusals.push(finding);
                    }
                    fire.push(trigger.name.clone());
                }
            } else if mentions(&trigger.sql, &self.shape.name) {
                for column in policy.columns.keys().filter(|c| mentions(&trigger.sql, c)) {
                    let says = format!("trigger `{}` of `{}` mentions `{column}`", trigger.name, trigger.table);
                    self.warnings.push(Word::FunctionReads.about(column, says));
                }
            }
        }
        fire
    }

    /// A column that a conversion sets: a policy column, or one that holds a blind index.
    fn converted(&self, column: &str) -> bool {
        let of_columns = self.policy.columns.values().flat_map(|c| c.indexes.values());
        self.protects(column) || self.policy.indexes.values().chain(of_columns).any(|i| same(&i.column, column))
    }

    fn views(&mut self, objects: &[Object]) {
        let policy = self.policy;
        for view in objects.iter().filter(|o| o.kind == "view" && mentions(&o.sql, &self.shape.name)) {
            // A view over every column mentions none of them.
            for column in policy.columns.keys().filter(|c| mentions(&view.sql, c) || view.sql.contains('*')) {
                let says = format!("view `{}` reads `{column}`", view.name);
                self.warnings.push(Word::View.about(column, says));
            }
        }
    }

    /// Full-text tables keep the words of the columns they index in tables of their own.
    fn full_text(&mut self, objects: &[Object]) {
        let policy = self.policy;
        let is_full_text = |o: &&Object| {
            o.kind == "table" && mentions(&o.sql, "VIRTUAL") && o.sql.to_ascii_lowercase().contains("using fts")
        };
        for table in objects.iter().filter(is_full_text) {
            let ours = mentions(&table.sql, &self.shape.name)
                || objects
                    .iter()
                    .any(|o| o.kind == "trigger" && same(&o.table, &self.shape.name) && mentions(&o.sql, &table.name));
            if !ours {
                continue;
            }
            for column in policy.columns.keys().filter(|c| mentions(&table.sql, c)) {
                let says = format!("full-text table `{}` indexes the words of `{column}`", table.name);
                let way_out =
                    format!("after the conversion, DROP TABLE \"{}\" and the triggers that fill it", table.name);
                self.warnings.push(Word::FullText.about(column, says).out(way_out));
            }
        }
    }

    fn generated(&mut self) {
        let policy = self.policy;
        let computed = expressions(&self.shape.sql, "AS");
        for column in policy.columns.keys().filter(|c| computed.iter().any(|e| expression_mentions(e, c))) {
            let says = format!("a generated column of `{}` is computed from `{column}`", self.shape.name);
            self.warnings.push(Word::GeneratedRecomputed.about(column, says));
        }
    }

    fn foreign_keys(&mut self) -> Result<()> {
        let what = || format!("list the foreign keys around `{}`", self.shape.name);
        let keys: Vec<(String, String, String, Option<String>, String)> = self
            .connection
            .prepare(
                "SELECT t.name, f.\"from\", f.\"table\", f.\"to\", f.on_update
                   FROM pragma_table_list t, pragma_foreign_key_list(t.name) f
                  WHERE t.schema = 'main' AND t.type = 'table'",
            )
            .and_then(|mut s| {
                s.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?.collect()
            })
            .doing(what)?;
        let bound: Vec<String> = self.policy.tenant.iter().chain(&self.policy.row_key).cloned().collect();
        for (child, from, parent, to, on_update) in keys {
            if same(&child, &self.shape.name) && self.protects(&from) {
                let says = format!("`{from}` refers to `{parent}`");
                self.refusals.push(Word::ForeignKey.about(&from, says));
            }
            if same(&child, &self.shape.name) && on_update == "CASCADE" && bound.iter().any(|b| same(b, &from)) {
                let says = format!("a change in `{parent}` cascades to `{from}`");
                self.warnings.push(Word::BoundCascade.about(&from, says));
            }
            if same(&parent, &self.shape.name) {
                let referenced = to.map_or_else(|| self.shape.key(), |to| vec![to]);
                let protected: Vec<_> = referenced.into_iter().filter(|c| self.protects(c)).collect();
                for column in &protected {
                    let says = format!("`{child}.{from}` refers to `{column}`");
                    self.refusals.push(Word::ReferencedKey.about(column, says));
                }
            }
        }
        Ok(())
    }

    fn positional_inserts(&mut self) {
        let of_columns = self.policy.columns.values().flat_map(|c| c.indexes.values());
        let added: Vec<&str> = self
            .policy
            .indexes
            .values()
            .chain(of_columns)
            .map(|i| i.column.as_str())
            .filter(|c| self.shape.column(c).is_none())
            .collect();
        if !added.is_empty() {
            let says = format!("`{}` gets the columns {}", self.shape.name, added.join(", "));
            self.warnings.push(Word::ColumnsAdded.finding(says));
        }
    }
}
