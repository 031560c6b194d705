//! Errors as an answer says them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use enfold::error::Actor;
use enfold::{Code, Error};
use schemars::JsonSchema;
use serde::Serialize;

/// An error on its way out. It is written by the edge, which knows the request's id.
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = status(&self.0).into_response();
        if self.0.code() == Code::Unauthenticated {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(pause) = self.0.again_after() {
            // In whole seconds (RFC 9110, section 10.2.3), so never too early.
            let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self.0);
        response
    }
}

/// An answer that is an error.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorAnswer {
    pub(crate) error: ErrorBody,
    /// As the header `X-Request-Id`; the service's log has more under it.
    pub(crate) request_id: String,
}

/// What went wrong. What it was caused by stands in the service's log alone: it may name what is the operators' business.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ErrorBody {
    /// A stable word.
    pub(crate) code: &'static str,
    /// The HTTP status that the error has where it is a whole answer's.
    pub(crate) status: u16,
    pub(crate) message: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<String>,
    /// The page that explains it, in Enfold's documentation.
    pub(crate) page: String,
}

impl ErrorBody {
    pub(crate) fn of(error: &Error) -> Self {
        // What operators or we have to see to, callers need not be told how to.
        let is_theirs = matches!(error.code().actor(), Actor::Caller | Actor::Data);
        let hints = if is_theirs { error.hints().map(str::to_owned).collect() } else { Vec::new() };
        Self {
            code: error.code().word(),
            status: error.code().http_status(),
            message: error.message().to_owned(),
            hints,
            page: format!("docs/errors/{}.md", error.code().word()),
        }
    }
}

fn status(error: &Error) -> StatusCode {
    StatusCode::from_u16(error.code().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
