//! Stops asking a key service that does not answer, for a while.
//!
//! Stands outermost, above the retries: when a service is down, whoever comes learns it at once and goes on to the
//! ring's next root key, or is told when to try again. After a pause one call goes through to see; the others still do
//! not wait for it. A service that comes back is therefore met by one call, and then by those who need something.

use std::sync::Arc;
use std::time::Duration;

use super::around::{Around, Request};
use super::circuit::{Admitted, Circuit};
use super::failure::{self, Operation};
use super::service::KeyManagementService;
use crate::clock::Clock;
use crate::error::{Code, Error, Result, Retry};
use crate::metrics::BreakerMetrics;

/// See the module's head.
pub struct Breaker {
    inner: Arc<dyn KeyManagementService>,
    circuit: Circuit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Calls in a row that failed for a reason that may pass, after which the service is left alone.
    pub failures: u32,
    /// For how long, the first time; each look in vain doubles it.
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self { failures: 5, first_pause: Duration::from_secs(1), longest_pause: Duration::from_secs(30) }
    }
}

/// What a breaker says of its key service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Calls go through.
    Answers,
    /// It is not asked for this much longer.
    LeftAlone(Duration),
    /// The next call goes through, or one is on its way, to see whether it answers again.
    OnTrial,
}

impl Breaker {
    pub fn new(inner: Arc<dyn KeyManagementService>, options: BreakerOptions, clock: Arc<dyn Clock>) -> Self {
        Self { inner, circuit: Circuit::new(options, clock) }
    }

    pub fn standing(&self) -> Standing {
        self.circuit.standing()
    }

    pub fn metrics(&self) -> BreakerMetrics {
        self.circuit.metrics()
    }

    fn refusal(&self, operation: Operation, left: Duration) -> Error {
        failure::failed(Code::KmsUnavailable, operation, self.inner.uri())
            .cause("it did not answer lately, so it was not asked")
            .try_again_after(left)
    }
}

impl Around for Breaker {
    fn inner(&self) -> &Arc<dyn KeyManagementService> {
        &self.inner
    }

