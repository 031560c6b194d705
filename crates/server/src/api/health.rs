//! Whether the process runs, and whether it can do its work. Both say nothing else: they answer everybody.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Shared;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Health {
    /// `ok`, or `unready`.
    status: &'static str,
}

pub(crate) async fn alive() -> Json<Health> {
    Json(Health { status: "ok" })
}

pub(crate) async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Health>) {
    match is_ready(&shared).await {
        true => (StatusCode::OK, Json(Health { status: "ok" })),
        false => (StatusCode::SERVICE_UNAVAILABLE, Json(Health { status: "unready" })),
    }
}

pub(crate) async fn is_ready(shared: &Shared) -> bool {
    shared.service_keys.are_known() && shared.enfold.epochs().await.is_ok()
}
