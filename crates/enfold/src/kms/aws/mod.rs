//! AWS KMS through the official SDK.
//!
//! Credentials come from the SDK's default chain (environment, profile, web identity, container, instance), and from
//! there those of a role where the policy names one for the key; they are looked for again when a file of profiles has
//! changed (`client.rs`). Region and endpoint come from the URI and from nowhere else, so an environment variable cannot send data keys elsewhere. Every
//! call carries the encryption context, and every `Decrypt` names its key. AWS KMS has no batches: a batch here is
//! that many calls, a few at a time.
//!
//! The SDK's own retries are off, because [`Retry`](super::Retry) does that for every provider alike. What passes
//! through the SDK's buffers (a data key, base64 in a request or a response under TLS) is not wiped by it.
//!
//! A URI may name an alias, which may be pointed at another key. So what is wrapped under an alias records the ARN of the
//! key that the service says it used (`recorded.rs`), and is unwrapped under that key. The record is no proof of who made
//! the wrap: a key is taken from it if it is of the alias's own account, as every key is that the alias can stand for.
//!
//! All SDK types stay inside this module, so that the SDK is compiled in this crate and not again in every binary.

mod answer;
mod client;
mod clock;
mod control;
mod rights;
mod rotation;

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec, KeyMetadata, KeySpec, KeyState};
use jiff::SignedDuration;
use zeroize::Zeroizing;

use self::client::Clients;
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::recorded::{self, KeyArn};
use super::service::{
    Abilities, DecryptRequest, DecryptValues, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey,
    KeyDescription, KeyManagementService, Permission, RootKeyState, UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{AwsKeyUri, KeyUri, RootKey};
use crate::error::{Code, Error, Result};
use crate::policy::AwsRole;

/// AWS KMS API reference, `Decrypt`: a ciphertext has at most 6,144 bytes.
const LONGEST_CIPHERTEXT: usize = 6144;

/// See the module's head.
pub struct AwsKms {
    uri: KeyUri,
    key: AwsKeyUri,
    clients: Clients,
    clock: clock::Watch,
    /// A key that the URI's alias stood for: its account is the alias's.
    stood_for: OnceLock<KeyArn>,
}

/// How to reach the service, besides what the URI says.
#[derive(Clone, Debug)]
pub struct AwsOptions<'a> {
    /// Instead of the default chain.
    pub credentials: Option<StaticCredentials<'a>>,
    /// To use the key in, with whatever the credentials allow.
    pub role: Option<AwsRole>,
    pub connect_within: Duration,
    /// For one call, its connection included.
    pub answer_within: Duration,
}

/// Credentials that their owner keeps elsewhere.
#[derive(Clone, Copy)]
pub struct StaticCredentials<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a str,
    pub session_token: Option<&'a str>,
}

impl std::fmt::Debug for StaticCredentials<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StaticCredentials(..)")
    }
}

impl Default for AwsOptions<'_> {
    fn default() -> Self {
        Self {
            credentials: None,
            role: None,
            connect_within: Duration::from_secs(2),
            answer_within: Duration::from_secs(4),
        }
    }
}

impl AwsKms {
    /// Calls nothing yet: whether there are credentials and rights shows at the first call.
    pub async fn open(uri: &KeyUri, options: &AwsOptions<'_>) -> Result<Self> {
        let RootKey::Aws(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a key of AWS KMS")));
        };
        let clock = clock::Watch::default();
        let clients = Clients::new(key, options, &clock).await;
        Ok(Self { uri: uri.clone(), key: key.clone(), clients, clock, stood_for: OnceLock::new() })
    }

    async fn encrypt(&self, request: WrapRequest<'_>) -> Result<WrappedKey> {
        let operation = Operation::Wrap;
        let answer = self
            .clients
            .current()
            .await
            .encrypt()
            .key_id(self.key.key())
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context(pairs(request.context))
            .plaintext(Blob::new(request.key.expose().as_slice()))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.ciphertext(operation, answer.key_id.as_deref(), answer.ciphertext_blob)
    }

