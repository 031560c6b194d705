//! Tries again what may succeed later, and nothing else.
//!
//! Whether an error may be tried again is [`Code::retry`](crate::Code::retry)'s to say; of a batch only the items that
//! failed so are sent again. Pauses grow and are drawn at random, so that a thousand processes that were cut off
//! together do not come back together. A budget keeps retries a small part of all calls: when a service is down, most
//! callers learn it at the first try, and go on to the ring's next root key, instead of waiting through three.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;

use super::around::{Around, Request};
use super::failure;
use super::service::KeyManagementService;
use crate::error::{Error, Result, Retry as May};
use crate::metrics::Counter;

/// See the module's head.
pub struct Retry {
    inner: Arc<dyn KeyManagementService>,
    options: RetryOptions,
    budget: Mutex<Budget>,
    retries: Counter,
    given_up: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOptions {
    /// Tries altogether, the first included; at least 1.
    pub attempts: u32,
    /// The longest that the first pause can be; each further one may be twice as long.
    pub first_pause: Duration,
    pub longest_pause: Duration,
    /// For the whole call with all its pauses. A batch that is cut off by it counts as unanswered.
    pub deadline: Duration,
    /// Retries in hand when everything was well; ten answers without an error give one back.
    pub budget: u32,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self {
            attempts: 3,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
            budget: 50,
        }
    }
}

impl Retry {
    pub fn new(inner: Arc<dyn KeyManagementService>, options: RetryOptions) -> Self {
        let budget = Mutex::new(Budget::full(options.budget));
        Self { inner, options, budget, retries: Counter::default(), given_up: Counter::default() }
    }

    /// Requests that were sent again.
    pub fn retries(&self) -> u64 {
        self.retries.read()
    }

    /// Requests that were given up with a failure that might pass.
    pub fn given_up(&self) -> u64 {
        self.given_up.read()
    }

    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to wait before the next try, or why there is none. `least`: what the service asked for.
    fn next_pause(
        &self,
        attempt: u32,
        elapsed: Duration,
        least: Duration,
    ) -> std::result::Result<Duration, &'static str> {
        if attempt >= self.options.attempts {
            return Err("no tries are left");
        }
        // On top of what was asked for, so that everybody who was told the same time does not come at the same time.
        let pause = least + jitter(longest_pause(&self.options, attempt));
        if elapsed + pause >= self.options.deadline {
            return Err("the deadline is too near for another try");
        }
        if !self.budget().spend() {
            return Err("too many calls failed lately for another try");
        }
        Ok(pause)
    }

    async fn attempt<R: Request>(&self, requests: &[R], elapsed: Duration) -> Vec<Result<R::Answer>> {
        let left = self.options.deadline.saturating_sub(elapsed);
        let refuse = |error: Error| requests.iter().map(|_| Err(error.clone())).collect();
        match tokio::time::timeout(left, R::send(&*self.inner, requests)).await {
            Ok(answers) if answers.len() == requests.len() => answers,
            Ok(_) => refuse(failure::wrong_count(self.inner.uri())),
            Err(_) => refuse(failure::timed_out(R::OPERATION, self.inner.uri())),
        }
    }
}

impl Around for Retry {
    fn inner(&self) -> &Arc<dyn KeyManagementService> {
        &self.inner
    }

    async fn around<R: Request>(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let started = Instant::now();
        let mut settled: Vec<Option<Result<R::Answer>>> = requests.iter().map(|_| None).collect();
        let mut waiting: Vec<usize> = (0..requests.len()).collect();
        let mut attempt = 0;
        while !waiting.is_empty() {
            attempt += 1;
            let batch: Vec<R> = waiting.iter().map(|&i| requests[i]).collect();
            let answers = self.attempt(&batch, started.elapsed()).await;
            let mut again = Vec::new();
            for (i, answer) in waiting.into_iter().zip(answers) {
                match &answer {
                    Err(error) if error.code().retry() == May::Later => again.push(i),
                    Ok(_) => self.budget().refund(),
                    Err(_) => {}
                }
                settled[i] = Some(answer);
            }
            waiting = again;
            if waiting.is_empty() {
                break;
            }
            let asked = |i: &usize| settled[*i].as_ref()?.as_ref().err()?.again_after();
            let least = waiting.iter().filter_map(asked).max().unwrap_or_default();
            match self.next_pause(attempt, started.elapsed(), least) {
                Ok(pause) => {
                    tokio::time::sleep(pause).await;
                    self.retries.add(waiting.len() as u64);
                }
                Err(why) => {
                    self.given_up.add(waiting.len() as u64);
                    for i in waiting.drain(..) {
                        settled[i] = settled[i].take().map(|answer| answer.map_err(|e| gave_up(e, attempt, why)));
                    }
                }
            }
        }
        let unsettled = || Err(failure::wrong_count(self.inner.uri()));
        settled.into_iter().map(|answer| answer.unwrap_or_else(unsettled)).collect()
    }
}

