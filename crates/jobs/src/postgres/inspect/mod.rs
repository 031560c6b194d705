//! What a plan must know of one Postgres table: what can be converted, what is refused and why, what an operator should
//! fear. Owns the questions put to the catalogs; what becomes of the answers is for the plan.
//!
//! Everything is read in one read-only transaction with an empty `search_path`, so that every name that Postgres prints
//! is a full one. Nothing here reads a value of a protected column, except its length.

mod accepts;
mod access;
mod activity;
mod companions;
mod constraints;
mod dependents;
mod fingerprint;
mod indexes;
mod members;
mod replication;
mod shadows;
mod sizes;
mod statements;
mod table;
mod triggers;
mod types;
mod uses;

use std::collections::BTreeMap;

use enfold::policy::{Mark, TablePolicy};
use enfold::{Code, Error, Result};

use super::ask::Ask;
use super::held::Within;
use super::{Postgres, Purpose};
use crate::database::{ColumnFacts, Counts, Finding, IndexFacts, TableFacts};
use crate::model::Census;
use crate::words::{Effect, Word};
pub(super) use activity::logging;
pub(super) use table::table_name;
use table::{Column, Relation};
use types::Judged;

impl Postgres {
    /// Facts of one table of the policy. The census of its columns is left empty: counting is another question.
    ///
    /// Fails with `table-missing` when the table or one of its columns is not there.
    pub async fn inspect_table(&self, policy: &TablePolicy, counts: Counts) -> Result<TableFacts> {
        let tx = self.begin(Purpose::Count).await?;
        let ask = Ask::new(&tx, format!("cannot read the definition of `{}`", policy.name));
        // An empty search_path has Postgres print every name in full.
        ask.set("SET LOCAL search_path = ''; SET LOCAL lock_timeout = '5s'").await?;
        let relation = table::load(&ask, policy).await?;
        let mut scene = Scene::new(&ask, policy, relation, counts)?;
        scene.look().await?;
        let facts = scene.facts().await?;
        tx.rollback().await?;
        Ok(facts)
    }
}

/// A column of the policy as it stands in the table.
struct Protected {
    /// As the policy calls it.
    name: String,
    /// The shadow itself, where its source was dropped.
    column: Column,
    judged: Judged,
    sizes: sizes::Sizes,
    shadow: Option<shadows::Shadow>,
    /// Which member of the documents in the column it is, where it is one.
    within: Option<Within>,
    /// What is written beside a member.
    marks: Vec<(Mark, Within)>,
    /// Columns beside it, which are empty once its values are sealed.
    companions: Vec<String>,
}

impl Protected {
    /// The value, of the table under inspection.
    fn value(&self) -> String {
        let column = super::ident(&self.column.name);
        self.within.as_ref().map_or(column.clone(), |place| place.read(&column))
    }
}

/// One table under inspection: what is known of it and what was found so far.
struct Scene<'a> {
    ask: &'a Ask<'a>,
    policy: &'a TablePolicy,
    counts: Counts,
    relation: Relation,
    protected: Vec<Protected>,
    refusals: Vec<Finding>,
    warnings: Vec<Finding>,
    row_triggers: Vec<String>,
    indexes: Vec<IndexFacts>,
}

