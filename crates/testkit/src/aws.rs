//! Servers that stand for AWS KMS: LocalStack and moto, as `scripts/services.sh` starts them, and a listener that gives
//! the answers which neither of them can be brought to give.
//!
//! Keys are made with plain HTTP calls, so that a test needs no SDK for its fixtures.

use std::sync::Arc;
use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const REGION: &str = "eu-central-1";

/// A server with the KMS API over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    LocalStack,
    Moto,
    /// A moto that checks rights once [`Server::check_rights`] was called.
    MotoWithRights,
}

impl Server {
    fn variable(self) -> &'static str {
        match self {
            Self::LocalStack => "ENFOLD_TEST_LOCALSTACK",
            Self::Moto => "ENFOLD_TEST_MOTO",
            Self::MotoWithRights => "ENFOLD_TEST_MOTO_IAM",
        }
    }

    /// `http://127.0.0.1:PORT`, from the environment or from the file that `scripts/services.sh` wrote.
    pub fn endpoint(self) -> String {
        let variable = self.variable();
        if let Ok(url) = std::env::var(variable) {
            return url;
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/services/env");
        std::fs::read_to_string(file)
            .ok()
            .and_then(|text| {
                let line = |l: &str| l.strip_prefix(variable)?.strip_prefix('=').map(str::to_owned);
                text.lines().find_map(line)
            })
            .unwrap_or_else(|| panic!("no server for AWS KMS: run `scripts/services.sh start aws`, or set {variable}"))
    }

    /// Makes a symmetric key and gives its id.
    pub async fn create_key(self) -> String {
        let answer = self.kms("CreateKey", json!({})).await;
        answer["KeyMetadata"]["KeyId"].as_str().expect("a key id").to_owned()
    }

    /// The root-key URI of a key or an alias on this server.
    pub fn uri(self, key: &str) -> String {
        format!("aws-kms://{REGION}/{key}?endpoint={}", self.endpoint())
    }

    /// Calls an action of the KMS API and expects it to succeed.
    pub async fn kms(self, action: &str, body: Value) -> Value {
        self.kms_in(REGION, action, body).await
    }

    /// The same in another region.
    pub async fn kms_in(self, region: &str, action: &str, body: Value) -> Value {
        let target = format!("TrentService.{action}");
        let headers = [("X-Amz-Target", target.as_str()), ("Content-Type", "application/x-amz-json-1.1")];
        let scope = format!("{region}/kms");
        let (status, text) = self.post("/", &scope, &headers, &body.to_string()).await;
        assert_eq!(status, 200, "{action} on {self:?}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
    }

    /// Calls an action of the IAM API (form in, XML out) and expects it to succeed.
    pub async fn iam(self, form: &str) -> String {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let (status, text) =
            self.post("/", &format!("{REGION}/iam"), &headers, &format!("{form}&Version=2010-05-08")).await;
        assert_eq!(status, 200, "{form} on {self:?}: {text}");
        text
    }

    /// From now on moto checks rights, or not. It is one switch for the whole server.
    pub async fn check_rights(self, check: bool) {
        let calls_before = if check { "0" } else { "1000000000" };
        let (status, text) = self.post("/moto-api/reset-auth", &format!("{REGION}/moto"), &[], calls_before).await;
        assert_eq!(status, 200, "{text}");
    }

    /// `scope`: region and service.
    async fn post(self, path: &str, scope: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let endpoint = self.endpoint();
        let host = endpoint.strip_prefix("http://").expect("an http endpoint");
        // The servers look at the credential's scope to tell services apart, and at no signature.
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{scope}/aws4_request, \
             SignedHeaders=host, Signature=0\r\n",
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        let mut stream = TcpStream::connect(host).await.unwrap_or_else(|e| panic!("{self:?} at {host}: {e}"));
        stream.write_all(request.as_bytes()).await.expect("send");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("receive");
        split(&String::from_utf8(answer).expect("UTF-8"))
    }
}

/// Status and body of an answer that ends with its connection.
pub(crate) fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header and a body");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    let chunked = head.lines().any(|l| l.eq_ignore_ascii_case("transfer-encoding: chunked"));
    (status, if chunked { unchunk(body) } else { body.to_owned() })
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// What a [`Listener`] does with every request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Takes the request and never answers.
    Silent,
    /// Answers with this status and body, in the JSON protocol's content type.
    Answer(u16, String),
    /// Closes the connection instead of an answer.
    HangUp,
}

/// An HTTP server on a free loopback port, which does the same with every request. Ends with its runtime.
pub struct Listener {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    pub async fn start(behaviour: Behaviour) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream, behaviour.clone(), seen.clone()));
            }
        });
        Self { endpoint, requests }
    }

    pub fn uri(&self, key: &str) -> String {
        format!("aws-kms://{REGION}/{key}?endpoint={}", self.endpoint)
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Header and body of every request that arrived whole.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panics here").clone()
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().expect("no test panics here").push(request);
        match &behaviour {
            Behaviour::Silent => std::future::pending().await,
            Behaviour::HangUp => return,
            Behaviour::Answer(status, body) => {
                let answer = format!(
                    "HTTP/1.1 {status} Said\r\nContent-Type: application/x-amz-json-1.1\r\n\
                     x-amzn-RequestId: 5f1c0000-0000-4000-8000-000000000000\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Header and body of the next request; none where the caller is gone.
pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                let (name, value) = l.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut buffer).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
            _ => return None,
        }
    }
}
