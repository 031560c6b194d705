//! How a wrapper is written once for all operations.
//!
//! [`Request`] gives an operation a type; [`Around`] says what a wrapper does with a batch of any of them; the
//! blanket implementations below turn that into the public traits. A side ability is there exactly when the provider
//! that is held has it.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use zeroize::Zeroizing;

use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    Abilities, ControlKey, DecryptRequest, DecryptValues, DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey,
    KeyDescription, KeyManagementService, KeyManagementServiceExt, Permission, RewrapKeys, RewrapRequest, RotateKey,
    SignBytes, UnwrapRequest, WrapRequest,
};
use super::uri::KeyUri;
use crate::error::{Code, Result};

pub(super) type Answers<'a, T> = Pin<Box<dyn Future<Output = Vec<Result<T>>> + Send + 'a>>;

/// One request of one operation.
pub(super) trait Request: Copy + Send + Sync {
    type Answer: Send;
    const OPERATION: Operation;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Self::Answer>;
}

/// A wrapper that holds a provider.
pub(super) trait Around: Send + Sync {
    fn inner(&self) -> &Arc<dyn KeyManagementService>;

    fn around<R: Request>(&self, requests: &[R]) -> impl Future<Output = Vec<Result<R::Answer>>> + Send;
}

/// The requests of operations that take one thing at a time, or nothing.
#[derive(Clone, Copy)]
pub(super) struct DescribeRequest;
#[derive(Clone, Copy)]
pub(super) struct RotateRequest;
#[derive(Clone, Copy)]
pub(super) struct ScheduleRotationRequest(Option<Duration>);
#[derive(Clone, Copy)]
pub(super) struct DisableRequest;
#[derive(Clone, Copy)]
pub(super) struct EnableRequest;
#[derive(Clone, Copy)]
pub(super) struct ScheduleDeletionRequest(Duration);
#[derive(Clone, Copy)]
pub(super) struct CancelDeletionRequest;

#[derive(Clone, Copy)]
struct PublicKeysRequest;
#[derive(Clone, Copy)]
struct SignRequest<'a>(u32, &'a [u8]);

/// A question for rights, which are those of a context.
#[derive(Clone, Copy)]
struct PermissionsRequest<'a>(&'a EncryptionContext);

impl Request for WrapRequest<'_> {
    type Answer = WrappedKey;
    const OPERATION: Operation = Operation::Wrap;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, WrappedKey> {
        kms.wrap(requests)
    }
}

impl Request for UnwrapRequest<'_> {
    type Answer = KeyMaterial;
    const OPERATION: Operation = Operation::Unwrap;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, KeyMaterial> {
        kms.unwrap(requests)
    }
}

impl Request for GenerateRequest<'_> {
    type Answer = GeneratedKey;
    const OPERATION: Operation = Operation::Generate;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, GeneratedKey> {
        match kms.generator() {
            Some(generator) => generator.generate(requests),
            None => Box::pin(ready(requests.iter().map(|_| unable(kms, Operation::Generate)).collect())),
        }
    }
}

impl Request for RewrapRequest<'_> {
    type Answer = WrappedKey;
    const OPERATION: Operation = Operation::Rewrap;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, WrappedKey> {
        match kms.rewrapper() {
            Some(rewrapper) => rewrapper.rewrap(requests),
            None => Box::pin(ready(requests.iter().map(|_| unable(kms, Operation::Rewrap)).collect())),
        }
    }
}

impl Request for DecryptRequest<'_> {
    type Answer = Zeroizing<Vec<u8>>;
    const OPERATION: Operation = Operation::Decrypt;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Self::Answer> {
        match kms.abilities().decryptor {
            Some(decryptor) => decryptor.decrypt(requests),
            None => Box::pin(ready(requests.iter().map(|_| unable(kms, Operation::Decrypt)).collect())),
        }
    }
}

impl Request for DescribeRequest {
    type Answer = KeyDescription;
    const OPERATION: Operation = Operation::Describe;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, KeyDescription> {
        one_by_one(kms, requests, kms.describer(), |key, _| key.describe())
    }
}

impl Request for PermissionsRequest<'_> {
    type Answer = Vec<Permission>;
    // It changes nothing and uses nothing, so it is part of describing.
    const OPERATION: Operation = Operation::Describe;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Vec<Permission>> {
        one_by_one(kms, requests, kms.describer(), |key, request| key.permissions(request.0))
    }
}

impl Request for RotateRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::Rotate;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        one_by_one(kms, requests, kms.rotator(), |key, _| key.rotate())
    }
}

impl Request for ScheduleRotationRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::ScheduleRotation;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        one_by_one(kms, requests, kms.rotator(), |key, request| key.rotate_every(request.0))
    }
}

impl Request for DisableRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::Disable;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        one_by_one(kms, requests, kms.controller(), |key, _| key.disable())
    }
}

impl Request for EnableRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::Enable;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        one_by_one(kms, requests, kms.controller(), |key, _| key.enable())
    }
}