impl<'a> Scene<'a> {
    fn new(ask: &'a Ask<'a>, policy: &'a TablePolicy, relation: Relation, counts: Counts) -> Result<Self> {
        let mut scene = Self {
            ask,
            policy,
            counts,
            relation,
            protected: Vec::new(),
            refusals: Vec::new(),
            warnings: Vec::new(),
            row_triggers: Vec::new(),
            indexes: Vec::new(),
        };
        let mut missing = Vec::new();
        for (name, column_policy) in &policy.columns {
            let shadow = column_policy.shadow.as_ref();
            if let Some(member) = &column_policy.member {
                match members::protected(&scene.relation, name, member) {
                    Some(protected) => scene.protected.push(protected),
                    None => missing.push(member.column.clone()),
                }
            } else if let Some(protected) = shadow.and_then(|shadow| shadows::protected(&scene.relation, name, shadow))
            {
                scene.protected.push(protected);
            } else if let Some(column) = scene.relation.column(name) {
                let (column, judged) = (column.clone(), types::judge(column));
                let (name, sizes) = (name.clone(), sizes::Sizes::default());
                let companions = column_policy.companions.values().cloned().collect();
                let (shadow, within, marks) = (None, None, Vec::new());
                scene.protected.push(Protected { name, column, judged, sizes, shadow, within, marks, companions });
            } else if let Some(base) = scene.relation.json_path(name) {
                scene
                    .refusals
                    .push(Word::JsonPath.about(name, format!("`{name}` is a path inside the column `{base}`")));
            } else {
                missing.push(name.clone());
            }
        }
        let companions = policy.columns.values().flat_map(|column| column.companions.values());
        let bound = policy.tenant.iter().chain(&policy.row_key).chain(companions);
        missing.extend(bound.filter(|name| scene.relation.column(name).is_none()).cloned());
        if missing.is_empty() { Ok(scene) } else { Err(scene.missing(&missing)) }
    }

    fn missing(&self, names: &[String]) -> Error {
        let table = &self.policy.name;
        let mut error = Error::new(Code::TableMissing, format!("`{table}` has not every column that the policy names"));
        for name in names {
            error = error.cause(format!("no column `{name}` in `{table}`"));
        }
        let there: Vec<_> = self.relation.columns.iter().map(|c| format!("`{}`", c.name)).collect();
        error
            .hint(format!("its columns are {}", there.join(", ")))
            .hint("nothing was changed; correct the policy and plan again")
    }

    async fn look(&mut self) -> Result<()> {
        self.kind_of_table();
        sizes::measure(self).await?;
        types::findings(self).await?;
        companions::findings(self);
        access::findings(self).await?;
        constraints::findings(self).await?;
        indexes::findings(self).await?;
        triggers::findings(self).await?;
        dependents::findings(self).await?;
        replication::findings(self).await?;
        statements::findings(self).await?;
        activity::settings(self).await
    }

    async fn facts(mut self) -> Result<TableFacts> {
        let growth = sizes::growth(&self);
        self.warnings.push(Word::Growth.finding(format!(
            "up to {} more in the table's files, and up to {} of write-ahead log",
            sizes::in_words(growth.disk),
            sizes::in_words(growth.wal)
        )));
        self.warn(
            Word::OldVersions.finding(Word::OldVersions.meaning()).out(format!(
                "VACUUM (FULL, ANALYZE) {} afterwards (locks it), or pg_repack",
                self.relation.sql_name()
            )),
        );
        let connected = activity::connected(&mut self).await?;
        let fingerprint = fingerprint::of(&self).await?;
        let mut columns: Vec<ColumnFacts> = self.protected.iter().map(Protected::facts).collect();
        // Paths are refused, and are facts as well: what the policy names is in the answer.
        let known = |name: &String| self.protected.iter().any(|p| p.name == *name);
        for path in self.policy.columns.keys().filter(|name| !known(name)) {
            columns.push(path_facts(path));
        }
        self.as_the_policy_says();
        let relation = self.relation;
        Ok(TableFacts {
            table: relation.name,
            fingerprint,
            rows: relation.rows,
            bytes: relation.heap_bytes + relation.toast_bytes + relation.index_bytes,
            index_count: relation.index_count,
            key: relation.key,
            columns,
            refusals: self.refusals,
            warnings: self.warnings,
            row_triggers: self.row_triggers,
            partitions: relation.leaves.into_iter().map(|leaf| leaf.table).collect(),
            indexes: self.indexes,
            connected,
            growth,
        })
    }

    /// What a shadow is whose source was dropped, and what holds the member of a document, is spoken of by the policy's
    /// name; where several of the policy's are in one column, it concerns the table.
    fn as_the_policy_says(&mut self) {
        let mut called: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for p in self.protected.iter().filter(|p| p.column.name != p.name) {
            called.entry(p.column.name.clone()).or_default().push(p.name.clone());
        }
        for finding in self.refusals.iter_mut().chain(&mut self.warnings) {
            match finding.column.as_ref().and_then(|column| called.get(column)).map(Vec::as_slice) {
                Some([name]) => finding.column = Some(name.clone()),
                Some(_) => finding.column = None,
                None => {}
            }
        }
        for index in &mut self.indexes {
            index.columns =
                index.columns.iter().flat_map(|c| called.get(c).cloned().unwrap_or(vec![c.clone()])).collect();
        }
    }

