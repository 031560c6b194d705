//! The text that Prometheus reads: version 0.0.4 of its exposition format.

use std::fmt::{Display, Write as _};

use super::table::{Kind, Metric};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Figures as they are written down, a family after the other.
pub(super) struct Text<'a> {
    prefix: &'a str,
    text: String,
}

/// The samples of one figure.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: String,
    metric: &'static Metric,
}

/// Counts by size: those up to each of `bounds`, in seconds, and beyond all of them.
pub(super) struct Sizes<'a> {
    pub(super) bounds: &'a [f64],
    pub(super) counts: &'a [u64],
    /// Seconds.
    pub(super) sum: f64,
}

impl<'a> Text<'a> {
    pub(super) fn new(prefix: &'a str) -> Self {
        Self { prefix, text: String::with_capacity(16 << 10) }
    }

    /// Begins a figure, which is named also where nothing is counted yet.
    pub(super) fn family(&mut self, metric: &'static Metric) -> Family<'_> {
        let name = format!("{}_{}", self.prefix, metric.name);
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {}\n# TYPE {name} {}", metric.says, metric.kind.word());
        Family { text: &mut self.text, name, metric }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// A sample, with a value for each of the figure's labels.
    pub(super) fn put(&mut self, labels: &[&str], value: impl Display) {
        self.sample("", labels, None, value);
    }

    /// A histogram's samples: cumulative counts, their sum and their number.
    pub(super) fn sizes(&mut self, labels: &[&str], sizes: &Sizes<'_>) {
        debug_assert_eq!((self.metric.kind, sizes.counts.len()), (Kind::Histogram, sizes.bounds.len() + 1));
        let mut below = 0;
        for (n, count) in sizes.counts.iter().enumerate() {
            below += count;
            let bound = sizes.bounds.get(n).map_or("+Inf".to_owned(), ToString::to_string);
            self.sample("_bucket", labels, Some(&bound), below);
        }
        self.sample("_sum", labels, None, sizes.sum);
        self.sample("_count", labels, None, below);
    }

    fn sample(&mut self, part: &str, values: &[&str], bound: Option<&str>, value: impl Display) {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "{}", self.name);
        let labels =
            self.metric.labels.iter().copied().zip(values.iter().copied()).chain(bound.map(|bound| ("le", bound)));
        let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{}{part} {value}", self.name),
            false => writeln!(self.text, "{}{part}{{{}}} {value}", self.name, labels.join(",")),
        };
    }
}

/// Tables and columns may be called anything.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    #[test]
    fn samples_stand_below_their_name_and_type_and_labels_are_escaped() {
        let mut text = Text::new("gl");
        let mut family = text.family(table::SAMPLED);
        family.put(&["a \"b\"\\\n.c"], 3);
        text.family(table::WORKERS).put(&[], 2);
        let written = text.finish();
        let lines: Vec<&str> = written.lines().collect();
        assert_eq!(lines[1], "# TYPE gl_coverage_sampled_rows gauge");
        assert_eq!(lines[2], r#"gl_coverage_sampled_rows{column="a \"b\"\\\n.c"} 3"#);
        assert_eq!(lines[5], "gl_workers 2");
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let mut text = Text::new("gl");
        let sizes = Sizes { bounds: &[0.00005, 0.001, 5.0], counts: &[1, 2, 0, 4], sum: 20.5 };
        text.family(table::DURATIONS).sizes(&["encrypt"], &sizes);
        let written = text.finish();
        let samples: Vec<&str> = written.lines().skip(2).collect();
        let name = "gl_encryption_duration_seconds";
        assert_eq!(samples[0], format!("{name}_bucket{{operation=\"encrypt\",le=\"0.00005\"}} 1"));
        assert_eq!(samples[1], format!("{name}_bucket{{operation=\"encrypt\",le=\"0.001\"}} 3"));
        assert_eq!(samples[2], format!("{name}_bucket{{operation=\"encrypt\",le=\"5\"}} 3"));
        assert_eq!(samples[3], format!("{name}_bucket{{operation=\"encrypt\",le=\"+Inf\"}} 7"));
        assert_eq!(samples[4], format!("{name}_sum{{operation=\"encrypt\"}} 20.5"));
        assert_eq!(samples[5], format!("{name}_count{{operation=\"encrypt\"}} 7"));
    }
}
