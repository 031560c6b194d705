//! `rollback`: the way out, as good as the way in. Online: readers read both forms all the while.

use enfold::policy::{Mode, TablePolicy};
use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::coverage;
use super::observer::Observer;
use super::rotate_index::none_under_way;
use super::run::{Pace, Run};
use super::session::Session;
use super::steps::{Step, Steps};
use super::targets::{Selection, target};
use crate::database::{ColumnFacts, Counts, TableFacts};
use crate::model::Target;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollbackReport {
    pub tables: Vec<TableRolledBack>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableRolledBack {
    /// The policy's name of the table.
    pub table: String,
    pub rows_changed: u64,
}

/// What `rollback` would do, in order, for a person to read first.
pub async fn plan_rollback(session: &Session, selection: &Selection) -> Result<Vec<(String, Vec<Step>)>> {
    let mut all = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let (facts, target) = look(session, name, table, &columns).await?;
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        all.push((name.to_owned(), steps.unprotect()));
    }
    Ok(all)
}

/// Takes the selected columns back to plaintext and mode `legacy`, and removes what Enfold added to their tables.
pub async fn rollback(
    session: &Session,
    selection: &Selection,
    pace: &Pace,
    observer: &dyn Observer,
) -> Result<RollbackReport> {
    let done = take_back(session, selection, pace, observer).await;
    coverage::after(session, selection, done).await
}

async fn take_back(
    session: &Session,
    selection: &Selection,
    pace: &Pace,
    observer: &dyn Observer,
) -> Result<RollbackReport> {
    let mut ready = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        may_weaken(name, table, &columns)?;
        let (facts, target) = look(session, name, table, &columns).await?;
        none_under_way(session, &target).await?;
        ready.push((name, table, facts, target));
    }
    let mut tables = Vec::new();
    for (name, table, facts, target) in &ready {
        let steps = Steps { database: session.db.as_ref(), target, facts, policy: table };
        let run = Run { session, observer, pace, target, stop_after: None };
        // A protecting sweep that was paused or killed must not be taken up behind our back.
        run.cancel_protection().await?;
        let came = run.all(&steps.unprotect()).await?;
        tables.push(TableRolledBack { table: (*name).to_owned(), rows_changed: came.rows_changed });
    }
    Ok(RollbackReport { tables })
}

async fn look(session: &Session, name: &str, table: &TablePolicy, columns: &[&str]) -> Result<(TableFacts, Target)> {
    // Of the columns that stay as they are, whether they hold envelopes decides which indexes come back.
    let counts = if columns.len() < table.columns.len() { Counts::Taken } else { Counts::LeftOut };
    let facts = session.db.inspect(table, counts).await?;
    // A column that was never converted needs no way back, whatever its type.
    let convertible = |column: &&&str| facts.columns.iter().any(|fact| fact.name == **column && fact.storage.is_some());
    let columns: Vec<&str> = columns.iter().filter(convertible).copied().collect();
    sources_there(name, &facts, &columns)?;
    let target = target(name, table, &facts, &columns)?;
    Ok((facts, target))
}

/// Values of a shadow go back to their source, which somebody may have dropped.
fn sources_there(table: &str, facts: &TableFacts, columns: &[&str]) -> Result<()> {
    let alone = |fact: &&ColumnFacts| fact.shadow.as_ref().is_some_and(|shadow| shadow.alone);
    let Some(fact) = facts.columns.iter().filter(alone).find(|fact| columns.contains(&fact.name.as_str())) else {
        return Ok(());
    };
    Err(Error::new(Code::PlanRefused, format!("cannot take `{table}.{}` back to plaintext", fact.name))
        .cause("the column was dropped when its values had gone to the shadow")
        .hint("add it again with its type (ALTER TABLE … ADD COLUMN …), then run the same command again")
        .hint("nothing was changed"))
}

/// Applications that pin a least mode would refuse every value of the column: that pin goes first.
fn may_weaken(table: &str, policy: &TablePolicy, columns: &[&str]) -> Result<()> {
    let pinned = policy.columns.iter().find(|(name, c)| columns.contains(&name.as_str()) && c.min_mode > Mode::Legacy);
    let Some((column, _)) = pinned else { return Ok(()) };
    Err(Error::new(Code::PlanRefused, format!("cannot take `{table}.{column}` back to plaintext"))
        .cause("the policy pins its `min_mode`, so every application would refuse to read it")
        .hint("remove `min_mode` from the policy of every application first")
        .hint("nothing was changed"))
}
