//! Re-encryption: asked for here, done by workers.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use enfold::catalog::{KeyStatus, Purpose};
use enfold::{Code, Enfold, Error, Leaving, Result};
use enfold_jobs::model::JobState;
use enfold_jobs::ops::{self, Reencryption, Requested, Selection, Session, TableReencryption};
use enfold_jobs::store::Order;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::body::{Asked, Data, Sought};
use super::datum::PlacePart;
use super::edge::{Call, to_its_end};
use super::jobs::{JobAnswer, job_id, show_job, words};
use crate::Shared;
use crate::identity::Caller;

/// Data keys that are looked at at once.
const PAGE: u32 = 1_000;

/// What is to be re-encrypted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct ReencryptAsked {
    /// Only columns of this ring.
    ring: Option<String>,
    /// Only these tables, by the policy's names. `models` is the same.
    #[serde(alias = "models")]
    tables: Vec<String>,
    /// Only these columns, by the policy's names.
    columns: Vec<String>,
    /// Only columns of this class.
    class: Option<String>,
    /// Only values of these tenants; with `ring`.
    tenants: Vec<PlacePart>,
    /// Only what is under this version of data keys; all former ones, if nothing is said. `from_version` is the same.
    #[serde(alias = "from_version")]
    from_version: Option<u32>,
    /// The version that seals now; another is refused. `to_version` is the same.
    #[serde(alias = "to_version")]
    to_version: Option<u32>,
    /// Count, and ask for nothing. `dry_run` is the same.
    #[serde(alias = "dry_run")]
    dry_run: bool,
    /// Rows of a batch at most. `batch_size` is the same.
    #[serde(alias = "batch_size")]
    batch_size: Option<u32>,
    /// Rows a second at most.
    rate: Option<u32>,
    /// Instead of `rate`: a batch of `batchSize` rows in so many seconds, spread over them. `interval_seconds` is the same.
    #[serde(alias = "interval_seconds")]
    interval_seconds: Option<u32>,
    /// Jobs of a higher one are done first.
    priority: i32,
    /// Why, for the log of events.
    reason: Option<String>,
}

impl ReencryptAsked {
    /// Whatever is under a former data key of the ring.
    pub(crate) fn of_ring(ring: &str, reason: String) -> Self {
        Self::after_rotation(ring, Vec::new(), reason)
    }

    /// The same of these tenants; of all where none is named.
    pub(super) fn after_rotation(ring: &str, tenants: Vec<PlacePart>, reason: String) -> Self {
        Self { ring: Some(ring.to_owned()), tenants, reason: Some(reason), ..Self::default() }
    }

    /// Rows a second at most, whichever way it is said.
    fn rate(&self) -> Result<Option<u32>> {
        match (self.rate, self.interval_seconds, self.batch_size) {
            (rate, None, _) => Ok(rate),
            (None, Some(seconds), Some(rows)) => Ok((seconds > 0).then(|| rows.div_ceil(seconds))),
            (Some(_), Some(_), _) => {
                Err(Error::new(Code::Usage, "`rate` and `intervalSeconds` say the same").hint("say one of them"))
            }
            (None, Some(_), None) => Err(Error::new(Code::Usage, "`intervalSeconds` says nothing without `batchSize`")),
        }
    }
}

