//! Azure Key Vault and Managed HSM, over REST.
//!
//! A wrap has no associated data there, so the context goes inside: what is wrapped is the data key and the SHA-256 of
//! the canonical context ([`Payload`]). An unwrap compares it, so a wrap does not open in another context. That proves
//! nothing about who made the wrap: under an RSA key anybody can make one who has its public half. Therefore the row of a
//! data key is authenticated under a key of its ring, and rings whose records carry their wraps outside such a row are
//! refused by the policy.
//!
//! A wrap is [`MAGIC`], the way of wrapping, the version of the key, and the service's own bytes; an unwrap names that
//! version. The service wraps under RSA keys that are disabled; so the key is read before anything is wrapped.
//!
//! There are no batches: a batch here is that many calls, a few at a time. `sign_in.rs` has the ways to sign in,
//! `control.rs` what is done to the key itself, `wire.rs` what is sent and answered.
//!
//! Tested against a fake of ours (`enfold_testkit::cloud::azure`), and not yet against the real services.

mod control;
mod rotation;
mod sign_in;
mod wire;

use async_trait::async_trait;
use aws_lc_rs::digest::{Context as Digest, SHA256, SHA256_OUTPUT_LEN};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jiff::SignedDuration;
use reqwest::Method;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::sign_in::SignIn;
use self::wire::{API_VERSION, KeyBundle, KeyOperation, KeyResult, Wrapping};
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::http::{Answer, Http, HttpOptions};
use super::json;
use super::material::{KeyMaterial, WrappedKey};
use super::oauth::{Issuer, Service};
use super::service::{
    Abilities, DescribeKey, Held, KeyDescription, KeyManagementService, NeededBy, Permission, RootKeyState,
    RotationPlan, UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{AzureKeyUri, KeyUri, RootKey};
use crate::error::{Code, Error, Result};
use crate::policy::AzureSettings;

/// With this every wrap begins.
const MAGIC: &[u8; 4] = b"akv1";
/// A version is 32 digits of hexadecimal.
const VERSION: usize = 16;
/// A data key and the digest of its context. It fits into RSA-OAEP-256 with 2048 bits (190 bytes at most, RFC 8017,
/// section 7.1.1), and is made of whole blocks of 64 bits as AES key wrap wants them (RFC 3394, section 2.2.1).
const PAYLOAD: usize = KeyMaterial::LEN + SHA256_OUTPUT_LEN;
const _: () = assert!(PAYLOAD <= 190 && PAYLOAD.is_multiple_of(8));
/// RSA of 4096 bits.
const LONGEST_WRAP: usize = 512;

/// What the service lets nobody ask about, in the words of its roles' data actions. Azure Resource Manager knows them, of
/// another address and by another token than a key's URI leads to.
const NOT_TOLD: [(&str, NeededBy); 5] = [
    ("keys/rotate/action", NeededBy::Operators),
    ("keys/update/action", NeededBy::Operators),
    ("keys/delete", NeededBy::Operators),
    ("keys/backup/action", NeededBy::Nobody),
    ("keys/purge/action", NeededBy::Nobody),
];

/// What is wrapped.
type Payload = Zeroizing<Vec<u8>>;

/// See the module's head.
pub struct AzureKms {
    uri: KeyUri,
    key: AzureKeyUri,
    service: Service,
}

/// How to reach the service and sign in, besides what the URI says.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    pub http: HttpOptions,
    pub settings: AzureSettings,
}

/// The parts of a wrap that this provider made.
struct Parts<'a> {
    wrapping: Wrapping,
    version: String,
    wrapped: &'a [u8],
}

impl AzureKms {
    /// Calls nothing yet: whether there are credentials and rights shows at the first call.
    pub fn open(uri: &KeyUri, options: &AzureOptions) -> Result<Self> {
        let RootKey::Azure(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a key of Azure")));
        };
        let issuer = Issuer { http: Http::new(options.http.clone())?, uri: uri.clone() };
        let sign_in = SignIn { issuer, settings: options.settings.clone(), resource: key.resource() };
        let service = Service::new(options.http.clone(), Box::new(sign_in))?;
        Ok(Self { uri: uri.clone(), key: key.clone(), service })
    }

    /// The version to wrap under, and how: read each time, because the service itself wraps under a disabled key.
    async fn current(&self) -> Result<(String, Wrapping)> {
        let operation = Operation::Wrap;
        let about = self.about(operation).await?;
        let now = jiff::Timestamp::now().as_second();
        if !about.attributes.enabled {
            return Err(failure::disabled(operation, &self.uri));
        }
        if about.attributes.exp.is_some_and(|exp| exp <= now) {
            return Err(wire::out_of_time(operation, &self.uri, "has expired"));
        }
        if about.attributes.nbf.is_some_and(|nbf| nbf > now) {
            return Err(wire::out_of_time(operation, &self.uri, "is not valid yet"));
        }
        let wrapping = about.wrapping().ok_or_else(|| {
            failure::failed(Code::KmsUriInvalid, operation, &self.uri)
                .cause("the key does not wrap and unwrap with RSA-OAEP-256, nor with AES of 256 bits")
                .hint("name an RSA key of 2048 bits or more, or an AES key of 256 bits in a managed HSM")
        })?;
        Ok((self.version_of(operation, &about.key.kid)?, wrapping))
    }

