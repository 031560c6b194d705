//! Figures for Prometheus: what this process did, and what its database says of jobs, keys, coverage and the log.
//!
//! [`table`] has every figure, [`look`] asks the database, [`text`] writes it down. What processes count is counted where it happens:
//! in [`Enfold::metrics`], and for requests in [`requests`].

mod look;
mod requests;
mod table;
mod text;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use enfold::events::SinkStanding;
use enfold::kms::Figures;
use enfold::metrics::{CacheMetrics, Metrics, RingMetrics};
use enfold::{Enfold, Result};
use enfold_jobs::database::Database;
use enfold_jobs::model::{Goal, Progress};
use enfold_jobs::store::JobRecord;
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

use self::look::{Found, Look, Looks, Seen};
pub(crate) use self::requests::{Requests, words};
pub use self::table::{Kind, METRICS, Metric, page};
use self::text::{Sizes, Text};
use crate::Shared;
use crate::api::states;

/// What is exposed of one process.
pub struct Exporter {
    enfold: Enfold,
    pub(crate) requests: Requests,
    looks: Looks,
}

/// The body of an answer, for the OpenAPI document.
pub(crate) struct Exposed;

impl JsonSchema for Exposed {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Exposed".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "contentMediaType": "text/plain" })
    }
}

pub(crate) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    shared.exporter.answer().await
}

impl Exporter {
    /// `database`: the policy's.
    pub fn new(enfold: Enfold, database: Arc<dyn Database>) -> Self {
        Self::sharing(enfold, Arc::new(OnceCell::new_with(Some(database))))
    }

    /// Over the policy's database, as soon as somebody has connected to it.
    pub(crate) fn sharing(enfold: Enfold, database: Arc<OnceCell<Arc<dyn Database>>>) -> Self {
        let looks = Looks::new(enfold.clone(), database, &enfold.policy().metrics);
        Self { enfold, requests: Requests::default(), looks }
    }

    async fn answer(&self) -> Response {
        ([(header::CONTENT_TYPE, text::CONTENT_TYPE)], self.text().await).into_response()
    }

    /// Everything, as Prometheus reads it.
    pub async fn text(&self) -> String {
        let found = self.looks.look().await;
        let mut text = Text::new(&self.enfold.policy().metrics.prefix);
        text.family(table::BUILD).put(&[env!("CARGO_PKG_VERSION")], 1);
        let metrics = self.enfold.metrics();
        self.operations(&metrics, &mut text);
        caches(&metrics, &mut text);
        key_services(&metrics, &mut text);
        self.answers(&mut text);
        jobs(&found, &mut text);
        coverage(&found, &mut text);
        keys(&found, &mut text);
        log(&metrics, &found, &mut text);
        self.looked(&found, &mut text);
        text.finish()
    }

    fn operations(&self, metrics: &Metrics, text: &mut Text<'_>) {
        let refused = self.requests.lock().refused.clone();
        let mut family = text.family(table::OPERATIONS);
        let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
        for series in &metrics.operations {
            let (operation, none) = (operation(series.operation), series.class.is_empty());
            let class = if none { "none" } else { &series.class };
            let mut failed = 0;
            // What the service refused by itself never came to a class.
            let here = refused.iter().filter(|((of, _), _)| none && *of == operation).map(|((_, code), n)| (code, n));
            for (code, n) in series.failed.iter().chain(here) {
                failed += n;
                *failures.entry(code).or_default() += n;
            }
            family.put(&[operation, "success", class], series.succeeded);
            family.put(&[operation, "failure", class], failed);
        }
        let bounds = seconds(&metrics.duration_bounds_us, 1e6);
        let mut family = text.family(table::DURATIONS);
        for word in ["seal", "open"] {
            let series = metrics.operations.iter().filter(|series| series.operation == word);
            let (counts, sum) = series.fold((vec![0; bounds.len() + 1], 0.0), |(counts, sum), series| {
                (added(counts, &series.durations), sum + series.time.as_secs_f64())
            });
            family.sizes(&[operation(word)], &Sizes { bounds: &bounds, counts: &counts, sum });
        }
        let mut family = text.family(table::FAILURES);
        failures.into_iter().for_each(|(code, n)| family.put(&[code], n));
    }