pub(crate) type ReencryptAnswer = Data<ReencryptDone>;

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReencryptDone {
    /// `QUEUED`; `NOTHING_TO_DO` where no value is under a former data key, and `DRY_RUN` where nothing was asked for.
    pub(super) status: &'static str,
    /// The first of the jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) job_id: Option<i64>,
    /// A job a table. One that did the same and was waiting or running already is taken for it.
    pub(crate) jobs: Vec<AskedJob>,
    /// What there is to do, table by table.
    plan: Vec<TablePlan>,
    /// Workers that are alive: without one, jobs wait.
    pub(crate) workers: usize,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AskedJob {
    job_id: i64,
    table: String,
    /// As it is now: see `GET /api/v1/encryption/jobs/{id}`.
    status: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TablePlan {
    table: String,
    columns: Vec<String>,
    rows_under_former_keys: u64,
    former_keys: u64,
    /// Calls to key services, at most.
    kms_calls: u64,
    /// How long it takes, estimated.
    seconds: u64,
}

pub(crate) async fn request(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Asked(asked): Asked<ReencryptAsked>,
) -> Result<ReencryptAnswer, Failure> {
    let session = shared.session(&call.context(&caller, asked.reason.clone())).await?;
    let (enfold, by) = (shared.enfold.clone(), caller.actor.clone());
    Ok(to_its_end(async move { planned(&session, &enfold, asked, by).await }).await?)
}

pub(crate) async fn planned(
    session: &Session,
    enfold: &Enfold,
    asked: ReencryptAsked,
    by: String,
) -> Result<ReencryptAnswer> {
    let wanted = wanted(session, enfold, &asked, by).await?;
    let plan = ops::plan_reencryption(session, &wanted).await?;
    let workers = session.db.store().workers(ops::ALIVE).await?.len();
    let requested = match asked.dry_run {
        true => Vec::new(),
        false => ops::request_reencryption(session, &wanted, &plan).await?,
    };
    let mut jobs = Vec::with_capacity(requested.len());
    for Requested { table, job, .. } in requested {
        let state: JobState = session.db.store().job(job).await?.state;
        jobs.push(AskedJob { job_id: job.0, table, status: words(state).1 });
    }
    let status = match (asked.dry_run, jobs.is_empty()) {
        (true, _) => "DRY_RUN",
        (false, true) => "NOTHING_TO_DO",
        (false, false) => "QUEUED",
    };
    let job_id = jobs.first().map(|job| job.job_id);
    let plan = plan.iter().map(TablePlan::of).collect();
    Ok(Data { data: ReencryptDone { status, job_id, jobs, plan, workers } })
}

async fn wanted(session: &Session, enfold: &Enfold, asked: &ReencryptAsked, by: String) -> Result<Reencryption> {
    let policy = &session.policy;
    if let Some(ring) = asked.ring.as_ref().filter(|ring| !policy.rings.contains_key(*ring)) {
        return Err(Error::new(Code::Usage, format!("the policy has no ring `{ring}`")));
    }
    if let Some(version) = asked.to_version {
        seals(enfold, asked.ring.as_deref(), version).await?;
    }
    let rate = asked.rate()?;
    let selection = match (asked.columns.as_slice(), asked.tables.as_slice()) {
        ([], []) => Selection::All,
        ([], tables) => Selection::tables(policy, tables)?,
        (columns, _) => Selection::columns(policy, columns)?,
    };
    let mut leaving = Leaving { version: asked.from_version, ..Leaving::default() };
    for tenant in &asked.tenants {
        let ring = asked.ring.as_deref();
        let ring = ring.ok_or_else(|| Error::new(Code::Usage, "tenants are those of a ring: name it as well"))?;
        let scope = enfold.tenant_scope(ring, tenant.owned().as_part()).await?;
        leaving.tenants.extend(scope.tenant_tag().map(str::to_owned));
    }
    let order = Order { priority: asked.priority, by: Some(by), reason: asked.reason.clone() };
    let (ring, class) = (asked.ring.clone(), asked.class.clone());
    Ok(Reencryption { selection, ring, class, leaving, order, rate, batch_rows: asked.batch_size })
}

/// Values go under what seals now, and under nothing else.
async fn seals(enfold: &Enfold, ring: Option<&str>, version: u32) -> Result<()> {
    for ring in enfold.policy().rings.keys().filter(|name| ring.is_none_or(|ring| ring == *name)) {
        let mut after = None;
        loop {
            let keys = enfold.data_keys(ring, after, PAGE).await?;
            let seals = |key: &&enfold::DataKeyRecord| key.purpose == Purpose::Seal && key.status == KeyStatus::Active;
            if let Some(key) = keys.iter().filter(seals).find(|key| key.version != version) {
                return Err(Error::new(Code::Usage, format!("values cannot be brought to version {version}"))
                    .hint(format!("what seals in `{}` of ring `{ring}` is version {}", key.scope, key.version)));
            }
            match keys.last().filter(|_| keys.len() == PAGE as usize) {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
    }
    Ok(())
}

/// Which job is meant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobSought {
    #[serde(rename = "jobId")]
    job_id: String,
}

pub(crate) async fn state(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Sought(sought): Sought<JobSought>,
) -> Result<JobAnswer, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    Ok(show_job(&session, job_id(&sought.job_id)?).await?)
}

impl TablePlan {
    fn of(plan: &TableReencryption) -> Self {
        Self {
            table: plan.table.clone(),
            columns: plan.columns.clone(),
            rows_under_former_keys: plan.rows_under_former_keys,
            former_keys: plan.former_keys,
            kms_calls: plan.kms_calls,
            seconds: plan.seconds,
        }
    }
}