    async fn decrypt(&self, request: UnwrapRequest<'_>) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        let (made_by, ciphertext) = recorded::read(request.wrapped.as_bytes());
        if ciphertext.len() > LONGEST_CIPHERTEXT {
            return Err(failure::wrap_invalid(operation, &self.uri));
        }
        let Some(made_by) = made_by else {
            return self.decrypt_under(self.key.key(), ciphertext, request.context).await;
        };
        if !self.key.is_alias() {
            // A wrap of the time when the ring named this key by an alias.
            return match recorded::id(self.key.key()) == made_by.id() {
                true => self.decrypt_under(self.key.key(), ciphertext, request.context).await,
                false => Err(failure::wrap_invalid(operation, &self.uri).cause("another key made it")),
            };
        }
        let known = match self.stood_for.get() {
            Some(known) => known.clone(),
            // Mostly the alias still stands for the key that made the wrap, and nobody need be asked about it.
            None => match self.decrypt_under(self.key.key(), ciphertext, request.context).await {
                Err(error) if error.code() == Code::WrapInvalid => self.resolved(operation).await?,
                other => return other,
            },
        };
        let foreign =
            || failure::wrap_invalid(operation, &self.uri).cause("a key of another account or region made it");
        let here = made_by.in_region(self.key.region()).filter(|arn| arn.is_of_the_account_of(&known));
        self.decrypt_under(here.ok_or_else(foreign)?.as_str(), ciphertext, request.context).await
    }

    /// `key`: the URI's, or the one that its alias stood for when the wrap was made.
    async fn decrypt_under(&self, key: &str, ciphertext: &[u8], context: &EncryptionContext) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        let answer = self
            .clients
            .current()
            .await
            .decrypt()
            .key_id(key)
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context(pairs(context))
            .ciphertext_blob(Blob::new(ciphertext))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.same_key(operation, key, answer.key_id())?;
        if self.key.is_alias() {
            self.arn(operation, answer.key_id())?;
        }
        // Something of another length was wrapped under the same root and context: it is no data key of ours.
        self.plaintext(operation, answer.plaintext)
    }

    /// What another program encrypted under the URI's key.
    async fn decrypt_value(&self, request: DecryptRequest<'_>) -> Result<Zeroizing<Vec<u8>>> {
        let operation = Operation::Decrypt;
        if request.ciphertext.len() > LONGEST_CIPHERTEXT {
            return Err(failure::wrap_invalid(operation, &self.uri));
        }
        let context: HashMap<_, _> =
            request.context.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let answer = self
            .clients
            .current()
            .await
            .decrypt()
            .key_id(self.key.key())
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context((!context.is_empty()).then_some(context))
            .ciphertext_blob(Blob::new(request.ciphertext))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.same_key(operation, self.key.key(), answer.key_id())?;
        let plaintext = answer.plaintext.ok_or_else(|| self.broken(operation, "it holds no plaintext"))?;
        Ok(Zeroizing::new(plaintext.into_inner()))
    }

    async fn generate_one(&self, request: GenerateRequest<'_>) -> Result<GeneratedKey> {
        let operation = Operation::Generate;
        let answer = self
            .clients
            .current()
            .await
            .generate_data_key()
            .key_id(self.key.key())
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(pairs(request.context))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        Ok(GeneratedKey {
            wrapped: self.ciphertext(operation, answer.key_id.as_deref(), answer.ciphertext_blob)?,
            key: self.plaintext(operation, answer.plaintext)?,
        })
    }

    /// The key that the URI names now, asked of the service: an alias may have been pointed at another one.
    async fn resolved(&self, operation: Operation) -> Result<KeyArn> {
        let about = self.metadata(operation).await?;
        self.arn(operation, about.arn())
    }

    async fn metadata(&self, operation: Operation) -> Result<KeyMetadata> {
        let answer = self.clients.current().await.describe_key().key_id(self.key.key()).send().await;
        // What is refused is `DescribeKey`, whatever it was wanted for.
        let answer = answer.map_err(|e| answer::refused(Operation::Describe, &self.uri, &e))?;
        let about = answer.key_metadata.ok_or_else(|| self.broken(operation, "it describes nothing"))?;
        self.same_key(operation, self.key.key(), Some(about.key_id()))?;
        Ok(about)
    }

    fn arn(&self, operation: Operation, answered: Option<&str>) -> Result<KeyArn> {
        let arn = answered.and_then(KeyArn::parse).filter(|arn| arn.region() == self.key.region());
        let arn = arn.ok_or_else(|| self.broken(operation, "it names no key of this region by its ARN"))?;
        if self.key.is_alias() {
            self.stood_for.get_or_init(|| arn.clone());
        }
        Ok(arn)
    }

    fn ciphertext(&self, operation: Operation, made_by: Option<&str>, blob: Option<Blob>) -> Result<WrappedKey> {
        self.same_key(operation, self.key.key(), made_by)?;
        let bytes = blob.map(Blob::into_inner).unwrap_or_default();
        let wrapped = match self.key.is_alias() && !bytes.is_empty() {
            true => recorded::record(&self.arn(operation, made_by)?, &bytes),
            false => WrappedKey::new(bytes),
        };
        wrapped.map_err(|_| self.broken(operation, "it holds no ciphertext"))
    }

    fn plaintext(&self, operation: Operation, blob: Option<Blob>) -> Result<KeyMaterial> {
        let mut bytes = blob.map(Blob::into_inner).unwrap_or_default();
        KeyMaterial::from_slice(&mut bytes).ok_or_else(|| self.broken(operation, "it holds no key of 256 bits"))
    }

    /// An answer that names another key than was asked for comes from something that is not this key's service. An
    /// alias is resolved by the service, so there nothing can be compared.
    fn same_key(&self, operation: Operation, asked: &str, answered: Option<&str>) -> Result<()> {
        let answered = answered.ok_or_else(|| self.broken(operation, "it names no key"))?;
        if asked == self.key.key() && self.key.is_alias() || recorded::id(answered) == recorded::id(asked) {
            return Ok(());
        }
        Err(self.broken(operation, "it names another key than was asked for"))
    }

    fn broken(&self, operation: Operation, fact: &str) -> Error {
        failure::failed(Code::KmsProtocol, operation, &self.uri)
            .cause(format!("AWS KMS gave an answer that cannot be used: {fact}"))
    }
}

