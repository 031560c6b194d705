//! Webhooks and OTLP, which share how they are posted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold::Code;
use enfold::events::{LogKey, Signer as _};
use enfold_testkit::certificates::Authority;
use enfold_testkit::cloud::{Reply, Request, Server};
use enfold_testkit::tls_front::TlsFront;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

/// Answers that no receiver gives: it goes on without one.
const NEVER: u16 = 0;

/// A receiver: what it answers can be changed, and what it was sent comes out of it.
struct Receiver {
    server: Server,
    status: Arc<AtomicU16>,
    got: UnboundedReceiver<Request>,
}

impl Receiver {
    async fn start(status: u16) -> Self {
        Self::choosy(status, |_| false).await
    }

    /// Does not take requests like these.
    async fn choosy(status: u16, refuses: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        let (sent, got) = unbounded_channel();
        let status = Arc::new(AtomicU16::new(status));
        let answers = Arc::clone(&status);
        let server = Server::start(move |request| {
            let status = if refuses(request) { 400 } else { answers.load(Ordering::Relaxed) };
            sent.send(request.clone()).ok();
            (status != NEVER).then(|| Reply::json(status, &json!({})))
        });
        Self { server: server.await, status, got }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    async fn next(&mut self) -> Request {
        tokio::time::timeout(Duration::from_secs(30), self.got.recv()).await.expect("a request").unwrap()
    }
}

fn webhook(world: &World, url: &str, more: &str) -> String {
    let secret = private(world.dir.path(), "secret", SECRET);
    format!("kind = \"webhook\"\nurl = \"{url}/events\"\nsecret_file = \"{secret}\"\n{more}\n")
}

/// The events of a call, as they are in it.
fn events(request: &Request) -> Vec<Value> {
    request.json().unwrap()["events"].as_array().unwrap().clone()
}

fn requests(events: &[Value]) -> Vec<String> {
    events.iter().filter_map(|event| event["request_id"].as_str().map(str::to_owned)).collect()
}

/// As a receiver verifies it, by its own secret.
fn is_signed(request: &Request) -> bool {
    let header = |name: &str| request.header(name).unwrap().to_owned();
    let signed = [header("webhook-id").as_bytes(), header("webhook-timestamp").as_bytes(), &request.body].join(&b'.');
    let signature = STANDARD.decode(header("webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, SECRET_BYTES), &signed, &signature).is_ok()
}

#[tokio::test]
async fn a_webhook_is_sent_each_line_of_the_log_letter_for_letter_and_signed() {
    let (world, mut receiver) = (World::new(), Receiver::start(204).await);
    let process = process(&world, &webhook(&world, receiver.server.endpoint(), "")).await;
    happen(&process, numbered(0..3));
    let key = LogKey::init(&world.dir.path().join("log.key")).unwrap();
    process.sign_log(&key).await.unwrap().unwrap();
    process.settle().await.unwrap();
    let mut sent = Vec::new();
    while let Ok(request) = receiver.got.try_recv() {
        assert!(is_signed(&request));
        let (text, json) = (String::from_utf8(request.body.clone()).unwrap(), request.json().unwrap());
        for line in lines(&process).await {
            let parsed: Value = serde_json::from_str(&line).unwrap();
            let list = if parsed["writer"].is_string() { &json["events"] } else { &json["checkpoints"] };
            if list.as_array().unwrap().contains(&parsed) {
                assert!(text.contains(&line), "{line}");
                sent.push(line);
            }
        }
    }
    assert_eq!(sent, lines(&process).await);
    assert_eq!(
        sent.iter().filter(|line| line.contains(&enfold::policy::format_operator_key(&key.public_key()))).count(),
        1
    );
    let standing = standing(&process);
    assert_eq!((standing.delivered, standing.waiting, standing.lost), (sent.len() as u64, 0, 0));
    assert!(!standing.failing && standing.delivered_ms.is_some());
}

#[tokio::test]
async fn a_receiver_that_is_away_holds_nobody_up_and_has_everything_when_it_is_back() {
    let (world, mut receiver) = (World::new(), Receiver::start(503).await);
    let process = process(&world, &webhook(&world, receiver.server.endpoint(), "kinds = [\"health-check\"]")).await;
    happen(&process, numbered(0..3));
    process.flush().await.unwrap();
    let first = receiver.next().await;
    happen(&process, numbered(3..600));
    process.flush().await.unwrap();
    // Each time it is the same call, of which a receiver that had it after all knows the id.
    let again = receiver.next().await;
    assert_eq!((&first.body, first.header("webhook-id")), (&again.body, again.header("webhook-id")));
    assert_eq!(standing(&process).waiting, 600);
    assert!(standing(&process).failing);
    receiver.answers(200);
    process.settle().await.unwrap();
    let mut got = Vec::new();
    while let Ok(request) = receiver.got.try_recv() {
        got.extend(requests(&events(&request)));
    }
    got.dedup();
    let last = got[got.len() - 600..].to_vec();
    assert_eq!(last, numbered(0..600).collect::<Vec<_>>());
    assert_eq!((standing(&process).delivered, standing(&process).lost), (600, 0));
}

#[tokio::test]
async fn what_finds_no_room_is_counted_and_an_event_says_so_once_there_is() {
    let (world, mut receiver) = (World::new(), Receiver::start(503).await);
    let process = process(&world, &webhook(&world, receiver.server.endpoint(), "queue = 5")).await;
    happen(&process, numbered(0..20));
    process.flush().await.unwrap();
    receiver.next().await;
    let lost = standing(&process).lost;
    assert_eq!((standing(&process).waiting, lost >= 15), (5, true), "{lost}");
    assert_eq!(undelivered(&world), []);
    receiver.answers(200);
    until("delivery", || standing(&process).waiting == 0).await;
    process.settle().await.unwrap();
    assert_eq!(undelivered(&world), [(lost, "webhook `siem`".to_owned())]);
    let mut kinds = Vec::new();
    while let Ok(request) = receiver.got.try_recv() {
        kinds.extend(events(&request).into_iter().map(|event| event["kind"].clone()));
    }
    assert_eq!(kinds.last(), Some(&json!("undelivered")), "the receiver is told as well");
}

#[tokio::test]
async fn an_event_that_a_receiver_refuses_keeps_no_other_back() {
    let bad = |request: &Request| String::from_utf8_lossy(&request.body).contains("\"r-7\"");
    let (world, mut receiver) = (World::new(), Receiver::choosy(200, bad).await);
    let process = process(&world, &webhook(&world, receiver.server.endpoint(), "kinds = [\"health-check\"]")).await;
    happen(&process, numbered(0..20));
    process.flush().await.unwrap();
    process.settle().await.unwrap();
    let mut got = Vec::new();
    while let Ok(request) = receiver.got.try_recv() {
        if !bad(&request) {
            got.extend(requests(&events(&request)));
        }
    }
    assert_eq!(got, numbered(0..20).filter(|name| name != "r-7").collect::<Vec<_>>());
    assert_eq!((standing(&process).delivered, standing(&process).lost), (19, 1));
    assert_eq!(undelivered(&world), [(1, "webhook `siem`".to_owned())]);
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_keep_a_program_from_ending() {
    let (world, receiver) = (World::new(), Receiver::start(NEVER).await);
    let process = process(&world, &webhook(&world, receiver.server.endpoint(), "kinds = [\"health-check\"]")).await;
    happen(&process, numbered(0..3));
    process.settle().await.unwrap();
    assert_eq!((standing(&process).waiting, standing(&process).lost), (0, 3));
    assert_eq!(undelivered(&world), [(3, "webhook `siem`".to_owned())]);
}

#[tokio::test]
async fn lines_go_only_to_whom_the_policys_authority_vouches_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    for (authority, arrives) in [(&ours, true), (&theirs, false)] {
        let (world, mut receiver) = (World::new(), Receiver::start(200).await);
        let behind = receiver.server.endpoint().trim_start_matches("http://").parse().unwrap();
        let front = TlsFront::before(behind, &authority.issue("localhost")).await;
        let url = format!("https://localhost:{}", front.address().port());
        let trust = format!("ca_file = \"{}\"", ours.certificate().display());
        let process = process(&world, &webhook(&world, &url, &trust)).await;
        happen(&process, numbered(0..1));
        process.flush().await.unwrap();
        until("a try", || standing(&process).delivered > 0 || standing(&process).failing).await;
        assert_eq!(receiver.got.try_recv().is_ok(), arrives);
    }
}

#[tokio::test]
async fn a_sink_that_lacks_its_secret_is_refused_at_the_start() {
    let world = World::new();
    let cases = [("", Code::FileFailed), ("whsec_", Code::FileFailed), ("not a secret", Code::FileFailed)];
    for (text, wanted) in cases {
        let sink = webhook(&world, "http://127.0.0.1:1", "");
        private(world.dir.path(), "secret", text);
        assert_eq!(opened(&world, &sink).await.err().map(|error| error.code()), Some(wanted), "{text}");
    }
    let sink = webhook(&world, "http://127.0.0.1:1", "");
    std::fs::remove_file(world.dir.path().join("secret")).unwrap();
    assert_eq!(opened(&world, &sink).await.err().map(|error| error.code()), Some(Code::FileFailed));
}

fn otlp(world: &World, url: &str) -> String {
    let headers = private(world.dir.path(), "headers", "Authorization: Bearer word\nx-team: audit\n");
    format!("kind = \"otlp\"\nurl = \"{url}/v1/logs\"\nheaders_file = \"{headers}\"\n")
}

#[tokio::test]
async fn a_collector_is_sent_records_whose_bodies_are_the_lines() {
    let (world, mut receiver) = (World::new(), Receiver::start(200).await);
    let process = process(&world, &otlp(&world, receiver.server.endpoint())).await;
    happen(&process, numbered(0..2));
    let refused = enfold::Error::new(Code::PermissionDenied, "cannot do that");
    process.log(Event::refused(&refused));
    process.settle().await.unwrap();
    let mut records = Vec::new();
    while let Ok(request) = receiver.got.try_recv() {
        assert_eq!(
            (request.path.as_str(), request.bearer(), request.header("x-team")),
            ("/v1/logs", Some("word"), Some("audit"))
        );
        let document = &request.json().unwrap()["resourceLogs"][0];
        assert_eq!(
            document["resource"]["attributes"][0],
            json!({ "key": "service.name", "value": { "stringValue": "enfold" } })
        );
        records.extend(document["scopeLogs"][0]["logRecords"].as_array().unwrap().clone());
    }
    let bodies: Vec<&str> = records.iter().map(|record| record["body"]["stringValue"].as_str().unwrap()).collect();
    assert_eq!(bodies, lines(&process).await);
    let of = |kind: &str| records.iter().find(|record| record["eventName"] == kind).unwrap();
    let (fine, denied) = (of("enfold.health-check"), of("enfold.denied"));
    assert_eq!((&fine["severityNumber"], &denied["severityNumber"]), (&json!(9), &json!(13)));
    let line: Value = serde_json::from_str(fine["body"]["stringValue"].as_str().unwrap()).unwrap();
    assert_eq!(fine["timeUnixNano"].as_str().unwrap(), format!("{}000000", line["at_ms"]));
    let attributes = fine["attributes"].as_array().unwrap();
    for (name, value) in [("actor", json!({ "stringValue": line["actor"] })), ("count", json!({ "intValue": "1" }))] {
        let wanted = json!({ "key": format!("enfold.{name}"), "value": value });
        assert!(attributes.contains(&wanted), "{wanted}");
    }
}

#[tokio::test]
async fn records_that_a_collector_says_it_dropped_are_lost_and_not_sent_again() {
    let partial = json!({ "partialSuccess": { "rejectedLogRecords": "2", "errorMessage": "no room" } });
    let server = Server::start(move |_| Some(Reply::json(200, &partial))).await;
    let world = World::new();
    let sink = format!("{}kinds = [\"health-check\"]\n", otlp(&world, server.endpoint()));
    let process = process(&world, &sink).await;
    happen(&process, numbered(0..5));
    process.settle().await.unwrap();
    assert_eq!((standing(&process).delivered, standing(&process).lost), (3, 2));
    assert_eq!(undelivered(&world), [(2, "otlp `siem`".to_owned())]);
}
