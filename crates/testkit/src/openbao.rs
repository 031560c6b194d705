//! OpenBao as `scripts/services.sh` starts it, spoken to with plain HTTP so that a fixture needs no client of its own.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::aws::split;

const VARIABLE: &str = "ENFOLD_TEST_OPENBAO";
/// Of a development server.
pub const ROOT_TOKEN: &str = "root";

/// `HOST:PORT`, from the environment or from the file that `scripts/services.sh` wrote.
pub fn server() -> String {
    let written = || {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services/env");
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().find_map(|l| l.strip_prefix(VARIABLE)?.strip_prefix('=').map(str::to_owned))
    };
    let url = std::env::var(VARIABLE).ok().or_else(written);
    let url = url.unwrap_or_else(|| panic!("no OpenBao: run `scripts/services.sh start openbao`, or set {VARIABLE}"));
    url.strip_prefix("http://").expect("an http address").to_owned()
}

/// Calls `/v1/PATH` as root; `null` for an answer without a body.
pub async fn call(method: &str, path: &str, body: &Value) -> (u16, Value) {
    let (host, body) = (server(), body.to_string());
    let request = format!(
        "{method} /v1/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nX-Vault-Token: {ROOT_TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(&host).await.unwrap_or_else(|e| panic!("OpenBao at {host}: {e}"));
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("receive");
    let (status, text) = split(&String::from_utf8(answer).expect("UTF-8"));
    (status, if text.trim().is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") })
}

/// Writes and expects it to succeed.
pub async fn write(path: &str, body: Value) -> Value {
    let (status, answer) = call("POST", path, &body).await;
    assert!(status < 300, "{path}: {status} {answer}");
    answer
}

/// A mount of its own for one test: nothing of an earlier run or of another test is in it.
pub async fn mount(kind: &str, below: &str) -> String {
    let name = format!("{kind}-{}", unique());
    write(&format!("sys/{below}/{name}"), json!({ "type": kind })).await;
    name
}

/// Never the same text twice, on one server.
pub fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos();
    format!("{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
