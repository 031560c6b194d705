//! AWS KMS through the official SDK.
//!
//! Credentials come from the SDK's default chain (environment, profile, web identity, container, instance); region and
//! endpoint come from the URI and from nowhere else, so an environment variable cannot send data keys elsewhere. Every
//! call carries the encryption context, and every `Decrypt` names its key. AWS KMS has no batches: a batch here is
//! that many calls, a few at a time.
//!
//! The SDK's own retries are off, because [`Retry`](super::Retry) does that for every provider alike. What passes
//! through the SDK's buffers (a data key, base64 in a request or a response under TLS) is not wiped by it.
//!
//! All SDK types stay inside this module, so that the SDK is compiled in this crate and not again in every binary.

mod answer;
mod clock;
mod rights;
mod rotation;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::Credentials;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, EncryptionAlgorithmSpec, KeyMetadata, KeySpec, KeyState};
use jiff::SignedDuration;

use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey, KeyDescription, KeyManagementService, Permission,
    RootKeyState, UnwrapRequest, WrapRequest,
};
use super::several::in_order;
use super::uri::{AwsKeyUri, KeyUri, RootKey};
use crate::error::{Code, Error, Result};

/// AWS KMS API reference, `Decrypt`: a ciphertext has at most 6,144 bytes.
const LONGEST_CIPHERTEXT: usize = 6144;

/// See the module's head.
pub struct AwsKms {
    uri: KeyUri,
    key: AwsKeyUri,
    client: Client,
    clock: clock::Watch,
}

/// How to reach the service, besides what the URI says.
#[derive(Clone, Debug)]
pub struct AwsOptions<'a> {
    /// Instead of the default chain.
    pub credentials: Option<StaticCredentials<'a>>,
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
        Self { credentials: None, connect_within: Duration::from_secs(2), answer_within: Duration::from_secs(4) }
    }
}

impl AwsKms {
    /// Calls nothing yet: whether there are credentials and rights shows at the first call.
    pub async fn open(uri: &KeyUri, options: &AwsOptions<'_>) -> Result<Self> {
        let RootKey::Aws(key) = uri.root() else {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{uri}` does not name a key of AWS KMS")));
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(options.connect_within)
            .operation_attempt_timeout(options.answer_within)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(key.region().to_owned()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(given) = options.credentials {
            let token = given.session_token.map(str::to_owned);
            let credentials =
                Credentials::new(given.access_key_id, given.secret_access_key, token, None, "given by the caller");
            loader = loader.credentials_provider(credentials);
        }
        let shared = loader.load().await;
        let mut config = aws_sdk_kms::config::Builder::from(&shared);
        // Set even where it is none: otherwise AWS_ENDPOINT_URL of the environment would choose whom we call.
        config.set_endpoint_url(key.endpoint().map(str::to_owned));
        let clock = clock::Watch::default();
        let client = Client::from_conf(config.interceptor(clock.clone()).build());
        Ok(Self { uri: uri.clone(), key: key.clone(), client, clock })
    }

    async fn encrypt(&self, request: WrapRequest<'_>) -> Result<WrappedKey> {
        let operation = Operation::Wrap;
        let answer = self
            .client
            .encrypt()
            .key_id(self.key.key())
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context(pairs(request.context))
            .plaintext(Blob::new(request.key.expose().as_slice()))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.same_key(operation, answer.key_id())?;
        self.ciphertext(operation, answer.ciphertext_blob)
    }

    async fn decrypt(&self, request: UnwrapRequest<'_>) -> Result<KeyMaterial> {
        let operation = Operation::Unwrap;
        if request.wrapped.as_bytes().len() > LONGEST_CIPHERTEXT {
            return Err(failure::wrap_invalid(operation, &self.uri));
        }
        let answer = self
            .client
            .decrypt()
            .key_id(self.key.key())
            .encryption_algorithm(EncryptionAlgorithmSpec::SymmetricDefault)
            .set_encryption_context(pairs(request.context))
            .ciphertext_blob(Blob::new(request.wrapped.as_bytes()))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.same_key(operation, answer.key_id())?;
        // Something of another length was wrapped under the same root and context: it is no data key of ours.
        self.plaintext(operation, answer.plaintext)
    }

    async fn generate_one(&self, request: GenerateRequest<'_>) -> Result<GeneratedKey> {
        let operation = Operation::Generate;
        let answer = self
            .client
            .generate_data_key()
            .key_id(self.key.key())
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(pairs(request.context))
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        self.same_key(operation, answer.key_id())?;
        Ok(GeneratedKey {
            key: self.plaintext(operation, answer.plaintext)?,
            wrapped: self.ciphertext(operation, answer.ciphertext_blob)?,
        })
    }

    async fn metadata(&self) -> Result<KeyMetadata> {
        let operation = Operation::Describe;
        let answer = self
            .client
            .describe_key()
            .key_id(self.key.key())
            .send()
            .await
            .map_err(|e| answer::refused(operation, &self.uri, &e))?;
        let key = answer.key_metadata.ok_or_else(|| self.broken(operation, "it describes nothing"))?;
        self.same_key(operation, Some(key.key_id()))?;
        Ok(key)
    }

    fn ciphertext(&self, operation: Operation, blob: Option<Blob>) -> Result<WrappedKey> {
        let bytes = blob.map(Blob::into_inner).unwrap_or_default();
        WrappedKey::new(bytes).map_err(|_| self.broken(operation, "it holds no ciphertext"))
    }

    fn plaintext(&self, operation: Operation, blob: Option<Blob>) -> Result<KeyMaterial> {
        let mut bytes = blob.map(Blob::into_inner).unwrap_or_default();
        KeyMaterial::from_slice(&mut bytes).ok_or_else(|| self.broken(operation, "it holds no key of 256 bits"))
    }

    /// An answer that names another key than was asked for comes from something that is not this key's service. An
    /// alias is resolved by the service, so there nothing can be compared.
    fn same_key(&self, operation: Operation, answered: Option<&str>) -> Result<()> {
        let answered = answered.ok_or_else(|| self.broken(operation, "it names no key"))?;
        let id = |name: &str| name.rsplit_once("key/").map_or(name, |(_, id)| id).to_owned();
        if self.key.is_alias() || id(answered) == id(self.key.key()) {
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

    fn generator(&self) -> Option<&dyn GenerateDataKey> {
        Some(self)
    }

    fn describer(&self) -> Option<&dyn DescribeKey> {
        Some(self)
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
        let key = self.metadata().await?;
        let manager = key.key_manager().map(|m| m.as_str().to_owned()).unwrap_or_default();
        let resolved = key.arn().unwrap_or(key.key_id()).to_owned();
        let (rotation, untold) = match self.rotation(&key).await {
            Ok(plan) => (plan, Vec::new()),
            Err(error) => (None, vec![rotation::untold(&error)]),
        };
        Ok(KeyDescription {
            resolved,
            state: state(&key),
            manager,
            usable: usable(&key),
            versions: None,
            rotation,
            deletion: key.deletion_date().and_then(rotation::timestamp),
            untold,
            warnings: Vec::new(),
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
