//! HTTP for key services that speak REST: one client, so that all of them are as careful.
//!
//! TLS is verified against the system's authorities or a file of one's own, at least at the policy's version. No
//! redirect is followed and no proxy of the environment is used: data keys go where the URI says and nowhere else.
//! Every call has a deadline. Bodies and secret headers are wiped when they are done with; what passes through the
//! buffers of the TLS and HTTP libraries is not. Of an answer nothing is repeated here but its status.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Method};
use zeroize::{Zeroize, Zeroizing};

use super::failure::{self, Operation};
use super::secret::{self, Readers, Stamp};
use super::service_clock::ServiceClock;
use super::tls_fault::TlsFault;
use super::uri::KeyUri;
use crate::error::{Code, Error, Result, Retry};
use crate::policy::{MinTls, TlsIdentity};
use crate::tls;
use crate::traces;

/// More than any answer that is asked for here, and little enough to hold.
const LONGEST_ANSWER: usize = 4 * 1024 * 1024;

/// How to reach a service, besides what the URI says.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    pub min_tls: MinTls,
    /// Trusts the authorities of this PEM file instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Who the client says to be, where the service asks for a certificate.
    pub identity: Option<TlsIdentity>,
    pub connect_within: Duration,
    /// For one call, its connection included.
    pub answer_within: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            min_tls: MinTls::default(),
            ca_file: None,
            identity: None,
            connect_within: Duration::from_secs(2),
            answer_within: Duration::from_secs(4),
        }
    }
}

/// See the module's head.
pub(super) struct Http {
    options: HttpOptions,
    loaded: Mutex<Option<Loaded>>,
    clock: ServiceClock,
}

/// A client and the state of the files it was made from.
struct Loaded {
    client: Client,
    stamps: Vec<Stamp>,
}

/// One request. A header's value may be secret; none of them is logged.
pub(super) struct Call<'a> {
    pub method: Method,
    pub url: &'a str,
    pub headers: Vec<(&'static str, Zeroizing<String>)>,
    pub body: Option<Body>,
}

/// What a request carries.
#[derive(Clone)]
pub(super) enum Body {
    Json(Bytes),
    /// As a web page's form is sent (`application/x-www-form-urlencoded`): the way of OAuth.
    Form(Bytes),
}

pub(super) struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// A header, where it is there and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Has an error that may pass say when the service wants to be asked again (RFC 9110, section 10.2.3; the form with
    /// a date is not used by any of these services).
    pub(super) fn paced(&self, error: Error) -> Error {
        let seconds = self.header(RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
        match (error.code().retry(), seconds) {
            (Retry::Later, Some(seconds)) => error.try_again_after(Duration::from_secs(seconds)),
            _ => error,
        }
    }
}

/// A body that is wiped when the last who holds it lets go.
pub(super) fn secret_body(bytes: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Wiped(bytes))
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Http {
    /// Reads the files once, so that a wrong one shows at the start.
    pub(super) fn new(options: HttpOptions) -> Result<Self> {
        let http = Self { options, loaded: Mutex::default(), clock: ServiceClock::default() };
        http.client()?;
        Ok(http)
    }

    /// Sends `call` once and reads the whole answer, whatever its status.
    pub(super) async fn send(&self, operation: Operation, uri: &KeyUri, call: Call<'_>) -> Result<Answer> {
        let cannot = || failure::failed(Code::Internal, operation, uri).cause("the request could not be built");
        let mut request = self.client()?.request(call.method, call.url);
        for (name, value) in call.headers {
            let value = HeaderValue::from_maybe_shared(secret_body(Zeroizing::new(value.as_bytes().to_vec())));
            let mut value = value.map_err(|_| cannot())?;
            value.set_sensitive(true);
            request = request.header(HeaderName::from_static(name), value);
        }
        if let Some(parent) = traces::current() {
            request = request.header("traceparent", parent.to_string());
        }
        match call.body {
            Some(Body::Json(body)) => request = request.header(CONTENT_TYPE, "application/json").body(body),
            Some(Body::Form(body)) => {
                request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body);
            }
            None => {}
        }
        let mut response = request.send().await.map_err(|e| missed(operation, uri, call.url, &e))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        self.clock.saw(headers.get(DATE).and_then(|date| date.to_str().ok()), Timestamp::now());
        if response.status().is_redirection() {
            return Err(failure::failed(Code::KmsProtocol, operation, uri)
                .cause("the key service sends the caller elsewhere, and data keys go only where the URI says")
                .hint("name the address that answers itself: the load balancer, or the active node"));
        }
        let mut body = Zeroizing::new(Vec::with_capacity(expected(response.content_length())));
        while let Some(chunk) = response.chunk().await.map_err(|e| missed(operation, uri, call.url, &e))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(failure::failed(Code::KmsProtocol, operation, uri).cause("the answer has no end"));
            }
            append(&mut body, &chunk);
        }
        Ok(Answer { status, headers, body })
    }

    /// How the clock of who answered last differs from ours.
    pub(super) fn clock_skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }

    /// The client, made anew when one of its files has changed: certificates are renewed without a restart.
    fn client(&self) -> Result<Client> {
        let stamps = self.stamps();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match &*loaded {
            Some(held) if held.stamps == stamps => Ok(held.client.clone()),
            held => match self.make() {
                Ok(client) => {
                    *loaded = Some(Loaded { client: client.clone(), stamps });
                    Ok(client)
                }
                // A file that is being written just now: what was good a moment ago still is.
                Err(_) if held.is_some() => Ok(held.as_ref().map(|h| h.client.clone()).unwrap_or_default()),
                Err(error) => Err(error),
            },
        }
    }

    fn make(&self) -> Result<Client> {
        let HttpOptions { min_tls, ca_file, identity, .. } = &self.options;
        let key = identity.as_ref().map(|identity| secret::read(&identity.key, Readers::Closed)).transpose()?;
        let identity = identity.as_ref().zip(key.as_ref());
        let identity = identity.map(|(identity, key)| tls::Identity { certificate: &identity.certificate, key });
        let trust = tls::Trust { min: *min_tls, authorities: ca_file.as_deref(), identity };
        let unverifiable =
            || Error::new(Code::KmsUnavailable, "this machine has no root certificates to verify a key service with");
        let config = tls::client(&trust, unverifiable)?;
        Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(self.options.connect_within)
            .timeout(self.options.answer_within)
            .build()
            .map_err(|_| Error::new(Code::Internal, "cannot make a client for HTTP"))
    }

    fn stamps(&self) -> Vec<Stamp> {
        let identity = self.options.identity.iter().flat_map(|identity| [&identity.certificate, &identity.key]);
        self.options.ca_file.iter().chain(identity).map(|path| Stamp::of(path)).collect()
    }
}

