//! Google Cloud KMS, over REST.
//!
//! The canonical encryption context is the additional authenticated data of every call. Checksums (CRC-32C) are sent
//! with all that is sent, and checked on all that comes back: what was changed on its way is thrown away and asked for
//! again. A wrap is [`MAGIC`], the number of the version that made it, and the service's own ciphertext; which version
//! opens is the service's decision, and the number is there to tell which wraps a version still has.
//!
//! Cloud KMS has no batches: a batch here is that many calls, a few at a time. `sign_in.rs` has the ways to sign in,
//! `control.rs` what is done to the key itself, `wire.rs` what is sent and answered.
//!
//! Tested against a fake of ours (`enfold_testkit::cloud::google`), and not yet against the real service.

mod control;
mod crc32c;
mod credentials;
mod rights;
mod sign_in;
mod wire;

use std::path::PathBuf;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::SignedDuration;
use reqwest::Method;
use serde::de::DeserializeOwned;

use self::crc32c::Crc32c;
use self::sign_in::SignIn;
use self::wire::{CryptoKey, Decrypt, Decrypted, Encrypt, Encrypted};
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::http::{Http, HttpOptions};
use super::json;
use super::material::{KeyMaterial, WrappedKey};
use super::oauth::{Issuer, Service};
use super::service::{
    Abilities, DescribeKey, KeyDescription, KeyManagementService, Permission, RootKeyState, RotationPlan,
    UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{GoogleKeyUri, KeyUri, RootKey};
use crate::error::{Code, Error, Result};

const ENDPOINT: &str = "https://cloudkms.googleapis.com";
/// With this every wrap begins.
const MAGIC: &[u8; 4] = b"gcp1";
const NUMBER: usize = size_of::<u32>();
/// Cloud KMS quotas: a plaintext has at most 64 KiB, and a ciphertext little more. Ours have 32 bytes.
const LONGEST_CIPHERTEXT: usize = 4096;

/// See the module's head.
pub struct GoogleKms {
    uri: KeyUri,
    key: GoogleKeyUri,
    service: Service,
}

/// How to reach the service and sign in, besides what the URI says.
#[derive(Clone, Debug, Default)]
pub struct GoogleOptions {
    pub http: HttpOptions,
    /// A file of credentials, instead of those that are found by default.
    pub credentials_file: Option<PathBuf>,
    /// A service account to act as, by its e-mail address.
    pub impersonate: Option<String>,
    /// Where tokens for that account are asked for, instead of `https://iamcredentials.googleapis.com`.
    pub iam_endpoint: Option<String>,
}

impl GoogleKms {
    /// Calls nothing yet: whether there are credentials and rights shows at the first call.
    pub fn open(uri: &KeyUri, options: &GoogleOptions) -> Result<Self> {
        let RootKey::Google(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a key of Google Cloud KMS")));
        };
        let sign_in = SignIn {
            issuer: Issuer { http: Http::new(options.http.clone())?, uri: uri.clone() },
            file: options.credentials_file.clone(),
            impersonate: options.impersonate.clone(),
            iam_endpoint: options.iam_endpoint.clone(),
        };
        let service = Service::new(options.http.clone(), Box::new(sign_in))?;
        Ok(Self { uri: uri.clone(), key: key.clone(), service })
    }

    async fn encrypt(&self, request: WrapRequest<'_>) -> Result<WrappedKey> {
        let operation = Operation::Wrap;
        let (plaintext, bound) = (json::encode(&STANDARD, request.key.expose()), request.context.canonical());
        let body = Encrypt {
            plaintext: &plaintext,
            additional_authenticated_data: &STANDARD.encode(&bound),
            plaintext_crc32c: Crc32c::of(request.key.expose()),
            additional_authenticated_data_crc32c: Crc32c::of(&bound),
        };
        let body = json::body(&body, 256 + 4 * (bound.len() + KeyMaterial::LEN).div_ceil(3));
        let answer: Encrypted = self.ask(operation, Method::POST, ":encrypt", Some(body)).await?;
        // The service says whether it looked at all.
        if !answer.verified_plaintext_crc32c || !answer.verified_additional_authenticated_data_crc32c {
            return Err(wire::damaged(operation, &self.uri, "the checksum that was sent"));
        }
        let Some(version) = wire::version(self.key.name(), &answer.name) else {
            return Err(failure::unusable(operation, &self.uri, "it names another key than was asked for"));
        };
        let ciphertext = STANDARD.decode(&answer.ciphertext).unwrap_or_default();
        if ciphertext.is_empty() || ciphertext.len() > LONGEST_CIPHERTEXT {
            return Err(failure::unusable(operation, &self.uri, "it holds no ciphertext"));
        }
        if Crc32c::of(&ciphertext) != answer.ciphertext_crc32c {
            return Err(wire::damaged(operation, &self.uri, "the wrap"));
        }
        WrappedKey::new([&MAGIC[..], &version.to_be_bytes(), &ciphertext].concat())
    }

    async fn decrypt(&self, request: UnwrapRequest<'_>) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        let (version, ciphertext) =
            parts(request.wrapped).ok_or_else(|| failure::wrap_invalid(operation, &self.uri))?;
        let bound = request.context.canonical();
        let body = Decrypt {
            ciphertext: &STANDARD.encode(ciphertext),
            additional_authenticated_data: &STANDARD.encode(&bound),
            ciphertext_crc32c: Crc32c::of(ciphertext),
            additional_authenticated_data_crc32c: Crc32c::of(&bound),
        };
        let body = json::body(&body, 256 + 4 * (bound.len() + ciphertext.len()).div_ceil(3));
        let answer: Decrypted = match self.ask(operation, Method::POST, ":decrypt", Some(body)).await {
            Err(error) if error.code() == Code::KmsKeyDisabled => return Err(self.which(error, version).await),
            other => other?,
        };
        let key = answer.plaintext.bytes::<{ KeyMaterial::LEN }>(&STANDARD);
        // Something of another length was wrapped under the same root and context: it is no data key of ours.
        let mut key = key.ok_or_else(|| failure::unusable(operation, &self.uri, "it holds no key of 256 bits"))?;
        if Crc32c::of(&key) != answer.plaintext_crc32c {
            return Err(wire::damaged(operation, &self.uri, "the data key"));
        }
        KeyMaterial::from_slice(&mut key)
            .ok_or_else(|| failure::unusable(operation, &self.uri, "it holds no key of 256 bits"))
    }

    /// A version that may not open any more is another matter than a key that may not, and the service says both in the
    /// same way. Where the key may not be asked about, its answer stands.
    async fn which(&self, error: Error, version: u32) -> Error {
        let Ok(CryptoKey { primary: Some(primary), .. }) = self.about(Operation::Unwrap).await else { return error };
        match wire::version(self.key.name(), &primary.name) {
            Some(newest) if newest != version && primary.state == "ENABLED" => {
                failure::version_retired(Operation::Unwrap, &self.uri)
                    .cause(format!("version {version} made it, and the primary version is {newest}"))
            }
            _ => error,
        }
    }

    async fn about(&self, operation: Operation) -> Result<CryptoKey> {
        let about: CryptoKey = self.ask(operation, Method::GET, "", None).await?;
        if about.name == self.key.name() {
            return Ok(about);
        }
        Err(failure::unusable(operation, &self.uri, "it names another key than was asked for"))
    }

    /// Calls a method of the key.
    async fn ask<T: DeserializeOwned>(
        &self,
        operation: Operation,
        method: Method,
        what: &str,
        body: Option<Bytes>,
    ) -> Result<T> {
        let endpoint = self.key.endpoint().unwrap_or(ENDPOINT);
        let url = format!("{endpoint}/v1/{}{what}", self.key.name());
        let answer = self.service.call(operation, &self.uri, method, &url, body).await?;
        wire::success(operation, &self.uri, &answer)
    }
}

#[async_trait]
impl KeyManagementService for GoogleKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        in_order(requests, |r| Box::pin(self.encrypt(*r))).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        in_order(requests, |r| Box::pin(self.decrypt(*r))).await
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities { describer: Some(self), rotator: Some(self), controller: Some(self), ..Abilities::default() }
    }
}

