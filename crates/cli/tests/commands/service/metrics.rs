//! Figures for Prometheus, as the service and a worker tell them, and as promtool reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use enfold_server::metrics::METRICS;
use serde_json::{Value, json};

use super::access::until;
use super::http::{request, send};
use super::{DECRYPT, ENCRYPT, Service, organisations, protected_organisations, service_key};
use crate::harness::Sandbox;

/// Samples by their name with its labels.
type Figures = BTreeMap<String, f64>;

fn figures(text: &str) -> Figures {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| line.rsplit_once(' ').expect("a sample"))
        .map(|(name, n)| (name.to_owned(), n.parse().expect("a number")))
        .collect()
}

fn told(service: &Service) -> String {
    let answer = service.ask("GET", "/metrics", &service.key, "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers.contains("\r\ncontent-type: text/plain; version=0.0.4"), "{}", answer.headers);
    answer.body
}

/// What `promtool check metrics` finds wrong.
fn checked(text: &str) -> String {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let ended = promtool.wait_with_output().expect("it ends");
    let said = [ended.stdout, ended.stderr].concat();
    assert_eq!(ended.status.success(), said.is_empty());
    String::from_utf8(said).expect("text")
}

fn email(tenant: &str, value: &str) -> Value {
    json!({ "column": "users.email", "tenant": tenant, "value": value })
}

#[test]
fn every_figure_is_told_and_promtool_finds_nothing_wrong_with_them() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let sealed = service.items(
        ENCRYPT,
        &service.key,
        &json!([email("acme", "one"), email("acme", "two"), email("acme", "three")]),
    );
    let opened = |tenant: &str, stored: &Value| {
        service.items(DECRYPT, &service.key, &json!([{ "column": "users.email", "tenant": tenant, "stored": stored }]))
    };
    assert_eq!(opened("acme", &sealed[0]["stored"])[0]["value"], "one");
    assert_eq!(opened("other", &sealed[0]["stored"])[0]["error"]["code"], "open-failed");
    service.items(ENCRYPT, &service.key, &json!([{ "column": "users.nothing", "value": "x" }]));
    let text = told(&service);
    assert_eq!(checked(&text), "");
    let named: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE enfold_")?.split(' ').next()).collect();
    assert_eq!(named, METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>());

    let figures = figures(&text);
    let is = |name: &str, n: f64| assert_eq!(figures.get(name).copied(), Some(n), "{name}\n{text}");
    is(r#"enfold_encryption_operations_total{operation="encrypt",status="success",data_class="email"}"#, 3.0);
    is(r#"enfold_encryption_operations_total{operation="decrypt",status="success",data_class="email"}"#, 1.0);
    is(r#"enfold_encryption_operations_total{operation="decrypt",status="failure",data_class="email"}"#, 1.0);
    is(r#"enfold_encryption_operations_total{operation="encrypt",status="failure",data_class="none"}"#, 1.0);
    is(r#"enfold_encryption_failures_total{error_type="open-failed"}"#, 1.0);
    is(r#"enfold_encryption_failures_total{error_type="unknown-column"}"#, 1.0);
    is(r#"enfold_encryption_duration_seconds_count{operation="decrypt"}"#, 2.0);
    is(r#"enfold_http_requests_total{method="POST",path="/api/v1/encryption/encrypt",status="200"}"#, 2.0);
    is(r#"enfold_kms_calls_total{operation="unwrap",status="failure",provider="local"}"#, 0.0);
    is(r#"enfold_jobs{goal="protect",table="users",state="completed"}"#, 1.0);
    is(r#"enfold_job_rows{goal="protect",table="users",status="changed"}"#, 2.0);
    is(r#"enfold_coverage_values{column="users.email",status="envelope"}"#, 2.0);
    is(r#"enfold_coverage_values{column="users.email",status="plaintext"}"#, 0.0);
    is(r#"enfold_data_keys{ring="main"}"#, 2.0);
    is("enfold_log_lost_events_total", 0.0);
    is(r#"enfold_look_failures_total{what="jobs"}"#, 0.0);
    for what in ["jobs", "keys", "coverage", "log"] {
        assert!(figures[&format!("enfold_look_timestamp_seconds{{what=\"{what}\"}}")] > 1.7e9);
    }
    assert!(figures.keys().any(|name| name.starts_with("enfold_column_mode{column=\"users.phone\"")), "{text}");
}

#[test]
fn no_caller_makes_a_label_and_no_tenant_value_or_key_is_in_one() {
    let sandbox = protected_organisations();
    let (_, reader) = service_key(&sandbox, "reader-of-mail", &["--role", "reader", "--class", "email"]);
    let service = Service::start(&sandbox, &[]);
    let sealed = service.items(ENCRYPT, &service.key, &json!([email("tenant-canary", "value-canary")]))[0].clone();
    let flood = |n: usize| {
        let item = json!([{ "column": format!("users.col-canary-{n}"), "tenant": format!("tenant-canary-{n}"), "stored": "x" }]);
        service.items(DECRYPT, &service.key, &item);
        service.items(
            ENCRYPT,
            &service.key,
            &json!([email(&format!("tenant-canary-{n}"), &format!("value-canary-{n}"))]),
        );
        let asked =
            json!([{ "column": "users.email", "tenant": format!("tenant-canary-{n}"), "stored": sealed["stored"] }]);
        service.items(DECRYPT, &service.key, &asked);
        service.ask("GET", &format!("/path-canary-{n}"), &service.key, "");
        service.ask(&format!("METHOD-CANARY-{n}"), ENCRYPT, &service.key, "");
        service.ask("GET", &format!("/api/v1/encryption/jobs/{}?x=query-canary", 1_000 + n), &service.key, "");
        service.ask("GET", ENCRYPT, &format!("credentials-canary-{n}"), "");
        service.ask("POST", ENCRYPT, &reader, "{}");
        let id = [("X-Request-Id", &*format!("request-canary-{n}")), ("User-Agent", "agent-canary")];
        send(&service.address, &request("GET", "/healthz", &id, ""));
    };
    let names = || figures(&told(&service)).into_keys().collect::<BTreeSet<String>>();
    flood(0);
    names();
    let before = names();
    (1..150).for_each(flood);
    let text = told(&service);
    let after: BTreeSet<String> = figures(&text).into_keys().collect();
    assert_eq!(before.symmetric_difference(&after).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(!text.to_lowercase().contains("canary"), "{text}");
    let key = sealed["keyId"].as_str().expect("a key");
    assert!(!text.contains(key) && !text.contains("reader-of-mail"), "{text}");
}

#[test]
fn names_begin_as_the_policy_says_and_an_address_of_their_own_tells_figures_and_nothing_else() {
    let sandbox = organisations();
    sandbox.extend_policy("\n[metrics]\nprefix = \"gl\"\nlisten = \"127.0.0.1:0\"\n");
    let mut child = sandbox.start(&["--json", "serve", "--listen", "127.0.0.1:0"]);
    let mut document = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    while serde_json::from_str::<Value>(&document).is_err() {
        assert_ne!(stdout.read_line(&mut document).expect("standard output"), 0, "the service did not start");
    }
    let document: Value = serde_json::from_str(&document).expect("a document");
    let url = document["metrics"].as_str().expect("a URL").to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches("/metrics");
    let answer = send(address, &request("GET", "/metrics", &[], ""));
    let others = ["/", "/healthz", ENCRYPT].map(|path| send(address, &request("GET", path, &[], "")).status);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!((answer.status, others), (200, [404; 3]));
    assert_eq!(checked(&answer.body), "");
    for name in [
        "gl_encryption_operations_total{operation=\"encrypt\",status=\"success\",data_class=\"email\"}",
        "gl_encryption_duration_seconds_bucket{operation=\"decrypt\",le=\"0.001\"}",
        "gl_encryption_key_cache_hits_total{key_type=\"data_key\",ring=\"main\"}",
        "gl_reencryption_progress{status=\"total\"}",
    ] {
        assert!(answer.body.contains(name), "{name}\n{}", answer.body);
    }
    assert!(!answer.body.contains("enfold_"), "{}", answer.body);
}

/// A worker that tells figures, which ends with the test.
struct Working {
    child: std::process::Child,
    stderr: BufReader<std::process::ChildStderr>,
    address: String,
}

impl Working {
    fn start(sandbox: &Sandbox) -> Self {
        let mut child = sandbox.start(&["worker", "--metrics", "127.0.0.1:0"]);
        let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("/metrics") {
            line.clear();
            assert_ne!(stderr.read_line(&mut line).expect("standard error"), 0, "the worker did not start");
        }
        let address = line.split("http://").nth(1).and_then(|url| url.split('/').next()).expect("a URL").to_owned();
        Self { child, stderr, address }
    }

    fn figures(&self) -> Figures {
        figures(&send(&self.address, &request("GET", "/metrics", &[], "")).body)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // Read to its end, so that the worker was never held up by a full pipe.
        std::io::copy(&mut self.stderr, &mut std::io::sink()).ok();
    }
}

#[test]
fn a_worker_tells_how_far_a_re_encryption_is() {
    let sandbox = protected_organisations();
    let service = Service::start(&sandbox, &[]);
    let post = |path: &str, body: &Value| service.ask("POST", path, &service.key, &body.to_string());
    let asked = json!({ "allTenants": true, "reason": "yearly" });
    assert_eq!(post("/api/v1/encryption/keys/rotate", &asked).status, 200);
    assert_eq!(post("/api/v1/encryption/re-encrypt", &json!({ "reason": "yearly" })).status, 200);
    let worker = Working::start(&sandbox);
    // Looks are good for 15 s, so the last one may be of before.
    let began = std::time::Instant::now();
    let progress =
        |figures: &Figures, status: &str| figures[&format!("enfold_reencryption_progress{{status=\"{status}\"}}")];
    let done = |figures: &Figures| {
        figures.contains_key("enfold_jobs{goal=\"reencrypt\",table=\"users\",state=\"completed\"}")
            && progress(figures, "total") > 0.0
            && progress(figures, "completed") == progress(figures, "total")
    };
    let mut figures = worker.figures();
    while !done(&figures) {
        let jobs: Vec<_> = figures.iter().filter(|(name, _)| name.contains("job") || name.contains("reenc")).collect();
        assert!(began.elapsed().as_secs() < 60, "{jobs:?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
        figures = worker.figures();
    }
    assert_eq!(figures["enfold_workers"], 1.0);
    assert_eq!(figures[r#"enfold_job_rows{goal="reencrypt",table="users",status="changed"}"#], 2.0);
    assert!(
        figures[r#"enfold_encryption_operations_total{operation="decrypt",status="success",data_class="email"}"#]
            >= 2.0
    );
}

#[test]
fn plaintext_and_a_log_that_was_changed_show() {
    let sandbox = protected_organisations();
    sandbox.ok(&["log", "init"]);
    sandbox.write(
        "enfold.toml",
        sandbox.read("enfold.toml").replace(
            "catalog = true\n",
            "catalog = true\nsigning_key_file = \"enfold-log.key\"\ncheckpoint_every = \"1h\"\n",
        ),
    );
    sandbox.ok(&["log", "sign"]);
    let figures_now = || figures(&told(&Service::start(&sandbox, &[])));
    let sound = figures_now();
    assert_eq!(sound["enfold_log_broken_chains"], 0.0);
    assert!(sound["enfold_log_checkpoint_timestamp_seconds"] > 1.7e9);
    let service = Service::start(&sandbox, &[]);
    for value in ["one", "two", "three"] {
        service.items(ENCRYPT, &service.key, &json!([email("acme", value)]));
    }
    until("entries follow the checkpoint", || figures_now()["enfold_log_unsigned_entries"] >= 3.0);
    // Somebody changes the last but one, and puts plaintext back.
    let last = "SELECT rowid FROM enfold_events ORDER BY at_ms DESC, seq DESC LIMIT 1 OFFSET 1";
    let change = "UPDATE enfold_events SET event = replace(event, '\"count\":', '\"count\":1')";
    sandbox.sql(&format!("{change} WHERE rowid = ({last})"));
    sandbox.sql("UPDATE users SET phone = '+1 3' WHERE id = 1");
    assert_eq!(figures_now()["enfold_log_broken_chains"], 1.0);
    assert_eq!(figures_now()[r#"enfold_coverage_values{column="users.phone",status="plaintext"}"#], 1.0);
}
