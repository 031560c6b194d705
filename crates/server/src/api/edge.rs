//! The edge: what comes first to every request, and last to every answer.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::access::Permission;
use enfold::error::Actor;
use enfold::traces::TARGET;
use enfold::{CallContext, Code, Error, KeyId, Result};
use futures_util::FutureExt;
use tracing::{Instrument as _, Span};

use super::error::ErrorBody;
use super::{ErrorAnswer, Failure};
use crate::Shared;
use crate::connections::Peer;
use crate::identity::{Caller, source};
use crate::metrics::words;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// An id that a caller gives the request ends in logs and events.
const LONGEST_ID: usize = 128;

/// On an answer: the error that it carries is told already, in a form of its own.
#[derive(Clone, Copy)]
pub(crate) struct Written;

/// What is known of a request apart from what it asks for.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) request_id: String,
    method: Method,
    path: Option<MatchedPath>,
    pub(crate) source: Option<IpAddr>,
}

impl Call {
    /// For the log of events.
    pub(crate) fn context(&self, caller: &Caller, reason: Option<String>) -> CallContext {
        CallContext { reason, ..self.context_of(Some(caller)) }
    }

    /// The same of whoever asks, also where nobody knows who that is.
    pub(crate) fn context_of(&self, caller: Option<&Caller>) -> CallContext {
        CallContext {
            actor: caller.map(|caller| caller.actor.clone()),
            request_id: Some(self.request_id.clone()),
            source: self.source.map(|address| address.to_string()),
            // People with more rights than applications have are to answer for each value that they open.
            each: caller.is_some_and(|caller| caller.is_granted(Permission::Admin) || caller.emergency.is_some()),
            emergency: caller.and_then(|caller| caller.emergency.clone()),
            ..CallContext::default()
        }
    }

    /// What was asked, in the table's words and none of the caller's.
    pub(crate) fn endpoint(&self) -> String {
        let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let method = known.iter().find(|known| **known == self.method).map_or("another method", Method::as_str);
        format!("{method} {}", self.path.as_ref().map_or("unknown", MatchedPath::as_str))
    }
}

/// Gives the request an id, keeps a panic from being more than one request's, writes errors in their form, and says in the log
/// how it went.
pub(crate) async fn edge(
    State(shared): State<Arc<Shared>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = request_id(&request);
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let source = peer.map(|peer| source(&shared.enfold.policy().service, peer, request.headers()));
    let (method, span) = (request.method().clone(), span(&request, path.as_ref()));
    let call = Call { request_id: request_id.clone(), method: method.clone(), path: path.clone(), source };
    request.extensions_mut().insert(call.clone());
    let answered = AssertUnwindSafe(next.run(request).instrument(span.clone())).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        Failure(Error::new(Code::Internal, "the request ran into a fault of the service")).into_response()
    });
    let (path, took) = (path.as_ref().map(MatchedPath::as_str), started.elapsed());
    let (status, took_us) = (response.status().as_u16(), took.as_micros());
    span.record("status", status);
    shared.exporter.requests.answered(&method, path, status, took);
    let path = path.unwrap_or("unknown");
    let caller = response.extensions_mut().remove::<Arc<Caller>>();
    match response.extensions_mut().remove::<Error>() {
        None => tracing::debug!(target: "enfold_server", request_id, %method, path, status, took_us, "answered"),
        Some(error) => {
            if [401, 403, 429].contains(&status) {
                shared.note_refusal(&error, &call, caller.as_deref(), None, 1);
            }
            if matches!(error.code().actor(), Actor::Caller | Actor::Data) {
                tracing::info!(target: "enfold_server", request_id, %method, path, status, took_us, "refused: {error}");
            } else {
                tracing::warn!(target: "enfold_server", request_id, %method, path, status, took_us, "failed: {error}");
            }
            if response.extensions_mut().remove::<Written>().is_none() {
                response = as_json(response, &error, &request_id);
            }
        }
    }
    // Answers hold values, and whoever stands between shall keep none.
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn as_json(response: Response, error: &Error, request_id: &str) -> Response {
    let answer = ErrorAnswer { error: ErrorBody::of(error), request_id: request_id.to_owned() };
    let (mut parts, _) = response.into_parts();
    let (mut written, body) = Json(answer).into_response().into_parts();
    parts.headers.extend(std::mem::take(&mut written.headers));
    Response::from_parts(parts, body)
}

/// The span of a request, within that of whoever sent it (W3C Trace Context).
fn span(request: &Request, path: Option<&MatchedPath>) -> Span {
    let (method, path) = words(request.method(), path.map(MatchedPath::as_str));
    let traceparent = request.headers().get("traceparent").and_then(|parent| parent.to_str().ok());
    tracing::info_span!(target: TARGET, "request", method, path, traceparent, status = tracing::field::Empty)
}

/// Gives up on what takes too long. Sealing and opening change nothing, so nothing is left half-done.
pub(crate) async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let error = Error::new(Code::RequestTimeout, "the request took too long")
                .cause(format!("it may take {:.1} s", limit.as_secs_f64()));
            Failure(error).into_response()
        }
    }
}

/// Does what changes something to its end, also where whoever asked has gone, or the time of the request is over.
pub(crate) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the request ran into a fault of the service")))
}

pub(crate) async fn unknown() -> Failure {
    Failure(
        Error::new(Code::UnknownEndpoint, "there is nothing at this path")
            .hint("`docs/reference/api.md` lists the paths"),
    )
}

pub(crate) async fn not_allowed() -> Failure {
    Failure(Error::new(Code::MethodNotAllowed, "what is at this path does not take this method"))
}

/// The caller's own, if it is one that a log can hold; a drawn one otherwise.
fn request_id(request: &Request) -> String {
    let given = request.headers().get(&REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_sound = |id: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(plain)
    };
    match given.filter(is_sound) {
        Some(id) => id.to_owned(),
        None => KeyId::random().map_or_else(|_| "unknown".to_owned(), |id| id.to_string()),
    }
}
