//! A key service inside the process, for tests: Enfold's own and those of applications.
//!
//! It counts its calls and can be put into every state in which a real one refuses. What it wraps is lost with it.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::aead;
use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    Abilities, ControlKey, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey, KeyDescription,
    KeyManagementService, KeyVersions, RewrapKeys, RewrapRequest, RootKeyState, RotateKey, RotationPlan, UnwrapRequest,
    WrapRequest,
};
use super::uri::KeyUri;
use crate::error::{Code, Error, Result};

const PREFIX: &[u8] = b"mem:";
const PURPOSE: &[u8] = b"enfold/v1 memory wrap";
/// As at AWS.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// See the module's head.
pub struct MemoryKms {
    uri: KeyUri,
    inner: Mutex<Inner>,
}

/// How the service behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryState {
    Enabled,
    Disabled,
    PendingDeletion,
    /// For ever: the root key is wiped on the way in, and no other state brings it back.
    Deleted,
    /// The caller lacks the rights.
    Denied,
    /// What the caller is known by is not valid any more.
    CredentialExpired,
    Throttled,
    /// Answers as a service that could not be reached in time.
    TimedOut,
}

/// Calls since the beginning. A batch is one call, as it is one at a service that takes batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCalls {
    pub wrap: u64,
    pub unwrap: u64,
    pub generate: u64,
    pub describe: u64,
    pub rewrap: u64,
    /// Automatic rotation included.
    pub rotate: u64,
    /// To disable, to enable, to delete and not to.
    pub control: u64,
}

struct Inner {
    root: Option<Root>,
    state: MemoryState,
    calls: MemoryCalls,
    /// What a real service would do by itself; this one only remembers it.
    rotate_every: Option<Duration>,
}

/// The versions of the root key, the newest last. Version 1 is the first.
struct Root {
    versions: Vec<KeyMaterial>,
    oldest_usable: usize,
}

impl MemoryKms {
    /// `memory:NAME`, with a root key drawn here. Two of the same name are two keys.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_root(name, KeyMaterial::generate()?)
    }

    /// With a root key that is given, for a process that comes back to what it wrapped earlier.
    pub fn with_root(name: &str, root: KeyMaterial) -> Result<Self> {
        let root = Root { versions: vec![root], oldest_usable: 1 };
        let (state, calls) = (MemoryState::Enabled, MemoryCalls::default());
        let inner = Inner { root: Some(root), state, calls, rotate_every: None };
        Ok(Self { uri: KeyUri::memory(name)?, inner: Mutex::new(inner) })
    }

    pub fn set_state(&self, state: MemoryState) {
        let mut inner = self.lock();
        if state == MemoryState::Deleted {
            inner.root = None;
        }
        inner.state = state;
    }

    /// From now on wraps of every version but the newest are refused.
    pub fn retire_old_versions(&self) {
        if let Some(root) = &mut self.lock().root {
            root.oldest_usable = root.versions.len();
        }
    }

    pub fn calls(&self) -> MemoryCalls {
        self.lock().calls
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // No code under this lock can panic half-way through a change.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn each<R, T>(
        &self,
        operation: Operation,
        requests: &[R],
        serve: impl Fn(&Root, &R) -> Result<T>,
    ) -> Vec<Result<T>> {
        let mut inner = self.lock();
        inner.calls.count(operation);
        let refusal = refusal(inner.state, operation, &self.uri);
        requests
            .iter()
            .map(|request| match (&refusal, &inner.root) {
                (Some(error), _) => Err(error.clone()),
                (None, None) => Err(failure::not_found(operation, &self.uri)),
                (None, Some(root)) => serve(root, request),
            })
            .collect()
    }

    /// For what needs the key to serve.
    fn serving(&self, operation: Operation) -> Result<std::sync::MutexGuard<'_, Inner>> {
        let mut inner = self.lock();
        inner.calls.count(operation);
        refusal(inner.state, operation, &self.uri).map_or(Ok(inner), Err)
    }

    /// What waits for its deletion takes nothing but that this is cancelled, and nothing else can be cancelled.
    fn control(&self, operation: Operation, to: MemoryState) -> Result<()> {
        let mut inner = self.lock();
        inner.calls.count(operation);
        match (inner.state, operation) {
            (MemoryState::PendingDeletion, Operation::CancelDeletion) => {}
            (MemoryState::Enabled | MemoryState::Disabled, Operation::CancelDeletion) => {
                return Err(failure::not_pending(operation, &self.uri));
            }
            (MemoryState::Enabled | MemoryState::Disabled, _) => {}
            (state, _) => {
                let not_found = || failure::not_found(operation, &self.uri);
                return Err(refusal(state, operation, &self.uri).unwrap_or_else(not_found));
            }
        }
        inner.state = to;
        Ok(())
    }

    /// A version that does not open it is not the one that made it; the count of versions is a test's.
    fn open(
        &self,
        operation: Operation,
        root: &Root,
        wrapped: &WrappedKey,
        context: &EncryptionContext,
    ) -> Result<KeyMaterial> {
        for (version, key) in (1..).zip(&root.versions) {
            if let Some(opened) = aead::unwrap(PREFIX, PURPOSE, key, wrapped, context) {
                let retired = version < root.oldest_usable;
                return if retired { Err(failure::version_retired(operation, &self.uri)) } else { Ok(opened) };
            }
        }
        Err(failure::wrap_invalid(operation, &self.uri))
    }
}

