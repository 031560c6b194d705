//! `rollback`: the way out, as good as the way in. Online: readers read all forms all the while.
//!
//! Values go back to what they were before there was Enfold: plaintext, or the format that the policy's `writes` names, which an
//! application reads that knows no envelopes. A step back takes the mode alone, and leaves values as they are.

use std::collections::BTreeMap;

use enfold::policy::{Mode, TablePolicy};
use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::coverage;
use super::foreign::recognised;
use super::observer::Observer;
use super::rotate_index::none_under_way;
use super::run::{Pace, Run};
use super::session::Session;
use super::steps::{Step, Steps};
use super::targets::{Selection, target};
use crate::database::{ColumnFacts, Counts, TableFacts};
use crate::model::Target;
use crate::recognise::Recognised;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollbackReport {
    pub tables: Vec<TableRolledBack>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableRolledBack {
    /// The policy's name of the table.
    pub table: String,
    pub rows_changed: u64,
    /// The columns whose values went back to a format of another product's, with the reader that reads it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub formats: BTreeMap<String, String>,
    /// What the values of those columns are now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readers: BTreeMap<String, Recognised>,
}

/// What a step back came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SteppedBack {
    pub mode: Mode,
    /// `table.column`, as the policy names both.
    pub columns: Vec<String>,
}

/// What `rollback` would do, in order, for a person to read first.
pub async fn plan_rollback(session: &Session, selection: &Selection) -> Result<Vec<(String, Vec<Step>)>> {
    let mut all = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let (facts, target) = look(session, name, table, &columns).await?;
        sources_there(name, &facts, &columns)?;
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        all.push((name.to_owned(), steps.unprotect()));
    }
    Ok(all)
}

/// What [`step_back`] would do, in order.
pub async fn plan_step_back(session: &Session, selection: &Selection, mode: Mode) -> Result<Vec<(String, Vec<Step>)>> {
    let mut all = Vec::new();
    for (name, table, facts, target) in stepping_back(session, selection, mode).await? {
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        all.push((name.to_owned(), steps.step_back(mode)));
    }
    Ok(all)
}

/// Takes the selected columns back to a weaker mode: the database takes what is no envelope again, and applications write by the
/// mode. Values stay as they are, and blind indexes too. A column in a mode that is weaker still is left alone.
pub async fn step_back(
    session: &Session,
    selection: &Selection,
    mode: Mode,
    observer: &dyn Observer,
) -> Result<SteppedBack> {
    let done = take_steps_back(session, selection, mode, observer).await;
    coverage::after(session, selection, done).await
}

async fn take_steps_back(
    session: &Session,
    selection: &Selection,
    mode: Mode,
    observer: &dyn Observer,
) -> Result<SteppedBack> {
    let mut done = SteppedBack { mode, columns: Vec::new() };
    for (_, table, facts, target) in &stepping_back(session, selection, mode).await? {
        let steps = Steps { database: session.db.as_ref(), target, facts, policy: table };
        let run = Run { session, observer, pace: &Pace::default(), target, stop_after: None };
        if mode == Mode::Legacy {
            run.cancel_protection().await?;
        }
        run.all(&steps.step_back(mode)).await?;
        done.columns.extend(steps.names());
    }
    Ok(done)
}

/// A table by the policy's name, and what is to be done to it.
type Looked<'p> = (&'p str, &'p TablePolicy, TableFacts, Target);

async fn stepping_back<'p>(session: &'p Session, selection: &Selection, mode: Mode) -> Result<Vec<Looked<'p>>> {
    let mut ready = Vec::new();
    for (name, table, columns) in selection.of(&session.policy) {
        let names: Vec<String> = columns.iter().map(|column| format!("{name}.{column}")).collect();
        let modes = session.keys.modes(&names).await?;
        let stronger = columns.into_iter().zip(modes).filter(|(_, now)| *now >= mode);
        let columns: Vec<&str> = stronger.map(|(column, _)| column).collect();
        if !columns.is_empty() {
            may_weaken(name, table, &columns, mode)?;
            let (facts, target) = look(session, name, table, &columns).await?;
            ready.push((name, table, facts, target));
        }
    }
    Ok(ready)
}

/// Takes the selected columns back to what they were and mode `legacy`, and removes what Enfold added to their tables.
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
        may_weaken(name, table, &columns, Mode::Legacy)?;
        let (facts, target) = look(session, name, table, &columns).await?;
        sources_there(name, &facts, &columns)?;
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
        let written = target.columns.iter().filter_map(|column| Some((column.name.clone(), column.writes.clone()?)));
        let formats: BTreeMap<String, String> = written.collect();
        let mut readers = BTreeMap::new();
        if !formats.is_empty() {
            readers = recognised(session.db.as_ref(), &session.policy, table, target, None).await?;
            readers.retain(|column, _| formats.contains_key(column));
        }
        let (table, rows_changed) = ((*name).to_owned(), came.rows_changed);
        tables.push(TableRolledBack { table, rows_changed, formats, readers });
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
    let mut target = target(name, table, &facts, &columns)?;
    for column in &mut target.columns {
        column.writes = table.columns.get(&column.name).and_then(|policy| policy.writes.clone());
    }
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
fn may_weaken(table: &str, policy: &TablePolicy, columns: &[&str], mode: Mode) -> Result<()> {
    let pinned = policy.columns.iter().find(|(name, c)| columns.contains(&name.as_str()) && c.min_mode > mode);
    let Some((column, _)) = pinned else { return Ok(()) };
    Err(Error::new(Code::PlanRefused, format!("cannot take `{table}.{column}` back to mode {}", mode.word()))
        .cause("the policy pins its `min_mode`, so every application would refuse to read it")
        .hint("remove `min_mode` from the policy of every application first")
        .hint("nothing was changed"))
}
