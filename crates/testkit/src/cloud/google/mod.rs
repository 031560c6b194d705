//! A fake of Google Cloud KMS, with the token endpoints that belong to it.
//!
//! Made from the published API: `google.cloud.kms.v1` over REST, `google.rpc.Status`, the OAuth 2.0 token endpoint for
//! service accounts and refresh tokens, the Security Token Service, `generateAccessToken` of the IAM credentials API and
//! the metadata server. It is not the real service, and knows no more of it than stands there.

mod iam;
mod keys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::script::Script;
use super::server::{Reply, Request, Server};
pub use iam::{EXTERNAL, METADATA_ACCOUNT, PERSON, Right};
pub use keys::VersionState;

/// A trouble that the next calls of a key's methods meet, whoever makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `RESOURCE_EXHAUSTED`, to be tried again after so many milliseconds.
    Throttle(u64),
    /// `UNAVAILABLE`.
    Unavailable,
    /// No answer at all.
    Silence,
    /// Bytes of the request are changed on their way in, so that its checksums do not fit.
    DamageRequest,
    /// Bytes of the answer are changed on their way out.
    DamageAnswer,
    /// The service does not look at the checksum of this field.
    IgnoreChecksum(&'static str),
    /// An answer of another key of the same kind.
    AnswerOfAnotherKey,
}

/// A running fake.
pub struct FakeGoogle {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: BTreeMap<String, keys::Key>,
    identities: iam::Identities,
    script: Script<Fault>,
}

impl FakeGoogle {
    pub async fn start() -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = state.clone();
        let server = Server::start(move |request| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            state.answer(request)
        })
        .await;
        state.lock().expect("nobody panicked yet").identities.endpoint = server.endpoint().to_owned();
        Self { server, state }
    }

    pub fn endpoint(&self) -> &str {
        self.server.endpoint()
    }

    /// A new key with one version, for the purpose of encryption, and its root-key URI.
    pub fn create_key(&self) -> String {
        let mut state = self.state();
        let name = format!("projects/fake/locations/europe-west3/keyRings/app/cryptoKeys/key-{}", state.keys.len());
        state.keys.insert(name.clone(), keys::Key::new(&name));
        format!("gcp-kms://{name}?endpoint={}", self.endpoint())
    }

    /// Changes a version of the key of a URI.
    pub fn set_version(&self, uri: &str, version: u32, to: VersionState) {
        self.with_key(uri, |key| key.set_state(version, to));
    }

    pub fn version(&self, uri: &str, version: u32) -> VersionState {
        let mut found = VersionState::Destroyed;
        self.with_key(uri, |key| found = key.state(version));
        found
    }

    pub fn set_purpose(&self, uri: &str, purpose: &'static str) {
        self.with_key(uri, |key| key.purpose = purpose);
    }

    pub fn set_rotation(&self, uri: &str, period: &str, next: &str) {
        self.with_key(uri, |key| key.rotation = Some((period.to_owned(), next.to_owned())));
    }

    /// How long versions wait for their destruction: it is chosen when a key is made, so call this first.
    pub fn set_destroyed_after(&self, uri: &str, hours: i64) {
        self.with_key(uri, |key| key.destroyed_after = SignedDuration::from_hours(hours));
    }

    /// New versions are made in so many looks at them, as in an HSM.
    pub fn slow_generation(&self, uri: &str, looks: u32) {
        self.with_key(uri, |key| key.looks_until_ready = looks);
    }

    /// What the next call of a key's method meets; called again, the one after it.
    pub fn next(&self, fault: Fault) {
        self.state().script.next(fault);
    }

    /// What every call of a key's method meets from now on.
    pub fn always(&self, fault: Option<Fault>) {
        self.state().script.always(fault);
    }

    /// Methods and paths that were asked of keys, with the status of the answer.
    pub fn calls(&self) -> Vec<(String, u16)> {
        self.state().script.calls()
    }

    fn with_key(&self, uri: &str, change: impl FnOnce(&mut keys::Key)) {
        let name = uri.strip_prefix("gcp-kms://").and_then(|u| u.split('?').next()).expect("a URI of Google");
        change(self.state().keys.get_mut(name).expect("a key of this fake"));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Option<Reply> {
        let Some(resource) = request.path.strip_prefix("/v1/projects/fake/") else {
            return Some(self.identities.answer(request));
        };
        let fault = self.script.meets();
        let reply = match fault {
            Some(Fault::Silence) => return None,
            Some(Fault::Unavailable) => refusal(503, "UNAVAILABLE", "The service is currently unavailable.", &[]),
            Some(Fault::Throttle(milliseconds)) => throttled(milliseconds),
            _ => {
                let name = format!("projects/fake/{resource}");
                self.keyed(request, &name, fault).unwrap_or_else(|refusal| refusal)
            }
        };
        self.script.answered(request, &reply);
        Some(reply)
    }

    fn keyed(&mut self, request: &Request, name: &str, fault: Option<Fault>) -> Result<Reply, Reply> {
        if let ("POST", Some(key)) = (request.method.as_str(), name.strip_suffix(":testIamPermissions")) {
            return self.identities.test_permissions(request, self.keys.contains_key(key));
        }
        let call =
            keys::Call::of(&request.method, name).ok_or_else(|| refusal(404, "NOT_FOUND", "Method not found.", &[]))?;
        call.knows_parameters(request)?;
        self.identities.admit(request, call.right())?;
        let key = self
            .keys
            .get_mut(call.key)
            .ok_or_else(|| refusal(404, "NOT_FOUND", &format!("CryptoKey {} not found.", call.key), &[]))?;
        key.answer(&call, request, fault)
    }
}

/// `google.rpc.Status`, as REST has it.
fn refusal(status: u16, name: &str, message: &str, details: &[Value]) -> Reply {
    Reply::json(status, &json!({ "error": { "code": status, "message": message, "status": name, "details": details } }))
}

fn unknown_field(name: &str) -> Reply {
    let message = format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.");
    refusal(400, "INVALID_ARGUMENT", &message, &[])
}

fn throttled(milliseconds: u64) -> Reply {
    let delay = format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000);
    let details = [
        json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED",
            "domain": "googleapis.com", "metadata": { "service": "cloudkms.googleapis.com" },
        }),
        json!({ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay }),
    ];
    refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Cryptographic requests'.", &details)
}
