//! Who asks, and what they may do.
//!
//! Every endpoint but those about health is behind [`admit`], which tells who asks by the header `Authorization`; what the endpoint
//! needs is checked by [`permit`]. Both answer without looking at the request's body.

mod service_keys;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::access::{Grant, Permission, ShownKey, Subject};
use enfold::{Code, Error, Result};

pub(crate) use self::service_keys::{ServiceKeys, look};
use crate::Shared;
use crate::api::Failure;

/// Whoever asks.
pub(crate) struct Caller {
    /// What events call them: `service-key:NAME`.
    pub(crate) actor: String,
    grants: Vec<Grant>,
}

impl Caller {
    pub(crate) fn new(actor: String, grants: Vec<Grant>) -> Self {
        Self { actor, grants }
    }

    pub(crate) fn has(&self, permission: Permission) -> bool {
        self.grants.iter().any(|grant| grant.has(permission))
    }

    /// The refusal is the same whatever is stored, or not, and by whomever.
    pub(crate) fn check(&self, permission: Permission, subject: &Subject<'_>) -> Result<()> {
        if self.grants.iter().any(|grant| grant.covers(permission, subject)) {
            return Ok(());
        }
        Err(denied(permission))
    }

    /// Whether it is only as a tenant's caller that they may do this.
    pub(crate) fn is_held_to_tenants(&self, permission: Permission, subject: &Subject<'_>) -> bool {
        let mut covering = self.grants.iter().filter(|grant| grant.covers(permission, subject));
        covering.all(|grant| grant.tenants.is_some())
    }
}

/// Finds out who asks; nobody else's request goes on.
pub(crate) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    match caller(&shared, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(Arc::new(caller));
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    }
}

/// Lets a caller with the permission on.
pub(crate) async fn permit(State(needed): State<Permission>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Arc<Caller>>();
    if caller.is_some_and(|caller| caller.has(needed)) {
        return next.run(request).await;
    }
    Failure(denied(needed)).into_response()
}

fn caller(shared: &Shared, request: &Request) -> Result<Caller> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(unauthenticated());
    };
    let bearer = header.to_str().ok().and_then(bearer).ok_or_else(unauthenticated)?;
    match ShownKey::parse(bearer) {
        Some(shown) => shared.service_keys.caller(&shown),
        None => Err(unauthenticated()),
    }
}

/// The credentials behind the scheme, whose name has no case (RFC 9110, section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, credentials) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim_matches(' '))
}

/// One answer for whatever is wrong with credentials.
pub(crate) fn unauthenticated() -> Error {
    Error::new(Code::Unauthenticated, "the request has no credentials that let anybody in")
        .hint("send `Authorization: Bearer …` with a service key")
}

pub(crate) fn denied(permission: Permission) -> Error {
    Error::new(Code::PermissionDenied, format!("the caller has not `{}` for this", permission.word()))
        .hint("have an operator make a service key with a role that does: `enfold service-keys create`")
}
