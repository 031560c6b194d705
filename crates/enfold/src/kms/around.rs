//! How a wrapper is written once for all operations.
//!
//! [`Request`] gives an operation a type; [`Around`] says what a wrapper does with a batch of any of them; the
//! blanket implementations below turn that into the public traits. A side ability is there exactly when the provider
//! that is held has it.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::SignedDuration;

use super::context::EncryptionContext;
use super::failure::{self, Operation};
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    DescribeKey, GenerateDataKey, GenerateRequest, GeneratedKey, KeyDescription, KeyManagementService, Permission,
    RewrapKeys, RewrapRequest, RotateKey, UnwrapRequest, WrapRequest,
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

/// The requests of operations that take nothing.
#[derive(Clone, Copy)]
pub(super) struct DescribeRequest;
#[derive(Clone, Copy)]
pub(super) struct RotateRequest;

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

impl Request for DescribeRequest {
    type Answer = KeyDescription;
    const OPERATION: Operation = Operation::Describe;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, KeyDescription> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(requests.len());
            for _ in requests {
                answers.push(match kms.describer() {
                    Some(describer) => describer.describe().await,
                    None => unable(kms, Operation::Describe),
                });
            }
            answers
        })
    }
}

impl Request for PermissionsRequest<'_> {
    type Answer = Vec<Permission>;
    // It changes nothing and uses nothing, so it is part of describing.
    const OPERATION: Operation = Operation::Describe;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, Vec<Permission>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(requests.len());
            for PermissionsRequest(context) in requests {
                answers.push(match kms.describer() {
                    Some(describer) => describer.permissions(context).await,
                    None => unable(kms, Operation::Describe),
                });
            }
            answers
        })
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

impl Request for RotateRequest {
    type Answer = ();
    const OPERATION: Operation = Operation::Rotate;

    fn send<'a>(kms: &'a dyn KeyManagementService, requests: &'a [Self]) -> Answers<'a, ()> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(requests.len());
            for _ in requests {
                answers.push(match kms.rotator() {
                    Some(rotator) => rotator.rotate().await,
                    None => unable(kms, Operation::Rotate),
                });
            }
            answers
        })
    }
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

    fn generator(&self) -> Option<&dyn GenerateDataKey> {
        self.inner().generator().map(|_| self as &dyn GenerateDataKey)
    }

    fn describer(&self) -> Option<&dyn DescribeKey> {
        self.inner().describer().map(|_| self as &dyn DescribeKey)
    }

    fn rewrapper(&self) -> Option<&dyn RewrapKeys> {
        self.inner().rewrapper().map(|_| self as &dyn RewrapKeys)
    }

    fn rotator(&self) -> Option<&dyn RotateKey> {
        self.inner().rotator().map(|_| self as &dyn RotateKey)
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
        let mut answers = self.around(&[DescribeRequest]).await;
        answers.pop().unwrap_or_else(|| Err(failure::wrong_count(self.uri())))
    }

    async fn permissions(&self, context: &EncryptionContext) -> Result<Vec<Permission>> {
        let mut answers = self.around(&[PermissionsRequest(context)]).await;
        answers.pop().unwrap_or_else(|| Err(failure::wrong_count(self.uri())))
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
impl<A: Around> RotateKey for A {
    async fn rotate(&self) -> Result<()> {
        let mut answers = self.around(&[RotateRequest]).await;
        answers.pop().unwrap_or_else(|| Err(failure::wrong_count(self.uri())))
    }
}

fn unable<T>(kms: &dyn KeyManagementService, operation: Operation) -> Result<T> {
    Err(failure::failed(Code::KmsProtocol, operation, kms.uri()).cause("this key service has no such operation"))
}
