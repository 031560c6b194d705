//! The API: its endpoints in one table, and what surrounds each of them.
//!
//! The table is the one source: the router, the permission that each endpoint needs, the OpenAPI document and the test that calls
//! every endpoint with every role are made from it. Around an endpoint stand, from the outside: the request's id and the form of
//! errors ([`edge`]), its time limit, who asks, the permission, and, where it changes something, whether that was done already ([`once`]).

mod audit;
mod body;
pub(crate) mod coverage;
mod datum;
mod edge;
mod emergency;
mod error;
mod health;
pub(crate) mod history;
mod index;
pub(crate) mod jobs;
pub(crate) mod keys;
mod latest;
mod once;
mod outcome;
mod progress;
pub(crate) mod reencrypt;
pub(crate) mod status;
mod values;

use std::sync::Arc;

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use enfold::access::Permission;
use schemars::{JsonSchema, Schema, SchemaGenerator};

pub(crate) use self::body::Sought;
pub(crate) use self::coverage::LatestSample;
pub(crate) use self::edge::{Call, Written, to_its_end, unknown};
pub(crate) use self::emergency::Say;
pub(crate) use self::error::{ErrorAnswer, ErrorBody, Failure};
pub(crate) use self::health::is_ready;
pub(crate) use self::jobs::words as states;
pub(crate) use self::once::{Known, LONGEST_KEY, Once};
pub(crate) use self::progress::Streams;
pub(crate) use self::status::LatestHealth;
use crate::{Shared, console, identity, metrics};

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
    /// Whether a request with an `Idempotency-Key` is done once ([`once`]): those that change something more when they are repeated.
    pub once: bool,
    pub(crate) takes: Option<fn(&mut SchemaGenerator) -> Schema>,
    pub(crate) gives: fn(&mut SchemaGenerator) -> Schema,
    route: fn() -> MethodRouter<Arc<Shared>>,
}

