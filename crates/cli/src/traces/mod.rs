//! Traces, sent to a collector by OTLP over HTTP, in JSON.
//!
//! Ours and not the OpenTelemetry crates', which would be 15 crates more: what is sent of a span is then a closed list of fields, and
//! `tracing` has the spans already.

mod layer;

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use enfold::policy::TracePolicy;
use enfold::{Result, tls};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::Registry;

use self::layer::Traces;

/// Spans that may wait to be sent.
const CAPACITY: usize = 8_192;
/// Spans of one request to the collector.
const BATCH: usize = 512;
/// How long a span waits for company.
const LINGER: Duration = Duration::from_millis(500);
/// How long a request to the collector may take, and the last one when the program ends.
const WITHIN: Duration = Duration::from_secs(5);

/// Asks the sender for what it still has.
static ENDING: OnceLock<mpsc::Sender<oneshot::Sender<()>>> = OnceLock::new();

/// What listens to spans, where the policy names a collector.
pub(crate) fn listen(policy: &TracePolicy) -> Result<Option<Box<dyn Layer<Registry> + Send + Sync>>> {
    let Some(endpoint) = &policy.endpoint else { return Ok(None) };
    let collector = Collector {
        client: tls::http_client(policy.ca_file.as_deref(), WITHIN, "a collector of traces")?,
        endpoint: endpoint.clone(),
    };
    let (spans, sent) = mpsc::channel(CAPACITY);
    let (ending, asked) = mpsc::channel(1);
    ENDING.set(ending).ok();
    tokio::spawn(collector.run(sent, asked));
    enfold::traces::pass_on(layer::current);
    let ours = Targets::new().with_target(enfold::traces::TARGET, tracing::Level::INFO);
    Ok(Some(Traces::new(spans, policy.percent).with_filter(ours).boxed()))
}

/// Sends what is left, if that does not take long.
pub(crate) async fn flush() {
    let Some(ending) = ENDING.get() else { return };
    let (done, ended) = oneshot::channel();
    if ending.send(done).await.is_ok() {
        tokio::time::timeout(WITHIN, ended).await.ok();
    }
}

struct Collector {
    client: Client,
    endpoint: String,
}

impl Collector {
    async fn run(self, mut spans: mpsc::Receiver<Value>, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let done = tokio::select! {
                // None comes only with the end of the process.
                done = asked.recv() => done,
                () = tokio::time::sleep(LINGER) => None,
            };
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
                if batch.len() == BATCH {
                    self.send(&mut batch).await;
                }
            }
            self.send(&mut batch).await;
            done.map(|done| done.send(()));
        }
    }

    /// What does not arrive is gone: traces are for looking, and nothing waits for them.
    async fn send(&self, batch: &mut Vec<Value>) {
        if batch.is_empty() {
            return;
        }
        let spans = std::mem::take(batch);
        let (lost, count) = (layer::LOST.swap(0, Ordering::Relaxed), spans.len());
        let request = self.client.post(&self.endpoint).header("content-type", "application/json");
        let sent = request.body(document(&spans).to_string()).send().await;
        let why = match sent {
            Ok(answer) if answer.status().is_success() && lost == 0 => return,
            Ok(answer) if answer.status().is_success() => "they came faster than they could be sent".to_owned(),
            Ok(answer) => format!("the collector answered with HTTP status {}", answer.status().as_u16()),
            Err(_) => "the collector could not be reached, or hung up".to_owned(),
        };
        tracing::warn!(target: "enfold", spans = count, lost, "spans were not sent: {why}");
    }
}

fn document(spans: &[Value]) -> Value {
    let attribute = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let resource = [attribute("service.name", "enfold"), attribute("service.version", env!("CARGO_PKG_VERSION"))];
    let scope = json!({ "name": "enfold", "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{ "resource": { "attributes": resource }, "scopeSpans": [{ "scope": scope, "spans": spans }] }] })
}
