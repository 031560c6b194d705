//! Keys, for operators: what is on record, when data keys are due, rotating them, and taking in what changed.
//!
//! Rotating signs a new state, so it takes the operators' key: a service that has it not says so.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use enfold::policy::{Policy, Scope};
use enfold::{CallContext, Code, DataKeyRecord, Enfold, Error, KeyId, OwnedPart, Result, Rotated, Whose};
use enfold_jobs::shown::time;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::{Asked, Data, Sought};
use super::datum::PlacePart;
use super::edge::{Call, to_its_end};
use super::error::{ErrorBody, Failure};
use super::once::Once;
use super::reencrypt::{AskedJob, ReencryptAnswer, ReencryptAsked, ReencryptDone, planned};
use crate::Shared;
use crate::identity::Caller;

/// Data keys of a page, where nobody says how many.
const PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1_000;
const DAY_MS: i64 = 86_400_000;

/// Which data keys are listed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysAsked {
    /// The ring, as the policy calls it. May be left out where there is one.
    ring: Option<String>,
    /// Begins after this data key.
    after: Option<String>,
    /// Not more than so many: 100, if nothing is said, and 1000 at most.
    limit: Option<u32>,
}

pub(crate) type KeysAnswer = Data<KeyPage>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct KeyPage {
    ring: String,
    keys: Vec<KeyRecord>,
    /// What `after` has to be for the next page; missing on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A data key on record. The key itself is nowhere but wrapped.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct KeyRecord {
    key_id: String,
    /// `seal`, `index`, `rows` or `cache`.
    purpose: &'static str,
    /// What it covers; a tenant as a keyed hash.
    scope: String,
    version: u32,
    /// `active`, `retired`, `disabled`, `destroying` or `destroyed`.
    status: &'static str,
    created_at: Option<String>,
    /// The root keys that wrapped it, by URI.
    wrapped_by: Vec<String>,
    /// The code of the error by which the row is refused: it is not as it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<&'static str>,
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    Sought(asked): Sought<KeysAsked>,
) -> Result<KeysAnswer, Failure> {
    let ring = ring(shared.enfold.policy(), asked.ring)?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let (found, next) = page_of(&shared.enfold, &ring, asked.after.as_deref(), limit).await?;
    Ok(Data { data: KeyPage { ring, keys: found.iter().map(KeyRecord::of).collect(), next } })
}

