//! What a request may ask for, and requests that are none.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;

use super::http::{Answer, request, send};
use super::{ENCRYPT, Service, organisations, service_key};

#[test]
fn more_than_a_request_may_have_is_refused() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\nmax_body_kib = 4\nmax_batch = 3\n");
    let service = Service::start(&sandbox, &[]);
    let batch = |items: usize| {
        let item = json!({ "column": "note", "value": "x" });
        json!({ "items": vec![item; items] }).to_string()
    };
    assert_eq!(service.ask("POST", ENCRYPT, &service.key, &batch(3)).status, 200);
    let refused = service.ask("POST", ENCRYPT, &service.key, &batch(4));
    assert_eq!((refused.status, refused.code().as_str()), (413, "request-too-large"));
    let large = json!({ "items": [{ "column": "note", "value": "x".repeat(4_096) }] }).to_string();
    let refused = service.ask("POST", ENCRYPT, &service.key, &large);
    assert_eq!((refused.status, refused.code().as_str()), (413, "request-too-large"));
}

#[test]
fn who_asks_too_often_waits_and_nobody_else() {
    let sandbox = organisations();
    let (_, other) = service_key(&sandbox, "other", &["--role", "app"]);
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\nrequests_per_second = 2\n");
    let service = Service::start(&sandbox, &[]);
    let ask = |key: &str| service.ask("POST", ENCRYPT, key, "{\"items\": []}");
    let answers: Vec<Answer> = (0..50).map(|_| ask(&service.key)).collect();
    assert_eq!(answers[0].status, 200);
    let refused = answers.iter().find(|answer| answer.status != 200).expect("fifty at once are too many");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate-limited"));
    assert!(refused.headers.contains("\r\nretry-after: 1"), "{}", refused.headers);
    assert_eq!(ask(&other).status, 200);
    super::access::until("it may ask again", || ask(&service.key).status == 200);
}

#[test]
fn a_body_that_comes_too_slowly_is_given_up_and_others_are_served_meanwhile() {
    let sandbox = organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\ntimeout = \"1s\"\n");
    let service = Service::start(&sandbox, &[]);
    let authorization = format!("Bearer {}", service.key);
    let headers = [("Authorization", authorization.as_str()), ("Content-Type", "application/json")];
    let whole = request("POST", ENCRYPT, &headers, "{\"items\": []}");
    let mut slow = TcpStream::connect(&service.address).expect("it listens");
    slow.write_all(&whole.as_bytes()[..whole.len() - 1]).expect("it reads");
    assert_eq!(send(&service.address, &whole).status, 200);
    let answer = Answer::read(&mut slow);
    assert_eq!((answer.status, answer.code().as_str()), (504, "request-timeout"));
}

#[test]
fn what_is_no_request_is_refused_and_quoted_nowhere() {
    let sandbox = organisations();
    let service = Service::start(&sandbox, &[]);
    let deep = format!("{{\"items\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let secret = "4711-secret";
    let bodies = [
        String::new(),
        "{".to_owned(),
        deep,
        format!("\"{secret}\""),
        format!("{{\"items\": \"{secret}\"}}"),
        format!("{{\"items\": [{{\"column\": \"note\", \"value\": 7, \"{secret}\": 1}}]}}"),
        format!("{{\"items\": [{{\"column\": \"note\", \"value\": {{\"base64\": \"{secret}\"}}}}]}}"),
        format!("{{\"items\": [{{\"column\": \"note\", \"value\": {{\"{secret}\": \"\"}}}}]}}"),
        format!("{{\"items\": [{{\"column\": \"note\", \"tenant\": {{\"uuid\": \"{secret}\"}}, \"value\": \"\"}}]}}"),
        format!("{{\"items\": [], \"{secret}\": true}}"),
        "{\"items\": [], \"items\": []}".to_owned(),
    ];
    for body in bodies {
        let answer = service.ask("POST", ENCRYPT, &service.key, &body);
        assert_eq!((answer.status, answer.code().as_str()), (400, "usage"), "{}", answer.body);
        assert!(!answer.body.contains(secret) && !answer.headers.contains(secret), "{}", answer.body);
    }
    let authorization = format!("Bearer {}", service.key);
    let form = [("Authorization", authorization.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(send(&service.address, &request("POST", ENCRYPT, &form, "{\"items\": []}")).code(), "usage");
    let id = [("X-Request-Id", "a b\u{9}c"), ("Authorization", "Bearer x")];
    let answer = send(&service.address, &request("GET", "/healthz", &id, ""));
    assert!(answer.headers.contains("x-request-id: ") && !answer.headers.contains("a b"), "{}", answer.headers);
    assert_eq!(send(&service.address, "no HTTP at all\r\n\r\n").status, 400);
    assert_eq!(send(&service.address, &request("GET", "/healthz", &[], "")).status, 200, "and it still runs");
}
