//! `prune`: deletes the rows that the policy's rules doom. A rule is a job like any other: in batches, at a rate, stopped by
//! pressure, and gone on with after a kill. What it means is fixed when it is asked for, by the database's clock, so that no
//! row goes that was not shown.

use enfold::events::{Event, EventKind};
use enfold::policy::PrunePolicy;
use enfold::{Code, Error, Leaving, Result};
use serde::{Deserialize, Serialize};

use super::observer::Observer;
use super::run::{Pace, Run, is_open, same};
use super::session::Session;
use crate::database::Counts;
use crate::model::{Goal, JobId, JobState, Prune, RowError, TableName, Target};
use crate::prune::{Along, OnDelete};
use crate::store::{JobRecord, JobSpec, Order};

/// Rows with errors that a report names.
const NAMED: u32 = 20;

/// What a rule would delete. Nothing was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulePlan {
    pub rule: String,
    /// As the policy spells it.
    pub table: String,
    pub column: String,
    /// Rows with an earlier moment in `column` go; RFC 3339.
    pub before: String,
    /// Of the table.
    pub rows: u64,
    /// Of those, the ones that go.
    pub doomed: u64,
    /// What foreign keys do to rows of other tables.
    pub along: Vec<Along>,
    /// Users' triggers that fire for each row.
    pub triggers: Vec<String>,
    /// What must be settled before anything is deleted.
    pub refusals: Vec<String>,
    /// The job of this rule that was interrupted: it goes on, with what it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goes_on: Option<JobId>,
    #[serde(skip)]
    target: Option<Target>,
}

/// What was deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PruneReport {
    pub rules: Vec<RulePruned>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulePruned {
    pub rule: String,
    pub table: String,
    pub job: JobId,
    pub deleted: u64,
    /// Rows that the database would not let go.
    pub failed: u64,
    /// The first of them.
    pub errors: Vec<RowError>,
    /// Rows that are still there, those that failed among them. Others were held by somebody, and go the next time.
    pub left: u64,
}

/// Counts what the named rules doom, or all of the policy's.
///
/// # Errors
/// `Usage` for a rule that the policy does not have, or if it has none.
pub async fn plan_prune(session: &Session, rules: &[String]) -> Result<Vec<RulePlan>> {
    let all = &session.policy.prune;
    if let Some(unknown) = rules.iter().find(|rule| !all.contains_key(*rule)) {
        let known: Vec<&str> = all.keys().map(String::as_str).collect();
        return Err(Error::new(Code::Usage, format!("the policy has no rule `{unknown}`"))
            .hint(format!("its rules are {}", known.join(", "))));
    }
    if all.is_empty() {
        return Err(Error::new(Code::Usage, "the policy has no rule by which rows would go")
            .hint("a rule stands under `[prune.NAME]` in enfold.toml"));
    }
    let mut plans = Vec::new();
    for (name, rule) in all.iter().filter(|(name, _)| rules.is_empty() || rules.contains(name)) {
        plans.push(plan_rule(session, name, rule).await?);
    }
    Ok(plans)
}

/// Deletes what was planned, a rule after the other.
///
/// # Errors
/// `PlanRefused`, with nothing deleted, where something must be settled first. Rows that the database would not let go are
/// in the report instead.
pub async fn prune(session: &Session, plan: &[RulePlan], pace: &Pace, observer: &dyn Observer) -> Result<PruneReport> {
    let targets = plan.iter().filter(|rule| rule.has_work()).map(|rule| {
        rule.target.as_ref().ok_or_else(|| Error::new(Code::Internal, "a plan of a pruning was not made here"))
    });
    let targets = targets.collect::<Result<Vec<_>>>()?;
    // Somebody may have thought about it for long.
    for target in &targets {
        must_be_settled(session, target).await?;
    }
    let mut rules = Vec::new();
    for target in targets {
        let run = Run { session, observer, pace, target, stop_after: None };
        let job = run.job(Goal::Prune).await?;
        let progress = run.sweep(job, Goal::Prune).await?.progress;
        let store = session.db.store();
        rules.push(RulePruned {
            rule: target.prune.as_ref().map(|prune| prune.rule.clone()).unwrap_or_default(),
            table: target.policy_table.clone(),
            job,
            deleted: progress.rows_changed,
            failed: progress.rows_failed,
            errors: store.row_errors(job, NAMED).await?,
            left: store.remaining(Goal::Prune, target).await?,
        });
    }
    Ok(PruneReport { rules })
}

impl RulePlan {
    /// Whether there is anything to delete, or something was begun.
    pub fn has_work(&self) -> bool {
        self.doomed > 0 || self.goes_on.is_some()
    }
}

async fn plan_rule(session: &Session, name: &str, policy: &PrunePolicy) -> Result<RulePlan> {
    let rule = Prune::of(name, policy, session.db.now_ms().await?);
    let mut target = target(policy, rule);
    let open = |job: &&JobRecord| is_open(job.state) && same(&job.target, &target);
    let goes_on = session.db.store().jobs().await?.iter().rev().find(open).cloned();
    if let Some(job) = &goes_on {
        target.prune.clone_from(&job.target.prune);
    }
    let found = session.db.prunable(&target, Counts::Taken).await?;
    target.key = found.key;
    Ok(RulePlan {
        rule: name.to_owned(),
        table: policy.table.clone(),
        column: policy.column.clone(),
        before: target.prune.as_ref().map(before).unwrap_or_default(),
        rows: found.rows,
        doomed: found.doomed,
        refusals: unnamed(&found.along, policy),
        along: found.along,
        triggers: found.triggers,
        goes_on: goes_on.map(|job| job.id),
        target: Some(target),
    })
}

