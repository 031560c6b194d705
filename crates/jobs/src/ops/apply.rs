//! `apply`: carries out a plan that was shown, in its order. It can be interrupted anywhere and run again.

use enfold::policy::Mode;
use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::coverage;
use super::observer::Observer;
use super::plan::{Plan, TablePlan, check_policy, planned_target};
use super::rotate_index::none_under_way;
use super::run::{Came, Pace, Run};
use super::session::Session;
use super::steps::Step;
use super::targets::Selection;
use crate::database::{Counts, Dialect, SchemaStep, TableFacts};
use crate::model::{Goal, Target};

#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    pub pace: Pace,
    /// Convert about so many rows of each table and stop there. `apply` without it goes on, `rollback` takes them back.
    pub canary: Option<u64>,
}

/// What an apply did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyReport {
    pub tables: Vec<TableApplied>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableApplied {
    /// The policy's name of the table.
    pub table: String,
    pub outcome: Applied,
    pub rows_changed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// Every value is sealed and was opened again.
    Protected,
    /// So many rows as were asked for are sealed; the others wait.
    Canary,
    NothingToDo,
}

/// A table of the plan, as it is now.
struct Ready<'a> {
    plan: &'a TablePlan,
    target: Target,
    /// This plan has changed it already.
    begun: bool,
}

/// Applies `plan`. Everything is looked at again before anything is changed: nothing happens to any table when one of
/// them is refused now or differs from what was shown.
pub async fn apply(
    session: &Session,
    plan: &Plan,
    options: &ApplyOptions,
    observer: &dyn Observer,
) -> Result<ApplyReport> {
    let done = carry_out(session, plan, options, observer).await;
    let tables = Selection::Tables(plan.tables.iter().map(|table| table.name.clone()).collect());
    coverage::after(session, &tables, done).await
}

async fn carry_out(
    session: &Session,
    plan: &Plan,
    options: &ApplyOptions,
    observer: &dyn Observer,
) -> Result<ApplyReport> {
    check_policy(plan, &session.policy)?;
    if plan.is_refused() {
        return Err(refused(plan.tables.iter().flat_map(|t| &t.refusals)));
    }
    let mut ready = Vec::new();
    for table in plan.tables.iter().filter(|table| !table.steps.is_empty()) {
        ready.push(look_again(session, table).await?);
    }
    let mut tables: Vec<TableApplied> = plan
        .tables
        .iter()
        .filter(|table| table.steps.is_empty())
        .map(|table| TableApplied { table: table.name.clone(), outcome: Applied::NothingToDo, rows_changed: 0 })
        .collect();
    let mut canary = false;
    for table in &ready {
        let came = begin_table(session, table, options, observer).await?;
        canary |= came.canary;
        let outcome = if came.canary { Applied::Canary } else { Applied::Protected };
        tables.push(TableApplied { table: table.plan.name.clone(), outcome, rows_changed: came.rows_changed });
    }
    if !canary {
        finish(session, &ready, options, observer).await?;
    }
    Ok(ApplyReport { tables })
}

/// A table's steps up to the rewrite that it shares with others, or all of them.
async fn begin_table(
    session: &Session,
    table: &Ready<'_>,
    options: &ApplyOptions,
    observer: &dyn Observer,
) -> Result<Came> {
    let run = Run { session, observer, pace: &options.pace, target: &table.target, stop_after: options.canary };
    // The record that this plan was begun: from here on the table may differ from what was shown because we changed it.
    if !table.begun {
        run.job(Goal::Protect).await?;
    }
    run.all(at_rewrite(session, &table.plan.steps).0).await
}