#[async_trait]
impl DescribeKey for GoogleKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let about = self.about(Operation::Describe).await?;
        let usable = about.purpose == "ENCRYPT_DECRYPT";
        let rotation = RotationPlan {
            period: about.rotation_period.as_deref().and_then(wire::duration),
            next: about.next_rotation_time,
            ..RotationPlan::default()
        };
        let Some(primary) = about.primary else {
            let (resolved, manager) = (about.name, "Google".to_owned());
            return Ok(KeyDescription::new(resolved, RootKeyState::Unavailable, manager, usable));
        };
        let state = match primary.state.as_str() {
            "ENABLED" => RootKeyState::Enabled,
            "DISABLED" => RootKeyState::Disabled,
            "DESTROY_SCHEDULED" => RootKeyState::PendingDeletion,
            "DESTROYED" => {
                return Err(
                    failure::not_found(Operation::Describe, &self.uri).cause("its primary version is destroyed")
                );
            }
            _ => RootKeyState::Unavailable,
        };
        let manager = format!("Google ({})", primary.protection_level);
        Ok(KeyDescription {
            rotation: Some(rotation),
            deletion: primary.destroy_time,
            ..KeyDescription::new(primary.name, state, manager, usable)
        })
    }

    async fn permissions(&self, _: &EncryptionContext) -> Result<Vec<Permission>> {
        let body = Some(rights::question());
        let held = self.ask(Operation::Describe, Method::POST, ":testIamPermissions", body).await?;
        Ok(rights::answered(&held))
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        self.service.clock_skew()
    }
}

/// The version and the ciphertext of a wrap that this provider made.
fn parts(wrapped: &WrappedKey) -> Option<(u32, &[u8])> {
    let rest = wrapped.as_bytes().strip_prefix(MAGIC)?;
    let (number, ciphertext) = rest.split_first_chunk::<NUMBER>()?;
    let version = u32::from_be_bytes(*number);
    (version > 0 && (1..=LONGEST_CIPHERTEXT).contains(&ciphertext.len())).then_some((version, ciphertext))
}
