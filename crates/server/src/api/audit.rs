//! The log of events: found by what it says, and taken elsewhere with its chains.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use enfold::catalog::{EventPage, EventQuery};
use enfold::events::{Event, EventKind};
use enfold::{Code, Enfold, Error, LogExport, Result};
use enfold_jobs::shown::{self, time};
use futures_util::stream;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::body::{Data, Sought};
use crate::Shared;

/// Events of a page, where nobody says how many.
pub(super) const PAGE: u32 = 100;
pub(super) const LARGEST_PAGE: u32 = 1_000;
pub(super) const LINES: &str = "application/x-ndjson";

/// Which events are looked for. What is left out is not asked about.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditAsked {
    /// From this moment on: `2026-03-01` (its beginning, in UTC) or `2026-03-01T12:00:00Z`.
    since: Option<String>,
    /// Before this moment.
    until: Option<String>,
    /// Kinds of events with commas between them, such as `open,refused`.
    kind: Option<String>,
    /// Data keys by their ids, with commas between them.
    key: Option<String>,
    /// Whom they are about, in the words with which values were sealed and opened.
    subject: Option<String>,
    /// As the policy spells it.
    column: Option<String>,
    /// Who did it.
    actor: Option<String>,
    /// `newest` first, if nothing is said, or `oldest`.
    #[serde(default)]
    order: Order,
    /// Begins after this place, in the order asked for.
    after: Option<i64>,
    /// Not more than so many: 100, if nothing is said, and 1000 at most.
    limit: Option<u32>,
}

#[derive(Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Newest,
    Oldest,
}

pub(crate) type AuditAnswer = Data<AuditPage>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct AuditPage {
    events: Vec<Logged>,
    /// What `after` has to be for the next page; missing where this one is not full.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
struct Logged {
    /// In the catalog: where a later page begins.
    place: i64,
    timestamp: Option<String>,
    /// As it stands in the log.
    #[schemars(with = "std::collections::BTreeMap<String, serde_json::Value>")]
    event: Event,
}

pub(crate) async fn audit(
    State(shared): State<Arc<Shared>>,
    Sought(asked): Sought<AuditAsked>,
) -> Result<AuditAnswer, Failure> {
    let page = EventPage { oldest_first: asked.order == Order::Oldest, after: asked.after };
    let query = query(&shared.enfold, asked).await?;
    let found = shared.enfold.catalog().event_page(&query, page).await?;
    let is_full = found.len() == query.limit as usize;
    let next = found.last().map(|(place, _)| *place).filter(|_| is_full);
    let logged = |(place, event): (i64, Event)| Logged { place, timestamp: time(event.at_ms), event };
    Ok(Data { data: AuditPage { events: found.into_iter().map(logged).collect(), next } })
}

async fn query(enfold: &Enfold, asked: AuditAsked) -> Result<EventQuery> {
    let several = |words: Option<String>| {
        words.map(|words| words.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>())
    };
    Ok(EventQuery {
        since_ms: asked.since.as_deref().map(moment).transpose()?,
        until_ms: asked.until.as_deref().map(moment).transpose()?,
        kinds: several(asked.kind).map(known).transpose()?,
        keys: several(asked.key),
        subjects: match &asked.subject {
            Some(subject) => {
                let tags = enfold.subject_tags(subject).await?;
                Some(tags.iter().map(|tag| tag.as_str().to_owned()).collect())
            }
            None => None,
        },
        column: asked.column,
        actor: asked.actor,
        limit: asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE),
    })
}

/// A word that no event can have would find nothing, and look as if nothing had happened.
fn known(kinds: Vec<String>) -> Result<Vec<String>> {
    if kinds.iter().all(|kind| EventKind::parse(kind).is_some()) {
        return Ok(kinds);
    }
    Err(Error::new(Code::Usage, "there is no such kind of event").hint("`docs/reference/events.md` lists them"))
}

pub(super) fn moment(text: &str) -> Result<i64> {
    shown::moment(text).ok_or_else(|| {
        Error::new(Code::Usage, "a moment is not spelled as one")
            .hint("spell it `2026-03-01` (its beginning, in UTC) or `2026-03-01T12:00:00Z`")
    })
}

/// The log as JSON lines.
pub(crate) struct Lines(LogExport);

impl JsonSchema for Lines {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Lines".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "contentMediaType": LINES })
    }
}

pub(crate) async fn export(State(shared): State<Arc<Shared>>) -> Lines {
    Lines(shared.enfold.log_export())
}

impl IntoResponse for Lines {
    /// Piece by piece: a log is larger than what fits into memory. One that cannot be read to its end breaks off without the end of
    /// the body, so that nobody takes a part for the whole.
    fn into_response(self) -> Response {
        let pieces = stream::unfold(Some(self.0), async |export| {
            let mut export = export?;
            match export.next().await {
                Ok(None) => None,
                Ok(Some(lines)) => Some((Ok(Bytes::from(whole(&lines))), Some(export))),
                Err(error) => {
                    tracing::warn!(target: "enfold_server", "an export of the log broke off: {error}");
                    Some((Err(std::io::Error::other("the log cannot be read")), None))
                }
            }
        });
        ([(CONTENT_TYPE, LINES)], Body::from_stream(pieces)).into_response()
    }
}

fn whole(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
