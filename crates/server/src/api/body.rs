//! Bodies: JSON in, JSON out.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use enfold::{Code, Error, Result};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use crate::Shared;

/// The body of a request. What it says is quoted in no error: it may be a value.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<Shared>> for Asked<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, shared: &Arc<Shared>) -> Result<Self, Failure> {
        if !is_json(&request) {
            return Err(Failure(
                Error::new(Code::Usage, "the body is not said to be JSON")
                    .hint("send the header `Content-Type: application/json`"),
            ));
        }
        let body = read(request.into_body(), shared.limits.max_body).await?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "is not what this endpoint takes",
                _ => "is not JSON",
            };
            let at = format!("line {}, column {}", error.line(), error.column());
            Failure(
                Error::new(Code::Usage, format!("the body {what} ({at})"))
                    .hint("`docs/reference/api.md` shows what it takes"),
            )
        })
    }
}

/// A whole body, if it has no more than so many bytes.
pub(super) async fn read(body: Body, most: usize) -> Result<Bytes> {
    let collected = Limited::new(body, most).collect().await;
    let collected = collected.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Error::new(Code::RequestTooLarge, "the body is too large")
            .cause(format!("it may have {most} bytes"))
            .hint("send fewer items at once"),
        None => Error::new(Code::Usage, "the body broke off"),
    })?;
    Ok(collected.to_bytes())
}

/// What the part of a path behind `?` says.
pub(crate) struct Sought<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Shared>> for Sought<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Shared>) -> Result<Self, Failure> {
        let read = Query::try_from_uri(&parts.uri).map(|Query(sought)| Self(sought));
        read.map_err(|_| {
            Failure(
                Error::new(Code::Usage, "what stands behind the `?` is not what this endpoint takes")
                    .hint("`docs/reference/api.md` shows what it takes"),
            )
        })
    }
}

fn is_json(request: &Request) -> bool {
    let named = request.headers().get(CONTENT_TYPE).and_then(|header| header.to_str().ok()).unwrap_or_default();
    named.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// An answer.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Data<T> {
    pub(crate) data: T,
}

impl<T: Serialize> IntoResponse for Data<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}
