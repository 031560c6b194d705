//! Data keys: versions, ages, when they are due, and rotating them.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use enfold::{Code, DataKeyRecord, Enfold, Error, OwnedPart, Result, Rotated};
use enfold_jobs::shown::time;
use serde::Deserialize;

use super::chart::Ages;
use super::guard::{Fields, Sent};
use super::session::random;
use super::view::{Chrome, Html, ago};
use crate::Shared;
use crate::api::keys::{RingSchedule, is_by_tenant, page_of, rotated};
use crate::api::reencrypt::{ReencryptAsked, planned};
use crate::api::{Failure, Known, Once, Sought, to_its_end};
use crate::identity::Caller;

const PAGE: u32 = 100;
/// Between two looks at a rotation that another request is doing.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
pub(super) struct Which {
    ring: Option<String>,
    after: Option<String>,
}

#[derive(Template)]
#[template(path = "keys.html")]
pub(super) struct KeysPage {
    chrome: Chrome,
    rings: Vec<String>,
    ring: String,
    by_tenant: bool,
    /// Whether this process can sign, so that it can rotate.
    can_rotate: bool,
    schedule: Option<RingSchedule>,
    /// The name of the rotation that this form asks for: sent twice, it is done once.
    once: String,
    keys: Vec<KeyView>,
    ages: Option<Ages>,
    next: Option<String>,
}

struct KeyView {
    id: String,
    purpose: &'static str,
    scope: String,
    version: u32,
    status: &'static str,
    created: String,
    age: String,
    wrapped_by: Vec<String>,
    customer: Option<String>,
    refused: Option<&'static str>,
}

