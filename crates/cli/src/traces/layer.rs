//! Turns spans of `enfold::traces` into what a collector takes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use enfold::KeyId;
use enfold::traces::Parent;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Subscriber, dispatcher};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Registry, SpanRef};

/// Spans that ended and were not sent, because the collector or the network was too slow.
pub(super) static LOST: AtomicU64 = AtomicU64::new(0);

/// The header of whoever called, as a field of the span that its request has.
const PARENT: &str = "traceparent";
/// What else a span may say. Whatever else somebody writes into one stays here.
const SAYS: &[&str] = &[
    "phase",
    "method",
    "path",
    "status",
    "ring",
    "column",
    "values",
    "operation",
    "provider",
    "requests",
    "failed",
    "goal",
    "table",
    "rows",
    "code",
];

pub(super) struct Traces {
    spans: Sender<Value>,
    /// Of a hundred traces that begin here, how many are kept.
    percent: u8,
}

/// What is known of a span while it lasts.
struct Known {
    own: Parent,
    within: Option<[u8; 8]>,
    began: SystemTime,
    says: Vec<(&'static str, Value)>,
}

impl Traces {
    pub(super) fn new(spans: Sender<Value>, percent: u8) -> Self {
        Self { spans, percent }
    }

    fn keeps(&self, drawn: KeyId) -> bool {
        let [.., high, low] = *drawn.as_bytes();
        u16::from_be_bytes([high, low]) % 100 < u16::from(self.percent)
    }
}

/// What a call that is made now belongs to.
pub(super) fn current() -> Option<Parent> {
    dispatcher::get_default(|dispatch| {
        let current = dispatch.current_span();
        let span = dispatch.downcast_ref::<Registry>()?.span(current.id()?)?;
        known(&span)
    })
}

/// The identity of the nearest span around that is ours, itself included.
fn known<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<Parent> {
    span.scope().find_map(|span| span.extensions().get::<Known>().map(|known| known.own))
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Traces {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut said = Said::default();
        attributes.record(&mut said);
        let around = span.parent().and_then(|parent| known(&parent));
        let around = around.or(said.parent);
        // From the system's generator; a span without an identity is none.
        let Ok(drawn) = KeyId::random() else { return };
        let mut own = [0; 8];
        own.copy_from_slice(&drawn.as_bytes()[..8]);
        let (trace, sampled) = match around {
            Some(parent) => (parent.trace, parent.sampled),
            None => match KeyId::random() {
                Ok(trace) => (*trace.as_bytes(), self.keeps(drawn)),
                Err(_) => return,
            },
        };
        let own = Parent { trace, span: own, sampled };
        let within = around.map(|parent| parent.span);
        span.extensions_mut().insert(Known { own, within, began: SystemTime::now(), says: said.says });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut said = Said::default();
        values.record(&mut said);
        if let Some(known) = span.extensions_mut().get_mut::<Known>() {
            known.says.extend(said.says);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(known) = span.extensions_mut().remove::<Known>() else { return };
        if known.own.sampled && self.spans.try_send(known.ended(span.name())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Known {
    /// As OTLP has it in JSON (opentelemetry-proto, trace/v1): ids in hex, moments as decimal texts.
    fn ended(self, name: &str) -> Value {
        let (server, client) = (2, 3);
        let kind = match (name, self.phase()) {
            ("request", _) => server,
            (_, "kms" | "database") => client,
            _ => 1,
        };
        let is_wrong = self.says.iter().any(|(key, value)| match *key {
            "code" => true,
            "failed" => value["intValue"] != "0",
            "status" => value["intValue"].as_str().is_some_and(|status| status.starts_with('5')),
            _ => false,
        });
        let attributes: Vec<Value> =
            self.says.iter().map(|(key, value)| json!({ "key": format!("enfold.{key}"), "value": value })).collect();
        json!({
            "traceId": hex(&self.own.trace),
            "spanId": hex(&self.own.span),
            "parentSpanId": self.within.map(|span| hex(&span)).unwrap_or_default(),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(self.began),
            "endTimeUnixNano": nanos(SystemTime::now()),
            "attributes": attributes,
            "status": { "code": if is_wrong { 2 } else { 0 } },
        })
    }

    fn phase(&self) -> &str {
        let phase = self.says.iter().find(|(key, _)| *key == "phase");
        phase.and_then(|(_, value)| value["stringValue"].as_str()).unwrap_or_default()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Fields, as they are read.
#[derive(Default)]
struct Said {
    parent: Option<Parent>,
    says: Vec<(&'static str, Value)>,
}

impl Said {
    fn say(&mut self, field: &Field, value: Value) {
        self.says.extend(SAYS.iter().find(|name| **name == field.name()).map(|name| (*name, value)));
    }
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == PARENT {
            self.parent = Parent::parse(value);
        } else {
            self.say(field, json!({ "stringValue": value }));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.say(field, json!({ "intValue": value.to_string() }));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.say(field, json!({ "intValue": value.to_string() }));
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {
        // A type of whatever kind may print anything: only texts and numbers are said.
    }
}