impl Root {
    fn wrap(&self, key: &KeyMaterial, context: &EncryptionContext) -> Result<WrappedKey> {
        match self.versions.last() {
            Some(newest) => aead::wrap(PREFIX, PURPOSE, newest, key, context),
            None => Err(Error::new(Code::Internal, "a root key has no version")),
        }
    }
}

impl MemoryCalls {
    fn count(&mut self, operation: Operation) {
        match operation {
            Operation::Wrap => self.wrap += 1,
            Operation::Unwrap | Operation::Decrypt => self.unwrap += 1,
            Operation::Generate => self.generate += 1,
            Operation::Describe => self.describe += 1,
            Operation::Rewrap => self.rewrap += 1,
            Operation::Sign => {}
            Operation::Rotate | Operation::ScheduleRotation => self.rotate += 1,
            Operation::Disable | Operation::Enable | Operation::ScheduleDeletion | Operation::CancelDeletion => {
                self.control += 1;
            }
        }
    }
}

#[async_trait]
impl KeyManagementService for MemoryKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.each(Operation::Wrap, requests, |root, r| root.wrap(r.key, r.context))
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.each(Operation::Unwrap, requests, |root, r| self.open(Operation::Unwrap, root, r.wrapped, r.context))
    }

    fn abilities(&self) -> Abilities<'_> {
        Abilities {
            generator: Some(self),
            describer: Some(self),
            rewrapper: Some(self),
            rotator: Some(self),
            controller: Some(self),
            decryptor: None,
            signer: None,
        }
    }
}

#[async_trait]
impl RewrapKeys for MemoryKms {
    async fn rewrap(&self, requests: &[RewrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.each(Operation::Rewrap, requests, |root, r| {
            root.wrap(&self.open(Operation::Rewrap, root, r.wrapped, r.context)?, r.context)
        })
    }
}

#[async_trait]
impl RotateKey for MemoryKms {
    async fn rotate(&self) -> Result<()> {
        let fresh = KeyMaterial::generate()?;
        let mut inner = self.serving(Operation::Rotate)?;
        let root = inner.root.as_mut().ok_or_else(|| failure::not_found(Operation::Rotate, &self.uri))?;
        root.versions.push(fresh);
        Ok(())
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        self.serving(Operation::ScheduleRotation)?.rotate_every = period;
        Ok(())
    }
}

#[async_trait]
impl ControlKey for MemoryKms {
    async fn disable(&self) -> Result<()> {
        self.control(Operation::Disable, MemoryState::Disabled)
    }

