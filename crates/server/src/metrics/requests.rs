//! Requests to the service, while they are counted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Method;
use enfold::metrics::DURATION_BOUNDS_US;
use enfold::{Code, access::Permission};

use crate::api::ENDPOINTS;

/// What a request is counted under where no endpoint is at its path, or none with its method. Words of callers' are no labels.
const UNKNOWN: &str = "unknown";

/// What was asked of the service, and what it refused by itself.
#[derive(Default)]
pub(crate) struct Requests(Mutex<Counted>);

#[derive(Default)]
pub(super) struct Counted {
    /// By method, path and status.
    pub(super) answers: BTreeMap<(&'static str, &'static str, u16), u64>,
    pub(super) times: BTreeMap<&'static str, Times>,
    /// Items of batches, by operation and the word of the error's code.
    pub(super) refused: BTreeMap<(&'static str, &'static str), u64>,
}

/// How long requests took.
#[derive(Default)]
pub(super) struct Times {
    pub(super) counts: [u64; DURATION_BOUNDS_US.len() + 1],
    pub(super) sum: Duration,
}

impl Requests {
    /// Counts an answered request. `path` is the one that routes have, not the one that was asked for.
    pub(crate) fn answered(&self, method: &Method, path: Option<&str>, status: u16, took: Duration) {
        let (method, known) = words(method, path);
        let mut counted = self.lock();
        *counted.answers.entry((method, known, status)).or_default() += 1;
        let times = counted.times.entry(known).or_default();
        times.sum += took;
        times.counts[DURATION_BOUNDS_US.partition_point(|bound| took > Duration::from_micros(*bound))] += 1;
    }

    /// Counts an item that did not come as far as the keys.
    pub(crate) fn refused(&self, needed: Permission, code: Code) {
        let operation = if needed == Permission::Encrypt { "encrypt" } else { "decrypt" };
        *self.lock().refused.entry((operation, code.word())).or_default() += 1;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Counted> {
        // No code under this lock panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The words of a request's method and path: an endpoint's.
pub(crate) fn words(method: &Method, path: Option<&str>) -> (&'static str, &'static str) {
    let at_path = || ENDPOINTS.iter().filter(|endpoint| Some(endpoint.path) == path);
    let known = at_path().next().map_or(UNKNOWN, |endpoint| endpoint.path);
    (at_path().find(|endpoint| endpoint.method == *method).map_or(UNKNOWN, |e| e.method.as_str()), known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_make_up_is_counted_under_one_word() {
        let requests = Requests::default();
        for n in 0..1_000 {
            let method = Method::from_bytes(format!("M{n}").as_bytes()).unwrap();
            requests.answered(&method, Some(&format!("/nowhere/{n}")), 404, Duration::from_millis(n));
            requests.answered(&method, Some("/healthz"), 405, Duration::ZERO);
        }
        requests.answered(&Method::GET, Some("/healthz"), 200, Duration::ZERO);
        let counted = requests.lock();
        let answers: Vec<_> = counted.answers.iter().map(|(labels, n)| (*labels, *n)).collect();
        assert_eq!(
            answers,
            [
                (("GET", "/healthz", 200), 1),
                (("unknown", "/healthz", 405), 1_000),
                (("unknown", "unknown", 404), 1_000)
            ]
        );
        assert_eq!(counted.times.keys().copied().collect::<Vec<_>>(), ["/healthz", "unknown"]);
        assert_eq!(counted.times["unknown"].counts.iter().sum::<u64>(), 1_000);
    }
}
