//! `[events.sinks.…]`, resolved.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::model::Environment;
use super::raw::RawSink;
use super::resolve::{Resolver, keys};
use super::words::did_you_mean;
use crate::events::EventKind;

/// RFC 5425, section 4.1.
const SYSLOG_TLS_PORT: u16 = 6514;
/// RFC 6587 names none; what servers of syslog over TCP mostly listen on.
const SYSLOG_TCP_PORT: u16 = 514;

/// How a receiver of events is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// Signed calls over HTTP, as Standard Webhooks says.
    Webhook,
    /// Messages of RFC 5424.
    Syslog,
    /// Log records of OpenTelemetry, over HTTP in JSON.
    Otlp,
}

impl SinkKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Syslog => "syslog",
            Self::Otlp => "otlp",
        }
    }
}

/// A receiver of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkPolicy {
    pub kind: SinkKind,
    /// Of a webhook and of OTLP.
    pub url: String,
    /// Of syslog.
    pub syslog: Option<SyslogServer>,
    pub secret_file: Option<PathBuf>,
    pub headers_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    /// Empty: all, and checkpoints.
    pub kinds: BTreeSet<EventKind>,
    /// Lines that may wait.
    pub queue: usize,
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogServer {
    Tls(String, u16),
    Tcp(String, u16),
    Unix(PathBuf),
}

pub(super) fn resolve(at: &mut Resolver<'_>, name: &str, raw: RawSink, environment: Environment) -> Option<SinkPolicy> {
    let path = |key: &str| keys(&["events", "sinks", name, key]);
    let kinds = kinds(at, &path("kinds"), &raw.kinds);
    let (Some(kind), Some(url)) = (raw.kind, raw.url) else {
        at.report(&path("kind"), "a sink has a `kind` (`webhook`, `syslog`, `otlp`) and a `url`");
        return None;
    };
    let is_webhook = kind == SinkKind::Webhook;
    if is_webhook != raw.secret_file.is_some() {
        let message = if is_webhook { "a webhook has one: it signs what it is sent" } else { "is a webhook's alone" };
        at.report(&path("secret_file"), message);
    }
    if kind == SinkKind::Syslog && raw.headers_file.is_some() {
        at.report(&path("headers_file"), "syslog has no headers");
    }
    let base = at.base.to_owned();
    let place = match kind {
        SinkKind::Webhook | SinkKind::Otlp => http(&url),
        SinkKind::Syslog => syslog(&url, &base),
    };
    let Some((syslog, safe)) = place else {
        // What was given is not repeated: it may hold a password.
        let example = match kind {
            SinkKind::Webhook => "https://siem.example.com/enfold",
            SinkKind::Otlp => "https://collector.example.com/v1/logs",
            SinkKind::Syslog => "tls://logs.example.com:6514",
        };
        at.report(&path("url"), format!("not the URL of such a receiver without credentials in it, as `{example}`"));
        return None;
    };
    if !safe && environment == Environment::Production {
        at.report(
            &path("url"),
            "the log would cross the network in the clear: write `https://`, or `tls://` of syslog",
        );
    }
    let file = |file: Option<String>| file.map(|file| base.join(file));
    Some(SinkPolicy {
        kind,
        url,
        syslog,
        secret_file: file(raw.secret_file),
        headers_file: file(raw.headers_file),
        ca_file: file(raw.ca_file),
        kinds,
        queue: raw.queue as usize,
    })
}

fn kinds(at: &mut Resolver<'_>, path: &[String], words: &[String]) -> BTreeSet<EventKind> {
    let mut kinds = BTreeSet::new();
    for word in words {
        match EventKind::parse(word) {
            Some(kind) => drop(kinds.insert(kind)),
            None => {
                let meant = did_you_mean(word, EventKind::ALL.iter().map(|kind| kind.as_str()));
                at.report(path, format!("there is no kind of event `{word}`{meant}"));
            }
        }
    }
    kinds
}

/// What is reached, and whether nobody listens on the way.
type Reached = (Option<SyslogServer>, bool);

fn http(text: &str) -> Option<Reached> {
    let url = plain(text)?;
    let is_http = matches!(url.scheme(), "http" | "https");
    (is_http && url.has_host()).then(|| (None, url.scheme() == "https" || is_here(&url)))
}

fn syslog(text: &str, base: &std::path::Path) -> Option<Reached> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Some((Some(SyslogServer::Unix(base.join(path))), true));
    }
    let url = plain(text)?;
    let host = url.host_str().filter(|host| !host.is_empty())?.trim_matches(['[', ']']).to_owned();
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return None;
    }
    match url.scheme() {
        "tls" => Some((Some(SyslogServer::Tls(host, url.port().unwrap_or(SYSLOG_TLS_PORT))), true)),
        "tcp" => Some((Some(SyslogServer::Tcp(host, url.port().unwrap_or(SYSLOG_TCP_PORT))), is_here(&url))),
        _ => None,
    }
}

fn plain(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (url.username().is_empty() && url.password().is_none() && url.fragment().is_none()).then_some(url)
}

fn is_here(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}