/// So many data keys of a ring, beginning after this one, and after which the next page begins, if there is one.
pub(crate) async fn page_of(
    enfold: &Enfold,
    ring: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<(Vec<DataKeyRecord>, Option<String>)> {
    let after = after.map(str::parse::<KeyId>).transpose();
    let after = after.map_err(|_| Error::new(Code::Usage, "`after` is no id of a data key"))?;
    // One more than is shown says whether there are more.
    let mut found = enfold.data_keys(ring, after, limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next = found.last().filter(|_| more).map(|key| key.id.to_string());
    Ok((found, next))
}

/// What the schedule says of each ring.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Schedule {
    rings: Vec<RingSchedule>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RingSchedule {
    pub(crate) ring: String,
    /// Whether workers rotate by themselves.
    pub(crate) enabled: bool,
    /// How old a data key becomes; missing where the policy has no cadence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) period_days: Option<i64>,
    /// When the first is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_rotation: Option<String>,
    /// How many are due now, and how many of those for longer than a tenth of the period.
    pub(crate) due: usize,
    pub(crate) overdue: usize,
}

pub(crate) type ScheduleAnswer = Data<Schedule>;

pub(crate) async fn schedule(State(shared): State<Arc<Shared>>) -> Result<ScheduleAnswer, Failure> {
    Ok(Data { data: Schedule { rings: schedules(&shared.enfold).await? } })
}

pub(crate) async fn schedules(enfold: &Enfold) -> Result<Vec<RingSchedule>> {
    let scheduled = enfold.schedule().await?;
    let of_ring = |name: &String| match scheduled.iter().find(|ring| ring.ring == *name) {
        None => RingSchedule {
            ring: name.clone(),
            enabled: false,
            period_days: None,
            next_rotation: None,
            due: 0,
            overdue: 0,
        },
        Some(ring) => RingSchedule::of(ring, Timestamp::now().as_millisecond()),
    };
    Ok(enfold.policy().rings.keys().map(of_ring).collect())
}

impl RingSchedule {
    pub(crate) fn of(ring: &enfold::RingSchedule, now_ms: i64) -> Self {
        Self {
            ring: ring.ring.clone(),
            enabled: ring.enabled,
            period_days: Some(ring.cadence_ms / DAY_MS),
            next_rotation: ring.keys.first().and_then(|key| time(key.due_ms)),
            due: ring.due(now_ms).len(),
            overdue: ring.overdue(now_ms).len(),
        }
    }
}

/// A rotation.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RotateAsked {
    /// The ring, as the policy calls it. May be left out where there is one.
    ring: Option<String>,
    /// Whose data keys, in a ring where each tenant has its own.
    #[serde(default)]
    tenants: Vec<PlacePart>,
    /// Every tenant's.
    #[serde(default)]
    all_tenants: bool,
    /// Have workers bring values under the new data keys as well. `re_encrypt` is the same.
    #[serde(default, alias = "re_encrypt")]
    re_encrypt: bool,
    /// Why, for the log of events.
    reason: String,
}

/// What a rotation came to.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RotateDone {
    success: bool,
    ring: String,
    /// Of the first data key that was rotated; missing where the ring has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation: Option<Rotation>,
    /// All of them.
    keys: Vec<RotatedKey>,
    /// What became of `reEncrypt`; missing where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    re_encryption_status: Option<ReencryptionStatus>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ReencryptionStatus {
    /// Whether jobs are there that do it.
    requested: bool,
    /// `QUEUED`; `NOTHING_TO_DO` where no value is under a former data key; `FAILED`, with `error`: the data keys are rotated all
    /// the same, and `POST /api/v1/encryption/re-encrypt` asks for the jobs again.
    status: &'static str,
    /// The first of the jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<i64>,
    /// A job a table.
    jobs: Vec<AskedJob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    previous_version: u32,
    new_version: u32,
    rotated_at: Option<String>,
    rotated_by: RotatedBy,
}

#[derive(Serialize, JsonSchema)]
struct RotatedBy {
    /// As the log of events has it.
    id: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RotatedKey {
    scope: String,
    previous_version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_key_id: Option<String>,
    new_version: u32,
    key_id: String,
    rotated_at: Option<String>,
}

pub(crate) type RotateAnswer = Data<RotateDone>;

pub(crate) async fn rotate(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    once: Option<Extension<Once>>,
    Asked(asked): Asked<RotateAsked>,
) -> Result<RotateAnswer, Failure> {
    let ring = ring(shared.enfold.policy(), asked.ring)?;
    let tenants: Vec<OwnedPart> = asked.tenants.iter().map(PlacePart::owned).collect();
    if is_by_tenant(&shared.enfold, &ring) && tenants.is_empty() && !asked.all_tenants {
        return Err(Failure(
            Error::new(Code::Usage, format!("cannot tell whose data keys of ring `{ring}` are meant"))
                .hint("name `tenants`, or say `\"allTenants\": true`"),
        ));
    }
    let context = call.context(&caller, Some(asked.reason.clone()));
    // Reached for before anything is rotated: a database that is away shall not be found out after it.
    let session = if asked.re_encrypt { Some(shared.session(&context).await?) } else { None };
    let (rotated, re_encryption_status) = {
        let (enfold, ring, by) = (shared.enfold.clone(), ring.clone(), caller.actor.clone());
        to_its_end(async move {
            let rotated = rotated(&enfold, &ring, &tenants, once.as_deref(), &context).await?;
            let Some(session) = session else { return Ok((rotated, None)) };
            let left = ReencryptAsked::after_rotation(&ring, asked.tenants, asked.reason);
            Ok((rotated, Some(ReencryptionStatus::of(planned(&session, &enfold, left, by).await))))
        })
        .await?
    };
    let rotation = rotated.first().map(|key| Rotation {
        previous_version: key.previous_version,
        new_version: key.version,
        rotated_at: time(key.at_ms),
        rotated_by: RotatedBy { id: caller.actor.clone() },
    });
    let keys = rotated.iter().map(RotatedKey::of).collect();
    Ok(Data { data: RotateDone { success: true, ring, rotation, keys, re_encryption_status } })
}

/// What a request that can be repeated is about to do is kept before it is done: from which versions it rotates.
pub(crate) async fn rotated(
    enfold: &Enfold,
    ring: &str,
    tenants: &[OwnedPart],
    once: Option<&Once>,
    context: &CallContext,
) -> Result<Vec<Rotated>> {
    let operator = enfold.operator()?;
    let tenants: Vec<_> = tenants.iter().map(OwnedPart::as_part).collect();
    let whose = if tenants.is_empty() { Whose::Everybody } else { Whose::Tenants(&tenants) };
    let Some(once) = once else { return operator.rotate_many(ring, whose, context).await };
    let plan = once.intent(|| operator.plan_rotation(ring, whose)).await?;
    operator.rotate_planned(&plan, context).await
}

/// Whether each tenant has data keys of its own in the ring.
pub(crate) fn is_by_tenant(enfold: &Enfold, ring: &str) -> bool {
    enfold.policy().rings.get(ring).is_some_and(|ring| ring.scope == Scope::Tenant)
}

/// What was taken in.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Refreshed {
    success: bool,
    /// Whether every process does so within a second, and not this one alone: that takes the operators' key.
    everywhere: bool,
}

