//! The transit engine of HashiCorp Vault and of OpenBao, over REST.
//!
//! A wrap is bound to its encryption context by the key's derivation: the key must be `derived`, and the canonical
//! context is what the server derives the key of each wrap from. `associated_data` would not do: HashiCorp Vault
//! ignores it when it generates a data key, and neither server rewraps what it binds. A key that is not `derived`
//! ignores the context, and the server makes a key that is not there when it is asked to encrypt; so the key's
//! configuration is read before every wrap, and before anything else again every [`CHECKED_FOR`]. Between that read and
//! the wrap a key may still be deleted, so the token should have `update` on `encrypt/KEY` and not `create`.
//!
//! Batches are calls of up to [`AT_MOST`] items with a result for each. What is wrapped is the server's own text,
//! `vault:v1:…`. A key of the type `ed25519` signs and wraps nothing (`sign.rs`). `session.rs` has the token, `login.rs` the ways to get one, `wire.rs` what is sent and answered.

mod login;
mod rights;
mod session;
mod sign;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::SignedDuration;
use reqwest::Method;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use self::session::{Sessions, Vault};
use self::wire::{BatchData, DataKey, Item, KeyConfiguration};
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::http::{Answer, Http, HttpOptions};
use super::json::Text;
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    Abilities, DecryptRequest, DecryptValues, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey,
    KeyDescription, KeyManagementService, KeyVersions, Permission, RewrapKeys, RewrapRequest, RootKeyState, RotateKey,
    UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{KeyUri, RootKey, VaultKeyUri};
use crate::error::{Code, Error, Result};
use crate::policy::VaultSignIn;

/// Items of one call: below OpenBao's limit of strings in a request, and far below the servers' limit of 32 MiB.
const AT_MOST: usize = 150;

/// OpenBao counts names and values (`max_request_json_strings` of its listener, unless it was set to another number), and
/// refuses what has more than 1,000 with 400: three pairs for each item, and the batch's own name.
const _: () = assert!(6 * AT_MOST < 1000);

/// How long the key's configuration is taken for granted. Only a key that was deleted and made again can change it.
const CHECKED_FOR: Duration = Duration::from_secs(300);

/// API documentation, "Update key configuration": `auto_rotate_period` is an hour at least, or none.
const SHORTEST_PERIOD: Duration = Duration::from_secs(3600);

/// See the module's head.
pub struct VaultKms {
    uri: KeyUri,
    key: VaultKeyUri,
    sessions: Arc<Sessions>,
    checked: Mutex<Option<Instant>>,
}

/// How to reach the server and sign in, besides what the URI says.
#[derive(Clone, Debug)]
pub struct VaultOptions {
    pub http: HttpOptions,
    pub sign_in: VaultSignIn,
    /// The namespace that the sign-in happens in, where it is another than the URI's; empty for the root namespace.
    pub sign_in_namespace: Option<String>,
}

impl Default for VaultOptions {
    fn default() -> Self {
        Self { http: HttpOptions::default(), sign_in: VaultSignIn::Token { file: None }, sign_in_namespace: None }
    }
}

impl VaultKms {
    /// Calls nothing yet: whether there are credentials and rights shows at the first call.
    pub fn open(uri: &KeyUri, options: &VaultOptions) -> Result<Self> {
        let RootKey::Vault(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a transit key")));
        };
        let mut http = options.http.clone();
        if let VaultSignIn::Certificate { identity, .. } = &options.sign_in {
            if !key.is_tls() {
                return Err(Error::new(Code::KmsUriInvalid, format!("cannot sign in for `{uri}` with a certificate"))
                    .cause("a certificate is shown over TLS alone")
                    .hint("write `vault://` instead of `vault+http://`"));
            }
            http.identity = Some(identity.clone());
        }
        let vault = Vault { http: Http::new(http)?, uri: uri.clone(), address: key.address() };
        let namespace = options.sign_in_namespace.clone().or_else(|| key.namespace().map(str::to_owned));
        let namespace = namespace.filter(|n| !n.is_empty());
        let sessions = Sessions::new(vault, options.sign_in.clone(), namespace);
        Ok(Self { uri: uri.clone(), key: key.clone(), sessions: Arc::new(sessions), checked: Mutex::default() })
    }