/// Counted in tenths of a retry, so that ten answers pay for one.
struct Budget {
    tenths: u32,
    capacity: u32,
}

impl Budget {
    fn full(retries: u32) -> Self {
        let capacity = retries.saturating_mul(10);
        Self { tenths: capacity, capacity }
    }

    fn spend(&mut self) -> bool {
        let left = self.tenths.checked_sub(10);
        self.tenths = left.unwrap_or(self.tenths);
        left.is_some()
    }

    fn refund(&mut self) {
        self.tenths = self.capacity.min(self.tenths.saturating_add(1));
    }
}

/// Before the try after `attempt`, counted from 1.
fn longest_pause(options: &RetryOptions, attempt: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    options.first_pause.saturating_mul(doubled).min(options.longest_pause)
}

/// Anything between nothing and `longest`: "full jitter", which spreads a crowd best.
pub(crate) fn jitter(longest: Duration) -> Duration {
    let mut random = [0; 4];
    // Without random bytes there is no spread, but still a pause.
    if rand::fill(&mut random).is_err() {
        return longest;
    }
    longest.mul_f64(f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX))
}

fn gave_up(error: Error, attempts: u32, why: &str) -> Error {
    match attempts {
        1 => error.cause(format!("gave up after 1 try: {why}")),
        n => error.cause(format!("gave up after {n} tries: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::kms::{
        EncryptionContext, Fault, Inject, KeyManagementServiceExt, KeyMaterial, MemoryKms, MemoryState, WrapRequest,
    };

    const QUICK: RetryOptions = RetryOptions {
        attempts: 3,
        first_pause: Duration::from_micros(10),
        longest_pause: Duration::from_micros(100),
        deadline: Duration::from_secs(60),
        budget: 50,
    };

    fn over(memory: &Arc<MemoryKms>, options: RetryOptions) -> (Arc<Fault>, Retry) {
        let fault = Arc::new(Fault::new(memory.clone()));
        (fault.clone(), Retry::new(fault, options))
    }

    #[tokio::test]
    async fn what_may_succeed_later_is_tried_again() {
        for code in [Code::KmsThrottled, Code::KmsUnavailable] {
            let memory = Arc::new(MemoryKms::new("a").unwrap());
            let (fault, retry) = over(&memory, QUICK);
            fault.next(Inject::Fail(code));
            fault.next(Inject::Fail(code));
            assert!(retry.generate_one(&EncryptionContext::new()).await.is_ok());
            assert_eq!(memory.calls().generate, 1, "the third try went through");
        }
    }

    #[tokio::test]
    async fn what_needs_somebody_to_act_is_tried_once() {
        for (state, code) in [
            (MemoryState::Disabled, Code::KmsKeyDisabled),
            (MemoryState::PendingDeletion, Code::KmsKeyDisabled),
            (MemoryState::Denied, Code::KmsAccessDenied),
            (MemoryState::Deleted, Code::KmsKeyNotFound),
        ] {
            let memory = Arc::new(MemoryKms::new("a").unwrap());
            let (_, retry) = over(&memory, QUICK);
            memory.set_state(state);
            let error = retry.generate_one(&EncryptionContext::new()).await.err().unwrap();
            assert_eq!(error.code(), code);
            assert_eq!(memory.calls().generate, 1, "{state:?}");
        }
    }

    #[tokio::test]
    async fn only_the_items_that_failed_are_sent_again_and_order_is_kept() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let (fault, retry) = over(&memory, QUICK);
        let context = EncryptionContext::new();
        let keys: Vec<KeyMaterial> = (0..5).map(|n| KeyMaterial::from_bytes(&mut [n; 32])).collect();
        let requests: Vec<_> = keys.iter().map(|key| WrapRequest { key, context: &context }).collect();
        fault.next(Inject::FailItem(1, Code::KmsThrottled));
        fault.next(Inject::FailItem(0, Code::KmsThrottled));
        let wrapped = retry.wrap(&requests).await;
        assert_eq!(fault.seen(), [5, 1, 1]);
        assert_eq!((retry.retries(), retry.given_up()), (2, 0), "each item counts");
        for (key, wrapped) in keys.iter().zip(wrapped) {
            let opened = memory.unwrap_one(&wrapped.unwrap(), &context).await.ok().unwrap();
            assert_eq!(opened.expose(), key.expose());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_names_a_pause_is_given_it_and_one_that_names_too_long_a_pause_is_not_asked_again() {
        let context = EncryptionContext::new();
        for (pause, answered) in [(Duration::from_secs(7), true), (Duration::from_secs(70), false)] {
            let memory = Arc::new(MemoryKms::new("a").unwrap());
            let (fault, retry) = over(&memory, QUICK);
            fault.next(Inject::FailUntil(Code::KmsThrottled, pause));
            let began = tokio::time::Instant::now();
            let outcome = retry.generate_one(&context).await;
            assert_eq!(outcome.is_ok(), answered);
            match outcome {
                Ok(_) => assert!(began.elapsed() >= pause, "it was asked again after {:?}", began.elapsed()),
                Err(error) => assert_eq!(memory.calls().generate, 0, "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn it_gives_up_after_its_tries_and_says_so() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let (_, retry) = over(&memory, QUICK);
        memory.set_state(MemoryState::Throttled);
        let error = retry.generate_one(&EncryptionContext::new()).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsThrottled);
        assert!(error.causes().any(|c| c == "gave up after 3 tries: no tries are left"), "{error}");
        assert_eq!(memory.calls().generate, 3);
        assert_eq!((retry.retries(), retry.given_up()), (2, 1));
    }

    #[tokio::test]
    async fn an_empty_budget_leaves_one_try_and_answers_fill_it_again() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let (_, retry) = over(&memory, RetryOptions { budget: 1, ..QUICK });
        let context = EncryptionContext::new();
        memory.set_state(MemoryState::TimedOut);
        retry.generate_one(&context).await.err().unwrap();
        assert_eq!(memory.calls().generate, 2, "one retry was in the budget");
        retry.generate_one(&context).await.err().unwrap();
        assert_eq!(memory.calls().generate, 3, "and no other");
        memory.set_state(MemoryState::Enabled);
        for _ in 0..10 {
            retry.generate_one(&context).await.unwrap();
        }
        memory.set_state(MemoryState::TimedOut);
        retry.generate_one(&context).await.err().unwrap();
        assert_eq!(memory.calls().generate, 15);
    }

    #[tokio::test]
    async fn a_service_that_never_answers_is_given_up_at_the_deadline() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let (fault, retry) = over(&memory, RetryOptions { deadline: Duration::from_millis(20), ..QUICK });
        fault.hold();
        let error = retry.generate_one(&EncryptionContext::new()).await.err().unwrap();
        assert_eq!(error.code(), Code::KmsUnavailable);
        assert_eq!(memory.calls().generate, 0);
    }

    #[tokio::test]
    async fn an_answer_with_too_few_results_fails_every_item_of_the_batch() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let (fault, retry) = over(&memory, QUICK);
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let request = WrapRequest { key: &key, context: &context };
        fault.next(Inject::AnswerTooFew);
        let codes: Vec<Code> =
            retry.wrap(&[request, request]).await.into_iter().map(|r| r.unwrap_err().code()).collect();
        assert_eq!(codes, [Code::KmsProtocol, Code::KmsProtocol]);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = (1..8).map(|n| longest_pause(&RetryOptions::default(), n).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(longest_pause(&RetryOptions::default(), 400), Duration::from_secs(2));
    }

    #[test]
    fn jitter_stays_within_its_bounds_and_varies() {
        let longest = Duration::from_millis(100);
        let drawn: Vec<Duration> = (0..50).map(|_| jitter(longest)).collect();
        assert!(drawn.iter().all(|d| *d <= longest));
        assert!(drawn.iter().any(|d| d != &drawn[0]));
    }
}
