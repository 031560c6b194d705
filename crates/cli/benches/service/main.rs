//! What `enfold serve` does beside OpenBao's transit engine: on one machine, from one client, in one run, each writing down what
//! it is asked; what authentication and events add to a request; and its memory under load. Prints a JSON line for each
//! figure.
//!
//! Both are asked over HTTP/1.1 on connections that are kept, without TLS, for a value of 64 bytes. They take turns, and the
//! ratio is the median of the ratios of neighbouring turns. OpenBao is a development server (in memory) with an audit device of
//! the kind `file`, asked with the root token, which is its cheapest; Enfold has a catalog on SQLite, with an event for each call,
//! and a service key. Its bounds are those of the default, by which events are written within a second; with `before_answer`
//! the event is on the disk first, which OpenBao's device does not ask for either.
#![allow(clippy::print_stdout, reason = "its lines are its result")]

mod client;
mod latency;
mod memory;
mod ratios;

#[allow(dead_code, reason = "made for the tests")]
#[path = "../../tests/commands/harness.rs"]
mod harness;

#[allow(dead_code, reason = "made for the tests")]
mod service;

use serde_json::{Value, json};

use self::client::Request;
use self::harness::{Sandbox, policy};
use self::service::running::{DECRYPT, ENCRYPT, Service};

const VALUE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn main() {
    // `cargo test` builds benchmarks and runs them with other arguments: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    ratios::measure();
    latency::measure();
    memory::measure();
}

/// A service that protects values, and the requests to it.
struct Ours {
    service: Service,
    _sandbox: Sandbox,
}

impl Ours {
    /// Of a policy with this in its section `events`, and with this after it.
    fn start(events: &str, more: &str) -> Self {
        let sandbox = Sandbox::empty();
        sandbox.sql("PRAGMA user_version = 1");
        let value = "[values.note]\nid = \"note\"\nring = \"main\"\n";
        let policy = policy("sqlite:app.db") + "[events]\ncatalog = true\n" + events + value + more;
        sandbox.write("enfold.toml", policy);
        let service = Service::start(&sandbox, &[]);
        Self { service, _sandbox: sandbox }
    }

    fn request(&self, method: &str, path: &str, key: &str, body: &str) -> Request {
        let authorization = format!("Bearer {key}");
        Request::new(&self.service.address, method, path, &[("Authorization", &authorization)], body)
    }

    /// Seals so many values in one request.
    fn seals(&self, values: usize) -> Request {
        let items = vec![json!({ "column": "note", "value": VALUE }); values];
        self.request("POST", ENCRYPT, &self.service.key, &json!({ "items": items }).to_string())
    }

    /// Opens so many values in one request.
    fn opens(&self, values: usize) -> Request {
        let sealed: Value = serde_json::from_str(&self.seals(values).ask()).expect("JSON");
        let items: Vec<Value> = sealed["data"]["items"].as_array().expect("items").iter().map(open).collect();
        let request = self.request("POST", DECRYPT, &self.service.key, &json!({ "items": items }).to_string());
        assert_eq!(request.ask().matches(VALUE).count(), values, "every value opens");
        request
    }

    /// Events that it lost so far: what was not written down was not measured with its log on.
    fn lost(&self) -> u64 {
        let told = self.request("GET", "/metrics", &self.service.key, "").ask();
        let line = told.lines().find_map(|line| line.strip_prefix("enfold_log_lost_events_total "));
        line.and_then(|lost| lost.parse().ok()).unwrap_or_else(|| panic!("no such figure: {told}"))
    }
}

fn open(sealed: &Value) -> Value {
    assert!(sealed["stored"].as_str().is_some_and(|stored| stored.starts_with("enf1:")), "{sealed}");
    json!({ "column": "note", "stored": sealed["stored"] })
}

/// The middle of them, which are not empty.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
