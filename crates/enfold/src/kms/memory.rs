//! A key service inside the process, for tests: Enfold's own and those of applications.
//!
//! It counts its calls and can be put into every state in which a real one refuses. What it wraps is lost with it.

use std::sync::Mutex;

use async_trait::async_trait;

use super::aead;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey, KeyDescription, KeyManagementService, RootKeyState,
    UnwrapRequest, WrapRequest,
};
use super::uri::KeyUri;
use crate::error::{Error, Result};

const PREFIX: &[u8] = b"mem:";
const PURPOSE: &[u8] = b"enfold/v1 memory wrap";

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
}

struct Inner {
    root: Option<KeyMaterial>,
    state: MemoryState,
    calls: MemoryCalls,
}

impl MemoryKms {
    /// `memory:NAME`, with a root key drawn here. Two of the same name are two keys.
    pub fn new(name: &str) -> Result<Self> {
        Self::with_root(name, KeyMaterial::generate()?)
    }

    /// With a root key that is given, for a process that comes back to what it wrapped earlier.
    pub fn with_root(name: &str, root: KeyMaterial) -> Result<Self> {
        let inner = Inner { root: Some(root), state: MemoryState::Enabled, calls: MemoryCalls::default() };
        Ok(Self { uri: KeyUri::memory(name)?, inner: Mutex::new(inner) })
    }

    pub fn set_state(&self, state: MemoryState) {
        let mut inner = self.lock();
        if state == MemoryState::Deleted {
            inner.root = None;
        }
        inner.state = state;
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
        serve: impl Fn(&KeyMaterial, &R) -> Result<T>,
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
}

impl MemoryCalls {
    fn count(&mut self, operation: Operation) {
        match operation {
            Operation::Wrap => self.wrap += 1,
            Operation::Unwrap => self.unwrap += 1,
            Operation::Generate => self.generate += 1,
            Operation::Describe => self.describe += 1,
        }
    }
}

#[async_trait]
impl KeyManagementService for MemoryKms {
    fn uri(&self) -> &KeyUri {
        &self.uri
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.each(Operation::Wrap, requests, |root, r| aead::wrap(PREFIX, PURPOSE, root, r.key, r.context))
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.each(Operation::Unwrap, requests, |root, r| {
            aead::unwrap(PREFIX, PURPOSE, root, r.wrapped, r.context)
                .ok_or_else(|| failure::wrap_invalid(Operation::Unwrap, &self.uri))
        })
    }

    fn generator(&self) -> Option<&dyn GenerateDataKey> {
        Some(self)
    }

    fn describer(&self) -> Option<&dyn DescribeKey> {
        Some(self)
    }
}

#[async_trait]
impl GenerateDataKey for MemoryKms {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        self.each(Operation::Generate, requests, |root, r| {
            let key = KeyMaterial::generate()?;
            let wrapped = aead::wrap(PREFIX, PURPOSE, root, &key, r.context)?;
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
        Ok(KeyDescription { resolved: self.uri.to_string(), state, manager: "test".to_owned(), usable: true })
    }
}

fn refusal(state: MemoryState, operation: Operation, uri: &KeyUri) -> Option<Error> {
    Some(match state {
        MemoryState::Enabled => return None,
        MemoryState::Disabled => failure::disabled(operation, uri),
        MemoryState::PendingDeletion => failure::pending_deletion(operation, uri),
        MemoryState::Deleted => failure::not_found(operation, uri),
        MemoryState::Denied => failure::denied(operation, uri),
        MemoryState::Throttled => failure::throttled(operation, uri),
        MemoryState::TimedOut => failure::timed_out(operation, uri),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt};
    use crate::{Code, kms::WrapRequest};

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
