//! Drawings: a few shapes in SVG, made here, so that they need no script, take their colours from the style sheet in light and in
//! dark, and can be read out.

use askama::Template;
use enfold_jobs::shown::count;

/// The drawing's own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;
const HOUR_MS: i64 = 3_600_000;
/// Bars of a timeline: a day of hours at least.
const MOST_BARS: i64 = 48;
const FEWEST_BARS: i64 = 24;
/// A key's age is drawn in tenths of the cadence; the last bar is for all that are older.
const TENTHS: usize = 11;

/// One bar, and what it says when it is pointed at.
pub(super) struct Bar {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    class: &'static str,
    says: String,
}

/// Bars side by side, as tall as their numbers.
#[derive(Template)]
#[template(path = "bars.html")]
pub(super) struct Bars {
    says: String,
    bars: Vec<Bar>,
    first: String,
    last: String,
    most: String,
}

impl Bars {
    fn of(says: String, bars: Vec<(u64, &'static str, String)>, first: String, last: String) -> Self {
        let most = bars.iter().map(|(number, ..)| *number).max().unwrap_or_default();
        let step = WIDTH / bars.len().max(1) as f64;
        let drawn = bars.into_iter().enumerate().map(|(at, (number, class, says))| {
            let height = number as f64 / most.max(1) as f64 * HEIGHT;
            // What is there can be seen, however little it is.
            let height = if number > 0 { height.max(2.0) } else { 0.0 };
            Bar { x: step * at as f64 + step * 0.1, y: HEIGHT - height, width: step * 0.8, height, class, says }
        });
        Self { says, bars: drawn.collect(), first, last, most: count(most) }
    }
}

/// Events by when they were.
pub(super) struct Timeline(pub(super) Bars);

impl Timeline {
    /// None where there is nothing to draw.
    pub(super) fn of(moments: impl Iterator<Item = i64> + Clone) -> Option<Self> {
        let (first, last) = (moments.clone().min()?, moments.clone().max()?);
        // Whole hours, as many of them to a bar as it takes.
        let hours = (last / HOUR_MS - first / HOUR_MS + 1).max(FEWEST_BARS);
        let step = (hours + MOST_BARS - 1) / MOST_BARS;
        let bars = (hours + step - 1) / step;
        // The last bar is the one of the last event.
        let start = last / HOUR_MS + 1 - bars * step;
        let mut counted = vec![0_u64; usize::try_from(bars).unwrap_or(1)];
        for at in moments.clone() {
            let bar = usize::try_from((at / HOUR_MS - start) / step).unwrap_or_default();
            if let Some(number) = counted.get_mut(bar) {
                *number += 1;
            }
        }
        let label = |hour: i64| {
            let at = jiff::Timestamp::from_millisecond(hour * HOUR_MS).unwrap_or_default();
            at.strftime("%Y-%m-%d %H:%M").to_string()
        };
        let end = label(start + bars * step);
        let says = format!("{} events, from {} to {}", count(moments.count() as u64), label(start), end);
        let bars = counted.into_iter().zip(0_i64..).map(|(number, at)| {
            let from = label(start + at * step);
            (number, "bar", format!("{}: {} from {from}, {step} h", count(number), plural(number)))
        });
        Some(Self(Bars::of(says, bars.collect(), label(start), end)))
    }
}

fn plural(number: u64) -> &'static str {
    if number == 1 { "event" } else { "events" }
}

/// How old data keys are that seal, in tenths of the cadence.
pub(super) struct Ages(pub(super) Bars);

impl Ages {
    pub(super) fn of(ages_ms: impl Iterator<Item = i64>, cadence_ms: i64) -> Self {
        let mut counted = [0_u64; TENTHS];
        let (mut all, mut past) = (0_u64, 0_u64);
        for age in ages_ms {
            let tenth = usize::try_from(age.max(0) * 10 / cadence_ms.max(1)).unwrap_or(usize::MAX).min(TENTHS - 1);
            if let Some(number) = counted.get_mut(tenth) {
                *number += 1;
            }
            all += 1;
            past += u64::from(age >= cadence_ms);
        }
        let bars = counted.into_iter().enumerate().map(|(tenth, number)| match tenth {
            10 => (number, "bar late", format!("{}: older than the cadence", count(number))),
            _ => (number, "bar", format!("{}: {} to {} % of the cadence", count(number), tenth * 10, tenth * 10 + 10)),
        });
        let says = format!("{} data keys that seal, {} of them older than the cadence", count(all), count(past));
        Self(Bars::of(says, bars.collect(), "new".to_owned(), "past the cadence".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bars: &Bars) -> Vec<&str> {
        bars.bars.iter().map(|bar| bar.says.split(':').next().unwrap_or_default()).collect()
    }

    #[test]
    fn every_event_is_in_one_bar() {
        let at = |hour: i64| 1_700_000_000_000 / HOUR_MS * HOUR_MS + hour * HOUR_MS + 1;
        let Timeline(bars) = Timeline::of([at(0), at(0), at(1), at(3)].into_iter()).unwrap();
        assert_eq!(bars.bars.len(), 24);
        assert_eq!(numbers(&bars)[20..], ["2", "1", "0", "1"]);
        let Timeline(bars) = Timeline::of((0..1_000).map(at)).unwrap();
        assert!(bars.bars.len() <= 48, "{}", bars.bars.len());
        let counted: u64 = numbers(&bars).iter().map(|number| number.parse::<u64>().unwrap()).sum();
        assert_eq!(counted, 1_000);
        assert!(Timeline::of(std::iter::empty()).is_none());
    }

    #[test]
    fn keys_past_the_cadence_have_a_bar_of_their_own() {
        let Ages(bars) = Ages::of([0, 9, 10, 99, 100, 5_000].into_iter(), 100);
        assert_eq!(numbers(&bars), ["2", "1", "0", "0", "0", "0", "0", "0", "0", "1", "2"]);
        assert_eq!(bars.says, "6 data keys that seal, 2 of them older than the cadence");
    }

    #[test]
    fn bars_stay_within_the_drawing() {
        let Ages(bars) = Ages::of([1; 1_000].into_iter().chain([99]), 100);
        for bar in &bars.bars {
            assert!(bar.y >= 0.0 && bar.y + bar.height <= HEIGHT && bar.x + bar.width <= WIDTH);
            assert!(bar.height == 0.0 || bar.height >= 2.0);
        }
    }
}
