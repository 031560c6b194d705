//! Injects faults between Enfold and a provider, for tests of whatever stands above.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::around::{Around, Request};
use super::failure::{self, Operation};
use super::service::KeyManagementService;
use super::uri::KeyUri;
use crate::error::{Code, Error, Result};

/// Passes calls through, except where it was told otherwise.
pub struct Fault {
    inner: Arc<dyn KeyManagementService>,
    script: Mutex<Script>,
    held: watch::Sender<bool>,
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inject {
    /// It goes through.
    Nothing,
    /// The provider is not called, and every item fails.
    Fail(Code),
    /// The same, and the failure says after which pause to try again.
    FailUntil(Code, Duration),
    /// The provider is called, and then this item's result is replaced by a failure.
    FailItem(usize, Code),
    /// The provider is called, and the last result is left out.
    AnswerTooFew,
}

#[derive(Default)]
struct Script {
    next: VecDeque<Inject>,
    seen: Vec<usize>,
}

impl Fault {
    pub fn new(inner: Arc<dyn KeyManagementService>) -> Self {
        Self { inner, script: Mutex::default(), held: watch::Sender::new(false) }
    }

    /// Queues a fault: the first for the next call, and so on; calls beyond the queue go through.
    pub fn next(&self, inject: Inject) {
        self.script().next.push_back(inject);
    }

    /// From now on calls wait here until [`Self::release`].
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// The size of every batch that arrived, held ones included.
    pub fn seen(&self) -> Vec<usize> {
        self.script().seen.clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, items: usize) -> Inject {
        let mut script = self.script();
        script.seen.push(items);
        script.next.pop_front().unwrap_or(Inject::Nothing)
    }
}

impl Around for Fault {
    fn inner(&self) -> &Arc<dyn KeyManagementService> {
        &self.inner
    }

    async fn around<R: Request>(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let inject = self.arrive(requests.len());
        // The sender lives in `self`, so waiting can only end with the release.
        self.held.subscribe().wait_for(|held| !held).await.ok();
        let error = |code| injected(code, R::OPERATION, self.inner.uri());
        let refusal = match inject {
            Inject::Fail(code) => Some(error(code)),
            Inject::FailUntil(code, pause) => Some(error(code).try_again_after(pause)),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return requests.iter().map(|_| Err(refusal.clone())).collect();
        }
        let mut answers = R::send(&*self.inner, requests).await;
        match inject {
            Inject::FailItem(at, code) => {
                if let Some(answer) = answers.get_mut(at) {
                    *answer = Err(error(code));
                }
            }
            Inject::AnswerTooFew => {
                answers.pop();
            }
            Inject::Nothing | Inject::Fail(_) | Inject::FailUntil(..) => {}
        }
        answers
    }
}

fn injected(code: Code, operation: Operation, uri: &KeyUri) -> Error {
    failure::failed(code, operation, uri).cause("injected by a test")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt, MemoryKms};

    #[tokio::test]
    async fn held_calls_wait_and_go_through_when_released() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let fault = Arc::new(Fault::new(memory.clone()));
        fault.hold();
        let call = tokio::spawn({
            let fault = fault.clone();
            async move { fault.generate_one(&EncryptionContext::new()).await.is_ok() }
        });
        while fault.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(memory.calls().generate, 0);
        fault.release();
        assert!(call.await.unwrap());
        assert_eq!(memory.calls().generate, 1);
    }

    #[tokio::test]
    async fn a_wrapper_has_exactly_the_side_abilities_of_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let local = crate::kms::LocalKms::init(&"local:dev.key".parse().unwrap(), folder.path()).unwrap();
        let fault = Fault::new(Arc::new(local));
        assert!(fault.generator().is_none());
        assert!(fault.rotator().is_none() && fault.controller().is_none());
        assert!(fault.describer().is_some());
        let fault_of_all = Fault::new(Arc::new(MemoryKms::new("a").unwrap()));
        assert!(fault_of_all.generator().is_some() && fault_of_all.rewrapper().is_some());
        assert!(fault_of_all.rotator().is_some() && fault_of_all.controller().is_some());
        // Where the service cannot draw a key, one is drawn here.
        assert!(fault.generate_one(&EncryptionContext::new()).await.is_ok());
    }
}