impl Endpoint {
    /// Whether what it takes comes in the request's body, and not in its path.
    pub fn takes_body(&self) -> bool {
        self.takes.is_some() && self.method != Method::GET
    }
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
        once: false,
        takes: Some(schema::<values::EncryptRequest>),
        gives: schema::<values::EncryptAnswer>,
        route: || post(values::encrypt),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/decrypt",
        needs: Some(Permission::Decrypt),
        says: "Open values. What does not open is an error of its item, and never handed back in its place.",
        once: false,
        takes: Some(schema::<values::DecryptRequest>),
        gives: schema::<values::DecryptAnswer>,
        route: || post(values::decrypt),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/index",
        needs: Some(Permission::Encrypt),
        says: "Compute values of blind indexes: what is stored beside a value, and what a lookup compares with.\n\nA lookup finds rows \
               whose column holds one of `lookup`; open what it found and compare, where an index is truncated. An index across \
               tenants is for nobody who is held to some of them.",
        once: false,
        takes: Some(schema::<index::IndexAsked>),
        gives: schema::<index::IndexAnswer>,
        route: || post(index::index),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/keys",
        needs: Some(Permission::Admin),
        says: "List data keys of a ring, a page at a time.",
        once: false,
        takes: Some(schema::<keys::KeysAsked>),
        gives: schema::<keys::KeysAnswer>,
        route: || get(keys::list),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/keys/rotate",
        needs: Some(Permission::Admin),
        says: "Say when data keys are due to be rotated.",
        once: false,
        takes: None,
        gives: schema::<keys::ScheduleAnswer>,
        route: || get(keys::schedule),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/keys/rotate",
        needs: Some(Permission::Admin),
        says: "Rotate data keys: new versions seal in every process within a second, the former ones open.\n\nSigns a new state, so it \
               takes the operators' key: a service that has it not answers `operator-key-missing`. Each request rotates anew.",
        once: true,
        takes: Some(schema::<keys::RotateAsked>),
        gives: schema::<keys::RotateAnswer>,
        route: || post(keys::rotate),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/keys/refresh",
        needs: Some(Permission::Admin),
        says: "Have processes take in what the catalog says of keys now.",
        once: false,
        takes: None,
        gives: schema::<keys::RefreshAnswer>,
        route: || post(keys::refresh),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/re-encrypt",
        needs: Some(Permission::Admin),
        says: "Have workers bring values under the data keys that seal now, or with `dryRun` say what there is to do.\n\nA job a table; asked again while it waits or runs, it is the same job.",
        once: true,
        takes: Some(schema::<reencrypt::ReencryptAsked>),
        gives: schema::<reencrypt::ReencryptAnswer>,
        route: || post(reencrypt::request),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/re-encrypt",
        needs: Some(Permission::Jobs),
        says: "Show how far a job is.",
        once: false,
        takes: Some(schema::<reencrypt::JobSought>),
        gives: schema::<jobs::JobAnswer>,
        route: || get(reencrypt::state),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/jobs",
        needs: Some(Permission::Jobs),
        says: "List jobs that wait or run.",
        once: false,
        takes: Some(schema::<jobs::JobsAsked>),
        gives: schema::<jobs::JobsAnswer>,
        route: || get(jobs::list),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/jobs/{id}",
        needs: Some(Permission::Jobs),
        says: "Show a job, with the rows that could not be converted.",
        once: false,
        takes: None,
        gives: schema::<jobs::JobAnswer>,
        route: || get(jobs::show),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/jobs/{id}/events",
        needs: Some(Permission::Jobs),
        says: "Tell how far a job is as it changes, as server-sent events.\n\nEach `progress` has a job as `GET /api/v1/encryption/jobs` has it; \
               the last is `end`, and a stream that ends without it broke off. While nothing changes, a line that begins with `:` \
               comes every ten seconds. A caller may have eight streams open.",
        once: false,
        takes: None,
        gives: schema::<progress::Watched>,
        route: || get(progress::events),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/jobs/{id}/pause",
        needs: Some(Permission::Jobs),
        says: "Pause a job: workers let go of it after the batch at hand.",
        once: true,
        takes: None,
        gives: schema::<jobs::JobAnswer>,
        route: || post(jobs::pause),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/jobs/{id}/resume",
        needs: Some(Permission::Jobs),
        says: "Have a paused job go on.",
        once: true,
        takes: None,
        gives: schema::<jobs::JobAnswer>,
        route: || post(jobs::resume),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/jobs/{id}/cancel",
        needs: Some(Permission::Jobs),
        says: "Cancel a job. What it has committed stays.",
        once: true,
        takes: None,
        gives: schema::<jobs::JobAnswer>,
        route: || post(jobs::cancel),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/jobs/{id}/retry",
        needs: Some(Permission::Jobs),
        says: "Try again what failed.",
        once: true,
        takes: None,
        gives: schema::<jobs::JobAnswer>,
        route: || post(jobs::retry),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/jobs/{id}/rate",
        needs: Some(Permission::Jobs),
        says: "Limit how many rows a second a job writes, also while it runs.",
        once: true,
        takes: Some(schema::<jobs::RateAsked>),
        gives: schema::<jobs::JobAnswer>,
        route: || post(jobs::rate),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency",
        needs: Some(Permission::Emergency),
        says: "Ask for access in an emergency, with a reason and for a time.\n\nFor people whose token proves a second factor. Once it is in force, their requests that \
               say its id in the header `Enfold-Emergency` open values.",
        once: true,
        takes: Some(schema::<emergency::EmergencyAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || post(emergency::ask),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/emergency",
        needs: Some(Permission::Audit),
        says: "List the newest emergencies: those that wait, are in force, are open for a review, and were.",
        once: false,
        takes: None,
        gives: schema::<emergency::EmergenciesAnswer>,
        route: || get(emergency::list),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/emergency/{id}",
        needs: Some(Permission::Emergency),
        says: "Show how one stands that the caller asked for.",
        once: false,
        takes: None,
        gives: schema::<emergency::EmergencyAnswer>,
        route: || get(emergency::show),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency/{id}/withdraw",
        needs: Some(Permission::Emergency),
        says: "Take back a request of the caller's own, or end what it gives before its time.",
        once: true,
        takes: Some(schema::<emergency::WordAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || emergency::saying(Say::Withdraw),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency/{id}/approve",
        needs: Some(Permission::Approve),
        says: "Approve one that waits. Nobody approves their own, and no service key any.",
        once: true,
        takes: Some(schema::<emergency::WordAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || emergency::saying(Say::Approve),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency/{id}/deny",
        needs: Some(Permission::Approve),
        says: "Deny one that waits.",
        once: true,
        takes: Some(schema::<emergency::WordAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || emergency::saying(Say::Deny),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency/{id}/end",
        needs: Some(Permission::Approve),
        says: "End one before its time: it gives nothing from then on.",
        once: true,
        takes: Some(schema::<emergency::WordAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || emergency::saying(Say::End),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/emergency/{id}/review",
        needs: Some(Permission::Approve),
        says: "Close one that is over: what was done under it was looked at, by somebody else than who did it.",
        once: true,
        takes: Some(schema::<emergency::WordAsked>),
        gives: schema::<emergency::EmergencyAnswer>,
        route: || emergency::saying(Say::Review),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/status",
        needs: Some(Permission::Read),
        says: "Say how root keys are, by five checks each, when data keys are rotated, and whether receivers take the log.\n\nThe checks ask every key service; what was \
               found is told again for ten seconds.",
        once: false,
        takes: None,
        gives: schema::<status::StatusAnswer>,
        route: || get(status::status),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/coverage",
        needs: Some(Permission::Read),
        says: "Say what is protected, column by column, as it was counted last.\n\nNo row is looked at unless `count=now` asks for a sample. \
               For nobody who is held to tenants, classes or columns.",
        once: false,
        takes: Some(schema::<coverage::CoverageAsked>),
        gives: schema::<coverage::CoverageAnswer>,
        route: || get(coverage::coverage),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/coverage/history",
        needs: Some(Permission::Read),
        says: "Say how coverage was at each count of every row, the newest first, a page at a time.\n\nEvery count of the last 90 days is kept; of \
               before, the last of each week, and those that found more that is no envelope than all later ones of their week. For nobody who is held \
               to tenants, classes or columns.",
        once: false,
        takes: Some(schema::<history::HistoryAsked>),
        gives: schema::<history::HistoryAnswer>,
        route: || get(history::history),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/audit",
        needs: Some(Permission::Audit),
        says: "Look for events in the log, a page at a time.\n\nIt is what the catalog holds of the log (`events.catalog` of the policy); \
               what processes have not written yet is not in it.",
        once: false,
        takes: Some(schema::<audit::AuditAsked>),
        gives: schema::<audit::AuditAnswer>,
        route: || get(audit::audit),
    },
    Endpoint {
        method: Method::GET,
        path: "/api/v1/encryption/audit/export",
        needs: Some(Permission::Audit),
        says: "Take the whole log elsewhere, as lines of JSON with their chains and the checkpoints: `enfold log verify FILE` takes it.\n\nA \
               body that breaks off without its end is not the whole log.",
        once: false,
        takes: None,
        gives: schema::<audit::Lines>,
        route: || get(audit::export),
    },
    Endpoint {
        method: Method::POST,
        path: "/api/v1/encryption/self-test",
        needs: Some(Permission::Admin),
        says: "Seal and open a throw-away value through every ring.",
        once: false,
        takes: None,
        gives: schema::<status::SelfTestAnswer>,
        route: || post(status::self_test),
    },
    Endpoint {
        method: Method::GET,
        path: "/metrics",
        needs: Some(Permission::Read),
        says: "Tell the figures of this process and of its database, as Prometheus reads them.",
        once: false,
        takes: None,
        gives: schema::<metrics::Exposed>,
        route: || get(metrics::metrics),
    },
    Endpoint {
        method: Method::GET,
        path: "/healthz",
        needs: None,
        says: "Whether the process runs.",
        once: false,
        takes: None,
        gives: schema::<health::Health>,
        route: || get(health::alive),
    },
    Endpoint {
        method: Method::GET,
        path: "/readyz",
        needs: None,
        says: "Whether it can do its work: the state of every ring was seen a moment ago.",
        once: false,
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
                let route = match endpoint.once {
                    true => route.layer(from_fn_with_state(Arc::clone(shared), once::once)),
                    false => route,
                };
                guarded = guarded.route(endpoint.path, route.layer(from_fn_with_state(needed, identity::permit)));
            }
        }
    }
    // These two are for the routes that are there already.
    let guarded = guarded.fallback(unknown).method_not_allowed_fallback(edge::not_allowed);
    let guarded = guarded.layer(from_fn_with_state(Arc::clone(shared), identity::admit));
    open.method_not_allowed_fallback(edge::not_allowed)
        .merge(guarded)
        .merge(console::router(shared))
        .layer(from_fn_with_state(shared.limits.timeout, edge::in_time))
        .layer(from_fn_with_state(Arc::clone(shared), edge::edge))
        .with_state(Arc::clone(shared))
}

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}