    /// Calls a path of the transit engine.
    async fn call(&self, operation: Operation, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer> {
        self.call_at(operation, method, format!("{}/{path}", self.key.mount()), body).await
    }

    /// Calls a path of the key's namespace. A token that the server does not know any more is replaced once.
    async fn call_at(&self, operation: Operation, method: Method, path: String, body: Option<Bytes>) -> Result<Answer> {
        let namespace = self.key.namespace();
        let session = self.sessions.current(operation).await?;
        let vault = self.sessions.vault();
        let answer = vault.send(operation, method.clone(), &path, namespace, Some(&session), body.clone()).await?;
        if answer.status != 403 || self.sessions.is_known(operation, &session).await {
            return Ok(answer);
        }
        let session = self.sessions.replace(operation, &session).await?;
        vault.send(operation, method, &path, namespace, Some(&session), body).await
    }

    /// The data of an answer that is a success as a whole.
    async fn data<T: DeserializeOwned>(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T> {
        let answer = self.call(operation, method, path, body).await?;
        wire::success(operation, &self.uri, &answer)
    }

    /// A batch, in calls of [`AT_MOST`] items, each answered for itself.
    async fn batch<T>(
        &self,
        operation: Operation,
        path: &str,
        items: Vec<Result<Item<'_>>>,
        take: impl Fn(&Self, wire::ItemAnswer) -> Result<T>,
    ) -> Vec<Result<T>> {
        if items.is_empty() {
            return Vec::new();
        }
        // What others encrypted may be under a key that is not derived: nothing of ours hangs on it.
        if operation != Operation::Decrypt
            && let Err(error) = self.bound(operation).await
        {
            return items.iter().map(|_| Err(error.clone())).collect();
        }
        // What cannot be sent has its answer already; the others keep their places.
        let (mut answers, mut sound) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for (at, item) in items.into_iter().enumerate() {
            match item {
                Ok(item) => {
                    sound.push((at, item));
                    answers.push(Err(failure::wrong_count(&self.uri)));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        for chunk in sound.chunks(AT_MOST) {
            let items: Vec<&Item<'_>> = chunk.iter().map(|(_, item)| item).collect();
            match self.send_batch(operation, path, &items).await {
                Ok(given) => {
                    for ((at, _), answer) in chunk.iter().zip(given) {
                        answers[*at] = match &answer.error {
                            Some(text) if !text.is_empty() => Err(wire::refused(operation, &self.uri, 400, text)),
                            _ => take(self, answer),
                        };
                    }
                }
                Err(error) => chunk.iter().for_each(|(at, _)| answers[*at] = Err(error.clone())),
            }
        }
        answers
    }

    async fn send_batch(&self, operation: Operation, path: &str, items: &[&Item<'_>]) -> Result<Vec<wire::ItemAnswer>> {
        let body = wire::batch_body(items);
        let answer = self.call(operation, Method::POST, path, Some(body)).await?;
        // A batch with a bad item is answered with 400, and with all its results.
        let BatchData { batch_results: given } = match answer.status {
            400 => match wire::data(operation, &self.uri, &answer) {
                Ok(data) => data,
                Err(_) => return Err(wire::failed(operation, &self.uri, &answer)),
            },
            _ => wire::success(operation, &self.uri, &answer)?,
        };
        if given.len() != items.len() {
            return Err(failure::wrong_count(&self.uri));
        }
        let echoes = |(at, answer): (usize, &wire::ItemAnswer)| match answer.reference.as_deref() {
            // Servers before the reference was echoed leave it out.
            None | Some("") => true,
            Some(reference) => reference == at.to_string(),
        };
        if given.iter().enumerate().all(echoes) {
            Ok(given)
        } else {
            Err(failure::unusable(operation, &self.uri, "the results are not in the order of the requests"))
        }
    }

    /// Refuses a key that would ignore the encryption context, before it is used.
    async fn bound(&self, operation: Operation) -> Result<()> {
        let checked = *self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        // The server would make a key that was deleted meanwhile anew, and wrap under that.
        if operation != Operation::Wrap && checked.is_some_and(|at| at.elapsed() < CHECKED_FOR) {
            return Ok(());
        }
        let about = self.configuration(operation).await?;
        if about.soft_deleted {
            return Err(failure::disabled(operation, &self.uri).cause("it is deleted, and can be restored"));
        }
        if !about.usable() {
            let (mount, key) = (self.key.mount(), self.key.key());
            return Err(failure::failed(Code::KmsUriInvalid, operation, &self.uri)
                .cause("the key is not one of 256 bits that is derived from a context, so it would bind nothing")
                .hint(format!(
                    "make one of another name: `bao write -f {mount}/keys/NAME derived=true` (or `vault write`)"
                ))
                .hint(format!("whether a key is derived cannot be changed; look with `bao read {mount}/keys/{key}`")));
        }
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    async fn configuration(&self, operation: Operation) -> Result<KeyConfiguration> {
        let path = format!("keys/{}", self.key.key());
        let answer = self.call(operation, Method::GET, &path, None).await?;
        if answer.status == 403 {
            return Err(wire::failed(operation, &self.uri, &answer)
                .hint(format!("the policy of the token needs `read` on `{}/{path}`", self.key.mount())));
        }
        wire::success(operation, &self.uri, &answer)
    }

    /// Calls a path of the key that changes it.
    async fn change(&self, operation: Operation, what: &str, body: Option<Bytes>) -> Result<()> {
        // The server rotates a key that is not there by making none, and says so only when it is read.
        self.bound(operation).await?;
        let path = format!("keys/{}/{what}", self.key.key());
        let answer = self.call(operation, Method::POST, &path, body).await?;
        match answer.status {
            200 | 204 => Ok(()),
            _ => Err(wire::failed(operation, &self.uri, &answer)),
        }
    }

    async fn generate_one(&self, request: GenerateRequest<'_>) -> Result<GeneratedKey> {
        let operation = Operation::Generate;
        let path = format!("datakey/plaintext/{}", self.key.key());
        let body = wire::data_key_body(&context(request.context));
        let made: DataKey = self.data(operation, Method::POST, &path, Some(body)).await?;
        Ok(GeneratedKey {
            key: self.plaintext(operation, &made.plaintext)?,
            wrapped: self.ciphertext(operation, made.ciphertext)?,
        })
    }

    fn plaintext(&self, operation: Operation, text: &Text) -> Result<KeyMaterial> {
        // Something of another length was encrypted under the same key and context: it is no data key of ours.
        text.key(&STANDARD).ok_or_else(|| failure::unusable(operation, &self.uri, "it holds no key of 256 bits"))
    }

    fn ciphertext(&self, operation: Operation, text: String) -> Result<WrappedKey> {
        if wire::is_ciphertext(text.as_bytes()) {
            return WrappedKey::new(text.into_bytes());
        }
        Err(failure::unusable(operation, &self.uri, "it holds no ciphertext"))
    }

    /// What another program encrypted, with the context that it gave.
    fn others<'a>(&self, operation: Operation, request: DecryptRequest<'a>) -> Result<Item<'a>> {
        let text = std::str::from_utf8(request.ciphertext);
        let context = request.context.get("context").map(String::as_bytes).unwrap_or_default();
        let item = text.map(|text| Item::ciphertext(text, STANDARD.encode(context)));
        item.map_err(|_| failure::wrap_invalid(operation, &self.uri))
    }

    /// What was wrapped by anything else is refused without a call, and so are spellings that only a lax decoder takes.
    fn wrapped<'a>(
        &self,
        operation: Operation,
        wrapped: &'a WrappedKey,
        context: &EncryptionContext,
    ) -> Result<Item<'a>> {
        let text = std::str::from_utf8(wrapped.as_bytes()).ok().filter(|t| wire::is_ciphertext(t.as_bytes()));
        let text = text.ok_or_else(|| failure::wrap_invalid(operation, &self.uri))?;
        Ok(Item::ciphertext(text, self::context(context)))
    }
}

#[async_trait]
impl KeyManagementService for VaultKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        let operation = Operation::Wrap;
        let items = requests.iter().map(|r| Ok(Item::plaintext(r.key, context(r.context)))).collect();
        let take = |kms: &Self, answer: wire::ItemAnswer| kms.ciphertext(operation, answer.ciphertext);
        self.batch(operation, &format!("encrypt/{}", self.key.key()), items, take).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        let operation = Operation::Unwrap;
        let items = requests.iter().map(|r| self.wrapped(operation, r.wrapped, r.context)).collect();
        let take = |kms: &Self, answer: wire::ItemAnswer| kms.plaintext(operation, &answer.plaintext);
        self.batch(operation, &format!("decrypt/{}", self.key.key()), items, take).await
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities {
            generator: Some(self),
            describer: Some(self),
            rewrapper: Some(self),
            rotator: Some(self),
            // Transit keys cannot be disabled, and a deletion takes effect at once.
            controller: None,
            decryptor: Some(self),
            signer: Some(self),
        }
    }
}

#[async_trait]
impl DecryptValues for VaultKms {
    async fn decrypt(&self, requests: &[DecryptRequest<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>> {
        let operation = Operation::Decrypt;
        let items = requests.iter().map(|request| self.others(operation, *request)).collect();
        let take = |kms: &Self, answer: wire::ItemAnswer| {
            answer.plaintext.all(&STANDARD).ok_or_else(|| failure::unusable(operation, &kms.uri, "it holds no base64"))
        };
        self.batch(operation, &format!("decrypt/{}", self.key.key()), items, take).await
    }
}

#[async_trait]
impl GenerateDataKey for VaultKms {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        if let Err(error) = self.bound(Operation::Generate).await {
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        in_order(requests, |r| Box::pin(self.generate_one(*r))).await
    }
}

#[async_trait]
impl DescribeKey for VaultKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let about = self.configuration(Operation::Describe).await?;
        let namespace = self.key.namespace().map(|n| format!("{n}/")).unwrap_or_default();
        let resolved = format!("{namespace}{}/keys/{}", self.key.mount(), self.key.key());
        let state = if about.soft_deleted { RootKeyState::Disabled } else { RootKeyState::Enabled };
        Ok(KeyDescription {
            versions: Some(KeyVersions {
                newest: about.latest_version,
                oldest_usable: about.min_decryption_version.max(about.min_available_version),
            }),
            rotation: about.rotation(),
            ..KeyDescription::new(resolved, state, "transit".to_owned(), about.usable())
        })
    }

