//! Events as log records of OpenTelemetry: OTLP 1 over HTTP, in JSON. The body of a record is the line of the log, letter for letter.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::post::Poster;
use super::{Arrived, Line, Missed, Receiver};
use crate::Result;
use crate::events::Outcome;
use crate::policy::SinkPolicy;
use reqwest::header::HeaderMap;

/// What is no attribute of an entry: its place in the chain is for whoever verifies the line, and the time has a field of its own.
const NO_ATTRIBUTES: [&str; 3] = ["prev", "kind", "at_ms"];

pub(super) struct Otlp(Poster);

impl Otlp {
    pub(super) fn open(policy: &SinkPolicy) -> Result<Self> {
        Poster::open(policy).map(Self)
    }
}

#[async_trait]
impl Receiver for Otlp {
    async fn send(&mut self, lines: &[Line]) -> std::result::Result<Arrived, Missed> {
        let now = jiff::Timestamp::now().as_nanosecond();
        let answer = self.0.post(HeaderMap::new(), document(lines, now).to_string()).await?;
        Ok(Arrived { lines: lines.len(), refused: refused(&answer) })
    }
}

fn document(lines: &[Line], now_ns: i128) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [attribute("service.name", &json!("enfold")), attribute("service.version", &json!(version))];
    let records: Vec<Value> = lines.iter().map(|line| record(line, now_ns)).collect();
    let scope = json!({ "name": "enfold", "version": version });
    json!({ "resourceLogs": [{
        "resource": { "attributes": resource },
        "scopeLogs": [{ "scope": scope, "logRecords": records }],
    }] })
}

fn record(line: &Line, now_ns: i128) -> Value {
    let fields: Map<String, Value> = serde_json::from_str(&line.text).unwrap_or_default();
    let at_ns = fields.get("at_ms").and_then(Value::as_i64).map_or(now_ns, |ms| i128::from(ms) * 1_000_000);
    let (number, text) = severity(fields.get("result"));
    // A checkpoint is its body alone.
    let of_entry = fields.iter().filter(|(name, _)| line.kind.is_some() && !NO_ATTRIBUTES.contains(&name.as_str()));
    let attributes = of_entry.map(|(name, value)| attribute(&format!("enfold.{name}"), value));
    json!({
        "timeUnixNano": at_ns.to_string(),
        "observedTimeUnixNano": now_ns.to_string(),
        "severityNumber": number,
        "severityText": text,
        "eventName": format!("enfold.{}", line.kind.map_or("checkpoint", |kind| kind.as_str())),
        "body": { "stringValue": &*line.text },
        "attributes": attributes.collect::<Vec<_>>(),
    })
}

/// 64-bit integers are strings in the JSON of protocol buffers.
fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::String(text) => json!({ "stringValue": text }),
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

fn severity(result: Option<&Value>) -> (u8, &'static str) {
    match result.and_then(|result| serde_json::from_value(result.clone()).ok()) {
        Some(Outcome::Failure) => (17, "ERROR"),
        Some(Outcome::Denied) => (13, "WARN"),
        Some(Outcome::Success) | None => (9, "INFO"),
    }
}

/// How many records the collector says that it dropped. It must not be sent them again.
fn refused(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let refused = &answer["partialSuccess"]["rejectedLogRecords"];
    refused.as_u64().or_else(|| refused.as_str()?.parse().ok()).unwrap_or(0)
}