    fn answers(&self, text: &mut Text<'_>) {
        let counted = self.requests.lock();
        let mut family = text.family(table::HTTP_REQUESTS);
        for ((method, path, status), n) in &counted.answers {
            family.put(&[method, path, &status.to_string()], n);
        }
        let bounds = seconds(&enfold::metrics::DURATION_BOUNDS_US, 1e6);
        let mut family = text.family(table::HTTP_DURATIONS);
        for (path, times) in &counted.times {
            family.sizes(&[path], &Sizes { bounds: &bounds, counts: &times.counts, sum: times.sum.as_secs_f64() });
        }
    }

    fn looked(&self, found: &Found, text: &mut Text<'_>) {
        fn at<T>(seen: Option<&Arc<Seen<T>>>) -> Option<f64> {
            seen.map(|seen| unix(seen.at_ms))
        }
        fn failures<T>(look: &Look<T>) -> (&'static str, u64) {
            (look.what, look.failures.load(Ordering::Relaxed))
        }
        let Looks { jobs, keys, coverage, log, .. } = &self.looks;
        let failed = [failures(jobs), failures(keys), failures(coverage), failures(log)];
        let seen =
            [at(found.jobs.as_ref()), at(found.keys.as_ref()), at(found.coverage.as_ref()), at(found.log.as_ref())];
        let mut family = text.family(table::LOOKED);
        for ((what, _), at) in failed.iter().zip(seen) {
            at.into_iter().for_each(|at| family.put(&[what], at));
        }
        let mut family = text.family(table::LOOK_FAILURES);
        failed.iter().for_each(|(what, n)| family.put(&[what], n));
    }
}

/// The words of the API.
fn operation(word: &str) -> &'static str {
    if word == "seal" { "encrypt" } else { "decrypt" }
}

fn caches(metrics: &Metrics, text: &mut Text<'_>) {
    let of_ring = |ring: &'_ RingMetrics| {
        [("data_key", ring.ring.clone(), ring.data_keys), ("scope", ring.ring.clone(), ring.scopes)]
    };
    let mut all: Vec<_> = metrics.rings.iter().flat_map(of_ring).collect();
    if let Some(shared) = &metrics.shared_cache {
        let (hits, misses) = (shared.figures.hits, shared.figures.misses);
        all.push(("shared", String::new(), CacheMetrics { hits, misses, ..CacheMetrics::default() }));
    }
    type Figure = fn(&CacheMetrics) -> u64;
    let figures: [(_, Figure); 5] = [
        (table::CACHE_HITS, |cache| cache.hits),
        (table::CACHE_MISSES, |cache| cache.misses),
        (table::CACHE_STALE, |cache| cache.stale),
        (table::CACHE_EVICTIONS, |cache| cache.evictions),
        (table::CACHE_ENTRIES, |cache| cache.entries),
    ];
    for (metric, figure) in figures {
        let mut family = text.family(metric);
        all.iter().for_each(|(kind, ring, cache)| family.put(&[kind, ring], figure(cache)));
    }
}

/// Root keys of one kind of key service together: a customer's has a URI by which its tenant could be told.
fn key_services(metrics: &Metrics, text: &mut Text<'_>) {
    let mut operations: BTreeMap<(&str, &str), Figures> = BTreeMap::new();
    let mut providers: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for root in &metrics.root_keys {
        for (operation, figures) in &root.operations {
            add(operations.entry((operation, root.provider)).or_default(), figures);
        }
        let [retries, waits, left_alone] = providers.entry(root.provider).or_default();
        *retries += root.retries;
        *waits += root.limit_waits;
        *left_alone += u64::from(root.breaker.state != "answers");
    }
    let mut family = text.family(table::KMS_CALLS);
    for ((operation, provider), figures) in &operations {
        family.put(&[operation, "success", provider], figures.succeeded);
        family.put(&[operation, "failure", provider], figures.failed.values().sum::<u64>());
    }
    let mut family = text.family(table::KMS_FAILURES);
    for ((operation, provider), figures) in &operations {
        figures.failed.iter().for_each(|(code, n)| family.put(&[operation, code, provider], n));
    }
    let bounds = seconds(&metrics.latency_bounds_ms, 1e3);
    let mut family = text.family(table::KMS_LATENCY);
    for ((operation, provider), figures) in &operations {
        let sizes = Sizes { bounds: &bounds, counts: &figures.latency, sum: figures.time.as_secs_f64() };
        family.sizes(&[operation, provider], &sizes);
    }
    for (n, metric) in [table::KMS_RETRIES, table::KMS_LIMIT_WAITS, table::KMS_LEFT_ALONE].into_iter().enumerate() {
        let mut family = text.family(metric);
        providers.iter().for_each(|(provider, counted)| family.put(&[provider], counted[n]));
    }
}