impl KeyView {
    fn of(key: &DataKeyRecord) -> Self {
        Self {
            id: key.id.to_string(),
            purpose: key.purpose.as_str(),
            scope: key.scope.clone(),
            version: key.version,
            status: key.status.as_str(),
            created: time(key.created_ms).unwrap_or_default(),
            age: ago(key.created_ms),
            wrapped_by: key.wraps.iter().map(|wrap| wrap.root.clone()).collect(),
            customer: key.customer.clone(),
            refused: key.refused.as_ref().map(|error| error.code().word()),
        }
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(chrome): Extension<Chrome>,
    Sought(which): Sought<Which>,
) -> Result<Html<KeysPage>, Failure> {
    let enfold = &shared.enfold;
    let rings: Vec<String> = enfold.policy().rings.keys().cloned().collect();
    let ring = which.ring.or_else(|| rings.first().cloned()).unwrap_or_default();
    let (found, next) = page_of(enfold, &ring, which.after.as_deref(), PAGE).await?;
    let scheduled = enfold.schedule().await?.into_iter().find(|scheduled| scheduled.ring == ring);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let ages = scheduled.as_ref().map(|ring| {
        // Of all that seal, and not of those of this page.
        Ages::of(ring.keys.iter().map(|key| now_ms + ring.cadence_ms - key.due_ms), ring.cadence_ms)
    });
    let schedule = scheduled.map(|scheduled| RingSchedule::of(&scheduled, now_ms));
    Ok(Html(KeysPage {
        by_tenant: is_by_tenant(enfold, &ring),
        can_rotate: enfold.has_operator_key(),
        once: random()?,
        keys: found.iter().map(KeyView::of).collect(),
        chrome,
        rings,
        ring,
        schedule,
        ages,
        next,
    }))
}

pub(super) async fn rotate(sent: Sent) -> Result<Response, Failure> {
    let Sent { shared, fields, .. } = &sent;
    let (ring, reason) = ring_and_reason(fields)?;
    // Text, whatever type the tenant has in the tables: an organisation's id in digits is a number where its column holds numbers.
    let tenants: Vec<String> = fields.get("tenants").map(names).unwrap_or_default();
    if is_by_tenant(&shared.enfold, &ring) && tenants.is_empty() && fields.get("everybody").is_none() {
        return Err(Failure(
            Error::new(Code::Usage, "it is not said whose data keys are meant")
                .hint("name tenants, or say that every tenant's are meant")
                .hint("nothing was changed"),
        ));
    }
    let tenants = tenants.iter().map(|name| part(name, fields.get("kind"))).collect::<Result<Vec<_>>>()?;
    let context = sent.context(Some(reason));
    let text = match begun(&shared.enfold, &sent.caller, fields).await? {
        Known::Done(before) => before,
        Known::ToDo(once) => {
            let (enfold, ring) = (shared.enfold.clone(), ring.clone());
            to_its_end(async move {
                let done = rotated(&enfold, &ring, &tenants, Some(&once), &context).await.map(|keys| said(&keys));
                once.end(done.as_deref().ok()).await;
                done
            })
            .await?
        }
    };
    Ok(sent.done(text, &of_ring(&ring)))
}

/// Begins what a form asks for, or finds what came of it when it was sent before. Who clicks twice is told what the first click comes
/// to, and waits for it.
async fn begun(enfold: &Enfold, caller: &Caller, fields: &Fields) -> Result<Known> {
    let name = fields.required("once", "the name of the form")?;
    loop {
        match Once::begin(enfold, &caller.actor, name, &[b"rotate", fields.content().as_bytes()]).await {
            Err(error) if error.code() == Code::RequestRunning => {
                tokio::time::sleep(error.again_after().unwrap_or_default().max(AGAIN)).await;
            }
            Err(error) if error.code() == Code::IdempotencyKeyReused => {
                return Err(Error::new(
                    Code::IdempotencyKeyReused,
                    "the form was sent before, and said something else",
                )
                .hint("open the page again, and send its form")
                .hint("nothing was changed"));
            }
            begun => return begun,
        }
    }
}

fn said(rotated: &[Rotated]) -> String {
    match rotated {
        [] => "There is no data key yet that could be rotated.".to_owned(),
        [one] => format!(
            "Version {} seals in every process within a second; version {} opens.",
            one.version, one.previous_version
        ),
        many => {
            format!("{} data keys were rotated: the new versions seal in every process within a second.", many.len())
        }
    }
}

/// Has workers bring values of the ring under the data keys that seal now.
pub(super) async fn reencrypt(sent: Sent) -> Result<Response, Failure> {
    let (ring, reason) = ring_and_reason(&sent.fields)?;
    let session = sent.shared.session(&sent.context(Some(reason.clone()))).await?;
    let asked = ReencryptAsked::of_ring(&ring, reason);
    let (enfold, by) = (sent.shared.enfold.clone(), sent.caller.actor.clone());
    let asked = to_its_end(async move { planned(&session, &enfold, asked, by).await }).await?.data;
    let text = match (asked.jobs.len(), asked.workers) {
        (0, _) => "No value of the ring is under a former data key.".to_owned(),
        (1, 0) => "1 job waits for a worker, and none is alive: start `enfold worker`.".to_owned(),
        (jobs, 0) => format!("{jobs} jobs wait for a worker, and none is alive: start `enfold worker`."),
        (1, workers) => format!("1 job waits or runs; workers that are alive: {workers}."),
        (jobs, workers) => format!("{jobs} jobs wait or run; workers that are alive: {workers}."),
    };
    let to = if asked.jobs.is_empty() { of_ring(&ring) } else { "/console/jobs".to_owned() };
    Ok(sent.done(text, &to))
}

/// What both forms say: the ring that is meant, and why.
fn ring_and_reason(fields: &Fields) -> Result<(String, String)> {
    let (ring, reason) = (fields.required("ring", "the ring")?, fields.required("reason", "a reason, for the log,")?);
    Ok((ring.to_owned(), reason.to_owned()))
}

fn names(text: &str) -> Vec<String> {
    text.split([',', '\n']).map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn part(name: &str, kind: Option<&str>) -> Result<OwnedPart> {
    let part = match kind {
        Some("number") => name.parse().ok().map(OwnedPart::Int),
        Some("uuid") => enfold::access::uuid_part(name),
        _ => Some(OwnedPart::Text(name.to_owned())),
    };
    part.ok_or_else(|| {
        Error::new(Code::Usage, "a tenant is not of the kind that was chosen").hint("nothing was changed")
    })
}

fn of_ring(ring: &str) -> String {
    let ring: String = url::form_urlencoded::byte_serialize(ring.as_bytes()).collect();
    format!("/console/keys?ring={ring}")
}