pub(crate) type RefreshAnswer = Data<Refreshed>;

pub(crate) async fn refresh(State(shared): State<Arc<Shared>>) -> Result<RefreshAnswer, Failure> {
    let enfold = shared.enfold.clone();
    let everywhere = enfold.has_operator_key();
    to_its_end(async move {
        enfold.refresh().await?;
        for ring in enfold.policy().rings.keys().filter(|_| everywhere) {
            enfold.operator()?.refresh(ring).await?;
        }
        Ok(())
    })
    .await?;
    Ok(Data { data: Refreshed { success: true, everywhere } })
}

impl KeyRecord {
    fn of(key: &DataKeyRecord) -> Self {
        Self {
            key_id: key.id.to_string(),
            purpose: key.purpose.as_str(),
            scope: key.scope.clone(),
            version: key.version,
            status: key.status.as_str(),
            created_at: time(key.created_ms),
            wrapped_by: key.wraps.iter().map(|wrap| wrap.root.clone()).collect(),
            refused: key.refused.as_ref().map(|error| error.code().word()),
        }
    }
}

impl ReencryptionStatus {
    fn of(asked: Result<ReencryptAnswer>) -> Self {
        match asked {
            Ok(Data { data: ReencryptDone { status, job_id, jobs, .. } }) => {
                Self { requested: job_id.is_some(), status, job_id, jobs, error: None }
            }
            Err(error) => Self {
                requested: false,
                status: "FAILED",
                job_id: None,
                jobs: Vec::new(),
                error: Some(ErrorBody::of(&error)),
            },
        }
    }
}

impl RotatedKey {
    fn of(key: &Rotated) -> Self {
        Self {
            scope: key.scope.to_string(),
            previous_version: key.previous_version,
            previous_key_id: key.previous_key.map(|id| id.to_string()),
            new_version: key.version,
            key_id: key.key.to_string(),
            rotated_at: time(key.at_ms),
        }
    }
}

/// The ring that is meant: where a policy has one, it need not be named.
fn ring(policy: &Policy, named: Option<String>) -> Result<String> {
    match (named, policy.rings.keys().collect::<Vec<_>>().as_slice()) {
        (Some(ring), _) if policy.rings.contains_key(&ring) => Ok(ring),
        (Some(_), _) => Err(Error::new(Code::Usage, "the policy has no ring of this name")),
        (None, [only]) => Ok((*only).clone()),
        (None, _) => Err(Error::new(Code::Usage, "the policy has several rings").hint("say which: `ring`")),
    }
}
