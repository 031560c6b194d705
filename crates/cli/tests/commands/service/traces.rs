//! Spans, as a collector of OpenTelemetry gets them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::access::until;
use super::http::{request, send};
use super::{DECRYPT, ENCRYPT, Service, protected_organisations};
use crate::harness::Sandbox;

/// Takes what is sent to it, for as long as the test runs.
#[derive(Clone)]
struct Collector {
    address: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let collector = Self { address, bodies: Arc::default() };
        let bodies = Arc::clone(&collector.bodies);
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| take(stream, &bodies)));
        collector
    }

    /// A policy's lines for it.
    fn policy(&self, more: &str) -> String {
        format!("\n[traces]\nendpoint = \"http://{}/v1/traces\"\n{more}", self.address)
    }

    fn all(&self) -> String {
        self.bodies.lock().expect("a lock").concat()
    }

    /// The spans of a trace, by their id.
    fn spans(&self, trace: &str) -> BTreeMap<String, Value> {
        let bodies = self.bodies.lock().expect("a lock");
        let documents = bodies.iter().map(|body| serde_json::from_str::<Value>(body).expect("JSON"));
        let spans = documents.flat_map(|document| {
            let resource = &document["resourceSpans"][0];
            assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "enfold");
            resource["scopeSpans"][0]["spans"].as_array().expect("spans").clone()
        });
        let ours = spans.filter(|span| span["traceId"] == trace);
        ours.map(|span| (span["spanId"].as_str().expect("an id").to_owned(), span)).collect()
    }
}

fn take(mut stream: TcpStream, bodies: &Mutex<Vec<String>>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let read = stream.read(&mut chunk).expect("a request");
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        assert!(head.starts_with("post /v1/traces ") && head.contains("content-type: application/json"), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if body.len() >= length.parse().expect("a number") {
            bodies.lock().expect("a lock").push(body.to_owned());
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").expect("it waits");
            return;
        }
    }
}

fn says<'a>(span: &'a Value, key: &str) -> &'a str {
    let attributes = span["attributes"].as_array().expect("attributes").iter();
    let said = attributes.filter(|said| said["key"] == format!("enfold.{key}")).map(|said| &said["value"]);
    said.filter_map(|value| value["stringValue"].as_str().or_else(|| value["intValue"].as_str()))
        .next()
        .unwrap_or_default()
}

fn ask(service: &Service, traceparent: &str, path: &str, item: &Value) -> Value {
    let authorization = format!("Bearer {}", service.key);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Content-Type", "application/json"),
        ("traceparent", traceparent),
        ("X-Request-Id", "request-canary"),
    ];
    let body = json!({ "items": [item], "reason": "reason-canary" }).to_string();
    let answer = send(&service.address, &request("POST", path, &headers, &body));
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["data"]["items"][0].clone()
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn service(more: &str) -> (Sandbox, Collector, Service) {
    let (sandbox, collector) = (protected_organisations(), Collector::start());
    let policy = sandbox.read("enfold.toml").replace("catalog = true\n", "catalog = true\nbefore_answer = true\n");
    sandbox.write("enfold.toml", policy + &collector.policy(more));
    let service = Service::start(&sandbox, &[]);
    (sandbox, collector, service)
}

#[test]
fn a_request_says_in_which_phase_its_time_went_within_the_trace_of_whoever_sent_it_and_nothing_of_the_value() {
    let (_sandbox, collector, service) = service("");
    let traceparent = format!("00-{TRACE}-{CALLER}-01");
    let item = json!({ "column": "users.email", "tenant": "tenant-canary", "value": "value-canary", "reference": "reference-canary" });
    let sealed = ask(&service, &traceparent, ENCRYPT, &item);
    let spans = || collector.spans(TRACE);
    until("the request's own span has come", || spans().values().any(|span| span["name"] == "request"));
    let spans = spans();
    let named = |name: &str| {
        spans.values().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no {name} in {spans:?}"))
    };
    let request = named("request");
    assert_eq!((&request["parentSpanId"], &request["kind"]), (&json!(CALLER), &json!(2)));
    assert_eq!((says(request, "method"), says(request, "path"), says(request, "status")), ("POST", ENCRYPT, "200"));
    let values = named("values");
    assert_eq!(
        (&values["parentSpanId"], says(values, "column"), says(values, "values")),
        (&request["spanId"], "users.email", "1")
    );
    let phases: BTreeSet<&str> =
        spans.values().map(|span| says(span, "phase")).filter(|phase| !phase.is_empty()).collect();
    assert_eq!(phases, BTreeSet::from(["cache", "crypto", "database", "kms", "queue"]));
    let asked = named("key service");
    assert_eq!((says(asked, "operation"), says(asked, "provider"), says(asked, "requests")), ("wrap", "local", "1"));
    for span in spans.values() {
        let within = span["parentSpanId"].as_str().expect("an id");
        assert!(within == CALLER || spans.contains_key(within), "{span}");
        let nanos = |key: &str| span[key].as_str().and_then(|nanos| nanos.parse::<u64>().ok()).expect("a moment");
        assert!(
            nanos("startTimeUnixNano") <= nanos("endTimeUnixNano")
                && nanos("startTimeUnixNano") > 1_700_000_000_000_000_000
        );
    }
    let stored = sealed["stored"].as_str().expect("an envelope");
    let opening = json!({ "column": "users.email", "tenant": "tenant-canary", "stored": stored });
    assert_eq!(
        ask(&service, &traceparent.replace(CALLER, "00f067aa0ba902b7"), DECRYPT, &opening)["value"],
        "value-canary"
    );
    until("the second request has come", || {
        collector.spans(TRACE).values().any(|span| span["parentSpanId"] == "00f067aa0ba902b7")
    });
    let all = collector.all();
    let key = sealed["keyId"].as_str().expect("a key");
    for hidden in ["canary", "enf1:", &stored[8..24], key, &key[..12], &service.key] {
        assert!(!all.contains(hidden), "{hidden}: {all}");
    }
}

#[test]
fn what_the_caller_does_not_keep_is_not_sent_and_what_begins_here_by_the_policys_share() {
    let (_sandbox, collector, service) = service("percent = 0\n");
    let item = json!({ "column": "users.email", "tenant": "acme", "value": "one" });
    ask(&service, &format!("00-{TRACE}-{CALLER}-00"), ENCRYPT, &item);
    ask(&service, "not a parent", ENCRYPT, &item);
    let kept = "4bf92f3577b34da6a3ce929d0e0e4736";
    ask(&service, &format!("00-{kept}-{CALLER}-01"), ENCRYPT, &item);
    until("what the caller keeps has come", || collector.spans(kept).values().any(|span| span["name"] == "request"));
    assert!(collector.spans(TRACE).is_empty());
    let requests = collector.all().matches("\"name\":\"request\"").count();
    assert_eq!(requests, 1, "{}", collector.all());
}

#[test]
fn a_collector_that_is_away_holds_nobody_up() {
    let sandbox = protected_organisations();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    sandbox.extend_policy(&format!("\n[traces]\nendpoint = \"http://{nobody}/v1/traces\"\n"));
    let service = Service::start(&sandbox, &[]);
    let item = json!({ "column": "users.email", "tenant": "acme", "value": "one" });
    let sealed = ask(&service, "", ENCRYPT, &item);
    assert!(sealed["stored"].as_str().expect("an envelope").starts_with("enf1:"));
    service.signal(rustix::process::Signal::TERM);
    let ran = service.ended(&sandbox);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("spans were not sent: the collector could not be reached"), "{}", ran.stderr);
}