fn target(policy: &PrunePolicy, rule: Prune) -> Target {
    Target {
        table: TableName::of_policy(&policy.table),
        policy_table: policy.table.clone(),
        columns: Vec::new(),
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: Vec::new(),
        leaving: Leaving::default(),
        prune: Some(rule),
    }
}

/// What foreign keys would do that the rule does not speak of.
fn unnamed(along: &[Along], policy: &PrunePolicy) -> Vec<String> {
    let unnamed = |one: &&Along| one.on_delete != OnDelete::Refuse && !policy.takes_along.contains(&one.table);
    let says = |one: &Along| {
        let what = match one.on_delete {
            OnDelete::Cascade => "would go along (ON DELETE CASCADE)",
            OnDelete::SetNull => "would lose what they refer to (ON DELETE SET NULL)",
            OnDelete::SetDefault | OnDelete::Refuse => "would refer to something else (ON DELETE SET DEFAULT)",
        };
        format!("rows of `{}` {what}, and `takes_along` does not name it", one.table)
    };
    let mut all: Vec<String> = along.iter().filter(unnamed).map(says).collect();
    all.dedup();
    all
}

/// Looks at the foreign keys again: a migration may have come since the rule was looked at.
pub(super) async fn must_be_settled(session: &Session, target: &Target) -> Result<()> {
    let rule = target.prune.as_ref().and_then(|prune| Some((prune, session.policy.prune.get(&prune.rule)?)));
    let Some((prune, policy)) = rule.filter(|(prune, policy)| Prune::of(&prune.rule, policy, 0).is_of(prune)) else {
        return Err(Error::new(
            Code::PlanStale,
            "the policy has not the rule any more that a pruning was asked for by",
        )
        .hint("nothing was deleted; run `enfold prune --dry-run` again"));
    };
    let found = session.db.prunable(target, Counts::LeftOut).await?;
    let refusals = unnamed(&found.along, policy);
    if refusals.is_empty() {
        return Ok(());
    }
    let error = Error::new(Code::PlanRefused, format!("cannot delete rows of `{}`", target.policy_table));
    Err(refusals
        .into_iter()
        .fold(error, Error::cause)
        .hint(format!("if that is meant, add the tables to `takes_along` in `[prune.{}]`", prune.rule))
        .hint("nothing was deleted"))
}

/// Whether workers may do a job: what the policy's rule says is still what was asked for.
pub(super) fn is_in_policy(session: &Session, job: &JobRecord) -> bool {
    let Some(prune) = &job.target.prune else { return false };
    session
        .policy
        .prune
        .get(&prune.rule)
        .is_some_and(|policy| policy.table == job.target.policy_table && Prune::of(&prune.rule, policy, 0).is_of(prune))
}

/// Asks for the rules that are due. A rule is done by itself only if somebody has run it and confirmed it as it is: a job of
/// it that came to its end is on record.
pub(super) async fn keep_schedule(session: &Session) -> Result<()> {
    let store = session.db.store();
    for (name, policy) in &session.policy.prune {
        let Some(every) = policy.every else { continue };
        let now_ms = session.db.now_ms().await?;
        let mut target = target(policy, Prune::of(name, policy, now_ms));
        let jobs = store.jobs().await?;
        let ours: Vec<&JobRecord> = jobs.iter().filter(|job| same(&job.target, &target)).collect();
        let done = |job: &&JobRecord| matches!(job.state, JobState::Completed | JobState::CompletedWithErrors);
        let Some(last) = ours.last().filter(|_| ours.iter().any(done)) else { continue };
        let age = u128::try_from(now_ms.saturating_sub(last.created_ms)).unwrap_or(0);
        if is_open(last.state) || age < every.as_millis() {
            continue;
        }
        must_be_settled(session, &target).await?;
        target.key.clone_from(&last.target.key);
        let limits = &session.policy.jobs;
        let order =
            Order { by: Some("schedule".to_owned()), reason: Some("due by the policy".to_owned()), priority: 0 };
        let spec = JobSpec {
            goal: Goal::Prune,
            target,
            batch_rows: limits.batch_rows,
            rate: limits.rate,
            lease: limits.lease,
            order,
        };
        store.create_job(&spec).await?;
    }
    Ok(())
}

/// Says in the log of events how many rows one process deleted.
pub(super) fn log(session: &Session, job: JobId, target: &Target, rows: u64) {
    let Some(prune) = target.prune.as_ref().filter(|_| rows > 0) else { return };
    let (table, column, before) = (&target.policy_table, &prune.column, before(prune));
    let says = format!("rule `{}`: rows of `{table}` with `{column}` before {before}, by job {}", prune.rule, job.0);
    session.keys.log(Event::new(EventKind::RowsPruned, rows).detail(says).job(job.0.to_string()));
}

/// RFC 3339.
fn before(prune: &Prune) -> String {
    jiff::Timestamp::from_millisecond(prune.before_ms).map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_foreign_keys_would_change_must_be_named_and_what_they_refuse_need_not() {
        let along = |table: &str, on_delete| Along { table: table.into(), on_delete, rows: None, unindexed: false };
        let all = [
            along("s.uses", OnDelete::Cascade),
            along("s.notes", OnDelete::SetNull),
            along("s.kept", OnDelete::Refuse),
        ];
        let mut policy = PrunePolicy {
            table: "s.tokens".into(),
            column: "expires_at".into(),
            older_than: std::time::Duration::ZERO,
            unit: None,
            only: Default::default(),
            takes_along: ["s.uses".to_owned()].into(),
            every: None,
        };
        let refusals = unnamed(&all, &policy);
        assert!(refusals.len() == 1 && refusals[0].contains("`s.notes`"), "{refusals:?}");
        policy.takes_along.insert("s.notes".into());
        assert!(unnamed(&all, &policy).is_empty());
    }
}
