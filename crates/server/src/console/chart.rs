//! Drawings: a few shapes in SVG, made here, so that they need no script, take their colours from the style sheet in light and in
//! dark, and can be read out.

use askama::Template;
use enfold_jobs::shown::{count, time};

/// The drawing's own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Bars over time: so many hours, or days, at least.
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
        let bars = bars.into_iter().map(|(number, class, says)| (vec![(number, class)], says));
        Self::stacked(says, bars.collect(), first, last)
    }

    /// Of several parts each, the first at the bottom.
    fn stacked(says: String, bars: Vec<(Vec<(u64, &'static str)>, String)>, first: String, last: String) -> Self {
        let tall = |parts: &[(u64, &str)]| parts.iter().map(|(number, _)| number).sum::<u64>();
        let most = bars.iter().map(|(parts, _)| tall(parts)).max().unwrap_or_default();
        let step = WIDTH / bars.len().max(1) as f64;
        let mut drawn = Vec::new();
        for (at, (parts, says)) in bars.into_iter().enumerate() {
            let mut top = HEIGHT;
            for (number, class) in parts {
                let height = number as f64 / most.max(1) as f64 * HEIGHT;
                // What is there can be seen, however little it is.
                let height = if number > 0 { height.max(2.0) } else { 0.0 };
                top = (top - height).max(0.0);
                drawn.push(Bar {
                    x: step * at as f64 + step * 0.1,
                    y: top,
                    width: step * 0.8,
                    height,
                    class,
                    says: says.clone(),
                });
            }
        }
        Self { says, bars: drawn, first, last, most: count(most) }
    }
}

/// Time cut into bars of as many whole units as it takes. The last bar is that of the last moment.
struct Cut {
    unit_ms: i64,
    /// Units of a bar.
    step: i64,
    bars: i64,
    /// In units since 1970.
    start: i64,
}

impl Cut {
    fn of(first_ms: i64, last_ms: i64, unit_ms: i64) -> Self {
        let units = (last_ms / unit_ms - first_ms / unit_ms + 1).max(FEWEST_BARS);
        let step = (units + MOST_BARS - 1) / MOST_BARS;
        let bars = (units + step - 1) / step;
        Self { unit_ms, step, bars, start: last_ms / unit_ms + 1 - bars * step }
    }

    /// The bar of a moment.
    fn bar(&self, at_ms: i64) -> usize {
        usize::try_from((at_ms / self.unit_ms - self.start) / self.step).unwrap_or_default()
    }

    /// One of each bar.
    fn empty<T: Clone + Default>(&self) -> Vec<T> {
        vec![T::default(); usize::try_from(self.bars).unwrap_or(1)]
    }

    /// When a bar begins.
    fn label(&self, bar: i64, form: &str) -> String {
        let at = jiff::Timestamp::from_millisecond((self.start + bar * self.step) * self.unit_ms);
        at.unwrap_or_default().strftime(form).to_string()
    }
}

/// Events by when they were.
pub(super) struct Timeline(pub(super) Bars);

impl Timeline {
    /// None where there is nothing to draw.
    pub(super) fn of(moments: impl Iterator<Item = i64> + Clone) -> Option<Self> {
        let (first, last) = (moments.clone().min()?, moments.clone().max()?);
        let cut = Cut::of(first, last, HOUR_MS);
        let mut counted = cut.empty::<u64>();
        for at in moments.clone() {
            if let Some(number) = counted.get_mut(cut.bar(at)) {
                *number += 1;
            }
        }
        let label = |bar: i64| cut.label(bar, "%Y-%m-%d %H:%M");
        let says = format!("{} events, from {} to {}", count(moments.count() as u64), label(0), label(cut.bars));
        let bars = counted.into_iter().zip(0_i64..).map(|(number, at)| {
            (number, "bar", format!("{}: {} from {}, {} h", count(number), plural(number), label(at), cut.step))
        });
        Some(Self(Bars::of(says, bars.collect(), label(0), label(cut.bars))))
    }
}

/// What was counted at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CountedAt {
    pub(super) at_ms: i64,
    /// Values in envelopes, and those that are neither in one nor NULL.
    pub(super) envelopes: u64,
    pub(super) others: u64,
}

/// Counts by the days on which they were: of several for a bar the last, for it says how the others ended.
pub(super) struct OverTime(pub(super) Bars);

impl OverTime {
    /// `counts` in their order; none where there is nothing to draw.
    pub(super) fn of(counts: &[CountedAt]) -> Option<Self> {
        let (first, last) = (counts.first()?, counts.last()?);
        let cut = Cut::of(first.at_ms, last.at_ms, DAY_MS);
        let mut shown = cut.empty::<Option<&CountedAt>>();
        for counted in counts {
            if let Some(bar) = shown.get_mut(cut.bar(counted.at_ms)) {
                *bar = Some(counted);
            }
        }
        let say = |counted: &CountedAt| {
            let at = time(counted.at_ms).unwrap_or_default();
            format!(
                "{at}: {} values in envelopes, {} that are in none",
                count(counted.envelopes),
                count(counted.others)
            )
        };
        let bars = shown.into_iter().map(|bar| match bar {
            Some(counted) => (vec![(counted.envelopes, "bar"), (counted.others, "bar bad")], say(counted)),
            None => (Vec::new(), String::new()),
        });
        let says = match counts.len() {
            1 => format!("One count, {}", say(last)),
            many => format!("{} counts, the last {}", count(many as u64), say(last)),
        };
        let label = |bar: i64| cut.label(bar, "%Y-%m-%d");
        Some(Self(Bars::stacked(says, bars.collect(), label(0), label(cut.bars - 1))))
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
    fn of_several_counts_in_a_bar_the_last_is_drawn_and_a_single_leak_can_be_seen() {
        let at = |day: i64, envelopes, others| CountedAt { at_ms: (20_000 + day) * DAY_MS + 1, envelopes, others };
        let leak = CountedAt { at_ms: at(3, 0, 0).at_ms + HOUR_MS, ..at(3, 100_000, 1) };
        let OverTime(bars) = OverTime::of(&[at(0, 0, 90), at(1, 60, 30), at(3, 90, 0), leak]).unwrap();
        let drawn = |class: &str| bars.bars.iter().filter(|bar| bar.class == class && bar.height > 0.0).count();
        assert_eq!((drawn("bar"), drawn("bar bad")), (2, 3));
        assert_eq!(
            bars.says,
            "4 counts, the last 2024-10-07T01:00:00Z: 100,000 values in envelopes, 1 that are in none"
        );
        assert_eq!((bars.first.as_str(), bars.last.as_str()), ("2024-09-14", "2024-10-07"));
        assert!(bars.bars.iter().all(|bar| bar.y >= 0.0 && bar.y + bar.height <= HEIGHT + 2.0));
        let OverTime(bars) = OverTime::of(&(0..1_000).map(|day| at(day, 1, 0)).collect::<Vec<_>>()).unwrap();
        assert!(bars.bars.len() <= 96, "{}", bars.bars.len());
        assert!(OverTime::of(&[]).is_none());
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
