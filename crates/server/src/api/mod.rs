//! The API: its endpoints in one table, and what surrounds each of them.
//!
//! The table is the one source: the router, the permission that each endpoint needs, the OpenAPI document and the test that calls
//! every endpoint with every role are made from it. Around an endpoint stand, from the outside: the request's id and the form of
//! errors ([`edge`]), its time limit, who asks, and the permission.

mod body;
mod datum;
mod edge;
mod error;
mod health;
mod values;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};
use enfold::access::Permission;
use schemars::{JsonSchema, Schema, SchemaGenerator};

pub(crate) use self::error::{ErrorAnswer, Failure};
use crate::{Shared, identity};

/// What everything but health lies under.
pub const BASE: &str = "/api/v1/encryption";

/// An endpoint as it is routed, guarded and described.
pub struct Endpoint {
    pub method: Method,
    pub path: &'static str,
    /// None: whoever asks.
    pub needs: Option<Permission>,
    /// One line, and more where there is more to say.
    pub says: &'static str,
    pub(crate) takes: Option<fn(&mut SchemaGenerator) -> Schema>,
    pub(crate) gives: fn(&mut SchemaGenerator) -> Schema,
    route: fn() -> MethodRouter<Arc<Shared>>,
}

/// All of them, in the order of the reference.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/encrypt",
        needs: Some(Permission::Encrypt),
        says: "Seal values. What each item gives back is what its column is to hold.\n\nWhile a column is in mode `legacy` that is \
               the value itself, and `keyId` is missing: an application calls this for every value that it writes, and needs no \
               change when the column is converted.",
        takes: Some(schema::<values::EncryptRequest>),
        gives: schema::<values::EncryptAnswer>,
        route: || post(values::encrypt),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/decrypt",
        needs: Some(Permission::Decrypt),
        says: "Open values. What does not open is an error of its item, and never handed back in its place.",
        takes: Some(schema::<values::DecryptRequest>),
        gives: schema::<values::DecryptAnswer>,
        route: || post(values::decrypt),
    },
    Endpoint {
        method: Method::GET,
        path: "/healthz",
        needs: None,
        says: "Whether the process runs.",
        takes: None,
        gives: schema::<health::Health>,
        route: || get(health::alive),
    },
    Endpoint {
        method: Method::GET,
        path: "/readyz",
        needs: None,
        says: "Whether it can do its work: the state of every ring was seen a moment ago.",
        takes: None,
        gives: schema::<health::Health>,
        route: || get(health::ready),
    },
];

pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    let mut open = Router::new();
    let mut guarded = Router::new();
    for endpoint in ENDPOINTS {
        let route = (endpoint.route)();
        match endpoint.needs {
            None => open = open.route(endpoint.path, route),
            Some(needed) => {
                guarded = guarded.route(endpoint.path, route.layer(from_fn_with_state(needed, identity::permit)));
            }
        }
    }
    // These two are for the routes that are there already.
    let guarded = guarded.fallback(edge::unknown).method_not_allowed_fallback(edge::not_allowed);
    let guarded = guarded.layer(from_fn_with_state(Arc::clone(shared), identity::admit));
    open.method_not_allowed_fallback(edge::not_allowed)
        .merge(guarded)
        .layer(from_fn_with_state(shared.limits.timeout, edge::in_time))
        .layer(from_fn(edge::edge))
        .with_state(Arc::clone(shared))
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}