fn add(sum: &mut Figures, more: &Figures) {
    sum.calls += more.calls;
    sum.requests += more.requests;
    sum.succeeded += more.succeeded;
    sum.time += more.time;
    more.failed.iter().for_each(|(code, n)| *sum.failed.entry(code).or_default() += n);
    sum.latency.iter_mut().zip(&more.latency).for_each(|(sum, more)| *sum += more);
}

fn jobs(found: &Found, text: &mut Text<'_>) {
    let jobs = found.jobs.as_ref().map(|seen| &seen.found);
    let mut by_state: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    let mut newest: BTreeMap<(&str, &str), &JobRecord> = BTreeMap::new();
    for job in jobs.iter().flat_map(|jobs| &jobs.records) {
        let (goal, table) = (job.goal.word(), job.target.policy_table.as_str());
        *by_state.entry((goal, table, states(job.state).0)).or_default() += 1;
        let known = newest.entry((goal, table)).or_insert(job);
        if job.id > known.id {
            *known = job;
        }
    }
    let mut family = text.family(table::JOBS);
    by_state.iter().for_each(|((goal, table, state), n)| family.put(&[goal, table, state], n));
    let mut family = text.family(table::JOB_ROWS);
    for ((goal, table), job) in &newest {
        let Progress { rows_total, rows_seen, rows_changed, rows_failed, .. } = job.progress;
        for (status, rows) in
            [("total", rows_total), ("seen", rows_seen), ("changed", rows_changed), ("failed", rows_failed)]
        {
            family.put(&[goal, table, status], rows);
        }
    }
    let mut family = text.family(table::WORKERS);
    jobs.iter().for_each(|jobs| family.put(&[], jobs.workers));
    let mut family = text.family(table::REENCRYPTION);
    if jobs.is_some() {
        let ours = newest.values().filter(|job| job.goal == Goal::Reencrypt);
        let sum = |of: fn(&Progress) -> u64| ours.clone().map(|job| of(&job.progress)).sum::<u64>();
        family.put(&["total"], sum(|progress| progress.rows_total));
        family.put(&["completed"], sum(|progress| progress.rows_seen));
        family.put(&["failed"], sum(|progress| progress.rows_failed));
    }
}

fn coverage(found: &Found, text: &mut Text<'_>) {
    let columns = found.coverage.iter().flat_map(|seen| &seen.found);
    let mut family = text.family(table::COVERAGE);
    for column in columns.clone() {
        let (name, census) = (column.column.as_str(), &column.census);
        family.put(&[name, "envelope"], census.envelopes);
        family.put(&[name, "plaintext"], census.plaintext);
        family.put(&[name, "lookalike"], census.lookalikes);
    }
    let mut family = text.family(table::SAMPLED);
    columns.clone().for_each(|column| family.put(&[&column.column], column.census.rows));
    let mut family = text.family(table::MODES);
    columns.for_each(|column| family.put(&[&column.column, column.mode.word()], 1));
}

