//! `[rings.RING.rotation]`: when data keys are rotated by themselves, and what follows.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::DurationText;
use super::resolve::{Resolver, duration, keys};

/// When data keys are rotated by themselves, and what follows.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRotation {
    /// How old a data key becomes before it is due to be rotated. None: data keys are rotated when somebody asks for it.
    #[schemars(extend("x-minimum" = "1h"))]
    pub cadence: Option<DurationText>,
    /// Whether workers that hold the operators' key rotate what is due. If not, `enfold status` says what is due, and nobody
    /// acts on it.
    pub enabled: bool,
    /// When workers may rotate: days and a time in UTC, as `02:00-05:00` or `Sat,Sun 22:00-04:00`. None: at any time. What is
    /// re-encrypted afterwards goes on until it is done.
    #[schemars(extend("format" = "window"))]
    pub window: Option<String>,
    /// Whether workers re-encrypt what is under former data keys: after a rotation by schedule, and when a worker starts.
    pub auto_reencrypt: bool,
    /// Rows in a batch of such a re-encryption, at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub reencrypt_batch_size: u32,
    /// How often such a batch may be written: with `reencrypt_batch_size` it is the job's rate. Zero: as fast as `[jobs]`
    /// says.
    #[schemars(extend("x-maximum" = "1d"))]
    pub reencrypt_interval: DurationText,
    /// How long a former data key opens before it may be disabled. Workers do it in a ring with a cadence, when no value needs
    /// the key any more; in others `enfold status` says which are past it. Backups from within this time open without more.
    #[schemars(extend("x-maximum" = "3650d"))]
    pub grace_period: DurationText,
    /// When the ring's root keys have new versions, apart from its data keys.
    pub roots: RawRootRotation,
}

/// When the ring's root keys have new versions in their key services, apart from its data keys. The data keys of every ring
/// that names such a root key are then wrapped by its newest version.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawRootRotation {
    /// How old the newest version of a root key becomes before the next one is due. None: root keys are rotated when somebody
    /// asks for it, or by their services.
    #[schemars(extend("x-minimum" = "1d"))]
    pub cadence: Option<DurationText>,
    /// Whether workers that hold the operators' key act on what is due. If not, `enfold status` says what is due, and nobody
    /// acts on it.
    pub enabled: bool,
    /// When workers may begin, as the `window` of data keys.
    #[schemars(extend("format" = "window"))]
    pub window: Option<String>,
}

impl Default for RawRootRotation {
    fn default() -> Self {
        Self { cadence: None, enabled: true, window: None }
    }
}

impl Default for RawRotation {
    fn default() -> Self {
        Self {
            cadence: None,
            enabled: true,
            window: None,
            auto_reencrypt: true,
            reencrypt_batch_size: 1_000,
            reencrypt_interval: DurationText::from("0s"),
            roots: RawRootRotation::default(),
            grace_period: DurationText::from("30d"),
        }
    }
}

/// When data keys are rotated by themselves, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotationPolicy {
    /// How old a data key becomes before it is due.
    pub cadence: Option<Duration>,
    /// Whether workers act on what is due.
    pub enabled: bool,
    pub window: Option<Window>,
    pub auto_reencrypt: bool,
    /// Rows in a batch, at most.
    pub reencrypt_batch_size: u32,
    /// Rows a second; none where only `[jobs]` limits them.
    pub reencrypt_rate: Option<u32>,
    /// How long a former data key opens before it may be disabled.
    pub grace_period: Duration,
    pub roots: RootRotationPolicy,
}

/// When root keys have new versions by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootRotationPolicy {
    /// How old the newest version becomes before the next is due.
    pub cadence: Option<Duration>,
    /// Whether workers act on what is due.
    pub enabled: bool,
    pub window: Option<Window>,
}

/// Days of the week and a time of the day, in UTC. Of a window over midnight the day is that of its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From Monday on.
    days: [bool; 7],
    /// In minutes since midnight; the same twice is a whole day.
    from: u16,
    to: u16,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY: u16 = 24 * 60;