/// What a service says by its status alone; `None` where the answer's text must tell.
pub(super) fn by_status(operation: Operation, uri: &KeyUri, status: u16) -> Option<Error> {
    let error = match status {
        401 | 403 => failure::denied(operation, uri),
        429 => failure::throttled(operation, uri),
        500.. => failure::failed(Code::KmsUnavailable, operation, uri).cause("the key service failed for now"),
        _ => return None,
    };
    Some(error.cause(answered(status)))
}

pub(super) fn answered(status: u16) -> String {
    format!("the key service answered with HTTP status {status}")
}

fn expected(length: Option<u64>) -> usize {
    let length = length.and_then(|n| usize::try_from(n).ok()).unwrap_or(4096);
    length.min(LONGEST_ANSWER)
}

/// Grows into a new place and wipes the old one, which `Vec` would leave as it was.
fn append(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Vec::with_capacity((body.len() + chunk.len()) * 2);
        larger.extend_from_slice(body);
        body.zeroize();
        **body = larger;
    }
    body.extend_from_slice(chunk);
}

/// `url`: whoever was called, the key service itself or somebody who issues tokens for it.
fn missed(operation: Operation, uri: &KeyUri, url: &str, error: &reqwest::Error) -> Error {
    if error.is_timeout() {
        let late = failure::timed_out(operation, uri);
        return if error.is_connect() { late.cause("the connection itself did not come about") } else { late };
    }
    let unavailable = failure::failed(Code::KmsUnavailable, operation, uri);
    match TlsFault::of(error) {
        // It did speak TLS when the connection was made.
        Some(TlsFault::NoTls) if !error.is_connect() => TlsFault::Damaged.told(unavailable, ""),
        Some(fault) => fault.told(unavailable, "the policy (`ca_file`)"),
        None => unavailable
            .cause("the key service could not be reached, or hung up")
            .hint(format!("check the way to `{}`, and whether it is the right place", place(url))),
    }
}

/// Host and port: the rest may name more than a message should.
fn place(url: &str) -> String {
    let url = url::Url::parse(url).ok();
    let place = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    place.map_or_else(|| "?".to_owned(), |(host, port)| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_grows_keeps_its_bytes() {
        let mut body = Zeroizing::new(Vec::with_capacity(2));
        for chunk in [&b"ab"[..], b"cdefg", b"", b"h"] {
            append(&mut body, chunk);
        }
        assert_eq!(body.as_slice(), b"abcdefgh");
    }

    #[test]
    fn a_client_that_lost_its_authority_file_goes_on_with_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let options = HttpOptions { ca_file: Some(path.clone()), ..HttpOptions::default() };
        assert_eq!(Http::new(options.clone()).err().map(|e| e.code()), Some(Code::FileFailed));
        std::fs::copy(enfold_testkit::certificates::Authority::new().certificate(), &path).unwrap();
        let http = Http::new(options).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(http.client().is_ok());
    }

    #[tokio::test]
    async fn a_call_carries_the_trace_that_it_belongs_to() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request[..read]).to_lowercase()
        });
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        traces::pass_on(|| traces::Parent::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        let http = Http::new(HttpOptions::default()).unwrap();
        let call = Call { method: Method::GET, url: &url, headers: Vec::new(), body: None };
        http.send(Operation::Wrap, &KeyUri::memory("a").unwrap(), call).await.unwrap();
        let asked = asked.join().unwrap();
        assert!(asked.contains(&format!("\r\ntraceparent: {parent}\r\n")), "{asked}");
    }
}