    async fn wrap_key(&self, request: WrapRequest<'_>, version: &str, wrapping: Wrapping) -> Result<WrappedKey> {
        let operation = Operation::Wrap;
        let payload = payload(request.key, request.context);
        let value = json::encode(&URL_SAFE_NO_PAD, &payload);
        let answer = self.operate(operation, version, "wrapkey", wrapping, &value).await?;
        let wrapped = URL_SAFE_NO_PAD.decode(answer.value.0.as_bytes()).unwrap_or_default();
        if wrapped.is_empty() || wrapped.len() > LONGEST_WRAP {
            return Err(failure::unusable(operation, &self.uri, "it holds no wrap"));
        }
        let version = u128::from_str_radix(version, 16)
            .map_err(|_| failure::unusable(operation, &self.uri, "its version is none"))?;
        WrappedKey::new([&MAGIC[..], &[wrapping as u8], &version.to_be_bytes(), &wrapped].concat())
    }

    async fn unwrap_key(&self, request: UnwrapRequest<'_>) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        let invalid = || failure::wrap_invalid(operation, &self.uri);
        let parts = parts(request.wrapped).ok_or_else(invalid)?;
        if self.key.version().is_some_and(|only| only != parts.version) {
            return Err(invalid().cause("another version of the key made it than the URI names"));
        }
        let value = json::encode(&URL_SAFE_NO_PAD, parts.wrapped);
        let answer = match self.operate(operation, &parts.version, "unwrapkey", parts.wrapping, &value).await {
            Err(error) if error.code() == Code::KmsKeyNotFound => return Err(self.which(error).await),
            Err(error) if error.code() == Code::KmsKeyDisabled => {
                return Err(self.retired(error, &parts.version).await);
            }
            other => other?,
        };
        let payload = answer.value.bytes::<PAYLOAD>(&URL_SAFE_NO_PAD).ok_or_else(invalid)?;
        let (key, context) = payload.split_at_checked(KeyMaterial::LEN).ok_or_else(invalid)?;
        if !bool::from(context.ct_eq(digest(request.context).as_ref())) {
            return Err(invalid());
        }
        KeyMaterial::from_slice(&mut Zeroizing::new(key.to_vec())).ok_or_else(invalid)
    }

    /// A version that is not there: of another key, where this key is there. Where it may not be asked, the answer stands.
    async fn which(&self, error: Error) -> Error {
        match self.about(Operation::Unwrap).await {
            Ok(_) => failure::wrap_invalid(Operation::Unwrap, &self.uri)
                .cause("the version of the key that made it is none of this key's"),
            Err(other) if other.code() == Code::KmsAccessDenied => error,
            Err(other) => other,
        }
    }

    /// A version that is disabled is another matter than a key that is, and the service says both in the same way. Where
    /// the key may not be asked about, its answer stands.
    async fn retired(&self, error: Error, version: &str) -> Error {
        let operation = Operation::Unwrap;
        let Ok(about) = self.about(operation).await else { return error };
        match self.version_of(operation, &about.key.kid) {
            Ok(newest) if newest != version && about.attributes.enabled => {
                failure::version_retired(operation, &self.uri)
                    .cause(format!("version `{version}` made it, and the newest is `{newest}`"))
            }
            _ => error,
        }
    }

    /// The key as it is now. One that was deleted and can be recovered is told apart from one that never was.
    async fn about(&self, operation: Operation) -> Result<KeyBundle> {
        let version = self.key.version().map(|v| format!("/{v}")).unwrap_or_default();
        let path = format!("/keys/{}{version}", self.key.name());
        let answer = self.call(operation, Method::GET, &path, None).await?;
        if answer.status == 404 && self.is_deleted(operation).await {
            return Err(failure::pending_deletion(operation, &self.uri)
                .hint(format!("`az keyvault key recover --name {}`", self.key.name())));
        }
        let about: KeyBundle = wire::success(operation, &self.uri, &answer)?;
        self.version_of(operation, &about.key.kid)?;
        Ok(about)
    }

    async fn rotation(&self, about: &KeyBundle) -> Result<RotationPlan> {
        let path = format!("/keys/{}/rotationpolicy", self.key.name());
        let policy: rotation::RotationPolicy = self.ask(Operation::Describe, Method::GET, &path, None).await?;
        let unusable = || failure::unusable(Operation::Describe, &self.uri, "its rotation policy is none");
        policy.plan(&about.attributes).ok_or_else(unusable)
    }

    /// Whether the service would give the key back. Who may not ask is told that there is none.
    async fn is_deleted(&self, operation: Operation) -> bool {
        let path = format!("/deletedkeys/{}", self.key.name());
        matches!(self.call(operation, Method::GET, &path, None).await, Ok(answer) if answer.status == 200)
    }

