//! A **fake** of the one part of the Kubernetes API that a Vault or OpenBao asks when a service account signs in:
//! `POST /apis/authentication.k8s.io/v1/tokenreviews`. It is strict about the request and knows the tokens it was told.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::aws::read_request;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Ends with its runtime.
pub struct FakeTokenReview {
    endpoint: String,
    reviewed: Arc<Mutex<Vec<String>>>,
}

/// A token that the cluster made, and for whom.
#[derive(Clone)]
pub struct ServiceAccountToken {
    pub token: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

struct Cluster {
    /// Who asks must show this one.
    reviewer: String,
    known: Vec<ServiceAccountToken>,
    reviewed: Arc<Mutex<Vec<String>>>,
}

impl FakeTokenReview {
    pub async fn start(reviewer: &str, known: Vec<ServiceAccountToken>) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
        let reviewed = Arc::new(Mutex::new(Vec::new()));
        let cluster = Arc::new(Cluster { reviewer: reviewer.to_owned(), known, reviewed: reviewed.clone() });
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream, cluster.clone()));
            }
        });
        Self { endpoint, reviewed }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Every token that it was asked about, in order.
    pub fn reviewed(&self) -> Vec<String> {
        self.reviewed.lock().expect("no test panics here").clone()
    }
}

impl Cluster {
    fn answer(&self, request: &str) -> (u16, Value) {
        let failure = |code: u16, message: &str| {
            (code, json!({ "kind": "Status", "status": "Failure", "message": message, "code": code }))
        };
        let Some((head, body)) = request.split_once("\r\n\r\n") else { return failure(400, "no head") };
        let mut lines = head.lines();
        if lines.next() != Some(&format!("POST {PATH} HTTP/1.1")) {
            return failure(404, "not found");
        }
        let header = |wanted: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        if header("authorization") != Some(format!("Bearer {}", self.reviewer)) {
            return failure(401, "Unauthorized");
        }
        if header("content-type").as_deref() != Some("application/json") {
            return failure(415, "the body is not JSON");
        }
        let Ok(review) = serde_json::from_str::<Value>(body) else { return failure(400, "the body is not JSON") };
        // Both may be left out, as the path says them; OpenBao does.
        let may_be = |field: &str, value: &str| review.get(field).is_none_or(|given| given == value);
        if !may_be("kind", "TokenReview") || !may_be("apiVersion", "authentication.k8s.io/v1") {
            return failure(400, "not a TokenReview of this version");
        }
        let Some(token) = review["spec"]["token"].as_str() else { return failure(422, "no token to look at") };
        self.reviewed.lock().expect("no test panics here").push(token.to_owned());
        let status = match self.known.iter().find(|known| known.token == token) {
            Some(known) => json!({ "authenticated": true, "user": {
                "username": format!("system:serviceaccount:{}:{}", known.namespace, known.name),
                "uid": known.uid,
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{}", known.namespace), "system:authenticated"],
            }}),
            None => json!({ "authenticated": false, "error": "invalid bearer token" }),
        };
        let review = json!({ "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status });
        (201, review)
    }
}

async fn serve(mut stream: TcpStream, cluster: Arc<Cluster>) {
    while let Some(request) = read_request(&mut stream).await {
        let (status, body) = cluster.answer(&request);
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
