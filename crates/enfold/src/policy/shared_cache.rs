//! `[shared_cache]`: where it is, and whether a ring uses it.

use std::collections::BTreeMap;

use super::model::{Environment, RingPolicy, SharedCachePolicy};
use super::raw::RawSharedCache;
use super::resolve::{Resolver, duration, keys};

/// What Redis listens on unless its operators say otherwise.
const PORT: u16 = 6379;

pub(super) fn resolve(
    at: &mut Resolver<'_>,
    raw: RawSharedCache,
    environment: Environment,
    rings: &BTreeMap<String, RingPolicy>,
) -> Option<SharedCachePolicy> {
    let path = keys(&["shared_cache", "url"]);
    let sharing: Vec<&String> = rings.iter().filter(|(_, ring)| ring.cache.shared).map(|(name, _)| name).collect();
    let Some(text) = raw.url else {
        for ring in sharing {
            at.report(
                &keys(&["rings", ring, "cache", "shared"]),
                "there is no shared cache: `shared_cache.url` is missing",
            );
        }
        return None;
    };
    if sharing.is_empty() {
        at.report(&path, "no ring uses it: set `shared = true` in the `cache` of one");
    }
    // What was given is not repeated: it may hold a password.
    let Ok(url) = url::Url::parse(&text) else {
        at.report(&path, "not a URL, as `rediss://cache.example.com:6379/0`");
        return None;
    };
    let database = url.path().trim_start_matches('/');
    let (tls, host, database) = match (url.scheme(), url.host_str(), database.is_empty(), database.parse()) {
        ("rediss", Some(host), true, _) => (true, host, 0),
        ("rediss", Some(host), false, Ok(database)) => (true, host, database),
        ("redis", Some(host), true, _) => (false, host, 0),
        ("redis", Some(host), false, Ok(database)) => (false, host, database),
        _ => {
            at.report(&path, "not the URL of a Redis, as `rediss://cache.example.com:6379/0`");
            return None;
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        at.report(&path, "a password does not belong here: name its file in `password_file`, the user in `username`");
    }
    if url.query().is_some() || url.fragment().is_some() {
        at.report(&path, "nothing is known behind a `?` or a `#`");
    }
    let host = host.trim_matches(['[', ']']).to_owned();
    let loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if !tls && !loopback && environment == Environment::Production {
        at.report(&path, "its password would cross the network in the clear: write `rediss://`");
    }
    Some(SharedCachePolicy {
        tls,
        host,
        port: url.port().unwrap_or(PORT),
        database,
        username: raw.username,
        password_file: raw.password_file.map(|file| at.base.join(file)),
        ca_file: raw.ca_file.map(|file| at.base.join(file)),
        timeout: duration(&raw.timeout),
    })
}
