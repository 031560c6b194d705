//! Who asks, and what they may do.
//!
//! Callers have a service key or a token of an issuer that the policy names. Every endpoint but those about health is behind [`admit`], which tells who asks by the header `Authorization`; what the endpoint
//! needs is checked by [`permit`]. Both answer without looking at the request's body.

mod emergency;
mod fetch;
mod jwks;
mod rates;
mod refusals;
mod service_keys;
mod source;
mod tokens;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::access::{Emergency, Grant, Permission, Role, ShownKey, Subject};
use enfold::{Code, Error, Result};

pub(crate) use self::rates::Rates;
pub(crate) use self::refusals::Refusals;
pub(crate) use self::service_keys::ServiceKeys;
pub(crate) use self::source::source;
pub(crate) use self::tokens::{Issuer, person};
use crate::Shared;
use crate::api::Failure;

/// Twice in the second within which a revocation is in force.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whoever asks.
pub(crate) struct Caller {
    /// What events call them: `service-key:NAME`, or the issuer's name in the policy and the subject.
    pub(crate) actor: String,
    grants: Vec<Grant>,
    /// What they may do in an emergency, and not before.
    dormant: Vec<Grant>,
    /// The emergency that they say it is.
    pub(crate) emergency: Option<String>,
    is_person: bool,
}

impl Caller {
    /// Whoever an issuer vouches for.
    pub(crate) fn new(actor: String, grants: Vec<Grant>) -> Self {
        let (dormant, grants) = grants.into_iter().partition(|grant| grant.role == Role::Emergency);
        Self { actor, grants, dormant, emergency: None, is_person: true }
    }

    /// Whoever holds a service key, who has no emergencies.
    fn program(actor: String, grants: Vec<Grant>) -> Self {
        Self { dormant: Vec::new(), is_person: false, ..Self::new(actor, grants) }
    }

    /// The same with what this emergency gives them.
    fn under(&self, emergency: &Emergency) -> Self {
        let given = self.dormant.iter().map(|grant| emergency.narrow(grant));
        Self {
            actor: self.actor.clone(),
            grants: self.grants.iter().cloned().chain(given).collect(),
            dormant: self.dormant.clone(),
            emergency: Some(emergency.id.clone()),
            is_person: self.is_person,
        }
    }

    /// Refuses programs: a second word is a person's.
    pub(crate) fn check_person(&self) -> Result<()> {
        if self.is_person {
            return Ok(());
        }
        Err(denied(Permission::Approve).cause("a service key is nobody's word"))
    }

    pub(crate) fn has(&self, permission: Permission) -> bool {
        let may_ask = permission == Permission::Emergency && !self.dormant.is_empty();
        may_ask || self.grants.iter().any(|grant| grant.has(permission))
    }

    /// Whether no tenant, class or column narrows it.
    pub(crate) fn has_everywhere(&self, permission: Permission) -> bool {
        self.grants.iter().any(|grant| grant.has(permission) && !grant.is_narrowed())
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

/// Finds out who asks, and whether not too often; nobody else's request goes on.
pub(crate) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let caller = match known(&shared, request.headers()).await {
        Ok(caller) => Arc::new(caller),
        Err(error) => return Failure(error).into_response(),
    };
    let taken = shared.rates.take(&caller.actor, Instant::now());
    let (caller, taken) = match taken {
        Ok(()) => {
            let call = request.extensions().get().cloned();
            emergency::under(&shared, caller, request.headers(), call).await
        }
        Err(error) => (caller, Err(error)),
    };
    let mut response = match taken {
        Ok(()) => {
            request.extensions_mut().insert(Arc::clone(&caller));
            next.run(request).await
        }
        Err(error) => Failure(error).into_response(),
    };
    if response.status().is_client_error() {
        // For the edge: a refusal is somebody's.
        response.extensions_mut().insert(caller);
    }
    response
}

/// Whether whoever shows these credentials may still do this: for an answer that goes on for longer than a moment.
pub(crate) async fn still_may(shared: &Shared, credentials: &HeaderMap, needed: Permission) -> Result<()> {
    let caller = known(shared, credentials).await?;
    if caller.has(needed) { Ok(()) } else { Err(denied(needed)) }
}

/// Lets a caller with the permission on.
pub(crate) async fn permit(State(needed): State<Permission>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Arc<Caller>>();
    if caller.is_some_and(|caller| caller.has(needed)) {
        return next.run(request).await;
    }
    Failure(denied(needed)).into_response()
}

async fn known(shared: &Shared, credentials: &HeaderMap) -> Result<Caller> {
    let shown = bearer(credentials)?;
    match ShownKey::parse(shown) {
        Some(key) => shared.service_keys.caller(&key),
        None => tokens::caller(&shared.issuers, shown).await,
    }
}

/// What the one header says behind the scheme, whose name has no case (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str> {
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (headers.next(), headers.next()) else {
        return Err(unauthenticated());
    };
    let (scheme, credentials) =
        header.to_str().ok().and_then(|header| header.split_once(' ')).ok_or_else(unauthenticated)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(credentials.trim_matches(' ')) } else { Err(unauthenticated()) }
}

/// Reads who is let in, and fetches keys of issuers that have grown old, until the service stops.
pub(crate) async fn look(shared: Arc<Shared>) {
    loop {
        if let Err(error) = shared.service_keys.look(&shared.enfold).await {
            tracing::warn!(target: "enfold_server", "cannot read who is let in: {error}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Apart from [`look`]: an issuer that is slow must keep no revocation from being seen.
pub(crate) async fn fetch(shared: Arc<Shared>) {
    loop {
        for issuer in &shared.issuers {
            if let Err(error) = issuer.keys.refresh().await {
                tracing::warn!(target: "enfold_server", issuer = issuer.name, "{error}");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One answer for whatever is wrong with credentials.
pub(crate) fn unauthenticated() -> Error {
    Error::new(Code::Unauthenticated, "the request has no credentials that let anybody in")
        .hint("send `Authorization: Bearer …` with a service key or a token")
}

pub(crate) fn denied(permission: Permission) -> Error {
    Error::new(Code::PermissionDenied, format!("the caller has not `{}` for this", permission.word()))
        .hint("ask with a service key, or as somebody, that has a role which does")
}
