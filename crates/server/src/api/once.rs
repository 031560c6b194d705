//! Requests that change something, done once: a caller who had no answer repeats one under its `Idempotency-Key` (the header of the
//! IETF's draft-ietf-httpapi-idempotency-key-header).
//!
//! What is known of them lies in the catalog, so it does not matter which process is asked, or whether one died in between. Only
//! what was done is kept as an answer: what failed is tried again. A process that died may have done what it was asked and told
//! nobody; so whatever is not the same when it is done twice says first what it is about to do ([`Once::intent`]).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::catalog::{Begun, Catalog, Holding, NamedRequest};
use enfold::{Code, Enfold, Error, Result};
use http_body_util::{BodyExt, Collected};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::edge::to_its_end;
use super::{Failure, body};
use crate::Shared;
use crate::identity::Caller;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// That an answer is one of before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Bytes of a key.
pub(crate) const LONGEST_KEY: usize = 255;
/// A process that is at a request for longer may be dead. Where it is not, what was intended is still done once.
const HOLDING: Holding = Holding { held: Duration::from_secs(60), kept: Duration::from_secs(24 * 60 * 60) };
/// When whoever is told that a request is running may ask again: it is seldom at it for longer.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of a request when it comes.
pub(crate) enum Known {
    /// It was done, and this is what came of it.
    Done(String),
    ToDo(Once),
}

/// That a request is one of those that are done once.
#[derive(Clone)]
pub(crate) struct Once {
    catalog: Arc<dyn Catalog>,
    id: [u8; 32],
    intent: Option<String>,
}

impl Once {
    /// Begins what `caller` asks for under this name, unless it was done before. Whoever begins it ends it.
    ///
    /// # Errors
    /// `IdempotencyKeyReused` where the name is another request's, `RequestRunning` where this one is being done.
    pub(crate) async fn begin(enfold: &Enfold, caller: &str, name: &str, content: &[&[u8]]) -> Result<Known> {
        let named = NamedRequest::new(caller, name, content);
        let catalog = Arc::clone(enfold.catalog());
        match catalog.begin_request(&named, HOLDING).await? {
            Begun::ToDo { intent } => Ok(Known::ToDo(Self { catalog, id: named.id, intent })),
            Begun::Answered(answer) => Ok(Known::Done(answer)),
            Begun::Another => {
                Err(Error::new(Code::IdempotencyKeyReused, "another request was made with this `Idempotency-Key`")
                    .hint("send a new key with each thing that is to be done"))
            }
            Begun::Running(held) => {
                Err(Error::new(Code::RequestRunning, "the request with this `Idempotency-Key` is being done")
                    .try_again_after(held.min(AGAIN)))
            }
        }
    }

    /// Keeps what came of it; with nothing to keep it is let go of, and may be tried again.
    pub(crate) async fn end(&self, answer: Option<&str>) {
        // What was done is not undone because it cannot be written down: asked again, it is found to be done.
        if let Err(error) = self.catalog.end_request(&self.id, answer).await {
            tracing::warn!(target: "enfold_server", "what became of a request is not kept: {error}");
        }
    }

    /// What the request was about to do when it was begun before, or what `plan` says now, which is kept before it is given back.
    pub(super) async fn intent<T, F>(&self, plan: impl FnOnce() -> F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let unreadable = |_| Error::new(Code::Internal, "what a request was about to do cannot be read or written");
        if let Some(before) = &self.intent {
            return serde_json::from_str(before).map_err(unreadable);
        }
        let intent = plan().await?;
        let text = serde_json::to_string(&intent).map_err(unreadable)?;
        self.catalog.intend_request(&self.id, &text).await?;
        Ok(intent)
    }
}

/// Answers a request that was done before, and has others done.
pub(crate) async fn once(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let answered = match name(request.headers()) {
        Ok(None) => return next.run(request).await,
        Ok(Some(name)) => named(&shared, &name, request, next).await,
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| Failure(error).into_response())
}

async fn named(shared: &Shared, name: &str, request: Request, next: Next) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Arc<Caller>>().map(|caller| caller.actor.clone()).unwrap_or_default();
    let body = body::read(body, shared.limits.max_body).await?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let content: [&[u8]; 3] = [parts.method.as_str().as_bytes(), path.as_bytes(), &body];
    let once = match Once::begin(&shared.enfold, &caller, name, &content).await? {
        Known::ToDo(once) => once,
        Known::Done(answer) => return Ok(replayed(answer)),
    };
    parts.extensions.insert(once.clone());
    let request = Request::from_parts(parts, Body::from(body));
    // Also where the caller has gone meanwhile: the answer is for whenever it asks again.
    to_its_end(async move { Ok(kept(&once, next.run(request).await).await) }).await
}

/// Keeps what was done, and lets go of what was not.
async fn kept(once: &Once, response: Response) -> Response {
    if response.status() != StatusCode::OK {
        once.end(None).await;
        return response;
    }
    let (parts, body) = response.into_parts();
    // The service's own, whole already.
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    if let Ok(answer) = std::str::from_utf8(&body) {
        once.end(Some(answer)).await;
    }
    Response::from_parts(parts, Body::from(body))
}

fn replayed(answer: String) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json), (REPLAYED, HeaderValue::from_static("true"))], answer).into_response()
}

/// The key: a string of RFC 8941, or as most send it, the same without quotation marks.
fn name(headers: &HeaderMap) -> Result<Option<String>> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(header) = all.next() else { return Ok(None) };
    let text = header.to_str().map(str::trim).ok().filter(|_| all.next().is_none());
    let key = text.and_then(|text| match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(text),
    });
    let is_plain = |key: &&str| {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte);
        (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(plain)
    };
    key.filter(is_plain).map(|key| Some(key.to_owned())).ok_or_else(|| {
        Error::new(Code::Usage, "the header `Idempotency-Key` is none that can be kept")
            .cause(format!("it is to be one key of 1 to {LONGEST_KEY} letters, digits and signs, without blanks"))
            .hint("send a random UUID")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
        }
        name(&headers)
    }

    #[test]
    fn a_key_is_read_with_and_without_quotation_marks() {
        let key = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[key]).unwrap().as_deref(), Some(key));
        assert_eq!(read(&[&format!(" \"{key}\" ")]).unwrap().as_deref(), Some(key));
        assert_eq!(read(&[&"k".repeat(LONGEST_KEY)]).unwrap().unwrap().len(), LONGEST_KEY);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "k".repeat(LONGEST_KEY + 1);
        for wrong in
            [&["", ""][..], &["a", "b"], &[""], &["\"\""], &["\"a"], &["a b"], &["a,b"], &["a\"b"], &["a\\b"], &[&long]]
        {
            assert_eq!(read(wrong).unwrap_err().code(), Code::Usage, "{wrong:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(name(&headers).unwrap_err().code(), Code::Usage);
    }
}