impl Window {
    /// Reads `02:00-05:00` or `Sat,Sun 22:00-04:00`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (days, time) = match text.trim().rsplit_once(' ') {
            None => ([true; 7], text.trim()),
            Some((names, time)) => {
                let mut days = [false; 7];
                for name in names.split(',') {
                    let name = name.trim().to_ascii_lowercase();
                    days[DAYS.iter().position(|day| *day == name)?] = true;
                }
                (days, time)
            }
        };
        let (from, to) = time.split_once('-')?;
        Some(Self { days, from: minutes(from)?, to: minutes(to)? })
    }

    /// Whether this moment, in milliseconds since 1970, is in it.
    pub fn holds(&self, at_ms: i64) -> bool {
        let minute = at_ms.div_euclid(60_000);
        // The first of January 1970 was a Thursday.
        let day = usize::try_from((minute.div_euclid(i64::from(DAY)) + 3).rem_euclid(7)).unwrap_or(0);
        let minute = u16::try_from(minute.rem_euclid(i64::from(DAY))).unwrap_or(0);
        match (self.from, self.to) {
            (from, to) if from == to => self.days[day],
            (from, to) if from < to => self.days[day] && (from..to).contains(&minute),
            (from, to) => self.days[day] && minute >= from || self.days[(day + 6) % 7] && minute < to,
        }
    }
}

fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (minutes < 60 && (hours < 24 || (hours, minutes) == (24, 0))).then_some((hours * 60 + minutes) % DAY)
}

pub(super) fn resolve(at: &mut Resolver<'_>, ring: &str, raw: RawRotation) -> RotationPolicy {
    let mut window = |text: Option<String>, path: &[&str]| {
        let text = text?;
        let window = Window::parse(&text);
        if window.is_none() {
            let message = "expected days and a time in UTC, as `02:00-05:00` or `Sat,Sun 22:00-04:00`";
            at.report(&keys(path), message);
        }
        window
    };
    let roots = RootRotationPolicy {
        cadence: raw.roots.cadence.as_ref().map(duration),
        enabled: raw.roots.enabled,
        window: window(raw.roots.window, &["rings", ring, "rotation", "roots", "window"]),
    };
    let window = window(raw.window, &["rings", ring, "rotation", "window"]);
    let interval = duration(&raw.reencrypt_interval).as_millis();
    let rate = (interval > 0).then(|| (u128::from(raw.reencrypt_batch_size) * 1_000).div_ceil(interval));
    RotationPolicy {
        cadence: raw.cadence.as_ref().map(duration),
        enabled: raw.enabled,
        window,
        auto_reencrypt: raw.auto_reencrypt,
        reencrypt_batch_size: raw.reencrypt_batch_size,
        reencrypt_rate: rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)),
        roots,
        grace_period: duration(&raw.grace_period),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_window_is_of_days_and_a_time() {
        let nights = Window::parse("02:00-05:00").unwrap();
        assert!(nights.holds(at("2026-11-27T02:00:00Z")) && nights.holds(at("2026-11-27T04:59:59Z")));
        assert!(!nights.holds(at("2026-11-27T05:00:00Z")) && !nights.holds(at("2026-11-27T01:59:59Z")));
        // 2026-11-28 is a Saturday.
        let weekend = Window::parse("Sat, sun 22:00-04:00").unwrap();
        assert!(weekend.holds(at("2026-11-28T22:00:00Z")) && weekend.holds(at("2026-11-29T03:59:00Z")));
        assert!(weekend.holds(at("2026-11-30T03:59:00Z")), "Sunday's night ends on Monday");
        assert!(!weekend.holds(at("2026-11-28T03:00:00Z")), "and Friday's is none");
        assert!(!weekend.holds(at("2026-11-30T22:30:00Z")));
        let day = Window::parse("Fri 00:00-24:00").unwrap();
        assert!(day.holds(at("2026-11-27T23:59:00Z")) && !day.holds(at("2026-11-28T00:00:00Z")));
        assert!(day.holds(at("1969-12-26T12:00:00Z")), "before 1970 too");
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "2:00-5:00",
            "02:00",
            "Someday 02:00-05:00",
            "02:60-05:00",
            "25:00-26:00",
            "24:30-01:00",
            "-",
            "+1:00-02:00",
        ] {
            assert_eq!(Window::parse(text), None, "{text}");
        }
    }
}
