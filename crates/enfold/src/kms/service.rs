//! The trait. Small, dyn-safe, batch first; rare abilities in side traits, comforts in an extension trait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use zeroize::Zeroizing;

use super::context::EncryptionContext;
use super::failure;
use super::material::{KeyMaterial, WrappedKey};
use super::uri::KeyUri;
use crate::error::Result;

/// One root key in a key service.
///
/// Every method gives one result for each request, in the order of the requests; one bad request never hides the
/// others. Errors carry a [`Code`](crate::Code) whose `retry()` says whether the same call may succeed later.
#[async_trait]
pub trait KeyManagementService: Send + Sync {
    /// The root key this provider stands for, and the only one it ever calls.
    fn uri(&self) -> &KeyUri;

    /// Wraps data keys, each bound to its context.
    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>>;

    /// Unwraps what [`Self::wrap`] gave under the same root key and context; anything else is refused with
    /// [`Code::WrapInvalid`](crate::Code::WrapInvalid).
    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>>;

    /// What it can do besides: nothing, if it does not say.
    fn abilities(&self) -> Abilities<'_> {
        Abilities::default()
    }
}

/// The side abilities of a provider. What a key service does not offer is not there.
#[derive(Clone, Copy, Default)]
pub struct Abilities<'a> {
    pub generator: Option<&'a dyn GenerateDataKey>,
    pub describer: Option<&'a dyn DescribeKey>,
    pub rewrapper: Option<&'a dyn RewrapKeys>,
    pub rotator: Option<&'a dyn RotateKey>,
    pub controller: Option<&'a dyn ControlKey>,
    pub decryptor: Option<&'a dyn DecryptValues>,
    pub signer: Option<&'a dyn SignBytes>,
}

/// Signs with Ed25519 (RFC 8032, the bytes themselves and no digest of them) under a key that is there for that and wraps nothing.
#[async_trait]
pub trait SignBytes: Send + Sync {
    /// The public keys of its versions.
    async fn public_keys(&self) -> Result<BTreeMap<u32, [u8; 32]>>;

    /// The 64 bytes of a signature by this version.
    async fn sign(&self, version: u32, bytes: &[u8]) -> Result<Vec<u8>>;
}