#[async_trait]
impl KeyManagementService for AwsKms {
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
        Abilities {
            generator: Some(self),
            describer: Some(self),
            rotator: Some(self),
            controller: Some(self),
            decryptor: Some(self),
            ..Abilities::default()
        }
    }
}

#[async_trait]
impl DecryptValues for AwsKms {
    async fn decrypt(&self, requests: &[DecryptRequest<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>> {
        in_order(requests, |r| Box::pin(self.decrypt_value(*r))).await
    }
}

#[async_trait]
impl GenerateDataKey for AwsKms {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        in_order(requests, |r| Box::pin(self.generate_one(*r))).await
    }
}

#[async_trait]
impl DescribeKey for AwsKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let key = self.metadata(Operation::Describe).await?;
        let manager = key.key_manager().map(|m| m.as_str().to_owned()).unwrap_or_default();
        let resolved = key.arn().unwrap_or(key.key_id()).to_owned();
        let (rotation, untold) = match self.rotation(&key).await {
            Ok(plan) => (plan, Vec::new()),
            Err(error) => (None, vec![rotation::untold(&error)]),
        };
        Ok(KeyDescription {
            rotation,
            deletion: key.deletion_date().and_then(rotation::timestamp),
            untold,
            ..KeyDescription::new(resolved, state(&key), manager, usable(&key))
        })
    }

    async fn permissions(&self, context: &EncryptionContext) -> Result<Vec<Permission>> {
        self.rights(context).await
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }
}

/// AWS KMS refuses an empty map, so an empty context is sent as none.
fn pairs(context: &EncryptionContext) -> Option<HashMap<String, String>> {
    let pairs: HashMap<_, _> = context.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    (!pairs.is_empty()).then_some(pairs)
}

fn state(key: &KeyMetadata) -> RootKeyState {
    match key.key_state() {
        Some(KeyState::Enabled) => RootKeyState::Enabled,
        Some(KeyState::Disabled) => RootKeyState::Disabled,
        Some(KeyState::PendingDeletion | KeyState::PendingReplicaDeletion) => RootKeyState::PendingDeletion,
        _ => RootKeyState::Unavailable,
    }
}

/// Only symmetric keys have an encryption context, so no other serves here. Their usage follows from their spec.
fn usable(key: &KeyMetadata) -> bool {
    matches!(key.key_spec(), Some(KeySpec::SymmetricDefault))
}
