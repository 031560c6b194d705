//! Requests a second beside OpenBao's transit engine.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold_testkit::openbao::{Private, ROOT_TOKEN};
use serde_json::{Value, json};

use super::client::Request;
use super::{Ours, VALUE, median};

const CONNECTIONS: usize = 16;
/// Turns of each side.
const TURNS: usize = 9;
const TURN: Duration = Duration::from_secs(1);

/// What both are asked.
struct Asked {
    name: &'static str,
    values: usize,
    bound: f64,
    ours: fn(&Ours, usize) -> Request,
    theirs: fn(&Transit, usize) -> Request,
}

const ASKED: [Asked; 4] = [
    Asked { name: "service_encrypt", values: 1, bound: 3.0, ours: Ours::seals, theirs: Transit::seals },
    Asked { name: "service_decrypt", values: 1, bound: 3.0, ours: Ours::opens, theirs: Transit::opens },
    Asked { name: "service_encrypt_100", values: 100, bound: 5.0, ours: Ours::seals, theirs: Transit::seals },
    Asked { name: "service_decrypt_100", values: 100, bound: 5.0, ours: Ours::opens, theirs: Transit::opens },
];

pub(crate) fn measure() {
    let transit = Transit::start();
    for (events, more) in [("", ""), ("_before_answer", "before_answer = true\n")] {
        let ours = Ours::start(more, "");
        for asked in &ASKED {
            compare(asked, events, &ours, &transit);
        }
        assert_eq!(ours.lost(), 0, "an event was lost: this measured less than it says");
    }
}

fn compare(asked: &Asked, events: &str, ours: &Ours, transit: &Transit) {
    let (our, their) = ((asked.ours)(ours, asked.values), (asked.theirs)(transit, asked.values));
    let written = transit.server.audit_bytes();
    let turn = |request: &Request| request.turn(CONNECTIONS, 200, TURN).a_second();
    let pairs: Vec<(f64, f64)> = (0..TURNS).map(|_| (turn(&our), turn(&their))).collect();
    assert!(transit.server.audit_bytes() > written, "OpenBao wrote nothing down");
    let ratio = median(pairs.iter().map(|(ours, theirs)| ours / theirs).collect());
    let (a_second, theirs) = (median(pairs.iter().map(|p| p.0).collect()), median(pairs.iter().map(|p| p.1).collect()));
    // Only what the policy does by itself has a bound: see the head of `main.rs`.
    let (bound, met) = match events {
        "" => (asked.bound.to_string(), ratio >= asked.bound),
        _ => ("null".to_owned(), true),
    };
    println!(
        r#"{{"name":"{}{events}","ratio":{ratio:.2},"bound":{bound},"met":{met},"better":"more","a_second":{a_second:.0},"openbao_a_second":{theirs:.0},"values":{},"connections":{CONNECTIONS}}}"#,
        asked.name, asked.values,
    );
}

/// An OpenBao whose transit engine has a key.
struct Transit {
    server: Private,
}

impl Transit {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let server = runtime.block_on(async {
            let server = Private::audited().await;
            server.plain().write("sys/mounts/transit", json!({ "type": "transit" })).await;
            server.plain().write("transit/keys/note", json!({ "type": "aes256-gcm96" })).await;
            server
        });
        Self { server }
    }

    fn request(&self, path: &str, body: &Value) -> Request {
        let headers = [("X-Vault-Token", ROOT_TOKEN)];
        Request::new(self.server.plain().server(), "POST", path, &headers, &body.to_string())
    }

    fn seals(&self, values: usize) -> Request {
        let item = json!({ "plaintext": STANDARD.encode(VALUE) });
        self.request("/v1/transit/encrypt/note", &batch(&vec![item; values]))
    }

    fn opens(&self, values: usize) -> Request {
        // The answer to a single value comes in one piece, so it is JSON as it stands.
        let sealed = self.request("/v1/transit/encrypt/note", &json!({ "plaintext": STANDARD.encode(VALUE) })).ask();
        let sealed: Value = serde_json::from_str(&sealed).expect("JSON");
        let item = json!({ "ciphertext": sealed["data"]["ciphertext"] });
        let request = self.request("/v1/transit/decrypt/note", &batch(&vec![item; values]));
        assert!(request.ask().contains(&STANDARD.encode(VALUE)), "it opens");
        request
    }
}

/// Alone without the form of a batch.
fn batch(items: &[Value]) -> Value {
    match items {
        [one] => one.clone(),
        many => json!({ "batch_input": many }),
    }
}
