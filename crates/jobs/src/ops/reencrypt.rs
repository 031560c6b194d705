//! Re-encryption: values leave former data keys for those that seal now. It is asked for here and done by workers
//! ([`mod@super::work`]): a job a table.

use std::collections::BTreeSet;

use enfold::policy::{Policy, RecordWrap, Scope};
use enfold::{Code, Error, Leaving, Result};
use serde::{Deserialize, Serialize};

use super::estimate::rows_per_second;
use super::run::same;
use super::session::Session;
use super::targets::{Selection, sealed_targets};
use crate::model::{Goal, JobId, Target};
use crate::store::{JobSpec, Order};

/// What is to be re-encrypted, and who wants it.
#[derive(Clone, Debug, Default)]
pub struct Reencryption {
    pub selection: Selection,
    /// Of the selected columns only those of this ring.
    pub ring: Option<String>,
    /// Of the selected columns only those of this class.
    pub class: Option<String>,
    pub leaving: Leaving,
    pub order: Order,
    /// Rows a second; the policy's when none is given.
    pub rate: Option<u32>,
    /// Rows in a batch at most; the policy's when none is given.
    pub batch_rows: Option<u32>,
}

/// What it would be, for one table. Nothing was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableReencryption {
    /// The policy's name of the table.
    pub table: String,
    pub columns: Vec<String>,
    /// Rows with a value under a former data key, counted.
    pub rows_under_former_keys: u64,
    /// Former data keys that the columns' rings have.
    pub former_keys: u64,
    /// Calls to key services that it needs at most: each data key that is left or sealed with is unwrapped once for each
    /// worker and cache life; where key services wrap each record themselves, two for each value.
    pub kms_calls: u64,
    /// At the rate that this machine reads and seals, or at the policy's if that is lower.
    pub seconds: u64,
    #[serde(skip)]
    target: Option<Target>,
}

/// A job that was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Requested {
    pub table: String,
    pub job: JobId,
    /// False where a job that does the same was waiting or running already.
    pub made: bool,
}

/// Counts what is under former data keys. Tables without a column to look at are left out.
///
/// # Errors
/// `UnknownColumn` where ring or class are those of no selected column.
pub async fn plan_reencryption(session: &Session, wanted: &Reencryption) -> Result<Vec<TableReencryption>> {
    let mut tables = Vec::new();
    for (facts, target) in sealed_targets(session, &wanted.selection, |column| wanted.takes(column)).await? {
        let target = Target { leaving: wanted.leaving.clone(), ..target };
        let former = session.keys.codec().former_keys(&target).await?;
        let under = session.db.store().count_under(&target, &former).await?;
        let speed = rows_per_second(session.db.as_ref(), &facts, &target).await?;
        let limit = wanted.rate.or(session.policy.jobs.rate).map_or(speed, |limit| u64::from(limit).min(speed));
        tables.push(TableReencryption {
            table: target.policy_table.clone(),
            columns: target.columns.iter().map(|column| column.name.clone()).collect(),
            rows_under_former_keys: under,
            former_keys: former.len() as u64,
            kms_calls: kms_calls(&session.policy, &target, former.len() as u64, under),
            seconds: under.div_ceil(limit.max(1)),
            target: Some(target),
        });
    }
    if tables.is_empty() {
        let of = |what: &str, name: &Option<String>| name.as_ref().map(|name| format!("{what} `{name}`"));
        let named = [of("ring", &wanted.ring), of("class", &wanted.class)].into_iter().flatten().collect::<Vec<_>>();
        return Err(Error::new(Code::UnknownColumn, "no column of the policy is meant")
            .cause(if named.is_empty() { "the policy has no columns".to_owned() } else { named.join(", ") })
            .hint("`enfold status` lists the columns, and enfold.toml their rings and classes"));
    }
    Ok(tables)
}

/// Has workers do what was planned: a job for each table that holds a value under a former data key.
pub async fn request_reencryption(
    session: &Session,
    wanted: &Reencryption,
    plan: &[TableReencryption],
) -> Result<Vec<Requested>> {
    let store = session.db.store();
    let limits = &session.policy.jobs;
    let mut requested = Vec::new();
    for table in plan.iter().filter(|table| table.rows_under_former_keys > 0) {
        let Some(target) = &table.target else {
            return Err(Error::new(Code::Internal, "a plan of a re-encryption was not made here"));
        };
        let alike = |job: &&crate::store::JobRecord| {
            job.goal == Goal::Reencrypt && same(&job.target, target) && job.target.leaving == target.leaving
        };
        if let Some(job) = store.open_jobs().await?.iter().find(alike) {
            if wanted.order.priority > job.order.priority {
                store.set_priority(job.id, wanted.order.priority).await?;
            }
            requested.push(Requested { table: table.table.clone(), job: job.id, made: false });
            continue;
        }
        let spec = JobSpec {
            goal: Goal::Reencrypt,
            target: target.clone(),
            batch_rows: wanted.batch_rows.unwrap_or(limits.batch_rows),
            rate: wanted.rate.or(limits.rate),
            lease: limits.lease,
            order: wanted.order.clone(),
        };
        requested.push(Requested { table: table.table.clone(), job: store.create_job(&spec).await?, made: true });
    }
    Ok(requested)
}

impl Reencryption {
    fn takes(&self, column: &enfold::policy::ColumnPolicy) -> bool {
        self.ring.as_ref().is_none_or(|ring| column.ring == *ring)
            && self.class.as_ref().is_none_or(|class| column.class.as_ref() == Some(class))
    }
}

fn kms_calls(policy: &Policy, target: &Target, former: u64, rows: u64) -> u64 {
    let columns = policy.tables.get(&target.policy_table).map(|table| &table.columns);
    let rings: Vec<_> = target
        .columns
        .iter()
        .filter_map(|column| columns?.get(&column.name))
        .filter_map(|column| policy.rings.get(&column.ring))
        .collect();
    let is_kms = |scope, wrap| scope == Scope::Record && wrap == RecordWrap::Kms;
    let records = rings.iter().filter(|ring| is_kms(ring.scope, ring.record_wrap)).count() as u64;
    let shared: BTreeSet<&str> =
        rings.iter().filter(|ring| !is_kms(ring.scope, ring.record_wrap)).map(|ring| ring.id.as_str()).collect();
    // Where tenants have keys of their own, as many seal now as were left.
    let data_keys = if shared.is_empty() { 0 } else { former.min(rows) + former.min(rows).max(1) };
    data_keys + 2 * records * rows
}