/// Decrypts what other programs encrypted under the root key, by the service's own call: for readers of their values. What
/// [`KeyManagementService::wrap`] gave is not for it.
#[async_trait]
pub trait DecryptValues: Send + Sync {
    async fn decrypt(&self, requests: &[DecryptRequest<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>>;
}

/// Draws data keys from the key service's own generator, for those whose rules want that.
#[async_trait]
pub trait GenerateDataKey: Send + Sync {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>>;
}

/// Says what state the root key is in, without using it.
#[async_trait]
pub trait DescribeKey: Send + Sync {
    async fn describe(&self) -> Result<KeyDescription>;

    /// What the caller may do with the root key, as far as the service says so without its being done; empty where it has
    /// no rights to ask about. `context` is that of a use, where rights may depend on it.
    async fn permissions(&self, context: &EncryptionContext) -> Result<Vec<Permission>> {
        let _ = context;
        Ok(Vec::new())
    }

    /// By how much the service's clock was ahead of ours at its last answer, negative where it was behind, to about a
    /// second; `None` where the service tells no time, or was not asked yet.
    fn clock_skew(&self) -> Option<SignedDuration> {
        None
    }
}

/// Wraps the same data keys again, under the newest version of the same root key, inside the key service: the data
/// keys are not seen here.
#[async_trait]
pub trait RewrapKeys: Send + Sync {
    async fn rewrap(&self, requests: &[RewrapRequest<'_>]) -> Vec<Result<WrappedKey>>;
}

/// What services count rotations and deletions in.
#[cfg(any(feature = "aws", feature = "azure", feature = "google"))]
pub(super) const DAY: Duration = Duration::from_hours(24);

/// Gives the root key new versions. What was wrapped before still unwraps.
#[async_trait]
pub trait RotateKey: Send + Sync {
    /// Called twice, as it may be when an answer was lost, it makes two versions, and nothing is the worse for it.
    async fn rotate(&self) -> Result<()>;

    /// Has the service do it by itself, this often; `None`: not any more. A period that the service does not take is
    /// refused with [`Code::Usage`](crate::Code::Usage), and nothing is changed.
    async fn rotate_every(&self, period: Option<Duration>) -> Result<()>;
}

/// Takes the root key out of use and brings it back, in the key service: for all who use it, and not for this process
/// alone. Caches go on for as long as the policy lets them.
#[async_trait]
pub trait ControlKey: Send + Sync {
    /// From now on it unwraps nothing, whatever version made it.
    async fn disable(&self) -> Result<()>;

    /// Undoes [`Self::disable`], for every version that is disabled; one that was retired alone opens again as well.
    async fn enable(&self) -> Result<()>;

    /// Has the root key destroyed, and says when. Until then, and for `at_least` so long, it can be brought back: a
    /// service that does not promise that is not asked ([`Code::Usage`](crate::Code::Usage)).
    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp>;

    /// Brings back what waits for its deletion. It may be disabled then, as it is at AWS and Google: the next step is
    /// [`Self::enable`].
    async fn cancel_deletion(&self) -> Result<()>;
}

#[derive(Clone, Copy)]
pub struct WrapRequest<'a> {
    pub key: &'a KeyMaterial,
    pub context: &'a EncryptionContext,
}

#[derive(Clone, Copy)]
pub struct UnwrapRequest<'a> {
    pub wrapped: &'a WrappedKey,
    pub context: &'a EncryptionContext,
}

/// What another program encrypted, as the service takes it, with the encryption context that the program gave (for Vault
/// the one `context` of a derived key).
#[derive(Clone, Copy)]
pub struct DecryptRequest<'a> {
    pub ciphertext: &'a [u8],
    pub context: &'a BTreeMap<String, String>,
}

/// What [`KeyManagementService::wrap`] gave, with its context.
#[derive(Clone, Copy)]
pub struct RewrapRequest<'a> {
    pub wrapped: &'a WrappedKey,
    pub context: &'a EncryptionContext,
}

#[derive(Clone, Copy)]
pub struct GenerateRequest<'a> {
    pub context: &'a EncryptionContext,
}

/// A new data key, in the clear and wrapped.
pub struct GeneratedKey {
    pub key: KeyMaterial,
    pub wrapped: WrappedKey,
}

/// What a key service says of a root key. Safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The key itself where the URI may have been an alias for it (an ARN on AWS).
    pub resolved: String,
    pub state: RootKeyState,
    /// Who holds it, in the service's own words (`AWS`, `CUSTOMER`; `development` for a local key).
    pub manager: String,
    /// It serves to wrap and unwrap: symmetric, and made for encryption.
    pub usable: bool,
    /// Where the service numbers them and says so.
    pub versions: Option<KeyVersions>,
    /// Where the service rotates keys by itself and says so.
    pub rotation: Option<RotationPlan>,
    /// When it is deleted, where that is scheduled and told.
    pub deletion: Option<jiff::Timestamp>,
    /// What could not be learned, and why, a clause each.
    pub untold: Vec<String>,
    /// What should be settled though the key works, a sentence each.
    pub warnings: Vec<String>,
}

impl KeyDescription {
    /// What every service says; of the rest nothing is told.
    pub fn new(resolved: String, state: RootKeyState, manager: String, usable: bool) -> Self {
        let (versions, rotation, deletion) = (None, None, None);
        let (untold, warnings) = (Vec::new(), Vec::new());
        Self { resolved, state, manager, usable, versions, rotation, deletion, untold, warnings }
    }
}

