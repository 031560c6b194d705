//! Sealing and opening, while they are counted: by class of the column, which is a set that the policy closes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Counter, OperationMetrics, Spread};
use crate::error::{Code, Result};
use crate::policy::Policy;

/// Microseconds, inclusive. A value takes about one with its data key at hand, and what a key service takes without.
pub const DURATION_BOUNDS_US: [u64; 13] =
    [5, 20, 50, 100, 250, 1_000, 5_000, 10_000, 30_000, 50_000, 100_000, 1_000_000, 5_000_000];

/// Reading the clock again takes 21 ns where a single value takes some 760.
const ONE_IN: u64 = 16;

/// What was done with values, by class.
pub(crate) struct Operations(BTreeMap<String, Arc<Work>>);

/// With values of one class.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) seal: Series,
    pub(crate) open: Series,
}

/// [`OperationMetrics`] while it is counted.
#[derive(Default)]
pub(crate) struct Series {
    /// Single values that took the short way.
    short: Spread,
    succeeded: Counter,
    failed: Mutex<BTreeMap<&'static str, u64>>,
    nanos: Counter,
    durations: [Counter; DURATION_BOUNDS_US.len() + 1],
}

impl Operations {
    pub(crate) fn of(policy: &Policy) -> Self {
        let columns = policy.tables.values().flat_map(|table| table.columns.values());
        let classes: BTreeSet<String> = columns.filter_map(|column| column.class.clone()).collect();
        Self(classes.into_iter().chain([String::new()]).map(|class| (class, Arc::default())).collect())
    }

    /// None: of no class.
    pub(crate) fn of_class(&self, class: Option<&str>) -> Arc<Work> {
        self.0.get(class.unwrap_or_default()).cloned().unwrap_or_default()
    }

    pub(crate) fn read(&self) -> Vec<OperationMetrics> {
        let both =
            |(class, work): (&String, &Arc<Work>)| [work.seal.read("seal", class), work.open.read("open", class)];
        self.0.iter().flat_map(both).collect()
    }
}

impl Series {
    /// Counts a value that took the short way. `took` is asked for some of them.
    pub(crate) fn short<T>(&self, result: &Result<T>, took: impl FnOnce() -> Duration) {
        if let Err(error) = result {
            return self.fail(error.code(), 1);
        }
        if self.short.one_in(ONE_IN) {
            self.time(took(), ONE_IN);
        }
    }

    /// Counts a batch.
    pub(crate) fn batch<T>(&self, results: &[Result<T>], took: Duration) {
        let failed = results.iter().filter_map(|result| result.as_ref().err());
        let failures = failed.map(|error| self.fail(error.code(), 1)).count();
        self.succeeded.add((results.len() - failures) as u64);
        self.time(took, 1);
    }

    fn fail(&self, code: Code, values: u64) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed.entry(code.word()).or_default() += values;
    }

    fn time(&self, took: Duration, calls: u64) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.add(nanos.saturating_mul(calls));
        let bound = DURATION_BOUNDS_US.partition_point(|bound| nanos > bound * 1_000);
        self.durations[bound].add(calls);
    }

    fn read(&self, operation: &'static str, class: &str) -> OperationMetrics {
        OperationMetrics {
            operation,
            class: class.to_owned(),
            succeeded: self.short.read() + self.succeeded.read(),
            failed: self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            time: Duration::from_nanos(self.nanos.read()),
            durations: std::array::from_fn(|n| self.durations[n].read()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_duration_that_is_a_bound_counts_below_it_and_one_beyond_all_counts_last() {
        let series = Series::default();
        for us in [5, 6, 5_000_000, 5_000_001] {
            series.batch(&[Ok(())], Duration::from_micros(us));
        }
        let durations = series.read("seal", "").durations;
        assert_eq!((durations[0], durations[1]), (1, 1));
        assert_eq!((durations[DURATION_BOUNDS_US.len() - 1], durations[DURATION_BOUNDS_US.len()]), (1, 1));
    }

    #[test]
    fn of_values_on_the_short_way_each_is_counted_and_one_in_sixteen_timed() {
        let series = Series::default();
        let mut asked = 0;
        for _ in 0..2 * ONE_IN + 3 {
            series.short(&Ok(()), || {
                asked += 1;
                Duration::from_micros(2)
            });
        }
        let read = series.read("open", "email");
        assert_eq!((read.succeeded, asked), (2 * ONE_IN + 3, 2));
        assert_eq!((read.durations[0], read.time), (2 * ONE_IN, Duration::from_micros(4 * ONE_IN)));
    }

    #[test]
    fn each_value_of_a_batch_is_counted_as_what_became_of_it() {
        let series = Series::default();
        let refused = || Err(Error::new(Code::OpenFailed, "cannot open it"));
        series.batch(&[Ok(1), refused(), Ok(2), refused()], Duration::ZERO);
        series.short(&Err::<(), _>(Error::new(Code::EventsUnwritten, "nothing is written")), || Duration::ZERO);
        let read = series.read("open", "");
        assert_eq!(read.succeeded, 2);
        assert_eq!(read.failed, BTreeMap::from([("open-failed", 2), ("events-unwritten", 1)]));
    }
}
