//! Every figure, in one table: what is exposed, its page in the reference, and what the tests hold rules and dashboards to.

use std::fmt::Write as _;

/// How a figure behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, from the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with their sum.
    Histogram,
}

impl Kind {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A figure. Its name has the policy's prefix before it.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// One line.
    pub says: &'static str,
}

macro_rules! metrics {
    ($( $id:ident = $kind:ident $name:literal [$($label:literal),*] $says:literal; )*) => {
        $( pub(super) const $id: &Metric =
            &Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], says: $says }; )*

        /// All of them, in the order in which they are exposed.
        pub const METRICS: &[&Metric] = &[ $( $id, )* ];
    };
}

metrics! {
    BUILD = Gauge "build_info" ["version"] "Always 1; the version of the program is its label.";
    OPERATIONS = Counter "encryption_operations_total" ["operation", "status", "data_class"] "Values that were to be sealed (`encrypt`) or opened (`decrypt`), by what became of them.";
    DURATIONS = Histogram "encryption_duration_seconds" ["operation"] "How long sealing and opening took, a batch being one call. Of single values with their data key at hand one in 16 is timed, and counts for 16.";
    FAILURES = Counter "encryption_failures_total" ["error_type"] "Values that were not sealed or opened, by the code of the error.";
    CACHE_HITS = Counter "encryption_key_cache_hits_total" ["key_type", "ring"] "Look-ups that were answered from memory.";
    CACHE_MISSES = Counter "encryption_key_cache_misses_total" ["key_type", "ring"] "Look-ups that had to wait for the catalog or a key service.";
    CACHE_STALE = Counter "encryption_key_cache_stale_total" ["key_type", "ring"] "Look-ups that were answered past an entry's life, because the source had failed.";
    CACHE_EVICTIONS = Counter "encryption_key_cache_evictions_total" ["key_type", "ring"] "Entries that made room for others.";
    CACHE_ENTRIES = Gauge "encryption_key_cache_entries" ["key_type", "ring"] "Entries that are held.";
    KMS_CALLS = Counter "kms_calls_total" ["operation", "status", "provider"] "Requests to key services, each try counted; a batch counts as many as are in it.";
    KMS_FAILURES = Counter "kms_failures_total" ["operation", "error_type", "provider"] "Requests to key services that failed, by the code of the error.";
    KMS_LATENCY = Histogram "kms_latency_seconds" ["operation", "provider"] "How long calls to key services took, a batch being one call.";
    KMS_RETRIES = Counter "kms_retries_total" ["provider"] "Requests to key services that were sent again.";
    KMS_LIMIT_WAITS = Counter "kms_limit_waits_total" ["provider"] "Calls that were held back to stay below the rate of the policy.";
    KMS_LEFT_ALONE = Gauge "kms_root_keys_left_alone" ["provider"] "Root keys whose service is not asked for a while, because it did not answer.";
    HTTP_REQUESTS = Counter "http_requests_total" ["method", "path", "status"] "Requests to the service, by the endpoint's path in its table.";
    HTTP_DURATIONS = Histogram "http_request_duration_seconds" ["path"] "How long the service took for them.";
    JOBS = Gauge "jobs" ["goal", "table", "state"] "Jobs on record in the database.";
    JOB_ROWS = Gauge "job_rows" ["goal", "table", "status"] "Rows of the newest job of each goal and table: `total`, `seen`, `changed` and `failed`.";
    WORKERS = Gauge "workers" [] "Workers that gave a sign of life in the last 30 s.";
    REENCRYPTION = Gauge "reencryption_progress" ["status"] "Rows of the newest re-encryption of every table together: `total`, `completed` and `failed`.";
    COVERAGE = Gauge "coverage_values" ["column", "status"] "Values in a sample of at most 10,000 rows, by their stored form: `envelope`, `plaintext` or `lookalike`.";
    SAMPLED = Gauge "coverage_sampled_rows" ["column"] "Rows of that sample.";
    MODES = Gauge "column_mode" ["column", "mode"] "Always 1; the mode that the operators signed for a column is its label.";
    DATA_KEYS = Gauge "data_keys" ["ring"] "Data keys that seal.";
    KEY_AGE = Gauge "data_key_age_seconds" ["ring"] "The age of the oldest of them.";
    DUE = Gauge "rotation_due" ["ring", "key_type"] "Keys that are due to be rotated by the policy's cadence.";
    OVERDUE = Gauge "rotation_overdue" ["ring", "key_type"] "Of those, the ones that have been due for longer than a tenth of the cadence.";
    NEXT_DUE = Gauge "rotation_next_timestamp_seconds" ["ring", "key_type"] "When the next one is due, or the first one was.";
    LOG_WAITING = Gauge "log_waiting_events" [] "Events of this process that wait to be written to the log.";
    LOG_LOST = Counter "log_lost_events_total" [] "Events of this process that were lost, because nothing took them in time.";
    SINK_WAITING = Gauge "log_sink_waiting_lines" ["sink"] "Lines of the log that wait for a receiver of `events.sinks`.";
    SINK_DELIVERED = Counter "log_sink_delivered_lines_total" ["sink"] "Lines that it was given.";
    SINK_LOST = Counter "log_sink_lost_lines_total" ["sink"] "Lines that it was not given and will not be: no more could wait, or it refused them. The catalog has them.";
    SINK_MISSED = Counter "log_sink_failed_tries_total" ["sink"] "Tries to give it some that came to nothing.";
    LOG_UNSIGNED = Gauge "log_unsigned_entries" [] "Entries of the log behind its last checkpoint.";
    LOG_BROKEN = Gauge "log_broken_chains" [] "Chains of the log that do not hold together behind its last checkpoint, and 1 for checkpoints that nobody trusted signed. `enfold log verify` looks at all that is before it. Absent where the policy names no key that vouches for the log.";
    LOG_SIGNED = Gauge "log_checkpoint_timestamp_seconds" [] "When the last checkpoint was signed.";
    LOOKED = Gauge "look_timestamp_seconds" ["what"] "When the database was last looked at for `jobs`, `keys`, `coverage` and `log`: what the figures about each are of.";
    LOOK_FAILURES = Counter "look_failures_total" ["what"] "Looks that came to nothing; the program's log says why.";
}

