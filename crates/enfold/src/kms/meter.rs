//! Counts what a key service was asked and what it answered, and writes it to the log under `enfold::kms`.
//!
//! It stands next to the provider, below retry and limit, so that it counts calls as the service does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use tracing::Instrument as _;

use super::around::{Around, Request};
use super::failure::Operation;
use super::service::KeyManagementService;
use crate::error::{Code, Result, Retry};
use crate::metrics::seconds;
use crate::traces::span;

/// See the module's head.
pub struct Meter {
    inner: Arc<dyn KeyManagementService>,
    figures: Mutex<BTreeMap<Operation, Figures>>,
}

/// Of one operation, since the meter was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Figures {
    /// Batches sent.
    pub calls: u64,
    /// Requests in them. A service without batches (AWS KMS) was called, and charges, this many times.
    pub requests: u64,
    /// Requests that were done.
    pub succeeded: u64,
    /// Requests that failed, by the word of the error's code.
    pub failed: BTreeMap<&'static str, u64>,
    /// Seconds: how long all calls took together.
    #[schemars(with = "f64")]
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// Calls by how long they took: `latency_bounds_ms` are the upper bounds, and the last count has none.
    pub latency: [u64; LATENCY_BOUNDS_MS.len() + 1],
}

/// Milliseconds, inclusive.
pub const LATENCY_BOUNDS_MS: [u64; 9] = [1, 5, 10, 30, 50, 100, 500, 1000, 5000];

impl Meter {
    pub fn new(inner: Arc<dyn KeyManagementService>) -> Self {
        Self { inner, figures: Mutex::default() }
    }

    /// The figures of one operation.
    pub fn figures(&self, operation: Operation) -> Figures {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.get(&operation).cloned().unwrap_or_default()
    }

    /// The figures of every operation that was called, by its word.
    pub(crate) fn all(&self) -> BTreeMap<&'static str, Figures> {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.iter().map(|(operation, figures)| (operation.word(), figures.clone())).collect()
    }

    fn count(&self, operation: Operation, took: Duration, failures: &[Code], requests: usize) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = figures.entry(operation).or_default();
        figures.calls += 1;
        figures.requests += requests as u64;
        figures.succeeded += requests.saturating_sub(failures.len()) as u64;
        for code in failures {
            *figures.failed.entry(code.word()).or_default() += 1;
        }
        figures.time += took;
        figures.latency[LATENCY_BOUNDS_MS.partition_point(|bound| took > Duration::from_millis(*bound))] += 1;
    }

    fn log(&self, operation: Operation, took: Duration, failures: &[Code], requests: usize) {
        let root = self.inner.uri().as_str();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let failed = failures.len();
        // The log line names one code; the figures have them all.
        let code = failures.first().map_or("", |c| c.word());
        let operation = operation.word();
        if failures.is_empty() {
            tracing::debug!(target: "enfold::kms", root, operation, requests, took_us, "called the key service");
        } else if failures.iter().all(|c| c.retry() == Retry::Later) {
            tracing::info!(target: "enfold::kms", root, operation, requests, failed, code, took_us, "the key service failed for now");
        } else {
            tracing::warn!(target: "enfold::kms", root, operation, requests, failed, code, took_us, "the key service refused");
        }
    }
}

impl Around for Meter {
    fn inner(&self) -> &Arc<dyn KeyManagementService> {
        &self.inner
    }

    async fn around<R: Request>(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let started = Instant::now();
        let (operation, provider) = (R::OPERATION.word(), self.inner.uri().provider());
        let span = span!("key service", "kms", operation = operation, provider = provider, requests = requests.len(); failed, code);
        let answers = R::send(&*self.inner, requests).instrument(span.clone()).await;
        let took = started.elapsed();
        let failures: Vec<Code> = answers.iter().filter_map(|a| a.as_ref().err()).map(crate::Error::code).collect();
        if let Some(code) = failures.first() {
            span.record("failed", failures.len());
            span.record("code", code.word());
        }
        self.count(R::OPERATION, took, &failures, requests.len());
        self.log(R::OPERATION, took, &failures, requests.len());
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::kms::{EncryptionContext, KeyManagementServiceExt, KeyMaterial, MemoryKms, MemoryState, WrapRequest};

    #[tokio::test]
    async fn calls_requests_and_results_are_counted_by_operation() {
        let memory = Arc::new(MemoryKms::new("a").unwrap());
        let meter = Meter::new(memory.clone());
        let (key, context) = (KeyMaterial::generate().unwrap(), EncryptionContext::new());
        let request = WrapRequest { key: &key, context: &context };
        assert!(meter.wrap(&[request, request]).await.iter().all(Result::is_ok));
        memory.set_state(MemoryState::Throttled);
        assert!(meter.wrap(&[request]).await[0].is_err());
        assert!(meter.describer().unwrap().describe().await.is_err());

        let wrap = meter.figures(Operation::Wrap);
        assert_eq!((wrap.calls, wrap.requests, wrap.succeeded), (2, 3, 2));
        assert_eq!(wrap.failed, BTreeMap::from([("kms-throttled", 1)]));
        assert_eq!(wrap.latency.iter().sum::<u64>(), 2);
        assert_eq!(meter.figures(Operation::Describe).calls, 1);
        assert_eq!(meter.figures(Operation::Unwrap), Figures::default());
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_has_its_own_target_and_neither_keys_nor_contexts() {
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("enfold::kms=debug")
            .with_writer(move || sink.clone())
            .with_ansi(false)
            .finish();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                let memory = Arc::new(MemoryKms::new("orders").unwrap());
                let meter = Meter::new(memory.clone());
                let context = EncryptionContext::new().with("data_class", "label-value").unwrap();
                let key = KeyMaterial::from_bytes(&mut [b'K'; 32]);
                meter.wrap_one(&key, &context).await.unwrap();
                memory.set_state(MemoryState::Denied);
                meter.wrap_one(&key, &context).await.unwrap_err();
            });
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|l| l.contains("enfold::kms:") && l.contains("memory:orders")), "{text}");
        assert!(text.contains("kms-access-denied"));
        assert!(!text.contains("label-value") && !text.contains("KKKK") && !text.contains("75, 75"), "{text}");
    }
}