    async fn around<R: Request>(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let trial = match self.circuit.admit() {
            Admitted::NotFor(left) => {
                return requests.iter().map(|_| Err(self.refusal(R::OPERATION, left))).collect();
            }
            Admitted::Freely => None,
            Admitted::OnTrial(trial) => Some(trial),
        };
        let answers = R::send(&*self.inner, requests).await;
        let passing = |answer: &Result<R::Answer>| matches!(answer, Err(e) if e.code().retry() == Retry::Later);
        self.circuit.learn(!answers.is_empty() && answers.iter().all(passing));
        drop(trial);
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::kms::{EncryptionContext, Fault, KeyManagementServiceExt, MemoryKms, MemoryState};

    const OPTIONS: BreakerOptions =
        BreakerOptions { failures: 3, first_pause: Duration::from_secs(4), longest_pause: Duration::from_secs(10) };

    struct Scene {
        memory: Arc<MemoryKms>,
        fault: Arc<Fault>,
        clock: Arc<ManualClock>,
        breaker: Breaker,
    }

    impl Scene {
        fn new() -> Self {
            let memory = Arc::new(MemoryKms::new("a").unwrap());
            let fault = Arc::new(Fault::new(memory.clone()));
            let clock = Arc::new(ManualClock::new());
            let breaker = Breaker::new(fault.clone(), OPTIONS, clock.clone());
            Self { memory, fault, clock, breaker }
        }

        /// Whether it succeeded.
        async fn call(&self) -> std::result::Result<(), Code> {
            let made = self.breaker.generate_one(&EncryptionContext::new()).await;
            made.map(|_| ()).map_err(|error| error.code())
        }

        fn calls(&self) -> u64 {
            self.memory.calls().generate
        }

        async fn fail(&self, times: u32) {
            self.memory.set_state(MemoryState::TimedOut);
            for _ in 0..times {
                assert_eq!(self.call().await, Err(Code::KmsUnavailable));
            }
        }
    }

    #[tokio::test]
    async fn after_some_failures_in_a_row_it_is_not_asked_and_says_until_when() {
        let scene = Scene::new();
        scene.fail(3).await;
        for _ in 0..1000 {
            assert_eq!(scene.call().await, Err(Code::KmsUnavailable));
        }
        assert_eq!(scene.calls(), 3);
        let Standing::LeftAlone(left) = scene.breaker.standing() else { panic!("it is left alone") };
        assert!(left >= OPTIONS.first_pause / 2 && left <= OPTIONS.first_pause, "{left:?}");
        let metrics = scene.breaker.metrics();
        assert_eq!((metrics.state, metrics.asked_again_in), ("left-alone", left));
        assert_eq!((metrics.left_alone, metrics.not_asked), (1, 1000));
        let error = scene.breaker.generate_one(&EncryptionContext::new()).await.err().unwrap();
        assert!(error.hints().any(|hint| hint.starts_with("try again in ")), "{error}");
    }

    #[tokio::test]
    async fn a_success_between_failures_starts_the_count_again() {
        let scene = Scene::new();
        for _ in 0..10 {
            scene.fail(2).await;
            scene.memory.set_state(MemoryState::Enabled);
            assert_eq!(scene.call().await, Ok(()));
        }
        assert_eq!(scene.breaker.standing(), Standing::Answers);
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let scene = Scene::new();
        scene.memory.set_state(MemoryState::Denied);
        for _ in 0..10 {
            assert_eq!(scene.call().await, Err(Code::KmsAccessDenied));
        }
        assert_eq!(scene.calls(), 10);
    }

    #[tokio::test]
    async fn one_call_goes_to_see_whether_it_answers_and_the_others_do_not_wait_for_it() {
        let scene = Scene::new();
        scene.fail(3).await;
        scene.clock.advance(OPTIONS.first_pause);
        assert_eq!(scene.breaker.standing(), Standing::OnTrial);
        assert_eq!(scene.breaker.metrics().state, "on-trial");
        scene.memory.set_state(MemoryState::Enabled);
        scene.fault.hold();
        let mut trial = Box::pin(scene.call());
        assert!(futures_util::poll!(&mut trial).is_pending());
        for _ in 0..100 {
            assert_eq!(scene.call().await, Err(Code::KmsUnavailable));
        }
        scene.fault.release();
        assert_eq!(trial.await, Ok(()));
        assert_eq!(scene.breaker.standing(), Standing::Answers);
        assert_eq!((scene.breaker.metrics().state, scene.breaker.metrics().not_asked), ("answers", 100));
        assert_eq!(scene.call().await, Ok(()));
        assert_eq!(scene.calls(), 5);
    }

    #[tokio::test]
    async fn looks_in_vain_become_rarer_up_to_a_limit() {
        let scene = Scene::new();
        scene.fail(3).await;
        let mut longest = Duration::ZERO;
        for n in 0..8 {
            let Standing::LeftAlone(left) = scene.breaker.standing() else { panic!("it is left alone") };
            let pause = (OPTIONS.first_pause * 2_u32.pow(n)).min(OPTIONS.longest_pause);
            assert!(left >= pause / 2 && left <= pause, "{left:?} of {pause:?}");
            longest = longest.max(left);
            scene.clock.advance(left);
            scene.fail(1).await;
        }
        assert!(longest <= OPTIONS.longest_pause);
        assert_eq!(scene.calls(), 3 + 8);
        assert_eq!(scene.breaker.metrics().left_alone, 1 + 8);
    }

    #[tokio::test]
    async fn a_caller_on_trial_who_gives_up_leaves_the_trial_to_the_next() {
        let scene = Scene::new();
        scene.fail(3).await;
        scene.clock.advance(OPTIONS.first_pause);
        scene.memory.set_state(MemoryState::Enabled);
        scene.fault.hold();
        let mut trial = Box::pin(scene.call());
        assert!(futures_util::poll!(&mut trial).is_pending());
        drop(trial);
        scene.fault.release();
        assert_eq!(scene.call().await, Ok(()));
    }
}
