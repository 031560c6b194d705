//! Access in an emergency: asked for, decided, ended and reviewed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::routing::{MethodRouter, post};
use enfold::access::{Emergency, NewEmergency, Standing, Within, Word};
use enfold::{CallContext, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::body::{Asked, Data};
use super::edge::{Call, to_its_end};
use super::{ErrorBody, Failure};
use crate::Shared;
use crate::identity::Caller;

/// A request for access in an emergency.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmergencyAsked {
    /// What has happened. It stands in the log of events.
    reason: String,
    /// For how long, from the approval on.
    minutes: u32,
    /// Only for values of these tenants. None: of all that the role has.
    tenants: Option<BTreeSet<String>>,
    /// Only for columns of these classes.
    classes: Option<BTreeSet<String>>,
    /// Only for these columns and values of the policy.
    columns: Option<BTreeSet<String>>,
}

/// A word on an emergency.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WordAsked {
    /// Why. It stands in the log of events.
    reason: String,
}

pub(crate) type EmergencyAnswer = Data<Told>;
pub(crate) type EmergenciesAnswer = Data<Vec<Listed>>;

/// How access in an emergency stands.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    /// What requests under it say in the header `Enfold-Emergency`.
    id: String,
    /// `waiting` for a decision, `lapsed` without one, `denied`, `in-force`, `open` for its review, or `reviewed`.
    standing: &'static str,
    /// Who asked, when and why.
    asked: Said,
    /// For how long.
    minutes: i64,
    /// When it is over, in milliseconds since 1970; missing while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenants: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approved: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<Said>,
    /// When it was first used.
    #[serde(skip_serializing_if = "Option::is_none")]
    used_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reviewed: Option<Said>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Said {
    by: String,
    /// Milliseconds since 1970.
    at_ms: i64,
    reason: String,
}

/// One of the newest emergencies, or why it is not to be believed.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Listed {
    Told(Box<Told>),
    Broken { id: String, error: ErrorBody },
}

pub(crate) async fn ask(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Asked(asked): Asked<EmergencyAsked>,
) -> Result<EmergencyAnswer, Failure> {
    let EmergencyAsked { reason, minutes, tenants, classes, columns } = asked;
    let lasts = Duration::from_secs(u64::from(minutes) * 60);
    let wanted = NewEmergency { lasts, within: Within { tenants, classes, columns } };
    let (context, enfold) = (call.context(&caller, Some(reason)), shared.enfold.clone());
    let emergency = to_its_end(async move { enfold.ask_emergency(&wanted, &context).await }).await?;
    Ok(Data { data: told(&shared, emergency) })
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Result<EmergenciesAnswer, Failure> {
    let found = shared.enfold.emergencies().await?.into_iter();
    let listed = found.map(|(id, emergency)| match emergency {
        Ok(emergency) => Listed::Told(Box::new(told(&shared, emergency))),
        Err(error) => Listed::Broken { id, error: ErrorBody::of(&error) },
    });
    Ok(Data { data: listed.collect() })
}

/// To whoever asked for it: all of them are for those who look into the log.
pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(id): Path<String>,
) -> Result<EmergencyAnswer, Failure> {
    let emergency = shared.enfold.emergency(&id).await?;
    emergency.must_be_of(&caller.actor)?;
    Ok(Data { data: told(&shared, emergency) })
}

/// The endpoint at which somebody says this of an emergency.
pub(crate) fn saying(what: Say) -> MethodRouter<Arc<Shared>> {
    post(
        move |shared: State<Arc<Shared>>,
              caller: Extension<Arc<Caller>>,
              call: Extension<Call>,
              id: Path<String>,
              asked: Asked<WordAsked>| say(shared, caller, call, id, asked, what),
    )
}

#[derive(Clone, Copy)]
pub(crate) enum Say {
    Approve,
    Deny,
    End,
    /// Ends one's own.
    Withdraw,
    Review,
}

async fn say(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    Asked(asked): Asked<WordAsked>,
    what: Say,
) -> Result<EmergencyAnswer, Failure> {
    let said = what.of(&shared, &caller, id, call.context(&caller, Some(asked.reason))).await?;
    Ok(Data { data: told(&shared, said) })
}

impl Say {
    /// Says it of an emergency, as somebody who is a person.
    pub(crate) async fn of(
        self,
        shared: &Shared,
        caller: &Caller,
        id: String,
        context: CallContext,
    ) -> Result<Emergency> {
        caller.check_person()?;
        let enfold = shared.enfold.clone();
        to_its_end(async move {
            match self {
                Self::Approve => enfold.decide_emergency(&id, true, &context).await,
                Self::Deny => enfold.decide_emergency(&id, false, &context).await,
                Self::End => enfold.end_emergency(&id, &context).await,
                Self::Withdraw => enfold.withdraw_emergency(&id, &context).await,
                Self::Review => enfold.review_emergency(&id, &context).await,
            }
        })
        .await
    }
}

fn told(shared: &Shared, emergency: Emergency) -> Told {
    let approval = shared.enfold.policy().service.emergency.approval;
    let standing: Standing = shared.enfold.standing_of(&emergency);
    Told {
        standing: standing.word(),
        until_ms: emergency.until_ms(approval),
        id: emergency.id,
        asked: said(emergency.asked),
        minutes: emergency.lasts_ms / 60_000,
        tenants: emergency.within.tenants,
        classes: emergency.within.classes,
        columns: emergency.within.columns,
        approved: emergency.approved.map(said),
        denied: emergency.denied.map(said),
        used_ms: emergency.used_ms,
        ended: emergency.ended.map(said),
        reviewed: emergency.reviewed.map(said),
    }
}

fn said(Word { by, at_ms, reason }: Word) -> Said {
    Said { by, at_ms, reason }
}
