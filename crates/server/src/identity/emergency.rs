//! Requests that are made under access in an emergency: they say so themselves.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use enfold::access::Permission;
use enfold::{Code, Error, Result};

use super::{Caller, denied};
use crate::Shared;
use crate::api::Call;

/// The id of the emergency.
const HEADER: HeaderName = HeaderName::from_static("enfold-emergency");

/// The caller with what the emergency gives them that the request names, if it names one. It is looked up for each request, so what was
/// ended gives nothing from that moment on.
pub(super) async fn under(
    shared: &Shared,
    caller: Arc<Caller>,
    headers: &HeaderMap,
    call: Option<Call>,
) -> (Arc<Caller>, Result<()>) {
    let mut named = headers.get_all(HEADER).iter();
    let id = match (named.next(), named.next()) {
        (None, _) => return (caller, Ok(())),
        (Some(id), None) => id.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return (caller, Err(Error::new(Code::Usage, "the request names two emergencies"))),
    };
    match used(shared, &caller, id, call).await {
        Ok(caller) => (Arc::new(caller), Ok(())),
        Err(error) => (caller, Err(error)),
    }
}

async fn used(shared: &Shared, caller: &Caller, id: &str, call: Option<Call>) -> Result<Caller> {
    let Some(call) = call.filter(|_| !caller.identity.dormant.is_empty()) else {
        return Err(denied(Permission::Emergency));
    };
    let context = call.context(caller, None);
    Ok(caller.under(shared.rules.as_ref(), &shared.enfold.use_emergency(id, &call.endpoint(), &context).await?))
}
