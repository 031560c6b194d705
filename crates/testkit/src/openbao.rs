//! OpenBao, spoken to as root with plain HTTP so that a fixture needs no client of its own: the one that
//! `scripts/services.sh` starts, and one of a test's own for what must not happen to the others.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::aws::split;
use crate::certificates::ServerCertificate;
use crate::postgres_private::free_port;

/// Of a development server.
pub const ROOT_TOKEN: &str = "root";

/// Where an audited server writes.
const AUDIT: &str = "audit.log";

/// A server, and where in it: in the root namespace, unless [`OpenBao::within`] says another.
#[derive(Clone, Debug)]
pub struct OpenBao {
    host: String,
    namespace: Option<String>,
}

impl OpenBao {
    /// The one that all tests share.
    pub fn shared() -> Self {
        let url = variable("ENFOLD_TEST_OPENBAO");
        Self { host: url.strip_prefix("http://").expect("an http address").to_owned(), namespace: None }
    }

    /// The same server, in a namespace.
    pub fn within(&self, namespace: &str) -> Self {
        Self { host: self.host.clone(), namespace: Some(namespace.to_owned()) }
    }

    /// `HOST:PORT`.
    pub fn server(&self) -> &str {
        &self.host
    }

    /// Calls `/v1/PATH` as root; `null` for an answer without a body.
    pub async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (host, body) = (&self.host, body.to_string());
        let namespace = self.namespace.as_ref().map(|n| format!("X-Vault-Namespace: {n}\r\n")).unwrap_or_default();
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\
             {namespace}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(host).await.unwrap_or_else(|e| panic!("OpenBao at {host}: {e}"));
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("receive");
        let (status, text) = split(&String::from_utf8(answer).expect("UTF-8"));
        (status, if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") })
    }

    /// Writes and expects it to succeed.
    pub async fn write(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call("POST", path, &body).await;
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }

    /// Reads and expects it to be there.
    pub async fn read(&self, path: &str) -> Value {
        let (status, answer) = self.call("GET", path, &Value::Null).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// A mount of its own for one test: nothing of an earlier run or of another test is in it.
    pub async fn mount(&self, kind: &str, below: &str) -> String {
        let name = format!("{kind}-{}", unique());
        self.write(&format!("sys/{below}/{name}"), json!({ "type": kind })).await;
        name
    }
}

/// Where a private server listens with TLS.
#[derive(Clone, Copy)]
pub struct Secured<'a> {
    pub certificate: &'a ServerCertificate,
    /// `tls11`, `tls12` or `tls13`.
    pub newest: &'a str,
}

/// A server of one's own. It ends with it.
pub struct Private {
    plain: OpenBao,
    secured: Vec<u16>,
    process: Child,
    folder: TempDir,
}

impl Private {
    /// Starts one that listens without TLS, and with it as often as asked to.
    pub async fn start(secured: &[Secured<'_>]) -> Self {
        Self::configured(secured, &json!({})).await
    }

    /// Starts one without TLS that writes every request and every answer down, in a file of its folder, before it answers.
    pub async fn audited() -> Self {
        let device = json!({ "type": "file", "path": "main/", "options": { "file_path": AUDIT } });
        Self::configured(&[], &json!({ "audit": [device] })).await
    }

    /// How large the file of an audited server is, in bytes.
    pub fn audit_bytes(&self) -> u64 {
        std::fs::metadata(self.folder.path().join(AUDIT)).expect("an audited server").len()
    }

    async fn configured(secured: &[Secured<'_>], more: &Value) -> Self {
        loop {
            let mut server = Self::on_free_ports(secured, more);
            match server.wait().await {
                Ok(()) => return server,
                // Somebody else took a port between our look and the server's.
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("OpenBao did not start:\n{log}"),
            }
        }
    }

    fn on_free_ports(secured: &[Secured<'_>], more: &Value) -> Self {
        let folder = TempDir::with_prefix("enfold-openbao-").expect("a temporary directory");
        let (port, ports): (u16, Vec<u16>) = (free_port(), secured.iter().map(|_| free_port()).collect());
        let listener = |(port, how): (&u16, &Secured<'_>)| {
            let (certificate, key) = (&how.certificate.certificate, &how.certificate.key);
            let address = format!("127.0.0.1:{port}");
            json!({ "tcp": {
                "address": address, "tls_cert_file": certificate, "tls_key_file": key, "tls_max_version": how.newest,
                // By itself it has nothing older than 1.2.
                "tls_min_version": how.newest.min("tls12")
            }})
        };
        let listeners: Vec<Value> = ports.iter().zip(secured).map(listener).collect();
        let mut configuration = more.clone();
        // An empty list is refused.
        if !listeners.is_empty() {
            configuration["listener"] = json!(listeners);
        }
        let written = configuration.to_string();
        let configuration = folder.path().join("configuration.json");
        std::fs::write(&configuration, written).expect("it is written");
        let log = File::create(folder.path().join("log")).expect("a file");
        let process = Command::new(program())
            .args(["server", "-dev", "-dev-no-store-token", &format!("-dev-root-token-id={ROOT_TOKEN}")])
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .arg(format!("-config={}", configuration.display()))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stderr(log.try_clone().expect("a handle"))
            .stdout(log)
            .spawn()
            .expect("OpenBao starts");
        let plain = OpenBao { host: format!("127.0.0.1:{port}"), namespace: None };
        Self { plain, secured: ports, process, folder }
    }

    /// The same server without TLS.
    pub fn plain(&self) -> &OpenBao {
        &self.plain
    }

    /// The port of a listener with TLS, in the order in which they were asked for.
    pub fn port(&self, secured: usize) -> u16 {
        self.secured[secured]
    }

    pub async fn seal(&self) {
        self.plain.write("sys/seal", json!({})).await;
    }

    pub async fn unseal(&self) {
        let log = self.log();
        let key = log.lines().find_map(|line| line.strip_prefix("Unseal Key: ")).expect("a development server says it");
        self.plain.write("sys/unseal", json!({ "key": key })).await;
        // It answers before it has become the active node.
        while self.plain.call("GET", "sys/health", &Value::Null).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until it answers; what it said last where it ended instead.
    async fn wait(&mut self) -> Result<(), String> {
        while TcpStream::connect(&self.plain.host).await.is_err() || !self.log().contains("Unseal Key: ") {
            if self.process.try_wait().expect("a process").is_some() {
                return Err(self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("the server's log")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if ended.is_err() {
            eprintln!("could not stop the private OpenBao at {}", self.plain.host);
        }
    }
}

/// The server's program, which is its client as well.
pub fn program() -> PathBuf {
    variable("ENFOLD_TEST_OPENBAO_PROGRAM").into()
}

/// Never the same text twice, on one server.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    format!("{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Of the environment, or of the file that `scripts/services.sh` wrote.
fn variable(name: &str) -> String {
    let written = || {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services/env");
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let found = std::env::var(name).ok().or_else(written);
    found.unwrap_or_else(|| panic!("no OpenBao: run `scripts/services.sh start openbao`, or set {name}"))
}
