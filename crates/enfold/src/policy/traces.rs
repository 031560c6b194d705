//! `[traces]`: where spans are sent.

use std::path::PathBuf;

use super::raw::RawTraces;
use super::resolve::{Resolver, keys};

/// Spans for a collector of OpenTelemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracePolicy {
    /// Where OTLP over HTTP is taken as JSON.
    pub endpoint: Option<String>,
    pub ca_file: Option<PathBuf>,
    /// Of a hundred traces that begin here, how many are sent.
    pub percent: u8,
}

pub(super) fn resolve(at: &mut Resolver<'_>, raw: RawTraces) -> TracePolicy {
    let endpoint = raw.endpoint.filter(|text| {
        let is_http = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let is_plain = |url: &url::Url| url.username().is_empty() && url.password().is_none();
        let is_good = url::Url::parse(text).is_ok_and(|url| is_http(&url) && is_plain(&url));
        if !is_good {
            at.report(
                &keys(&["traces", "endpoint"]),
                "not the URL of a collector, as `http://127.0.0.1:4318/v1/traces`",
            );
        }
        is_good
    });
    TracePolicy { endpoint, ca_file: raw.ca_file.map(|file| at.base.join(file)), percent: raw.percent }
}
