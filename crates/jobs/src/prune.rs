//! Rows that a rule of the policy deletes, and what goes along by foreign keys. The same for both databases: each says which
//! foreign keys it has, and counts.

use enfold::policy::{PrunePolicy, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::model::{Prune, TableName, Target};

/// What a pruning would come to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Prunable {
    /// Primary key columns; empty where there is none.
    pub key: Vec<String>,
    /// Of the table.
    pub rows: u64,
    /// Of those, the ones that the rule deletes.
    pub doomed: u64,
    /// What foreign keys do to rows of other tables.
    pub along: Vec<Along>,
    /// Users' triggers that fire when a row is deleted.
    pub triggers: Vec<String>,
}

/// What a foreign key does when rows go that it refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Along {
    /// The table that refers to them, as a policy spells it.
    pub table: String,
    pub on_delete: OnDelete,
    /// Its rows that refer to rows that go; `None` where this role may not read them.
    pub rows: Option<u64>,
    /// No index finds them, so the table is read as a whole for each row that goes.
    pub unindexed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDelete {
    /// They go too.
    Cascade,
    /// They refer to nothing any more.
    SetNull,
    /// They refer to whatever the default is.
    SetDefault,
    /// They keep the row from going.
    Refuse,
}

/// A foreign key of the database, as far as a deletion asks.
pub(crate) struct ForeignKey {
    pub(crate) child: TableName,
    pub(crate) parent: TableName,
    /// Columns of the child, and of the parent in the same order.
    pub(crate) columns: Vec<(String, String)>,
    pub(crate) on_delete: OnDelete,
    pub(crate) readable: bool,
    pub(crate) indexed: bool,
}

/// How a database spells names.
pub(crate) struct Spelling {
    pub(crate) table: fn(&TableName) -> String,
    pub(crate) column: fn(&str) -> String,
}

impl TableName {
    /// As a policy spells it.
    pub(crate) fn in_policy(&self) -> String {
        if self.schema.is_empty() { self.table.clone() } else { format!("{}.{}", self.schema, self.table) }
    }

    /// From a policy's spelling.
    pub(crate) fn of_policy(name: &str) -> Self {
        match name.split_once('.') {
            Some((schema, table)) => Self { schema: schema.to_owned(), table: table.to_owned() },
            None => Self { schema: String::new(), table: name.to_owned() },
        }
    }
}

impl Prune {
    /// What the rule `name` means at a moment, in milliseconds since 1970.
    pub(crate) fn of(name: &str, rule: &PrunePolicy, now_ms: i64) -> Self {
        let age = u64::try_from(rule.older_than.as_millis()).unwrap_or(u64::MAX);
        Self {
            rule: name.to_owned(),
            column: rule.column.clone(),
            unit: rule.unit,
            older_than_ms: age,
            before_ms: now_ms.saturating_sub_unsigned(age),
            only: rule.only.clone(),
            takes_along: rule.takes_along.clone(),
        }
    }

    /// The same rule, at whatever moment.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        Self { before_ms: other.before_ms, ..self.clone() } == *other
    }

    /// The moment as the column counts it, where that is a number.
    pub(crate) fn before(&self, unit: TimeUnit) -> i64 {
        match unit {
            TimeUnit::Seconds => self.before_ms.div_euclid(1_000),
            TimeUnit::Milliseconds => self.before_ms,
        }
    }
}

/// What foreign keys do when rows of the target go, each with the statement that counts its rows where that may be asked.
/// `doomed`: which rows go, as a condition on `t`. Rows that go along take others along in their turn.
pub(crate) fn along(
    target: &Target,
    keys: &[ForeignKey],
    doomed: &str,
    spelling: &Spelling,
) -> Vec<(Along, Option<String>)> {
    let mut found = Vec::new();
    let mut going = vec![Going {
        table: target.table.clone(),
        alias: "t".to_owned(),
        condition: doomed.to_owned(),
        readable: true,
    }];
    let mut at = 0;
    while at < going.len() {
        let parent = going[at].table.clone();
        for key in keys.iter().filter(|key| key.parent == parent) {
            let next = going[at].referring(key, &format!("c{at}"), spelling);
            let of = (spelling.table)(&next.table);
            let count = format!("SELECT count(*) FROM {of} {} WHERE {}", next.alias, next.condition);
            let along =
                Along { table: next.table.in_policy(), on_delete: key.on_delete, rows: None, unindexed: !key.indexed };
            found.push((along, next.readable.then_some(count)));
            if key.on_delete == OnDelete::Cascade && going.iter().all(|known| known.table != next.table) {
                going.push(next);
            }
        }
        at += 1;
    }
    found
}

/// A table of which rows go: which ones, as a condition on the alias.
struct Going {
    table: TableName,
    alias: String,
    condition: String,
    readable: bool,
}

impl Going {
    /// The rows that refer to these by `key`.
    fn referring(&self, key: &ForeignKey, alias: &str, spelling: &Spelling) -> Self {
        let Self { alias: of, condition, .. } = self;
        let same = |(child, parent): &(String, String)| {
            format!("{alias}.{} = {of}.{}", (spelling.column)(child), (spelling.column)(parent))
        };
        let pairs = key.columns.iter().map(same).collect::<Vec<_>>().join(" AND ");
        let table = (spelling.table)(&self.table);
        Self {
            table: key.child.clone(),
            alias: alias.to_owned(),
            condition: format!("EXISTS (SELECT 1 FROM {table} {of} WHERE ({condition}) AND {pairs})"),
            readable: self.readable && key.readable,
        }
    }
}
