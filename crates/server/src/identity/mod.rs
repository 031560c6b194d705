//! Who asks, and what they may do.
//!
//! Callers have a service key or a token of an issuer that the policy names. Every endpoint but those about health is behind [`admit`], which tells who asks by the header `Authorization`; what the endpoint
//! needs is checked by [`permit`]. Both answer without looking at the request's body.
//!
//! What was granted to an [`Identity`] is used through a [`Caller`] alone, which is that identity in one request, under the access
//! rules: there is no way to a grant past them.

mod batch;
mod emergency;
mod fetch;
mod jwks;
mod rates;
mod refusals;
mod service_keys;
mod source;
mod tokens;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use enfold::access::{Emergency, Grant, Permission, Role, ShownKey};
use enfold::{Code, Error, Result};

pub(crate) use self::batch::{Allowed, Batch};
pub(crate) use self::rates::Rates;
pub(crate) use self::refusals::Refusals;
pub(crate) use self::service_keys::ServiceKeys;
pub(crate) use self::source::source;
pub(crate) use self::tokens::{Issuer, person};
use crate::Shared;
use crate::api::{Call, Failure};
use crate::rules::{Asker, Ruled, Rules};

/// Twice in the second within which a revocation is in force.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Whoever credentials are of, and what was granted to them.
pub(crate) struct Identity {
    /// What events call them: `service-key:NAME`, or the issuer's name in the policy and the subject.
    actor: String,
    grants: Vec<Grant>,
    /// What they may do in an emergency, and not before.
    dormant: Vec<Grant>,
    is_person: bool,
    /// Whether their token proves one.
    has_second_factor: bool,
}

/// Whoever asks: an identity in one request.
pub(crate) struct Caller {
    /// As the identity has it.
    pub(crate) actor: String,
    identity: Arc<Identity>,
    /// What an emergency gives them.
    given: Vec<Grant>,
    /// The emergency that they say it is.
    pub(crate) emergency: Option<String>,
    source: Option<IpAddr>,
    /// None where the policy has no access rules.
    ruled: Option<Ruled>,
}

impl Identity {
    /// Whoever an issuer vouches for.
    fn person(actor: String, grants: Vec<Grant>, has_second_factor: bool) -> Self {
        let (dormant, grants) = grants.into_iter().partition(|grant| grant.role == Role::Emergency);
        Self { actor, grants, dormant, is_person: true, has_second_factor }
    }

    /// Whoever holds a service key, who has no emergencies.
    fn program(actor: String, grants: Vec<Grant>) -> Self {
        Self { dormant: Vec::new(), is_person: false, ..Self::person(actor, grants, false) }
    }
}

impl Caller {
    /// Somebody who asks from there.
    pub(crate) fn new(rules: Option<&Arc<Rules>>, identity: Arc<Identity>, source: Option<IpAddr>) -> Self {
        let actor = identity.actor.clone();
        Self { actor, identity, given: Vec::new(), emergency: None, source, ruled: None }.under_rules(rules)
    }

    /// The same with what this emergency gives them.
    fn under(&self, rules: Option<&Arc<Rules>>, emergency: &Emergency) -> Self {
        let (actor, identity) = (self.actor.clone(), Arc::clone(&self.identity));
        let given = identity.dormant.iter().map(|grant| emergency.narrow(grant)).collect();
        let emergency = Some(emergency.id.clone());
        Self { actor, identity, given, emergency, source: self.source, ruled: None }.under_rules(rules)
    }

    fn under_rules(self, rules: Option<&Arc<Rules>>) -> Self {
        let identity = &self.identity;
        let ruled = rules.map(|rules| {
            let asker = Asker {
                actor: &self.actor,
                is_person: identity.is_person,
                has_second_factor: identity.has_second_factor,
                roles: identity.grants.iter().chain(&identity.dormant).map(|grant| grant.role).collect(),
                source: self.source,
                in_emergency: self.emergency.is_some(),
            };
            Ruled::new(rules, &asker)
        });
        Self { ruled, ..self }
    }

    fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.identity.grants.iter().chain(&self.given)
    }

    /// Refuses programs: a second word is a person's.
    pub(crate) fn check_person(&self) -> Result<()> {
        if self.identity.is_person {
            return Ok(());
        }
        Err(denied(Permission::Approve).cause("a service key is nobody's word"))
    }

    /// Whether a role of theirs grants it, whatever rules say of this request.
    pub(crate) fn is_granted(&self, permission: Permission) -> bool {
        let may_ask = permission == Permission::Emergency && !self.identity.dormant.is_empty();
        may_ask || self.grants().any(|grant| grant.has(permission))
    }

    /// Whether they may do this, or, of what is done with values, may do it with some: which those are a [`Batch`] says.
    pub(crate) fn check(&self, permission: Permission) -> Result<()> {
        if !self.is_granted(permission) {
            return Err(denied(permission));
        }
        match &self.ruled {
            Some(ruled) if !permission.is_of_values() => not_forbidden(permission, ruled.forbidden(permission, None)),
            _ => Ok(()),
        }
    }

    pub(crate) fn has(&self, permission: Permission) -> bool {
        self.check(permission).is_ok()
    }

    /// As [`Self::check`], for what is of all tenants, classes and columns, as counts are: none of them narrows the grant.
    pub(crate) fn check_everywhere(&self, permission: Permission) -> Result<()> {
        self.check(permission)?;
        let whole = self.grants().any(|grant| grant.has(permission) && !grant.is_narrowed());
        if whole { Ok(()) } else { Err(denied(permission)) }
    }
}

/// Finds out who asks, and whether not too often; nobody else's request goes on.
pub(crate) async fn admit(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let call = request.extensions().get::<Call>().cloned();
    let caller = match known(&shared, request.headers()).await {
        Ok(identity) => {
            Arc::new(Caller::new(shared.rules.as_ref(), Arc::new(identity), call.as_ref().and_then(|call| call.source)))
        }
        Err(error) => return Failure(error).into_response(),
    };
    let taken = shared.rates.take(&caller.actor, Instant::now());
    let (caller, taken) = match taken {
        Ok(()) => emergency::under(&shared, caller, request.headers(), call).await,
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

/// Whether whoever shows these credentials may still do this, from there: for an answer that goes on for longer than a moment.
pub(crate) async fn still_may(
    shared: &Shared,
    credentials: &HeaderMap,
    source: Option<IpAddr>,
    needed: Permission,
) -> Result<()> {
    let identity = known(shared, credentials).await?;
    Caller::new(shared.rules.as_ref(), Arc::new(identity), source).check(needed)
}

/// Lets a caller with the permission on.
pub(crate) async fn permit(State(needed): State<Permission>, request: Request, next: Next) -> Response {
    let caller = request.extensions().get::<Arc<Caller>>();
    match caller.map_or_else(|| Err(denied(needed)), |caller| caller.check(needed)) {
        Ok(()) => next.run(request).await,
        Err(error) => Failure(error).into_response(),
    }
}

async fn known(shared: &Shared, credentials: &HeaderMap) -> Result<Identity> {
    let shown = bearer(credentials)?;
    match ShownKey::parse(shown) {
        Some(key) => shared.service_keys.identity(&key),
        None => tokens::identity(&shared.issuers, shown).await,
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

/// As [`denied`] where something forbids it: what, is for the log.
fn not_forbidden(permission: Permission, forbidden: Option<String>) -> Result<()> {
    match forbidden {
        None => Ok(()),
        Some(by) => Err(denied(permission).cause(by)),
    }
}