impl Request for ScheduleDeletionRequest {
    type Answer = jiff::Timestamp;
    const OPERATION: Operation = Operation::ScheduleDeletion;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, jiff::Timestamp> {
        one_by_one(kms, requests, kms.controller(), |key, request| key.schedule_deletion(request.0))
    }
}

impl Request for CancelDeletionRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::CancelDeletion;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        one_by_one(kms, requests, kms.controller(), |key, _| key.cancel_deletion())
    }
}

impl Request for PublicKeysRequest {
    type Answer = BTreeMap<u32, [u8; 32]>;
    const OPERATION: Operation = Operation::Describe;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Self::Answer> {
        one_by_one(kms, requests, kms.abilities().signer, |key, _| key.public_keys())
    }
}

impl Request for SignRequest<'_> {
    type Answer = Vec<u8>;
    const OPERATION: Operation = Operation::Sign;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Vec<u8>> {
        one_by_one(kms, requests, kms.abilities().signer, |key, request| key.sign(request.0, request.1))
    }
}

/// For operations that take one thing at a time.
fn one_by_one<'a, R: Request, A: ?Sized + Sync>(
    kms: &'a dyn KeyManagementService,
    requests: &'a [R],
    ability: Option<&'a A>,
    call: impl Fn(&'a A, R) -> BoxFuture<'a, Result<R::Answer>> + Send + Sync + 'a,
) -> Answers<'a, R::Answer> {
    Box::pin(async move {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(match ability {
                Some(ability) => call(ability, *request).await,
                None => unable(kms, R::OPERATION),
            });
        }
        answers
    })
}

#[async_trait]
impl<A: Around> KeyManagementService for A {
    fn uri(&self) -> &KeyUri {
        self.inner().uri()
    }

    async fn wrap(&self, requests: &[WrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.around(requests).await
    }

    async fn unwrap(&self, requests: &[UnwrapRequest<'_>]) -> Vec<Result<KeyMaterial>> {
        self.around(requests).await
    }

    fn abilities(&self) -> Abilities<'_> {
        let has = self.inner().abilities();
        Abilities {
            generator: has.generator.map(|_| self as _),
            describer: has.describer.map(|_| self as _),
            rewrapper: has.rewrapper.map(|_| self as _),
            rotator: has.rotator.map(|_| self as _),
            controller: has.controller.map(|_| self as _),
            decryptor: has.decryptor.map(|_| self as _),
            signer: has.signer.map(|_| self as _),
        }
    }
}

#[async_trait]
impl<A: Around> GenerateDataKey for A {
    async fn generate(&self, requests: &[GenerateRequest<'_>]) -> Vec<Result<GeneratedKey>> {
        self.around(requests).await
    }
}

#[async_trait]
impl<A: Around> DescribeKey for A {
    async fn describe(&self) -> Result<KeyDescription> {
        alone(self, DescribeRequest).await
    }

    async fn permissions(&self, context: &EncryptionContext) -> Result<Vec<Permission>> {
        alone(self, PermissionsRequest(context)).await
    }

    fn clock_skew(&self) -> Option<SignedDuration> {
        self.inner().describer()?.clock_skew()
    }
}

#[async_trait]
impl<A: Around> RewrapKeys for A {
    async fn rewrap(&self, requests: &[RewrapRequest<'_>]) -> Vec<Result<WrappedKey>> {
        self.around(requests).await
    }
}

#[async_trait]
impl<A: Around> DecryptValues for A {
    async fn decrypt(&self, requests: &[DecryptRequest<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>> {
        self.around(requests).await
    }
}

#[async_trait]
impl<A: Around> SignBytes for A {
    async fn public_keys(&self) -> Result<BTreeMap<u32, [u8; 32]>> {
        alone(self, PublicKeysRequest).await
    }

    async fn sign(&self, version: u32, bytes: &[u8]) -> Result<Vec<u8>> {
        alone(self, SignRequest(version, bytes)).await
    }
}

#[async_trait]
impl<A: Around> RotateKey for A {
    async fn rotate(&self) -> Result<()> {
        alone(self, RotateRequest).await
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        alone(self, ScheduleRotationRequest(period)).await
    }
}

#[async_trait]
impl<A: Around> ControlKey for A {
    async fn disable(&self) -> Result<()> {
        alone(self, DisableRequest).await
    }

    async fn enable(&self) -> Result<()> {
        alone(self, EnableRequest).await
    }

    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp> {
        alone(self, ScheduleDeletionRequest(at_least)).await
    }

    async fn cancel_deletion(&self) -> Result<()> {
        alone(self, CancelDeletionRequest).await
    }
}

async fn alone<A: Around, R: Request>(wrapper: &A, request: R) -> Result<R::Answer> {
    let mut answers = wrapper.around(&[request]).await;
    answers.pop().unwrap_or_else(|| Err(failure::wrong_count(wrapper.uri())))
}

fn unable<T>(kms: &dyn KeyManagementService, operation: Operation) -> Result<T> {
    Err(failure::failed(Code::KmsProtocol, operation, kms.uri()).cause("this key service has no such operation"))
}
