//! How the service, its key services and its keys are: the five checks of a root key, the next rotation, and who is sent the log.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use enfold::events::SinkStanding;
use enfold::kms::{KeyUri, RootKey, RootKeyState};
use enfold::{CallContext, Result, RootHealth, SelfTest, Tried};
use schemars::JsonSchema;
use serde::Serialize;

use super::Failure;
use super::body::Data;
use super::edge::Call;
use super::keys::{RingSchedule, schedules};
use super::latest::Latest;
use super::outcome::{ItemResult, Results};
use crate::Shared;
use crate::identity::Caller;

/// Each look asks every key service several times: whoever asks more often is told what was found a moment ago.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// How root keys were when they were looked at last.
pub(crate) type LatestHealth = Latest<Vec<KeyHealth>>;

pub(crate) type StatusAnswer = Data<Status>;

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    kms: Kms,
    /// Of the root key that is first in the policy's first ring.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_health: Option<KeyHealth>,
    /// Of every root key of every ring.
    root_keys: Vec<KeyHealth>,
    /// When data keys are rotated, ring by ring.
    rotation: Vec<RingSchedule>,
    /// Receivers of the policy's `events.sinks`, and how each takes what this process has for it.
    sinks: Vec<SinkHealth>,
}

/// Neither where it is nor what lets this process in there is told.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SinkHealth {
    /// The policy's name of it.
    sink: String,
    /// `webhook`, `syslog` or `otlp`.
    kind: &'static str,
    /// Whether the last try arrived. One that was not sent anything yet has not failed either.
    delivers: bool,
    /// When it last took lines of the log, in milliseconds since 1970; missing where it took none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_delivered_ms: Option<i64>,
    /// Lines that it took, that wait for it, and that it will not be given.
    delivered: u64,
    waiting: u64,
    lost: u64,
}

#[derive(Serialize, JsonSchema)]
struct Kms {
    configured: bool,
    /// Of AWS, where the first root key is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// The policy's.
    environment: &'static str,
}

#[derive(Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyHealth {
    pub(crate) ring: String,
    /// The root key's URI.
    pub(crate) key_id: String,
    /// Missing where its service does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    /// `Enabled`, `Disabled`, `PendingDeletion` or `Unavailable`; missing where its service does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_state: Option<&'static str>,
    /// Whether its service makes new versions by itself; missing where it does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotation_enabled: Option<bool>,
    pub(crate) health_checks: HealthChecks,
    /// What is to be settled, a sentence each.
    pub(crate) concerns: Vec<String>,
}

/// What was tried just now. Missing is what cannot be told.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthChecks {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_exists: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotation_configured: Option<bool>,
    /// Missing where the service draws no keys: Enfold draws its own, so it is no fault where it may not be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) can_generate_data_key: Option<bool>,
    /// A throw-away key was wrapped and unwrapped again.
    pub(crate) can_encrypt_decrypt: bool,
}

pub(crate) async fn status(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
) -> Result<StatusAnswer, Failure> {
    let policy = shared.enfold.policy();
    let root_keys = health(&shared, &call.context(&caller, None)).await?;
    let first = policy.rings.iter().next().and_then(|(name, ring)| Some((name, ring.roots.first()?)));
    let is_first =
        |health: &&KeyHealth| first.is_some_and(|(ring, root)| health.ring == *ring && health.key_id == *root);
    let kms = Kms {
        configured: first.is_some(),
        region: first.and_then(|(_, root)| region(root)),
        environment: policy.environment.word(),
    };
    let key_health = root_keys.iter().find(is_first).cloned();
    let rotation = schedules(&shared.enfold).await?;
    let sinks = shared.enfold.metrics().sinks.into_iter().map(SinkHealth::of).collect();
    Ok(Data { data: Status { kms, key_health, root_keys: root_keys.to_vec(), rotation, sinks } })
}

pub(crate) type SelfTestAnswer = Data<Results<Tested>>;

/// A ring that sealed and opened a throw-away value. One that did not has `error`; the reference is the ring.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tested {
    /// The data key that it was done with; missing where the ring has none yet, and one was drawn for it and forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    passed: bool,
}

pub(crate) async fn self_test(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
) -> SelfTestAnswer {
    let tested = |SelfTest { data_key, .. }| Tested { key_id: data_key.map(|id| id.to_string()), passed: true };
    let rings = shared.enfold.self_test(&call.context(&caller, None)).await;
    let items = rings.into_iter().map(|(ring, outcome)| ItemResult::of(Some(ring), Some(outcome.map(tested))));
    Data { data: Results { items: items.collect() } }
}

/// Of every root key of every ring, as it was a moment ago at most.
pub(crate) async fn health(shared: &Shared, context: &CallContext) -> Result<Arc<Vec<KeyHealth>>> {
    let look = async {
        let operator = shared.enfold.has_operator_key();
        let found = shared.enfold.root_keys(context).await?;
        Ok(found.iter().map(|health| KeyHealth::of(health, operator)).collect())
    };
    shared.latest_health.get(GOOD_FOR, look).await
}

impl SinkHealth {
    fn of(standing: SinkStanding) -> Self {
        Self {
            sink: standing.sink,
            kind: standing.kind,
            delivers: !standing.failing,
            last_delivered_ms: standing.delivered_ms,
            delivered: standing.delivered,
            waiting: standing.waiting,
            lost: standing.lost,
        }
    }
}

impl KeyHealth {
    fn of(health: &RootHealth, operator: bool) -> Self {
        let told = health.description.as_ref().and_then(|told| told.as_ref().ok());
        let enabled = told.map(|told| told.state == RootKeyState::Enabled);
        let rotation = told.and_then(|told| told.rotation.as_ref()).map(|plan| plan.period.is_some());
        Self {
            ring: health.ring.clone(),
            key_id: health.root.clone(),
            enabled,
            key_state: told.map(|told| word(told.state)),
            rotation_enabled: rotation,
            health_checks: HealthChecks {
                key_exists: health.exists(),
                key_enabled: enabled,
                rotation_configured: rotation,
                can_generate_data_key: health.drawn.as_ref().map(Result::is_ok),
                can_encrypt_decrypt: matches!(health.tried, Tried::Both { .. }),
            },
            concerns: health.concerns(operator).iter().map(|concern| concern.says.clone()).collect(),
        }
    }
}

fn word(state: RootKeyState) -> &'static str {
    match state {
        RootKeyState::Enabled => "Enabled",
        RootKeyState::Disabled => "Disabled",
        RootKeyState::PendingDeletion => "PendingDeletion",
        RootKeyState::Unavailable => "Unavailable",
    }
}

fn region(root: &str) -> Option<String> {
    match root.parse::<KeyUri>().ok()?.root() {
        RootKey::Aws(key) => Some(key.region().to_owned()),
        _ => None,
    }
}
