//! Service keys: which programs are let in, and letting one in no more.
//!
//! None is made here: whoever may change keys sees no values, and a key that sees them, made by the same person, would undo that.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use enfold::Result;
use enfold::access::ServiceKey;
use enfold_jobs::shown::time;
use jiff::Timestamp;

use super::guard::Sent;
use super::view::{Chrome, Html};
use crate::Shared;
use crate::api::{Failure, to_its_end};

const HERE: &str = "/console/service-keys";

#[derive(Template)]
#[template(path = "service_keys.html")]
pub(super) struct ServiceKeysPage {
    chrome: Chrome,
    keys: Vec<KeyView>,
    /// Whether this process can sign, so that it can revoke.
    can_revoke: bool,
}

struct KeyView {
    id: String,
    name: String,
    roles: String,
    created: String,
    created_by: String,
    until: String,
    lets_in: bool,
    state: &'static str,
}

impl KeyView {
    fn of(id: &str, key: &ServiceKey, now_ms: i64) -> Self {
        let role = |grant: &enfold::access::Grant| {
            format!("{}{}", grant.role.word(), if grant.is_narrowed() { " (narrowed)" } else { "" })
        };
        let state = match (key.revoked_ms, key.lets_in(now_ms)) {
            (Some(_), _) => "revoked",
            (None, true) => "good",
            (None, false) => "expired",
        };
        Self {
            id: id.to_owned(),
            name: key.name.clone(),
            roles: key.grants.iter().map(role).collect::<Vec<_>>().join(", "),
            created: time(key.created_ms).unwrap_or_default(),
            created_by: key.created_by.clone().unwrap_or_default(),
            until: time(key.expires_ms).unwrap_or_default(),
            lets_in: key.lets_in(now_ms),
            state,
        }
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(chrome): Extension<Chrome>,
) -> Result<Html<ServiceKeysPage>, Failure> {
    let list = shared.enfold.access_list(0).await?;
    let now_ms = Timestamp::now().as_millisecond();
    let mut keys: Vec<KeyView> = list.keys.iter().map(|(id, key)| KeyView::of(id, key, now_ms)).collect();
    // Those that let in before those that did.
    keys.sort_by(|a, b| (!a.lets_in, &a.name, &a.created).cmp(&(!b.lets_in, &b.name, &b.created)));
    Ok(Html(ServiceKeysPage { chrome, keys, can_revoke: shared.enfold.has_operator_key() }))
}

pub(super) async fn revoke(sent: Sent) -> Result<Response, Failure> {
    let id = sent.fields.required("id", "the service key")?.to_owned();
    let reason = sent.fields.required("reason", "a reason, for the log,")?.to_owned();
    let context = sent.context(Some(reason));
    let enfold = sent.shared.enfold.clone();
    let former = to_its_end(async move { enfold.operator()?.revoke_service_key(&id, &context).await }).await?;
    let text = format!("The service key of {} lets nobody in, within a second.", former.name);
    Ok(sent.done(text, HERE))
}
