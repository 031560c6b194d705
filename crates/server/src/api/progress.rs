//! How far a job is, as server-sent events, for whoever would otherwise ask again and again.
//!
//! Who listens is asked for at each look, as at a request: a key that is revoked, or a token whose time is over, ends the stream. So
//! does the service's stop, because it waits for what it has taken.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use enfold::access::Permission;
use enfold::{Code, Error, Result};
use enfold_jobs::model::{JobId, JobState};
use enfold_jobs::ops::Session;
use enfold_jobs::store::JobRecord;
use futures_util::stream;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use tokio::sync::watch;

use super::Failure;
use super::edge::Call;
use super::jobs::{JobInfo, job_id};
use crate::Shared;
use crate::identity::{self, Caller};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long in which nothing changed comes a sign of life, so that nobody in between takes the connection for dead.
const SILENCE: Duration = Duration::from_secs(10);
/// Streams of one caller at once: each looks at the database once a second.
const MOST: usize = 8;
/// A proxy that keeps answers until they are whole would keep this one for as long as the job takes.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How many streams each caller has open.
#[derive(Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<String, usize>>>);

/// One of a caller's streams, until it is dropped.
struct Slot {
    of: String,
    streams: Arc<Mutex<HashMap<String, usize>>>,
}

/// A job that is watched.
pub(crate) struct Watched {
    shared: Arc<Shared>,
    session: Session,
    job: JobId,
    /// With which whoever listens was let in.
    credentials: HeaderMap,
    source: Option<IpAddr>,
    stopping: watch::Receiver<bool>,
    /// What was said last.
    said: Option<String>,
    said_at: Instant,
    is_over: bool,
    _slot: Slot,
}

pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Path(id): Path<String>,
    credentials: HeaderMap,
) -> Result<Watched, Failure> {
    let session = shared.session(&call.context(&caller, None)).await?;
    let job = job_id(&id)?;
    // That there is no such job is an answer, and no stream.
    session.db.store().job(job).await?;
    let slot = shared.streams.open(&caller.actor)?;
    let stopping = shared.stopping.subscribe();
    let (said, said_at) = (None, Instant::now());
    let source = call.source;
    Ok(Watched { shared, session, job, credentials, source, stopping, said, said_at, is_over: false, _slot: slot })
}

impl Watched {
    /// A change, or a sign of life; nothing where the stream ends.
    async fn next(&mut self) -> Option<Event> {
        while !self.is_over {
            if self.said.is_some() {
                self.pause().await?;
            }
            let job = match self.look().await {
                Ok(job) => job,
                Err(error) => {
                    tracing::info!(target: "enfold_server", job = self.job.0, "a stream of a job's progress ends: {error}");
                    return None;
                }
            };
            let says = serde_json::to_string(&JobInfo::of(&job)).ok()?;
            if self.said.as_ref() != Some(&says) {
                self.is_over = job.state.is_end() || job.state == JobState::Failed;
                let event = Event::default().event(if self.is_over { "end" } else { "progress" }).data(&says);
                (self.said, self.said_at) = (Some(says), Instant::now());
                return Some(event);
            }
            if self.said_at.elapsed() >= SILENCE {
                self.said_at = Instant::now();
                return Some(Event::default().comment("nothing changed"));
            }
        }
        None
    }

    async fn look(&self) -> Result<JobRecord> {
        identity::still_may(&self.shared, &self.credentials, self.source, Permission::Jobs).await?;
        self.session.db.store().job(self.job).await
    }

    /// Until the next look; none where the service stops.
    async fn pause(&mut self) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => Some(()),
            _ = self.stopping.wait_for(|stopping| *stopping) => None,
        }
    }
}

impl IntoResponse for Watched {
    fn into_response(self) -> Response {
        let events = stream::unfold(self, async |mut watched| {
            let event = watched.next().await?;
            Some((Ok::<_, Infallible>(event), watched))
        });
        ([(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")], Sse::new(events)).into_response()
    }
}

impl JsonSchema for Watched {
    fn schema_name() -> Cow<'static, str> {
        "Events".into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// Of each event, as the document's readers take the schema of a stream.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let job = generator.subschema_for::<JobInfo>();
        json_schema!({
            "type": "object",
            "contentMediaType": "text/event-stream",
            "description": "A stream of these.",
            "required": ["event", "data"],
            "properties": {
                "event": { "type": "string", "enum": ["progress", "end"], "description": "`end` is the last." },
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": job,
                    "description": "The job, as `GET /api/v1/encryption/jobs/{id}` has it in `data.job`.",
                },
            },
        })
    }
}

impl Streams {
    fn open(&self, caller: &str) -> Result<Slot> {
        let mut all = lock(&self.0);
        let open = all.entry(caller.to_owned()).or_default();
        if *open >= MOST {
            return Err(Error::new(Code::RateLimited, "the caller has too many streams open")
                .cause(format!("{MOST} at once are allowed"))
                .hint("close one, or list jobs instead: one request tells of all")
                .try_again_after(LOOK_EVERY));
        }
        *open += 1;
        Ok(Slot { of: caller.to_owned(), streams: Arc::clone(&self.0) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut all = lock(&self.streams);
        if let Some(open) = all.get_mut(&self.of) {
            *open -= 1;
            if *open == 0 {
                all.remove(&self.of);
            }
        }
    }
}

fn lock(streams: &Mutex<HashMap<String, usize>>) -> MutexGuard<'_, HashMap<String, usize>> {
    // Nothing under this lock panics half-way through a change.
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_so_many_streams_and_gets_another_when_one_is_closed() {
        let streams = Streams::default();
        let mut open: Vec<Slot> = (0..MOST).map(|_| streams.open("one").unwrap()).collect();
        assert_eq!(streams.open("one").err().unwrap().code(), Code::RateLimited);
        streams.open("two").unwrap();
        open.pop();
        streams.open("one").unwrap();
        drop(open);
        assert!(lock(&streams.0).is_empty(), "nobody is remembered who has none");
    }
}
