//! What one look cannot tell: rates, what fell into a window of time, and how long ago the log was where a replica is
//! now. Pure arithmetic on the store's clock.

use std::collections::VecDeque;
use std::time::Duration;

use super::Told;
use super::measure::Measured;

/// Positions of the log that are remembered: an hour of looks, the longest lag that can be a limit.
const POSITIONS: usize = 3_600;

#[derive(Default)]
pub(super) struct History {
    wal: Option<(Duration, i64)>,
    /// When the log was where, as far as not every replica has replayed it.
    positions: VecDeque<(Duration, i64)>,
    /// When the server's count of requested checkpoints came to what.
    checkpoints: VecDeque<(Duration, i64)>,
}

impl History {
    /// Takes a look into account.
    pub(super) fn look(&mut self, now: Duration, measured: &Measured) -> Told {
        Told {
            replica_lag: measured.replay_lag.max(self.lag(now, measured.wal, measured.replayed)),
            wal_rate: self.wal_rate(now, measured.wal),
            requested_checkpoints: self.requested(now, measured.requested, measured.checkpoint_timeout),
        }
    }

    /// Bytes a second since the last look.
    #[allow(clippy::cast_precision_loss, reason = "a rate, for comparison")]
    fn wal_rate(&mut self, now: Duration, wal: i64) -> f64 {
        let before = self.wal.replace((now, wal));
        before
            .map_or(0.0, |(at, then)| wal.saturating_sub(then) as f64 / now.saturating_sub(at).as_secs_f64().max(0.001))
    }

    /// How long ago the log was first beyond where the slowest replica is. `replay_lag` says nothing of a replica whose
    /// replay stands still, because the server measures it when a position has been replayed.
    fn lag(&mut self, now: Duration, wal: i64, replayed: Option<i64>) -> Duration {
        let Some(replayed) = replayed else {
            self.positions.clear();
            return Duration::ZERO;
        };
        self.positions.push_back((now, wal));
        while self.positions.front().is_some_and(|(_, position)| *position <= replayed) {
            self.positions.pop_front();
        }
        if self.positions.len() > POSITIONS {
            // The oldest tells how long it is; the ones after it are the ones to do without.
            self.positions.remove(1);
        }
        self.positions.front().map_or(Duration::ZERO, |(at, _)| now.saturating_sub(*at))
    }

    fn requested(&mut self, now: Duration, count: i64, window: Duration) -> i64 {
        if self.checkpoints.back().is_none_or(|(_, seen)| *seen != count) {
            self.checkpoints.push_back((now, count));
        }
        // Counting begins at the newest count that is as old as the window.
        while self.checkpoints.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= window) {
            self.checkpoints.pop_front();
        }
        self.checkpoints.front().map_or(0, |(_, before)| count.saturating_sub(*before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_replica_that_stands_still_falls_behind_and_catches_up() {
        let mut history = History::default();
        assert_eq!(history.lag(s(0), 100, Some(100)), s(0));
        assert_eq!(history.lag(s(1), 200, Some(100)), s(0));
        assert_eq!(history.lag(s(5), 300, Some(100)), s(4));
        assert_eq!(history.lag(s(6), 300, Some(250)), s(1), "what it has replayed since counts no more");
        assert_eq!(history.lag(s(7), 300, Some(300)), s(0));
        history.lag(s(8), 400, Some(300));
        assert_eq!(history.lag(s(20), 400, None), s(0), "a replica that is gone holds nobody up");
    }

    #[test]
    fn a_very_long_lag_is_told_from_its_beginning() {
        let mut history = History::default();
        let mut lag = s(0);
        for second in 0..2 * 3_600 {
            lag = history.lag(s(second), 1_000 + i64::try_from(second).unwrap(), Some(999));
        }
        assert_eq!((lag, history.positions.len()), (s(2 * 3_600 - 1), POSITIONS));
    }

    #[test]
    fn requested_checkpoints_count_while_they_are_in_the_window() {
        let mut history = History::default();
        let mut at = |second, count| history.requested(s(second), count, s(30));
        assert_eq!(at(0, 7), 0, "those before the first look are nobody's");
        assert_eq!(at(10, 8), 1);
        assert_eq!(at(20, 10), 3);
        assert_eq!(at(39, 10), 3);
        assert_eq!(at(40, 10), 2);
        assert_eq!(at(50, 10), 0);
        assert_eq!(at(60, 0), -10, "statistics that were reset are under every limit");
    }

    #[test]
    fn the_log_grows_by_what_came_since_the_last_look() {
        let mut history = History::default();
        assert!(history.wal_rate(s(1), 5_000) < 0.5, "the first look knows no rate");
        assert!((history.wal_rate(s(3), 9_000) - 2_000.0).abs() < 0.5);
    }
}
