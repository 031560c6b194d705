//! The console: pages for operators and auditors, made here, with forms that work without a script.
//!
//! The table of pages is the one source of routes, permissions and navigation, as that of endpoints is for the API; the test that
//! calls every page with every role goes over it. Around a page stand, from the outside: errors as pages and the headers of security
//! ([`guard::dress`]), who is at the browser ([`guard::admit`]), the permission ([`guard::permit`]). What pages show and do is the
//! library's and the API's.

mod assets;
mod chart;
mod coverage;
mod emergencies;
mod evidence;
mod guard;
mod health;
mod jobs;
mod keys;
mod log;
mod overview;
mod service_keys;
mod session;
mod sign_in;
mod view;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use enfold::access::Permission;

pub(crate) use self::evidence::Evidence;
pub(crate) use self::session::Sessions;
pub(crate) use self::sign_in::Client;
use crate::Shared;
use crate::api::unknown;

const HOME: &str = "/console";
const SIGN_IN: &str = "/console/sign-in";
const SIGNED_IN: &str = "/console/signed-in";

/// A page, or what a form of one does.
pub struct Page {
    pub path: &'static str,
    /// One of them lets in; whoever is signed in, where there is none.
    pub needs: &'static [Permission],
    /// In the navigation.
    title: Option<&'static str>,
    route: fn() -> MethodRouter<Arc<Shared>>,
}

use Permission::{Admin, Approve, Audit, Jobs, Read};

/// All of them, in the order of the navigation.
pub const PAGES: &[Page] = &[
    Page { path: HOME, needs: &[], title: Some("Overview"), route: || get(overview::page) },
    Page { path: "/console/keys", needs: &[Admin], title: Some("Keys"), route: || get(keys::page) },
    Page { path: "/console/keys/rotate", needs: &[Admin], title: None, route: || post(keys::rotate) },
    Page { path: "/console/keys/re-encrypt", needs: &[Admin], title: None, route: || post(keys::reencrypt) },
    Page { path: "/console/jobs", needs: &[Jobs], title: Some("Jobs"), route: || get(jobs::list) },
    Page { path: "/console/jobs/{id}", needs: &[Jobs], title: None, route: || get(jobs::show) },
    Page { path: "/console/jobs/{id}/{order}", needs: &[Jobs], title: None, route: || post(jobs::order) },
    Page { path: "/console/coverage", needs: &[Read], title: Some("Coverage"), route: || get(coverage::page) },
    Page { path: "/console/coverage/sample", needs: &[Read], title: None, route: || post(coverage::sample) },
    Page { path: "/console/log", needs: &[Audit], title: Some("Log"), route: || get(log::page) },
    Page { path: "/console/log/verify", needs: &[Audit], title: None, route: || post(log::verify) },
    Page { path: "/console/evidence", needs: &[Audit], title: Some("Evidence"), route: || get(evidence::page) },
    Page { path: "/console/evidence/make", needs: &[Audit], title: None, route: || post(evidence::make) },
    Page { path: "/console/evidence/{standard}/{file}", needs: &[Audit], title: None, route: || get(evidence::file) },
    Page { path: "/console/health", needs: &[Read], title: Some("Health"), route: || get(health::page) },
    Page { path: "/console/health/self-test", needs: &[Admin], title: None, route: || post(health::self_test) },
    Page {
        path: "/console/service-keys",
        needs: &[Admin],
        title: Some("Service keys"),
        route: || get(service_keys::page),
    },
    Page { path: "/console/service-keys/revoke", needs: &[Admin], title: None, route: || post(service_keys::revoke) },
    Page {
        path: "/console/emergencies",
        needs: &[Approve],
        title: Some("Emergencies"),
        route: || get(emergencies::page),
    },
    Page { path: "/console/emergencies/{id}/{word}", needs: &[Approve], title: None, route: || post(emergencies::say) },
    Page { path: "/console/sign-out", needs: &[], title: None, route: || post(sign_in::sign_out) },
];

pub(crate) fn router(shared: &Arc<Shared>) -> Router<Arc<Shared>> {
    let mut guarded = Router::new();
    for page in PAGES {
        guarded = guarded.route(page.path, (page.route)().layer(from_fn_with_state(page.needs, guard::permit)));
    }
    let guarded = guarded.route("/console/{*rest}", axum::routing::any(unknown));
    let guarded = guarded.layer(from_fn_with_state(Arc::clone(shared), guard::admit));
    Router::new()
        .route("/", get(|| async { guard::see_other(HOME) }))
        .route(SIGN_IN, get(sign_in::page).post(sign_in::with_key))
        .route("/console/sign-in/start", get(sign_in::start))
        .route(SIGNED_IN, get(sign_in::signed_in))
        .route("/console/assets/{name}", get(assets::asset))
        .merge(guarded)
        .layer(from_fn_with_state(Arc::clone(shared), guard::dress))
}
