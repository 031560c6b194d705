//! Access in emergencies: requests that wait for somebody's word, what is in force, and what nobody has looked at yet.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use enfold::access::{Emergency, Standing, Word};
use enfold::{Code, Error, Result};
use enfold_jobs::shown::time;

use super::guard::Sent;
use super::view::{Chrome, Html};
use crate::Shared;
use crate::api::{Failure, Say};
use crate::identity::Caller;

const HERE: &str = "/console/emergencies";
/// Every word that is said here: as its form's path has it, on its button, and what is told afterwards.
const WORDS: [(&str, &str, Say, &str); 4] = [
    // Whoever presses Enter in a form takes its first button.
    ("deny", "Deny", Say::Deny, "It is denied."),
    ("approve", "Approve", Say::Approve, "It is in force now."),
    ("end", "End it", Say::End, "It gives nothing more, wherever a service runs."),
    ("review", "Sign off", Say::Review, "It is reviewed, and closed."),
];

#[derive(Template)]
#[template(path = "emergencies.html")]
pub(super) struct EmergenciesPage {
    chrome: Chrome,
    /// Those on which somebody has to say something, those that wait for a decision first.
    open: Vec<EmergencyView>,
    closed: Vec<EmergencyView>,
    /// Ids of those that are not as a process with keys wrote them, each with why.
    broken: Vec<(String, String)>,
    /// Whether whoever looks may say anything.
    is_person: bool,
}

struct EmergencyView {
    id: String,
    standing: &'static str,
    /// The colour of the standing.
    pill: &'static str,
    by: String,
    minutes: i64,
    /// Of what, in words.
    within: String,
    until: String,
    used: String,
    said: Vec<SaidView>,
    /// What may be said on it now: the path's end, and the button.
    words: Vec<(&'static str, &'static str)>,
    is_own: bool,
}

struct SaidView {
    what: &'static str,
    by: String,
    at: String,
    reason: String,
}

impl EmergencyView {
    fn of(shared: &Shared, caller: &Caller, emergency: &Emergency) -> Self {
        let standing = shared.enfold.standing_of(emergency);
        let (pill, may): (_, &[&str]) = match standing {
            Standing::Waiting => ("paused", &["approve", "deny"]),
            Standing::InForce => ("active", &["end"]),
            Standing::Open => ("failed", &["review"]),
            Standing::Reviewed => ("completed", &[]),
            Standing::Lapsed | Standing::Denied => ("retired", &[]),
        };
        let at = |ms: Option<i64>| ms.and_then(time).unwrap_or_default();
        let words = WORDS.iter().filter(|(word, ..)| may.contains(word)).map(|(word, button, ..)| (*word, *button));
        Self {
            id: emergency.id.clone(),
            standing: standing.word(),
            pill,
            by: emergency.asked.by.clone(),
            minutes: emergency.lasts_ms / 60_000,
            within: within(emergency),
            until: at(emergency.until_ms(shared.enfold.policy().service.emergency.approval)),
            used: at(emergency.used_ms),
            said: said(emergency),
            words: words.collect(),
            is_own: emergency.asked.by == caller.actor,
        }
    }
}

/// For what it was asked, as far as that is less than the role has.
fn within(emergency: &Emergency) -> String {
    let within = &emergency.within;
    let parts = [("tenant", &within.tenants), ("class", &within.classes), ("column", &within.columns)];
    let named = parts.iter().filter_map(|(what, names)| Some((what, names.as_ref()?)));
    let named = named.map(|(what, names)| format!("{what} {}", names.iter().cloned().collect::<Vec<_>>().join(", ")));
    let named = named.collect::<Vec<_>>().join("; ");
    if named.is_empty() { "all that the role has".to_owned() } else { named }
}

/// Every word, in the order in which they can be said.
fn said(emergency: &Emergency) -> Vec<SaidView> {
    let all = [
        ("asked", Some(&emergency.asked)),
        ("approved", emergency.approved.as_ref()),
        ("denied", emergency.denied.as_ref()),
        ("ended", emergency.ended.as_ref()),
        ("reviewed", emergency.reviewed.as_ref()),
    ];
    let view = |what, word: &Word| SaidView {
        what,
        by: word.by.clone(),
        at: time(word.at_ms).unwrap_or_default(),
        reason: word.reason.clone(),
    };
    all.into_iter().filter_map(|(what, word)| Some(view(what, word?))).collect()
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(chrome): Extension<Chrome>,
) -> Result<Html<EmergenciesPage>, Failure> {
    let (mut views, mut broken) = (Vec::new(), Vec::new());
    for (id, emergency) in shared.enfold.emergencies().await? {
        match emergency {
            Ok(emergency) => views.push(EmergencyView::of(&shared, &caller, &emergency)),
            Err(error) => broken.push((id, error.message().to_owned())),
        }
    }
    let (mut open, closed): (Vec<_>, Vec<_>) = views.into_iter().partition(|view| !view.words.is_empty());
    open.sort_by_key(|view| view.standing != Standing::Waiting.word());
    let is_person = caller.check_person().is_ok();
    Ok(Html(EmergenciesPage { chrome, open, closed, broken, is_person }))
}

pub(super) async fn say(sent: Sent, Path((id, word)): Path<(String, String)>) -> Result<Response, Failure> {
    let found = WORDS.iter().find(|(path, ..)| *path == word);
    let (_, _, what, told) = found.ok_or_else(|| Error::new(Code::UnknownEndpoint, "there is nothing at this path"))?;
    let reason = sent.fields.required("reason", "a reason, for the log,")?.to_owned();
    what.of(&sent.shared, &sent.caller, id, sent.context(Some(reason))).await?;
    Ok(sent.done(*told, HERE))
}