    /// The version that an answer names, if it is of the key that was asked for.
    fn version_of(&self, operation: Operation, kid: &str) -> Result<String> {
        wire::version(self.key.host(), self.key.name(), kid)
            .filter(|found| self.key.version().is_none_or(|only| only == *found))
            .map(str::to_owned)
            .ok_or_else(|| failure::unusable(operation, &self.uri, "it names another key than was asked for"))
    }

    async fn operate(
        &self,
        operation: Operation,
        version: &str,
        what: &str,
        wrapping: Wrapping,
        value: &str,
    ) -> Result<KeyResult> {
        let body = json::body(&KeyOperation { alg: wrapping.name(), value }, value.len() + 64);
        let path = format!("/keys/{}/{version}/{what}", self.key.name());
        let answer: KeyResult = self.ask(operation, Method::POST, &path, Some(body)).await?;
        match wire::version(self.key.host(), self.key.name(), &answer.kid) {
            Some(found) if found == version => Ok(answer),
            _ => Err(failure::unusable(operation, &self.uri, "it names another key than was asked for")),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T> {
        let answer = self.call(operation, method, path, body).await?;
        wire::success(operation, &self.uri, &answer)
    }

    /// Calls a path of the vault.
    async fn call(&self, operation: Operation, method: Method, path: &str, body: Option<Bytes>) -> Result<Answer> {
        self.call_with(operation, method, path, "", body).await
    }

    /// The same with more in the query: `&name=value`, or nothing.
    async fn call_with(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        query: &str,
        body: Option<Bytes>,
    ) -> Result<Answer> {
        let url = format!("{}{path}?api-version={API_VERSION}{query}", self.key.address());
        self.service.call(operation, &self.uri, method, &url, body).await
    }
}

#[async_trait]
impl KeyManagementService for AzureKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        if requests.is_empty() {
            return Vec::new();
        }
        match self.current().await {
            Ok((version, wrapping)) => in_order(requests, |r| Box::pin(self.wrap_key(*r, &version, wrapping))).await,
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        in_order(requests, |r| Box::pin(self.unwrap_key(*r))).await
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities { describer: Some(self), rotator: Some(self), controller: Some(self), ..Abilities::default() }
    }
}

#[async_trait]
impl DescribeKey for AzureKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let about = self.about(Operation::Describe).await?;
        let now = jiff::Timestamp::now().as_second();
        let (nbf, exp) = (about.attributes.nbf.unwrap_or(i64::MIN), about.attributes.exp.unwrap_or(i64::MAX));
        let state = match about.attributes.enabled {
            false => RootKeyState::Disabled,
            true if nbf > now || exp <= now => RootKeyState::Unavailable,
            true => RootKeyState::Enabled,
        };
        let (rotation, untold) = match self.rotation(&about).await {
            Ok(plan) => (Some(plan), Vec::new()),
            Err(error) if error.code() == Code::KmsAccessDenied => {
                (None, vec!["its rotation policy may not be read (the permission `keys/get`)".to_owned()])
            }
            Err(_) => (None, vec!["its rotation policy was not told".to_owned()]),
        };
        let (usable, manager) = (about.wrapping().is_some(), format!("Azure ({})", about.key.kty));
        Ok(KeyDescription { rotation, untold, ..KeyDescription::new(about.key.kid, state, manager, usable) })
    }

    /// Wrapping and unwrapping show at a trial; of everything else nothing is told.
    async fn permissions(&self, _: &EncryptionContext) -> Result<Vec<Permission>> {
        let not_told =
            |(name, needed_by): (&str, NeededBy)| Permission { name: name.to_owned(), held: Held::NotTold, needed_by };
        Ok(NOT_TOLD.into_iter().map(not_told).collect())
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        self.service.clock_skew()
    }
}

/// See [`PAYLOAD`].
fn payload(key: &KeyMaterial, context: &EncryptionContext) -> Payload {
    let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD));
    payload.extend_from_slice(key.expose());
    payload.extend_from_slice(digest(context).as_ref());
    payload
}

fn digest(context: &EncryptionContext) -> aws_lc_rs::digest::Digest {
    let mut digest = Digest::new(&SHA256);
    // The prefix keeps it apart from every other digest of the same bytes.
    digest.update(b"enfold/v1 context\0");
    digest.update(&context.canonical());
    digest.finish()
}

fn parts(wrapped: &WrappedKey) -> Option<Parts<'_>> {
    let rest = wrapped.as_bytes().strip_prefix(MAGIC)?;
    let (wrapping, rest) = rest.split_first()?;
    let (version, wrapped) = rest.split_first_chunk::<VERSION>()?;
    let (wrapping, version) = (Wrapping::of(*wrapping)?, format!("{:032x}", u128::from_be_bytes(*version)));
    (1..=LONGEST_WRAP).contains(&wrapped.len()).then_some(Parts { wrapping, version, wrapped })
}
