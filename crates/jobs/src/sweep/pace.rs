//! How fast a sweep goes: batch size, rate, and waiting out errors. Pure arithmetic on the store's clock.

use std::time::Duration;

use enfold::{Error, Result, error::Retry};

/// Batches start at this many rows and find their size from there.
const FIRST_BATCH: u32 = 256;

/// Adapts the size of a batch so that its transaction takes about as long as it should.
pub(super) struct BatchSize {
    rows: u32,
    aim: Duration,
}

impl BatchSize {
    pub(super) fn new(aim: Duration) -> Self {
        Self { rows: FIRST_BATCH, aim }
    }

    /// At most what the operator allows, and never none.
    pub(super) fn get(&self, most: u32) -> u32 {
        self.rows.min(most).max(1)
    }

    /// Learns from a transaction that wrote `rows` in `took`. Moves halfway towards what would have taken the time aimed
    /// at, and at most to twice the size, so that one odd measurement does not make a huge batch.
    pub(super) fn learn(&mut self, rows: usize, took: Duration) {
        if rows == 0 {
            return;
        }
        let took = took.max(Duration::from_micros(10)).as_secs_f64();
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let ideal = f64::from(rows) * self.aim.as_secs_f64() / took;
        let middle = f64::midpoint(f64::from(self.rows), ideal);
        let bounded = middle.clamp(1.0, f64::from(self.rows) * 2.0).min(1e6);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=1e6 above")]
        {
            self.rows = bounded as u32;
        }
    }

    /// The database would not take so many at once.
    pub(super) fn halve(&mut self) {
        self.rows = (self.rows / 2).max(1);
    }
}

/// Spreads rows over time.
#[derive(Default)]
pub(super) struct Rate {
    next: Duration,
}

impl Rate {
    /// How long to wait before the next batch.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        self.next.saturating_sub(now)
    }

    /// `rows` are on their way, at `per_second` (zero is taken for one). Time in which nothing was asked for is not
    /// saved up.
    pub(super) fn spend(&mut self, now: Duration, rows: usize, per_second: u32) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.next = self.next.max(now) + Duration::from_secs_f64(f64::from(rows) / f64::from(per_second.max(1)));
    }
}

/// Counts the time since the last success, and how long to wait before trying again.
pub(super) struct Patience {
    most: Duration,
    since: Option<Duration>,
    tries: u32,
}

impl Patience {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, since: None, tries: 0 }
    }

    pub(super) fn success(&mut self) {
        self.since = None;
        self.tries = 0;
    }

    /// How long to wait after `error`; the error itself when it will not go away, or has not for too long.
    pub(super) fn spend(&mut self, error: Error, now: Duration) -> Result<Duration> {
        if error.code().retry() == Retry::Never {
            return Err(error);
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) > self.most {
            return Err(error);
        }
        self.tries += 1;
        Ok(Duration::from_millis(50 << self.tries.min(6)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enfold::Code;

    const AIM: Duration = Duration::from_millis(100);

    #[test]
    fn batches_grow_while_writes_are_quick_and_shrink_when_they_are_slow() {
        let mut size = BatchSize::new(AIM);
        for _ in 0..10 {
            let rows = size.get(2_000);
            // 50 us a row: 2,000 rows take what is aimed at.
            size.learn(rows as usize, Duration::from_micros(50) * rows);
        }
        assert!((1_500..=2_000).contains(&size.get(2_000)), "{}", size.get(2_000));
        for _ in 0..20 {
            let rows = size.get(2_000);
            size.learn(rows as usize, Duration::from_millis(10) * rows);
        }
        assert!((5..=15).contains(&size.get(2_000)), "{}", size.get(2_000));
    }

    #[test]
    fn a_batch_is_never_empty_and_never_more_than_the_operator_allows() {
        let mut size = BatchSize::new(AIM);
        for _ in 0..20 {
            size.halve();
        }
        assert_eq!(size.get(100), 1);
        for _ in 0..40 {
            size.learn(1_000, Duration::ZERO);
        }
        assert_eq!(size.get(300), 300);
        assert_eq!(size.get(0), 1);
    }

    #[test]
    fn a_rate_makes_the_next_batch_wait_and_saves_nothing_up() {
        let mut rate = Rate::default();
        let now = Duration::from_secs(1_000);
        assert_eq!(rate.wait(now), Duration::ZERO);
        rate.spend(now, 500, 1_000);
        assert_eq!(rate.wait(now), Duration::from_millis(500));
        rate.spend(now + Duration::from_secs(60), 500, 1_000);
        assert_eq!(rate.wait(now + Duration::from_secs(60)), Duration::from_millis(500));
    }

    #[test]
    fn passing_errors_are_waited_out_for_a_while_and_others_not_at_all() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let passing = || Error::new(Code::DatabaseUnavailable, "x");
        assert!(patience.spend(Error::new(Code::DatabaseDenied, "x"), Duration::ZERO).is_err());
        let first = patience.spend(passing(), Duration::ZERO).unwrap();
        let second = patience.spend(passing(), Duration::from_secs(1)).unwrap();
        assert!(second > first);
        assert!(patience.spend(passing(), Duration::from_secs(11)).is_err());
        patience.success();
        assert!(patience.spend(passing(), Duration::from_secs(12)).is_ok());
    }
}
