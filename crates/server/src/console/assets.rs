//! The style sheet, the script and the sign: compiled in, so that nothing is loaded from elsewhere.

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::api::{Failure, unknown};

/// For as long as a browser need not ask again; a new version of the service may have other ones.
const LIFE: HeaderValue = HeaderValue::from_static("private, max-age=300");

const ASSETS: [(&str, &str, &str); 3] = [
    ("console.css", "text/css; charset=utf-8", include_str!("../../assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("../../assets/console.js")),
    ("enfold.svg", "image/svg+xml", include_str!("../../assets/enfold.svg")),
];

pub(super) async fn asset(Path(name): Path<String>) -> Result<Response, Failure> {
    match ASSETS.iter().find(|(asset, ..)| *asset == name) {
        Some((_, kind, text)) => {
            Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (header::CACHE_CONTROL, LIFE)], *text)
                .into_response())
        }
        None => Err(unknown().await),
    }
}