    async fn permissions(&self, _: &EncryptionContext) -> Result<Vec<Permission>> {
        let operation = Operation::Describe;
        let asked = rights::of(self.key.mount(), self.key.key());
        let body = Some(rights::question(&asked));
        let told = self.call_at(operation, Method::POST, "sys/capabilities-self".to_owned(), body).await;
        let told = told.and_then(|answer| wire::success(operation, &self.uri, &answer));
        // The policy `default` allows the question. A token may be without it, and works all the same.
        let held = match told {
            Err(error) if error.code() == Code::KmsAccessDenied => None,
            told => Some(told?),
        };
        Ok(rights::answered(asked, held.as_ref()))
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        self.sessions.vault().http.clock_skew()
    }
}

#[async_trait]
impl RewrapKeys for VaultKms {
    async fn rewrap(&self, requests: &[RewrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        let operation = Operation::Rewrap;
        let items = requests.iter().map(|r| self.wrapped(operation, r.wrapped, r.context)).collect();
        let take = |kms: &Self, answer: wire::ItemAnswer| kms.ciphertext(operation, answer.ciphertext);
        self.batch(operation, &format!("rewrap/{}", self.key.key()), items, take).await
    }
}

#[async_trait]
impl RotateKey for VaultKms {
    async fn rotate(&self) -> Result<()> {
        self.change(Operation::Rotate, "rotate", None).await
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        let operation = Operation::ScheduleRotation;
        if period.is_some_and(|period| period < SHORTEST_PERIOD) {
            return Err(failure::not_so(operation, &self.uri, "transit rotates a key every hour at most"));
        }
        self.change(operation, "config", Some(wire::rotate_every_body(period))).await
    }
}

/// The canonical context, which is never empty, as the server wants it.
fn context(context: &EncryptionContext) -> String {
    STANDARD.encode(context.canonical())
}
