//! `enforce`: has the database itself refuse what has not the form of an envelope.
//!
//! The check comes first and drains older writers, unvalidated; only then is everything verified, and with that proof
//! the old rows are checked too and the mode is signed `kms`. Plaintext that is found after the check was added takes
//! it off again at once: a row left plain under a check breaks updates of the application that have nothing to do
//! with it.

use std::collections::{BTreeMap, BTreeSet};

use enfold::policy::{Mode, TablePolicy};
use enfold::{Code, Error, Result};
use serde::{Deserialize, Serialize};

use super::coverage;
use super::drop_reader::{ReaderUse, reader_uses};
use super::observer::{Observer, StepState};
use super::plan::planned_target;
use super::rotate_index::none_under_way;
use super::run::{Pace, Run};
use super::session::Session;
use super::steps::{Step, Steps};
use super::targets::Selection;
use super::verify::Verified;
use crate::database::Counts;
use crate::model::Goal;

/// How often plaintext may turn up under the check before we give up on its writers.
const TRIES: u32 = 5;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnforceReport {
    pub tables: Vec<TableEnforced>,
    /// What the readers of other products' formats that these columns name are still needed for, in any column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub readers: BTreeMap<String, Vec<ReaderUse>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableEnforced {
    /// The policy's name of the table.
    pub table: String,
    pub columns: Vec<String>,
    /// How often the check was taken off again because older writers had left plaintext.
    pub taken_off: u32,
}

/// What `enforce` would do, in order, for a person to read first.
pub async fn plan_enforce(session: &Session, selection: &Selection) -> Result<Vec<Step>> {
    let mut all = Vec::new();
    for (name, table, _) in enforceable(session, selection) {
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let target = planned_target(name, table, &facts, Mode::Kms)?;
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        let (before, after) = steps.enforce();
        all.extend(before);
        all.extend(steps.proof());
        all.extend(after);
    }
    Ok(all)
}

/// Enforces the columns of the selected tables that the policy wants in mode `kms`; they must be protected already.
pub async fn enforce(
    session: &Session,
    selection: &Selection,
    pace: &Pace,
    observer: &dyn Observer,
) -> Result<EnforceReport> {
    let done = enforce_all(session, selection, pace, observer).await;
    coverage::after(session, selection, done).await
}

async fn enforce_all(
    session: &Session,
    selection: &Selection,
    pace: &Pace,
    observer: &dyn Observer,
) -> Result<EnforceReport> {
    let mut tables = Vec::new();
    for (name, table, _) in enforceable(session, selection) {
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let target = planned_target(name, table, &facts, Mode::Kms)?;
        let steps = Steps { database: session.db.as_ref(), target: &target, facts: &facts, policy: table };
        let run = Run { session, observer, pace, target: &target, stop_after: None };
        must_be_protected(session, name, &steps.names()).await?;
        none_under_way(session, &target).await?;
        let taken_off = enforce_table(&run, &steps).await?;
        tables.push(TableEnforced { table: name.to_owned(), columns: steps.names(), taken_off });
    }
    let readers = readers_left(session, &tables).await?;
    Ok(EnforceReport { tables, readers })
}

/// Of the readers that the enforced columns name.
async fn readers_left(session: &Session, enforced: &[TableEnforced]) -> Result<BTreeMap<String, Vec<ReaderUse>>> {
    let columns = enforced.iter().flat_map(|table| &table.columns);
    let named = columns.filter_map(|column| Some(&session.policy.column(column)?.1.reads)).flatten();
    let mut left = BTreeMap::new();
    for reader in named.collect::<BTreeSet<_>>() {
        left.insert(reader.clone(), reader_uses(session, reader).await?);
    }
    Ok(left)
}

/// Tables with a column that the policy wants in mode `kms`.
fn enforceable<'p>(session: &'p Session, selection: &Selection) -> Vec<(&'p str, &'p TablePolicy, Vec<&'p str>)> {
    let mut tables = selection.of(&session.policy);
    tables.retain(|(_, table, _)| table.columns.values().any(|column| column.mode == Mode::Kms));
    tables
}

async fn enforce_table(run: &Run<'_>, steps: &Steps<'_>) -> Result<u32> {
    let (checks, rest) = steps.enforce();
    for taken_off in 0..TRIES {
        run.all(&checks).await?;
        match prove(run).await {
            Ok(Some(proof)) => {
                refuse_plaintext(run, proof, &rest).await?;
                return Ok(taken_off);
            }
            Ok(None) => take_off(run, steps).await?,
            // Whatever it was, rows that the check would refuse must not stay under it.
            Err(error) => {
                take_off(run, steps).await?;
                return Err(error.hint("the check was taken off again; nothing else was changed"));
            }
        }
        // Its errors are the ones to report: rows that cannot be sealed, or writers that do not stop.
        run.sweep_to_zero(Goal::Protect).await?;
    }
    Err(Error::new(Code::Busy, format!("cannot enforce `{}`", run.target.policy_table))
        .cause(format!("plaintext turned up {TRIES} times after the check was there"))
        .hint("find the writers that get around the check (disabled triggers, bulk loads), then run it again"))
}

/// The proof, or `None` when plaintext is there.
async fn prove<'t>(run: &Run<'t>) -> Result<Option<Verified<'t>>> {
    if run.session.db.store().remaining(Goal::Protect, run.target).await? > 0 {
        return Ok(None);
    }
    match Verified::of(run).await {
        Ok(proof) => Ok(Some(proof)),
        Err(error) if error.code() == Code::PlaintextFound => {
            let left = run.session.db.store().remaining(Goal::Protect, run.target).await?;
            // Envelopes that do not open are no plaintext: sweeping again would not help.
            if left > 0 { Ok(None) } else { Err(error) }
        }
        Err(error) => Err(error),
    }
}

/// From here on the database refuses plaintext for good. It takes the proof, which only a verification makes.
async fn refuse_plaintext<'t>(run: &Run<'t>, _proof: Verified<'t>, rest: &[Step]) -> Result<()> {
    run.all(rest).await.map(|_| ())
}

async fn take_off(run: &Run<'_>, steps: &Steps<'_>) -> Result<()> {
    for step in steps.drop_checks() {
        if let super::steps::Action::Schema { change } = &step.action {
            run.session.db.run(change).await?;
            run.tell(&step.says, StepState::Done);
        }
    }
    Ok(())
}

async fn must_be_protected(session: &Session, table: &str, columns: &[String]) -> Result<()> {
    let modes = session.keys.modes(columns).await?;
    let legacy: Vec<&str> =
        columns.iter().zip(modes).filter(|(_, mode)| *mode == Mode::Legacy).map(|(c, _)| c.as_str()).collect();
    if legacy.is_empty() && !columns.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::PlanRefused, format!("cannot enforce `{table}`"))
        .cause(format!("not protected yet: {}", legacy.join(", ")))
        .hint("run `enfold plan` and `enfold apply` first"))
}