    async fn enable(&self) -> Result<()> {
        self.control(Operation::Enable, MemoryState::Enabled)
    }

    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp> {
        let operation = Operation::ScheduleDeletion;
        let at = (at_least <= LONGEST_WAIT).then(|| jiff::Timestamp::now() + at_least);
        let at = at.ok_or_else(|| failure::not_so(operation, &self.uri, "a deletion waits for 30 days at most"))?;
        self.control(operation, MemoryState::PendingDeletion).map(|()| at)
    }

    async fn cancel_deletion(&self) -> Result<()> {
        self.control(Operation::CancelDeletion, MemoryState::Disabled)
    }
}

#[async_trait]
impl GenerateDataKey for MemoryKms {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        self.each(Operation::Generate, requests, |root, r| {
            let key = KeyMaterial::generate()?;
            let wrapped = root.wrap(&key, r.context)?;
            Ok(GeneratedKey { key, wrapped })
        })
    }
}

#[async_trait]
impl DescribeKey for MemoryKms {
    async fn describe(&self) -> Result<KeyDescription> {
        let mut inner = self.lock();
        inner.calls.count(Operation::Describe);
        let state = match (inner.state, &inner.root) {
            (MemoryState::Disabled, Some(_)) => RootKeyState::Disabled,
            (MemoryState::PendingDeletion, Some(_)) => RootKeyState::PendingDeletion,
            (MemoryState::Enabled, Some(_)) => RootKeyState::Enabled,
            (state, _) => {
                let not_found = || failure::not_found(Operation::Describe, &self.uri);
                return Err(refusal(state, Operation::Describe, &self.uri).unwrap_or_else(not_found));
            }
        };
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let versions = inner
            .root
            .as_ref()
            .map(|root| KeyVersions { newest: number(root.versions.len()), oldest_usable: number(root.oldest_usable) });
        Ok(KeyDescription {
            versions,
            rotation: Some(RotationPlan { period: inner.rotate_every, ..RotationPlan::default() }),
            ..KeyDescription::new(self.uri.to_string(), state, "test".to_owned(), true)
        })
    }
}

fn refusal(state: MemoryState, operation: Operation, uri: &KeyUri) -> Option<Error> {
    Some(match state {
        MemoryState::Enabled => return None,
        MemoryState::Disabled => failure::disabled(operation, uri),
        MemoryState::PendingDeletion => failure::pending_deletion(operation, uri),
        MemoryState::Deleted => failure::not_found(operation, uri),
        MemoryState::Denied => failure::denied(operation, uri),
        MemoryState::CredentialExpired => failure::credential_expired(operation, uri),
        MemoryState::Throttled => failure::throttled(operation, uri),
        MemoryState::TimedOut => failure::timed_out(operation, uri),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::WrapRequest;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt};

    #[tokio::test]
    async fn a_deleted_key_never_comes_back() {
        let kms = MemoryKms::new("orders").unwrap();
        let context = EncryptionContext::new();
        let made = kms.generate_one(&context).await.unwrap();
        kms.set_state(MemoryState::Deleted);
        kms.set_state(MemoryState::Enabled);
        let error = kms.unwrap_one(&made.wrapped, &context).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsKeyNotFound);
        assert_eq!(kms.describe().await.unwrap_err().code(), Code::KmsKeyNotFound);
    }

    #[tokio::test]
    async fn a_batch_counts_as_one_call() {
        let kms = MemoryKms::new("orders").unwrap();
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let request = WrapRequest { key: &key, context: &context };
        assert_eq!(kms.wrap(&[request, request, request]).await.len(), 3);
        assert_eq!(kms.calls(), MemoryCalls { wrap: 1, ..MemoryCalls::default() });
    }
}
