//! From the policy's table and the database's facts to what a sweep works on.

use std::collections::BTreeSet;

use enfold::policy::{ColumnPolicy, IndexPolicy, Policy, TablePolicy};
use enfold::{Code, Error, Leaving, Result};

use super::session::Session;
use crate::database::{Counts, TableFacts};
use crate::model::{Target, TargetColumn, TargetIndex};

/// Which columns of a policy an operation is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    #[default]
    All,
    /// Policy tables, by name.
    Tables(BTreeSet<String>),
    /// `table.column`, as the policy names both.
    Columns(BTreeSet<String>),
}

impl Selection {
    /// Checks every name against the policy: a misspelt one is an error, never an empty selection.
    pub fn tables(policy: &Policy, names: &[String]) -> Result<Self> {
        for name in names {
            if !policy.tables.contains_key(name) {
                return Err(unknown(policy, name, "table"));
            }
        }
        Ok(if names.is_empty() { Self::All } else { Self::Tables(names.iter().cloned().collect()) })
    }

    /// As [`Selection::tables`], for `table.column` names.
    pub fn columns(policy: &Policy, names: &[String]) -> Result<Self> {
        for name in names {
            let known = name.rsplit_once('.').is_some_and(|(table, column)| {
                policy.tables.get(table).is_some_and(|t| t.columns.contains_key(column))
            });
            if !known {
                return Err(unknown(policy, name, "column"));
            }
        }
        Ok(Self::Columns(names.iter().cloned().collect()))
    }

    /// The tables it touches, with the columns it takes of each; tables of which it takes none are left out.
    pub fn of<'p>(&self, policy: &'p Policy) -> Vec<(&'p str, &'p TablePolicy, Vec<&'p str>)> {
        let tables = policy.tables.iter().map(|(name, table)| {
            let columns = table.columns.keys().map(String::as_str).filter(|c| self.takes(name, c)).collect::<Vec<_>>();
            (name.as_str(), table, columns)
        });
        tables.filter(|(_, _, columns)| !columns.is_empty()).collect()
    }

    fn takes(&self, table: &str, column: &str) -> bool {
        match self {
            Self::All => true,
            Self::Tables(tables) => tables.contains(table),
            Self::Columns(columns) => columns.contains(&format!("{table}.{column}")),
        }
    }
}

/// The target of a sweep over `columns` (policy names) of a table. Columns whose type cannot hold an envelope are an
/// error here: a plan refuses them before anybody asks for a target.
pub fn target(policy_table: &str, table: &TablePolicy, facts: &TableFacts, columns: &[&str]) -> Result<Target> {
    let chosen: Vec<(&str, &ColumnPolicy)> = table
        .columns
        .iter()
        .filter(|(name, _)| columns.contains(&name.as_str()))
        .map(|(n, c)| (n.as_str(), c))
        .collect();
    let mut target_columns = Vec::with_capacity(chosen.len());
    for (name, policy) in &chosen {
        target_columns.push(target_column(policy_table, facts, name, policy)?);
    }
    let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
    let own = chosen.iter().flat_map(|(_, c)| c.indexes.iter());
    let indexes = own.chain(&table.indexes).filter_map(|(name, index)| target_index(name, index, &names)).collect();
    let row_bound = chosen.iter().any(|(_, c)| c.bind_row);
    Ok(Target {
        table: facts.table.clone(),
        policy_table: policy_table.to_owned(),
        columns: target_columns,
        indexes,
        tenant: table.tenant.clone(),
        row_key: if row_bound { table.row_key.clone() } else { Vec::new() },
        key: facts.key.clone(),
        leaving: Leaving::default(),
        prune: None,
    })
}

/// What a sweep over the columns that are selected and that `takes` takes would work on, table by table. A column whose type
/// can hold no envelope holds none, so it is left out.
pub(super) async fn sealed_targets(
    session: &Session,
    selection: &Selection,
    takes: impl Fn(&ColumnPolicy) -> bool,
) -> Result<Vec<(TableFacts, Target)>> {
    let mut targets = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let columns: Vec<&str> = columns.into_iter().filter(|column| takes(&table.columns[*column])).collect();
        if columns.is_empty() {
            continue;
        }
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let (columns, _) = storable(&facts, &columns);
        if !columns.is_empty() {
            let target = target(name, table, &facts, &columns)?;
            targets.push((facts, target));
        }
    }
    Ok(targets)
}

/// The columns of `columns` that can hold an envelope, and what is said of each of the others. For those who look at
/// stored bytes: one column that nobody can look at must not hide the rest.
pub(super) fn storable<'c>(facts: &TableFacts, columns: &[&'c str]) -> (Vec<&'c str>, Vec<(&'c str, String)>) {
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for name in columns {
        match facts.columns.iter().find(|fact| fact.name == *name) {
            Some(fact) if fact.storage.is_none() => {
                cannot.push((*name, format!("type `{}` cannot hold an envelope", fact.sql_type)));
            }
            // What is missing is the policy's mistake, which whoever makes a target of it hears of.
            _ => can.push(*name),
        }
    }
    (can, cannot)
}

fn target_column(table: &str, facts: &TableFacts, name: &str, policy: &ColumnPolicy) -> Result<TargetColumn> {
    let fact = facts.columns.iter().find(|c| c.name == name).ok_or_else(|| {
        Error::new(Code::TableMissing, format!("the policy names column `{table}.{name}`, which the database has not"))
            .hint("correct its name in the policy and keep its `id`, or remove it")
    })?;
    let storage = fact.storage.ok_or_else(|| {
        Error::new(
            Code::TypeRefused,
            format!("`{table}.{name}` is of type `{}`, which cannot hold an envelope", fact.sql_type),
        )
        .hint("`enfold plan` says the way out")
    })?;
    Ok(TargetColumn {
        name: name.to_owned(),
        id: policy.id.clone(),
        storage,
        shadow: fact.shadow.as_ref().map(|shadow| shadow.column.clone()),
        member: policy.member.clone(),
        companions: policy.companions.clone(),
        writes: None,
    })
}

/// An index whose columns are not all among the chosen ones is left out: it is filled when they all are.
fn target_index(name: &str, index: &IndexPolicy, columns: &[&str]) -> Option<TargetIndex> {
    let over = index.over.iter().map(|c| columns.iter().position(|n| n == c)).collect::<Option<Vec<usize>>>()?;
    Some(TargetIndex {
        name: name.to_owned(),
        column: index.column.clone(),
        over,
        unique: index.unique,
        generation: None,
    })
}

fn unknown(policy: &Policy, name: &str, what: &str) -> Error {
    let mut error = Error::new(Code::UnknownColumn, format!("the policy has no {what} `{name}`"));
    let tables: Vec<&str> = policy.tables.keys().map(String::as_str).collect();
    if !tables.is_empty() {
        error = error.hint(format!("its tables are {}", tables.join(", ")));
    }
    error
}