    fn kind_of_table(&mut self) {
        let name = self.relation.sql_name();
        if !matches!(self.relation.kind.as_str(), "r" | "p") {
            self.refuse(Word::NotATable.finding(format!("`{name}` is not a table with rows of its own")));
        }
        if self.relation.inherits {
            self.refuse(Word::Inheritance.finding(format!("`{name}` takes part in table inheritance")));
        }
        for leaf in self.relation.leaves.clone() {
            if leaf.foreign {
                self.refuse(
                    Word::ForeignPartition
                        .finding(format!("the partition `{}` is a foreign table", leaf.name))
                        .out(format!("ALTER TABLE {name} DETACH PARTITION {}; then protect it where it is", leaf.name)),
                );
            }
        }
        if self.relation.kind == "p" {
            let count = self.relation.leaves.len();
            self.warn(Word::Partitioned.finding(format!("`{name}` has {count} partitions, each converted on its own")));
        }
        if self.relation.persistence == "u" {
            self.warn(Word::Unlogged.finding(format!("`{name}` is unlogged: a crash empties it")));
        }
        if self.relation.key.is_empty() {
            self.warn(
                Word::NoPrimaryKey
                    .finding(format!("`{name}` has no primary key; rows are named by their place (ctid)")),
            );
        }
    }

    fn refuse(&mut self, finding: Finding) {
        self.refusals.push(finding);
    }

    fn warn(&mut self, finding: Finding) {
        debug_assert!(Word::ALL.iter().any(|w| w.word() == finding.word && w.effect() != Effect::Refuses));
        self.warnings.push(finding);
    }

    /// Names of the policy's columns that are in the table.
    fn names(&self) -> Vec<String> {
        self.protected.iter().map(|p| p.column.name.clone()).collect()
    }

    /// The columns that a conversion writes: the policy's, those beside their values, and their blind indexes.
    fn written(&self) -> Vec<String> {
        let mut names = self.checked();
        names.extend(self.beside());
        names
    }

    /// The columns that hold something else afterwards: the policy's, and those beside their values.
    fn checked(&self) -> Vec<String> {
        let companions = self.protected.iter().flat_map(|p| p.companions.iter().cloned());
        self.names().into_iter().chain(companions).collect()
    }

    /// Columns that hold something for the policy's: shadows and blind indexes.
    fn beside(&self) -> Vec<String> {
        let shadows = self.protected.iter().filter_map(|p| p.shadow.as_ref()).map(|shadow| shadow.column.clone());
        shadows.chain(self.blind_indexes().map(|(_, i)| i.column.clone())).collect()
    }

    fn blind_indexes(&self) -> impl Iterator<Item = (&String, &enfold::policy::IndexPolicy)> {
        self.policy.columns.values().flat_map(|c| &c.indexes).chain(&self.policy.indexes)
    }
}

impl Protected {
    fn facts(&self) -> ColumnFacts {
        ColumnFacts {
            name: self.name.clone(),
            sql_type: self.column.sql_type.clone(),
            storage: self.judged.storage,
            shadow: self.shadow.as_ref().map(shadows::Shadow::facts),
            widen: self.judged.widen,
            average_bytes: self.sizes.average,
            census: Census::default(),
        }
    }
}

fn path_facts(path: &str) -> ColumnFacts {
    ColumnFacts {
        name: path.to_owned(),
        sql_type: "a path inside JSON".to_owned(),
        storage: None,
        widen: false,
        average_bytes: 0,
        census: Census::default(),
        shadow: None,
    }
}

/// `a`, `b` and `c`, at most `most` of them.
fn listed(names: &[String], most: usize) -> String {
    let shown: Vec<_> = names.iter().take(most).map(|n| format!("`{n}`")).collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
