//! `[metrics]`: what Prometheus is told.

use std::net::SocketAddr;
use std::time::Duration;

use super::raw::RawMetrics;
use super::resolve::{Resolver, duration, keys};

/// Figures for Prometheus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsPolicy {
    /// What every name begins with.
    pub prefix: String,
    /// Where `enfold serve` answers whoever asks.
    pub listen: Option<SocketAddr>,
    /// How often a sample of each table is looked at.
    pub coverage_every: Duration,
}

pub(super) fn resolve(at: &mut Resolver<'_>, raw: &RawMetrics) -> MetricsPolicy {
    let prefix = &raw.prefix;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) || !prefix.chars().all(plain) || prefix.ends_with('_') {
        at.report(
            &keys(&["metrics", "prefix"]),
            "not the beginning of a name, as `enfold`: lower-case letters, digits and `_`",
        );
    }
    let listen = raw.listen.as_ref().and_then(|text| {
        let address = text.parse().ok();
        if address.is_none() {
            at.report(&keys(&["metrics", "listen"]), "not an address and a port, as `127.0.0.1:8471`");
        }
        address
    });
    MetricsPolicy { prefix: prefix.clone(), listen, coverage_every: duration(&raw.coverage_every) }
}