/// A SQLite database is rewritten as a whole, so once, when no table has plaintext any more; then all are verified. Rows
/// that an older writer left plain meanwhile are sealed by that, and the rewrite is done once more for their sake.
async fn finish(session: &Session, ready: &[Ready<'_>], options: &ApplyOptions, observer: &dyn Observer) -> Result<()> {
    let mut late = 0;
    for (n, table) in ready.iter().enumerate() {
        let run = Run { session, observer, pace: &options.pace, target: &table.target, stop_after: None };
        if let [rewrite, rest @ ..] = at_rewrite(session, &table.plan.steps).1 {
            if n == 0 {
                run.all(std::slice::from_ref(rewrite)).await?;
            }
            late += run.all(rest).await?.rows_changed;
            if n + 1 == ready.len() && late > 0 {
                run.all(std::slice::from_ref(rewrite)).await?;
            }
        }
    }
    Ok(())
}

/// Steps before the shared rewrite, and those from it on.
fn at_rewrite<'s>(session: &Session, steps: &'s [Step]) -> (&'s [Step], &'s [Step]) {
    let at = steps.iter().position(|step| is_shared_rewrite(session, step)).unwrap_or(steps.len());
    steps.split_at(at)
}

fn is_shared_rewrite(session: &Session, step: &Step) -> bool {
    let rewrites = matches!(&step.action, super::steps::Action::Schema { change: SchemaStep::Rewrite { .. } });
    rewrites && session.db.dialect() == Dialect::Sqlite
}

/// Looks at a table of the plan again: refusals that came up since, and whether it is what was shown. A table that this
/// plan has begun to change differs, of course; then only refusals count.
async fn look_again<'a>(session: &Session, plan: &'a TablePlan) -> Result<Ready<'a>> {
    let stale = |why: String| {
        Error::new(Code::PlanStale, format!("`{}` is not what the plan was made for", plan.name))
            .cause(why)
            .hint("nothing was changed; run `enfold plan` again")
    };
    let policy = session
        .policy
        .tables
        .get(&plan.name)
        .ok_or_else(|| stale("the policy does not name it any more".to_owned()))?;
    let facts = session.db.inspect(policy, Counts::LeftOut).await?;
    let columns: Vec<&str> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    let refusals: Vec<_> = facts
        .refusals
        .iter()
        .filter(|finding| finding.column.as_deref().is_none_or(|column| columns.contains(&column)))
        .collect();
    if !refusals.is_empty() {
        return Err(refused(refusals.into_iter()));
    }
    let target = planned_target(&plan.name, policy, &facts, Mode::Hybrid)?;
    none_under_way(session, &target).await?;
    let begun = begun(session, plan, &facts, &target).await?;
    if facts.fingerprint != plan.fingerprint && !begun {
        return Err(stale("the table has changed since".to_owned()));
    }
    Ok(Ready { plan, target, begun })
}

/// Whether this plan was begun: its sweep is on record, or its mode is signed.
async fn begun(session: &Session, plan: &TablePlan, facts: &TableFacts, target: &Target) -> Result<bool> {
    let same_columns = plan
        .columns
        .iter()
        .all(|planned| facts.columns.iter().any(|now| now.name == planned.name && now.storage == planned.storage));
    if !same_columns {
        return Ok(false);
    }
    let pace = Pace::default();
    let run = Run { session, observer: &super::observer::Silent, pace: &pace, target, stop_after: None };
    if run.unfinished(Goal::Protect).await?.is_some() {
        return Ok(true);
    }
    let names: Vec<String> = plan.columns.iter().map(|column| format!("{}.{}", plan.name, column.name)).collect();
    let modes = session.keys.modes(&names).await?;
    Ok(plan.columns.iter().zip(modes).any(|(planned, now)| planned.mode == Mode::Legacy && now > Mode::Legacy))
}

fn refused<'f>(findings: impl Iterator<Item = &'f crate::database::Finding>) -> Error {
    let mut error = Error::new(Code::PlanRefused, "the plan cannot be applied as things stand");
    for finding in findings {
        let about = finding.column.as_deref().map_or(String::new(), |column| format!("`{column}`: "));
        error = error.cause(format!("{about}{} ({})", finding.says, finding.word));
        if let Some(way_out) = &finding.way_out {
            error = error.hint(way_out.clone());
        }
    }
    error.hint("nothing was changed")
}