/// What other names there are for a figure in the projects that asked for it.
const ASKED_FOR: &[(&str, &str)] = &[
    (
        "`gl_encryption_operations_total{operation, status, data_class}`",
        "`gl_encryption_operations_total`, the same labels. `data_class` is the class of the column, or `none`",
    ),
    ("`gl_encryption_duration_seconds{operation}`", "`gl_encryption_duration_seconds`, the same label"),
    (
        "`gl_encryption_key_cache_hits{key_type}`",
        "`gl_encryption_key_cache_hits_total`, with `ring` besides: `sum by (key_type)`",
    ),
    ("`gl_encryption_key_cache_misses{key_type}`", "`gl_encryption_key_cache_misses_total`, with `ring` besides"),
    (
        "`gl_encryption_failures_total{error_type}`",
        "`gl_encryption_failures_total`, the same label; its words are the [error codes](../errors/)",
    ),
    (
        "`gl_kms_calls_total{operation, status}`",
        "`gl_kms_calls_total`, with `provider` besides: `sum by (operation, status)`",
    ),
    (
        "`gl_kms_latency_seconds{operation}`",
        "`gl_kms_latency_seconds`, with `provider` besides: `sum by (operation, le)`",
    ),
    (
        "`heimdall_reencryption_progress{status}`",
        "`heimdall_reencryption_progress`, the same label: `completed` by `total` is how far it is",
    ),
];

const HEAD: &str = "\
# Metrics

<!-- Made from crates/server/src/metrics/table.rs: change that, then run `ENFOLD_BLESS=1 cargo test -p enfold-server metrics::`. -->

Figures for Prometheus, in its text format: at `/metrics` of `enfold serve`, for callers that have `encryption:read`; without
credentials on an address of their own, `metrics.listen` in the [policy](configuration.md#metrics); and of a worker with
`enfold worker --metrics ADDRESS`. [Watching](../guides/watching.md) shows how Prometheus is told, the rules and the dashboard.

- Every name has the policy's `metrics.prefix` before it, with `_` between: `enfold`, unless it says otherwise.
- Labels have words of closed sets: operations, states, error codes, and what the policy names: rings, tables, columns and classes. No
  tenant, no key, no value and nothing that a caller sends can become one.
- Counters and histograms are of the process. What is about jobs, keys, coverage and the log is of the database, and the same from every
  process: take `max`, not `sum`. It is looked at while somebody asks, at most every 15 s (coverage: every `coverage_every`), and
  `look_timestamp_seconds` says when.
- Coverage is counted in a sample, and a count is no proof: `enfold audit --full` counts every row, `enfold verify` opens every value.

| name | type | labels | meaning |
|---|---|---|---|
";

/// The page `docs/reference/metrics.md`.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for Metric { name, kind, labels, says } in METRICS {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| `{name}` | {} | {labels} | {says} |", kind.word());
    }
    page.push_str("\n## Names that were asked for\n\n");
    page.push_str(
        "With `prefix = \"gl\"` and `prefix = \"heimdall\"`. In Prometheus's format a counter's name ends in `_total`, so where a name had \
         none it got one.\n\n| asked for | is |\n|---|---|\n",
    );
    for (asked, is) in ASKED_FOR {
        let _ = writeln!(page, "| {asked} | {is} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_reference_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        if std::env::var_os("ENFOLD_BLESS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == page(),
            "docs/reference/metrics.md is stale: run `ENFOLD_BLESS=1 cargo test -p enfold-server metrics::`"
        );
    }

    #[test]
    fn names_are_distinct_and_end_as_their_kind_does() {
        let names: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_seconds") && !metric.name.contains("timestamp") && !metric.name.contains("age"),
                metric.kind == Kind::Histogram,
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn what_was_asked_for_is_there_under_the_labels_that_were_named() {
        for (asked, _) in ASKED_FOR {
            let (name, labels) = asked.trim_matches('`').trim_end_matches('}').split_once('{').unwrap();
            let name = name.split_once('_').unwrap().1;
            let metric =
                METRICS.iter().find(|metric| metric.name.trim_end_matches("_total") == name.trim_end_matches("_total"));
            let metric = metric.unwrap_or_else(|| panic!("nothing is called {name}"));
            assert!(labels.split(", ").all(|label| metric.labels.contains(&label)), "{asked}");
        }
    }
}