/// A right on a root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// In the service's own words: `kms:CreateGrant`, `update on transit/encrypt/orders`.
    pub name: String,
    pub held: Held,
    pub needed_by: NeededBy,
}

/// Whether the caller has a right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Yes,
    No,
    /// The service says so only to who does it.
    NotTold,
}

/// Whose work a right is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeededBy {
    /// Whoever seals or opens: to wrap, to unwrap, to look at the key.
    Applications,
    /// Whoever keeps the root key: to rotate, disable, delete and set it up.
    Operators,
    /// Nobody who uses Enfold: to take the root key out, or to give rights on it to others.
    Nobody,
}

/// When the service gives a root key its next version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotationPlan {
    /// None: only when somebody asks for it.
    pub period: Option<Duration>,
    /// Where the service says so.
    pub next: Option<jiff::Timestamp>,
    /// A rotation that somebody asked for then is not done yet, where the service says so.
    pub under_way_since: Option<jiff::Timestamp>,
}

/// The versions of a root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersions {
    /// The one that wraps.
    pub newest: u32,
    /// Wraps of versions before this one are refused.
    pub oldest_usable: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootKeyState {
    Enabled,
    Disabled,
    PendingDeletion,
    /// Neither usable nor one of the others (an import that waits, a custom key store that is cut off).
    Unavailable,
}

/// One value is a batch of one, and one ability is asked for by its name.
#[async_trait]
pub trait KeyManagementServiceExt: KeyManagementService {
    /// The side ability to draw data keys in the key service, where it has one.
    fn generator(&self) -> Option<&dyn GenerateDataKey> {
        self.abilities().generator
    }

    /// The side ability to say what state the root key is in.
    fn describer(&self) -> Option<&dyn DescribeKey> {
        self.abilities().describer
    }

    /// The side ability to bring wraps to the newest version of the root key.
    fn rewrapper(&self) -> Option<&dyn RewrapKeys> {
        self.abilities().rewrapper
    }

    /// The side ability to give the root key a new version, now or by itself.
    fn rotator(&self) -> Option<&dyn RotateKey> {
        self.abilities().rotator
    }

    /// The side ability to disable, enable and delete the root key.
    fn controller(&self) -> Option<&dyn ControlKey> {
        self.abilities().controller
    }

    async fn wrap_one(&self, key: &KeyMaterial, context: &EncryptionContext) -> Result<WrappedKey> {
        only(self.uri(), self.wrap(&[WrapRequest { key, context }]).await)
    }

    async fn unwrap_one(&self, wrapped: &WrappedKey, context: &EncryptionContext) -> Result<KeyMaterial> {
        only(self.uri(), self.unwrap(&[UnwrapRequest { wrapped, context }]).await)
    }

    /// A new data key: drawn by the key service where it can, and drawn here and wrapped where it cannot.
    async fn generate_one(&self, context: &EncryptionContext) -> Result<GeneratedKey> {
        if let Some(generator) = self.generator() {
            return only(self.uri(), generator.generate(&[GenerateRequest { context }]).await);
        }
        let key = KeyMaterial::generate()?;
        let wrapped = self.wrap_one(&key, context).await?;
        Ok(GeneratedKey { key, wrapped })
    }
}

impl<K: KeyManagementService + ?Sized> KeyManagementServiceExt for K {}

#[async_trait]
impl<K: KeyManagementService + ?Sized> KeyManagementService for Arc<K> {
    fn uri(&self) -> &KeyUri {
        (**self).uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        (**self).wrap(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        (**self).unwrap(requests).await
    }

    fn abilities(&self) -> Abilities<'_> {
        (**self).abilities()
    }
}

/// A provider that answers with another number of results than it was asked for cannot be matched to the requests.
fn only<T>(uri: &KeyUri, mut results: Vec<Result<T>>) -> Result<T> {
    match (results.pop(), results.is_empty()) {
        (Some(result), true) => result,
        _ => Err(failure::wrong_count(uri)),
    }
}