fn keys(found: &Found, text: &mut Text<'_>) {
    let keys = found.keys.as_ref().map(|seen| &seen.found);
    let now_ms = Timestamp::now().as_millisecond();
    let sealing = keys.iter().flat_map(|keys| &keys.sealing);
    let mut family = text.family(table::DATA_KEYS);
    sealing.clone().for_each(|ring| family.put(&[&ring.ring], ring.data_keys));
    let mut family = text.family(table::KEY_AGE);
    for (ring, made_ms) in sealing.filter_map(|ring| Some((&ring.ring, ring.oldest_ms?))) {
        family.put(&[ring], unix(now_ms.saturating_sub(made_ms).max(0)));
    }
    // Ring, kind, how many are due and overdue, and when the next one is.
    let mut due: BTreeMap<(&str, &str), (usize, usize, Option<i64>)> = BTreeMap::new();
    for ring in keys.iter().flat_map(|keys| &keys.data_keys) {
        let next = ring.keys.first().map(|key| key.due_ms);
        due.insert((&ring.ring, "data_key"), (ring.due(now_ms).len(), ring.overdue(now_ms).len(), next));
    }
    for root in keys.iter().flat_map(|keys| &keys.root_keys) {
        let (due, overdue, next) = due.entry((&root.ring, "root_key")).or_default();
        *due += usize::from(root.is_due(now_ms));
        *overdue += usize::from(root.is_overdue(now_ms));
        *next = Some(next.map_or(root.due_ms, |next| next.min(root.due_ms)));
    }
    let mut family = text.family(table::DUE);
    due.iter().for_each(|((ring, kind), (due, ..))| family.put(&[ring, kind], due));
    let mut family = text.family(table::OVERDUE);
    due.iter().for_each(|((ring, kind), (_, overdue, _))| family.put(&[ring, kind], overdue));
    let mut family = text.family(table::NEXT_DUE);
    for ((ring, kind), (_, _, next)) in &due {
        next.iter().for_each(|next| family.put(&[ring, kind], unix(*next)));
    }
}

type OfSink = fn(&SinkStanding) -> u64;

/// What is told of each receiver of events.
const OF_SINKS: [(&Metric, OfSink); 4] = [
    (table::SINK_WAITING, |sink| sink.waiting),
    (table::SINK_DELIVERED, |sink| sink.delivered),
    (table::SINK_LOST, |sink| sink.lost),
    (table::SINK_MISSED, |sink| sink.missed),
];

fn log(metrics: &Metrics, found: &Found, text: &mut Text<'_>) {
    let standing = found.log.as_ref().and_then(|seen| seen.found);
    text.family(table::LOG_WAITING).put(&[], metrics.waiting_events);
    text.family(table::LOG_LOST).put(&[], metrics.lost_events_in_all);
    for (family, figure) in OF_SINKS {
        let mut family = text.family(family);
        metrics.sinks.iter().for_each(|sink| family.put(&[&sink.sink], figure(sink)));
    }
    let mut family = text.family(table::LOG_UNSIGNED);
    standing.iter().for_each(|log| family.put(&[], log.unsigned));
    let mut family = text.family(table::LOG_BROKEN);
    standing.iter().for_each(|log| family.put(&[], log.broken));
    let mut family = text.family(table::LOG_SIGNED);
    standing.and_then(|log| log.signed_ms).iter().for_each(|signed| family.put(&[], unix(*signed)));
}

fn added(mut sum: Vec<u64>, more: &[u64]) -> Vec<u64> {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    sum
}

/// Milliseconds as seconds.
#[allow(clippy::cast_precision_loss, reason = "of times since 1970 it is below a microsecond")]
fn unix(ms: i64) -> f64 {
    ms as f64 / 1e3
}

#[allow(clippy::cast_precision_loss, reason = "bounds are small")]
fn seconds(bounds: &[u64], in_a_second: f64) -> Vec<f64> {
    bounds.iter().map(|bound| *bound as f64 / in_a_second).collect()
}

/// An address of their own for the figures, which answers whoever reaches it.
pub struct Listening(TcpListener);

impl Listening {
    /// # Errors
    /// `Usage` where the address cannot be bound.
    pub fn on(address: SocketAddr) -> Result<Self> {
        crate::bind(address).map(Self)
    }

    /// With the port that the system chose where none was named.
    pub fn address(&self) -> Result<SocketAddr> {
        crate::address(&self.0)
    }

    /// Answers until `stop` is done.
    pub async fn run(self, exporter: Arc<Exporter>, stop: impl Future<Output = ()>) {
        let limits = exporter.enfold.policy().service.limits;
        let answer = async |State(exporter): State<Arc<Exporter>>| exporter.answer().await;
        let router = Router::new().route("/metrics", get(answer)).with_state(exporter);
        crate::connections::serve(self.0, None, router, &limits, stop).await;
    }
}
