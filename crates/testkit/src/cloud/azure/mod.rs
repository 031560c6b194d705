//! A fake of Azure Key Vault and Managed HSM, with the token endpoints that belong to them.
//!
//! Made from the published REST specifications: keys 7.4, the OAuth 2.0 token endpoint of Microsoft Entra ID, the Instance
//! Metadata Service and the identity endpoint of App Service. It is not the real service, and knows no more of it than
//! stands there, but for one thing that was reported of it: it wraps under RSA keys that are disabled.

mod entra;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::script::Script;
use super::server::{Reply, Request, Server};
pub use entra::{CLIENT, Certificate, IDENTITY_HEADER, MACHINE, Right, TENANT};
pub use keys::{Kind, Validity};

/// A trouble that the next calls of a vault meet, whoever makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `Throttled`, to be tried again after so many seconds.
    Throttle(u64),
    /// `ServiceUnavailable`.
    Unavailable,
    /// The same, to be tried again after so many seconds.
    UnavailableFor(u64),
    /// No answer at all.
    Silence,
    /// An answer of another key of the same kind.
    AnswerOfAnotherKey,
}

/// A running fake.
pub struct FakeAzure {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By host and name.
    keys: BTreeMap<String, keys::Key>,
    deleted: BTreeMap<String, keys::Key>,
    entra: entra::Entra,
    script: Script<Fault>,
}

impl FakeAzure {
    pub async fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = Server::start(move |request| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(request)
        })
        .await;
        state.lock().expect("nobody panicked yet").entra.endpoint = server.endpoint().to_owned();
        Self { server, state }
    }

    pub fn endpoint(&self) -> &str {
        self.server.endpoint()
    }

    /// A new key with one version, and its root-key URI.
    pub fn create_key(&self, kind: Kind) -> String {
        let mut state = self.state();
        let name = format!("key-{}", state.keys.len() + state.deleted.len());
        let host = kind.host();
        state.keys.insert(name.clone(), keys::Key::new(kind, &name));
        format!("azure-kv://{host}/keys/{name}?endpoint={}", self.endpoint())
    }

    /// Changes the newest version of the key of a URI.
    pub fn set_enabled(&self, uri: &str, enabled: bool) {
        self.with_key(uri, |key| key.newest().enabled = enabled);
    }

    /// Changes one version of the key of a URI.
    pub fn set_version_enabled(&self, uri: &str, version: &str, enabled: bool) {
        self.with_key(uri, |key| key.version_mut(version).enabled = enabled);
    }

    pub fn set_validity(&self, uri: &str, validity: Validity) {
        self.with_key(uri, |key| key.newest().validity = validity);
    }

    /// From now on the service rotates the key of a URI by itself.
    pub fn rotate_after(&self, uri: &str, days: u32) {
        self.with_key(uri, |key| key.rotate_after(days));
    }

    /// The versions of the key of a URI, oldest first.
    pub fn versions(&self, uri: &str) -> Vec<String> {
        self.with_key(uri, |key| key.versions())
    }

    /// The public half of the newest version, as `SubjectPublicKeyInfo`: what anybody may have.
    pub fn public_key(&self, uri: &str) -> Vec<u8> {
        self.with_key(uri, |key| key.newest().public_key())
    }

    /// Deletes the key of a URI, so that it may be recovered; `purge` takes that away as well.
    pub fn delete(&self, uri: &str, purge: bool) {
        let mut state = self.state();
        let name = name_of(uri);
        let key = state.keys.remove(name).expect("a key of this fake");
        if !purge {
            state.deleted.insert(name.to_owned(), key);
        }
    }

    /// When the key of a URI gets its next version, in the service's own words.
    pub fn rotation_policy(&self, uri: &str) -> Value {
        self.with_key(uri, |key| key.policy.clone())
    }

    pub fn set_rotation_policy(&self, uri: &str, policy: Value) {
        self.with_key(uri, |key| key.policy = policy);
    }

    /// For how many days the key of a URI can be recovered once it is deleted; none: not at all.
    pub fn set_recoverable_days(&self, uri: &str, days: u32) {
        self.with_key(uri, |key| key.recoverable_days = days);
    }

    /// What the next call of a vault meets; called again, the one after it.
    pub fn next(&self, fault: Fault) {
        self.state().script.next(fault);
    }

    /// What every call of a vault meets from now on.
    pub fn always(&self, fault: Option<Fault>) {
        self.state().script.always(fault);
    }

    /// Methods and paths that were asked of vaults, with the status of the answer.
    pub fn calls(&self) -> Vec<(String, u16)> {
        self.state().script.calls()
    }

    fn with_key<T>(&self, uri: &str, look: impl FnOnce(&mut keys::Key) -> T) -> T {
        look(self.state().keys.get_mut(name_of(uri)).expect("a key of this fake"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Option<Reply> {
        if !request.path.starts_with("/keys/") && !request.path.starts_with("/deletedkeys/") {
            return Some(self.entra.answer(request));
        }
        let fault = self.script.meets();
        let reply = match fault {
            Some(Fault::Silence) => return None,
            Some(Fault::Unavailable) => refusal(503, "ServiceUnavailable", None),
            Some(Fault::UnavailableFor(seconds)) => {
                refusal(503, "ServiceUnavailable", None).header("retry-after", seconds.to_string())
            }
            Some(Fault::Throttle(seconds)) => {
                refusal(429, "Throttled", None).header("retry-after", seconds.to_string())
            }
            _ => self.keyed(request, fault).unwrap_or_else(|refusal| refusal),
        };
        self.script.answered(request, &reply);
        Some(reply)
    }

    fn keyed(&mut self, request: &Request, fault: Option<Fault>) -> Result<Reply, Reply> {
        let call = keys::Call::of(request).ok_or_else(|| refusal(404, "NotFound", None))?;
        match request.query.get("api-version").map(String::as_str) {
            Some("7.4") if request.query.keys().all(|name| call.parameters().contains(&name.as_str())) => {}
            _ => return Err(refusal(400, "BadParameter", None)),
        }
        let found = if call.is_of_the_deleted() { &mut self.deleted } else { &mut self.keys };
        let key = found.get_mut(call.key);
        // Who calls is asked before what is there. Which of the services it is can be told by the key alone.
        let resource = key.as_ref().map(|key| key.kind().resource());
        self.entra.admit(request, resource, call.right())?;
        let Some(key) = key else { return Err(refusal(404, "KeyNotFound", None)) };
        let reply = key.answer(&call, request, fault)?;
        if call.moves() {
            let (from, to) = match call.is_of_the_deleted() {
                true => (&mut self.deleted, &mut self.keys),
                false => (&mut self.keys, &mut self.deleted),
            };
            to.extend(from.remove_entry(call.key));
        }
        Ok(reply)
    }
}

fn name_of(uri: &str) -> &str {
    let place = uri.split('?').next().unwrap_or_default();
    place.split('/').nth(4).expect("a URI of Azure")
}

/// An error with a sentence that no client may repeat.
fn refusal(status: u16, code: &str, inner: Option<&str>) -> Reply {
    let mut error = json!({ "code": code, "message": "a sentence that names the caller and the key" });
    if let Some(inner) = inner {
        error["innererror"] = json!({ "code": inner });
    }
    Reply::json(status, &json!({ "error": error }))
}

/// Whether all of an object's fields are known.
fn knows(given: &serde_json::Map<String, Value>, known: &[&str]) -> bool {
    given.keys().all(|name| known.contains(&name.as_str()))
}
