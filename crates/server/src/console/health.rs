//! How root keys are, by five checks each.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use enfold::Result;

use super::guard::Sent;
use super::session::Notice;
use super::view::{Chrome, Html};
use crate::Shared;
use crate::api::Call;
use crate::api::Failure;
use crate::api::status::{self, KeyHealth};
use crate::identity::Caller;

#[derive(Template)]
#[template(path = "health.html")]
pub(super) struct HealthPage {
    chrome: Chrome,
    roots: Vec<KeyHealth>,
    is_ready: bool,
    can_test: bool,
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Extension(chrome): Extension<Chrome>,
) -> Result<Html<HealthPage>, Failure> {
    let roots = status::health(&shared, &call.context(&caller, None)).await?.to_vec();
    let can_test = caller.has(enfold::access::Permission::Admin);
    let is_ready = crate::api::is_ready(&shared).await;
    Ok(Html(HealthPage { chrome, roots, is_ready, can_test }))
}

/// Seals and opens a throw-away value through every ring.
pub(super) async fn self_test(sent: Sent) -> Response {
    let tested = sent.shared.enfold.self_test(&sent.context(None)).await;
    let failed: Vec<String> = tested
        .iter()
        .filter_map(|(ring, outcome)| {
            outcome.as_ref().err().map(|error| format!("ring {ring}: {}", error.code().word()))
        })
        .collect();
    let text = match failed.as_slice() {
        [] => format!("Every ring sealed and opened a throw-away value: {}.", tested.len()),
        failed => format!("Not every ring could seal and open a value. {}", failed.join("; ")),
    };
    sent.answer(Notice { is_error: !failed.is_empty(), text }, "/console/health")
}
