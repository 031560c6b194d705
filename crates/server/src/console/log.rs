//! The log of events: who did what, and whether its chains hold together.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use enfold::catalog::EventQuery;
use enfold::events::{Event, Finding, SignedCheckpoint};
use enfold::{Code, Enfold, Error, Result};
use enfold_jobs::shown::{count, time};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::chart::Timeline;
use super::guard::Sent;
use super::session::Notice;
use super::view::{Chrome, Html, ago};
use crate::Shared;
use crate::api::{Failure, Sought};

/// Events that a page shows, and that its chart counts.
const SHOWN: usize = 100;
const COUNTED: u32 = 1_000;
/// Findings that are told one by one.
const FINDINGS: usize = 5;

/// What is looked for. Fields of a form come empty where nothing stands in them.
#[derive(Default, Deserialize)]
pub(super) struct Looked {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    actor: String,
    #[serde(default)]
    column: String,
    #[serde(default)]
    key: String,
    /// As a browser's field for a moment has it; taken as UTC.
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    /// Before this moment, in milliseconds: the next page.
    before: Option<i64>,
}

#[derive(Template)]
#[template(path = "log.html")]
pub(super) struct LogPage {
    chrome: Chrome,
    looked: Looked,
    events: Vec<EventView>,
    timeline: Option<Timeline>,
    chain: ChainView,
    /// The query of the next page.
    older: Option<String>,
}

struct EventView {
    at: String,
    kind: &'static str,
    is_refusal: bool,
    count: String,
    actor: String,
    about: String,
    reason: String,
    source: String,
    request_id: String,
}

/// How far the log is vouched for.
pub(super) struct ChainView {
    /// Whether events are kept at all.
    pub(super) is_kept: bool,
    pub(super) checkpoint: Option<u64>,
    pub(super) signed_ago: Option<String>,
}

impl ChainView {
    pub(super) async fn of(enfold: &Enfold) -> Result<Self> {
        let is_kept = enfold.policy().events.catalog;
        let last = enfold.catalog().last_checkpoint().await?;
        let read = last.as_ref().and_then(SignedCheckpoint::read);
        Ok(Self { is_kept, checkpoint: last.map(|last| last.number), signed_ago: read.map(|read| ago(read.at_ms)) })
    }
}

impl EventView {
    fn of(event: &Event) -> Self {
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        let about = [&event.column, &event.ring, &event.key, &event.code, &event.detail];
        let about: Vec<&str> = about.into_iter().flatten().map(String::as_str).collect();
        Self {
            at: time(event.at_ms).unwrap_or_default(),
            kind: event.kind.as_str(),
            is_refusal: event.code.is_some(),
            count: count(event.count),
            actor: said(&event.actor),
            about: about.join(" · "),
            reason: said(&event.reason),
            source: said(&event.source),
            request_id: said(&event.request_id),
        }
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(chrome): Extension<Chrome>,
    Sought(looked): Sought<Looked>,
) -> Result<Html<LogPage>, Failure> {
    let enfold = &shared.enfold;
    // What this process itself did is in it.
    enfold.flush().await?;
    let events = enfold.catalog().events(&looked.query()?).await?;
    let timeline = Timeline::of(events.iter().map(|event| event.at_ms));
    let older = events.get(SHOWN).map(|_| looked.older(events[SHOWN - 1].at_ms));
    let events = events.iter().take(SHOWN).map(EventView::of).collect();
    let chain = ChainView::of(enfold).await?;
    Ok(Html(LogPage { chrome, looked, events, timeline, chain, older }))
}

/// Reads the whole log, and says whether it is what was written and signed.
pub(super) async fn verify(sent: Sent) -> Result<Response, Failure> {
    let enfold = sent.shared.enfold.clone();
    // A thread of its own: it hashes all there is.
    let here = tokio::runtime::Handle::current();
    let verified = tokio::task::spawn_blocking(move || here.block_on(enfold.verify_log(Vec::new())));
    let report =
        verified.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "verifying the log ran into a fault")))?;
    let found: Vec<String> = report.findings.iter().take(FINDINGS).map(Finding::says).collect();
    let entries = count(report.entries);
    let text = match report.findings.len() {
        0 => {
            let signed = count(report.signed);
            format!("Every chain holds together: {entries} entries, {signed} of them vouched for by checkpoints.")
        }
        many => format!("The log is not what was written and signed ({many}): {}.", found.join("; ")),
    };
    Ok(sent.answer(Notice { is_error: !report.findings.is_empty(), text }, "/console/log"))
}

impl Looked {
    fn query(&self) -> Result<EventQuery> {
        let said = |text: &str| Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        let until = moment(&self.until)?;
        Ok(EventQuery {
            since_ms: moment(&self.since)?,
            until_ms: self.before.into_iter().chain(until).min(),
            kinds: said(&self.kind).map(|kind| vec![kind]),
            keys: said(&self.key).map(|key| vec![key]),
            subjects: None,
            column: said(&self.column),
            actor: said(&self.actor),
            limit: COUNTED,
        })
    }

    /// The same, before a moment. Events of that very millisecond come again rather than never.
    fn older(&self, at_ms: i64) -> String {
        let said = [
            ("kind", &self.kind),
            ("actor", &self.actor),
            ("column", &self.column),
            ("key", &self.key),
            ("since", &self.since),
        ];
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(said.into_iter().filter(|(_, text)| !text.is_empty()));
        query.append_pair("before", &(at_ms + 1).to_string());
        query.finish()
    }

    fn is_narrowed(&self) -> bool {
        let said = [&self.kind, &self.actor, &self.column, &self.key, &self.since, &self.until];
        said.into_iter().any(|text| !text.is_empty()) || self.before.is_some()
    }
}

fn moment(text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse::<DateTime>().ok().and_then(|at| at.to_zoned(TimeZone::UTC).ok());
    let at = parsed.ok_or_else(|| Error::new(Code::Usage, "a moment is written as `2026-11-28T09:30`, in UTC"))?;
    Ok(Some(at.timestamp().as_millisecond()))
}
