//! A small HTTP server on a free loopback port, which hands every request to a function. Ends with its runtime.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// A request that arrived whole.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without the query, and as it was sent.
    pub path: String,
    pub query: BTreeMap<String, String>,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

/// Answers a request, or never does.
type Handler = dyn Fn(&Request) -> Option<Reply> + Send + Sync;

pub struct Server {
    endpoint: String,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The token of `authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization")?.strip_prefix("Bearer ")
    }

    /// A JSON object, if the request says that it is one.
    pub fn json(&self) -> Option<serde_json::Map<String, Value>> {
        let kind = self.header("content-type")?;
        kind.starts_with("application/json").then(|| serde_json::from_slice(&self.body).ok())?
    }

    /// The fields of a form, if the request says that it is one and none is there twice.
    pub fn form(&self) -> Option<BTreeMap<String, String>> {
        if self.header("content-type")? != "application/x-www-form-urlencoded" {
            return None;
        }
        let mut fields = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(&self.body) {
            if fields.insert(name.into_owned(), value.into_owned()).is_some() {
                return None;
            }
        }
        Some(fields)
    }
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Server {
    /// `answer` is asked for each request; `None` is never answered.
    pub async fn start(answer: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
        let answer: Arc<Handler> = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let answer = answer.clone();
                let service = service_fn(move |request| handle(request, answer.clone()));
                // A client that goes away in the middle of a request is none of the server's business.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { endpoint }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

async fn handle(
    request: hyper::Request<Incoming>,
    answer: Arc<Handler>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let request = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body,
    };
    let Some(reply) = answer(&request) else { return std::future::pending().await };
    let mut response = hyper::Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(reply.body.into())).expect("a response of ours"))
}
