//! Progress of jobs, as server-sent events.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::access::until;
use super::http::request;
use super::{Service, protected_organisations, service_key};
use crate::harness::Sandbox;

const JOBS: &str = "/api/v1/encryption/jobs";
const ROTATE: &str = "/api/v1/encryption/keys/rotate";

/// A job that waits for a worker.
fn waiting(sandbox: &Sandbox) -> (Service, i64) {
    let service = Service::start(sandbox, &[]);
    let body = "{\"allTenants\": true, \"reason\": \"yearly\", \"reEncrypt\": true}";
    let rotated = service.ask("POST", ROTATE, &service.key, body).json();
    let job = rotated["data"]["reEncryptionStatus"]["jobId"].as_i64().expect("a job");
    (service, job)
}

/// A stream that is open.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(service: &Service, key: &str, job: i64) -> Self {
        let authorization = format!("Bearer {key}");
        let asked = request("GET", &format!("{JOBS}/{job}/events"), &[("Authorization", &authorization)], "");
        let mut connection = TcpStream::connect(&service.address).expect("the service listens");
        connection.write_all(asked.as_bytes()).expect("it reads");
        connection.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        Self(BufReader::new(connection))
    }

    /// The first line of the answer.
    fn status(&mut self) -> u16 {
        self.line().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status")
    }

    /// None where the stream has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).expect("the stream goes on or ends");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next line that begins so, without that; none where the stream ends before.
    fn after(&mut self, beginning: &str) -> Option<String> {
        loop {
            if let Some(rest) = self.line()?.strip_prefix(beginning) {
                return Some(rest.to_owned());
            }
        }
    }

    /// The next event: its name, and what it says; none where the stream ends.
    fn event(&mut self) -> Option<(String, Value)> {
        let name = self.after("event: ")?;
        let says = self.after("data: ").expect("an event says something");
        Some((name, serde_json::from_str(&says).expect("JSON")))
    }
}

#[test]
fn whoever_listens_is_told_each_change_of_a_job_until_its_end() {
    let sandbox = protected_organisations();
    sandbox.write("enfold.toml", sandbox.read("enfold.toml") + "\n[service.limits]\ntimeout = \"1s\"\n");
    let (service, job) = waiting(&sandbox);
    let mut stream = Stream::open(&service, &service.key, job);
    assert_eq!(stream.status(), 200);
    assert_eq!(stream.after("content-type: ").as_deref(), Some("text/event-stream"));
    let (name, first) = stream.event().expect("how it is now");
    assert_eq!((name.as_str(), &first["jobId"], &first["status"]), ("progress", &json!(job), &json!("QUEUED")));
    // Longer than a request may take, and until somebody says that the stream lives.
    let opened = Instant::now();
    assert_eq!(stream.after(":").as_deref().map(str::trim), Some("nothing changed"));
    assert!(opened.elapsed() > Duration::from_secs(1));

    let order = |what: &str| service.ask("POST", &format!("{JOBS}/{job}/{what}"), &service.key, "").status;
    assert_eq!(order("pause"), 200);
    assert_eq!(stream.event().expect("a change").1["status"], "PAUSED");
    assert_eq!(order("resume"), 200);
    assert_eq!(stream.event().expect("a change").1["status"], "QUEUED");
    sandbox.ok(&["worker", "--until-idle"]);
    let last = std::iter::from_fn(|| stream.event()).last().expect("the end");
    assert_eq!((last.0.as_str(), &last.1["status"]), ("end", &json!("COMPLETED")));
    assert_eq!(last.1["progress"]["rowsChanged"], 2);

    let mut late = Stream::open(&service, &service.key, job);
    assert_eq!(late.event().expect("the end again").0, "end");
    assert!(late.event().is_none());
    for (path, status) in [(format!("{JOBS}/4711/events"), 400), (format!("{JOBS}/first/events"), 400)] {
        assert_eq!(service.ask("GET", &path, &service.key, "").status, status, "{path}");
    }
}

#[test]
fn a_caller_has_so_many_streams_and_loses_them_with_its_key() {
    let sandbox = protected_organisations();
    let (id, key) = service_key(&sandbox, "watcher", &["--role", "jobs"]);
    let (service, job) = waiting(&sandbox);
    let open = || {
        let mut stream = Stream::open(&service, &key, job);
        (stream.status(), stream)
    };
    let mut streams: Vec<(u16, Stream)> = (0..8).map(|_| open()).collect();
    assert!(streams.iter().all(|(status, _)| *status == 200));
    assert_eq!(open().0, 429);
    assert_eq!(Stream::open(&service, &service.key, job).status(), 200, "another caller");
    drop(streams.pop());
    until("the place of the closed one is free", || open().0 == 200);

    sandbox.ok(&["service-keys", "revoke", &id, "--yes"]);
    let mut first = streams.swap_remove(0).1;
    assert_eq!(first.event().expect("how it was").0, "progress");
    assert!(first.event().is_none(), "it ends without an end of the job");
}

#[test]
fn the_service_stops_though_somebody_listens() {
    let sandbox = protected_organisations();
    let (service, job) = waiting(&sandbox);
    let mut stream = Stream::open(&service, &service.key, job);
    assert_eq!(stream.event().expect("how it is now").1["status"], "QUEUED");
    service.signal(Signal::TERM);
    assert!(stream.event().is_none());
    let ran = service.ended(&sandbox);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!ran.stderr.contains("not finished"), "{}", ran.stderr);
}
