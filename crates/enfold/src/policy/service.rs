//! `[service]`, resolved.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::raw::{RawService, RawServiceLimits};
use super::resolve::{Resolver, duration, keys};

/// How `enfold serve` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePolicy {
    pub listen: SocketAddr,
    pub limits: ServiceLimits,
}

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Bytes.
    pub max_body: usize,
    pub max_batch: usize,
    pub timeout: Duration,
    pub max_connections: usize,
}

pub(super) fn resolve(at: &mut Resolver<'_>, raw: &RawService) -> ServicePolicy {
    let listen = raw.listen.parse().unwrap_or_else(|_| {
        at.report(&keys(&["service", "listen"]), "not an address and a port, as `127.0.0.1:8470`");
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    });
    ServicePolicy { listen, limits: limits(&raw.limits) }
}

fn limits(raw: &RawServiceLimits) -> ServiceLimits {
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    ServiceLimits {
        max_body: number(raw.max_body_kib).saturating_mul(1_024),
        max_batch: number(raw.max_batch),
        timeout: duration(&raw.timeout),
        max_connections: number(raw.max_connections),
    }
}
