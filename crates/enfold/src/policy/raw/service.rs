//! `[service]`: the process that applications, operators and auditors call over HTTP.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DurationText, RawEmergency};
use crate::access::Role;
use crate::policy::ProxyHeader;

/// What `enfold serve` does.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawService {
    /// The address and the port that it listens on: `127.0.0.1:8470`, `[::1]:8470`.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: String,
    /// Networks of proxies in front, whose word it is where a request came from: `10.0.0.0/8`, `2001:db8::7`. Of all others the
    /// connection's own address stands in the log.
    pub trusted_proxies: Vec<String>,
    /// The header in which those proxies say it. They have to add to it, or take away what a client says there.
    pub proxy_header: ProxyHeader,
    /// TLS of its own. Without it the service listens on loopback addresses alone.
    pub tls: RawServiceTls,
    /// What a request may ask for.
    pub limits: RawServiceLimits,
    /// Issuers of tokens whose holders are let in, by the names that events give them.
    pub issuers: BTreeMap<String, RawIssuer>,
    /// The console: who is let in by a browser.
    pub console: RawConsole,
    /// Access in an emergency, for those who have the role `emergency`.
    pub emergency: RawEmergency,
}

impl Default for RawService {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8470".to_owned(),
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            tls: RawServiceTls::default(),
            limits: RawServiceLimits::default(),
            issuers: BTreeMap::new(),
            console: RawConsole::default(),
            emergency: RawEmergency::default(),
        }
    }
}

/// The console, which people sign in to at an issuer of `service.issuers` (OpenID Connect, authorization code with PKCE). Without an
/// issuer nobody signs in to it, except in development with a service key.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawConsole {
    /// Where people sign in: the name of one of `service.issuers`, whose rules say what they may do by the claims of their ID token.
    pub issuer: Option<String>,
    /// What the issuer knows the console by.
    pub client_id: Option<String>,
    /// File with the client's secret. Nobody but its owner may have any right to it. None: the client is a public one.
    #[schemars(extend("format" = "path"))]
    pub client_secret_file: Option<String>,
    /// Where browsers reach the service: `https://enfold.example.com`. The issuer sends them back to `/console/signed-in` there.
    pub url: Option<String>,
    /// What the issuer is asked for. `openid` is among it.
    pub scopes: Vec<String>,
    /// How long a session lasts in which nobody does anything.
    #[schemars(extend("x-minimum" = "1m", "x-maximum" = "1d"))]
    pub idle: DurationText,
    /// How long it lasts altogether: what the issuer takes away from somebody is in force when they sign in again.
    #[schemars(extend("x-minimum" = "1m", "x-maximum" = "1d"))]
    pub session: DurationText,
}

impl Default for RawConsole {
    fn default() -> Self {
        Self {
            issuer: None,
            client_id: None,
            client_secret_file: None,
            url: None,
            scopes: vec!["openid".to_owned()],
            idle: DurationText::from("30m"),
            session: DurationText::from("8h"),
        }
    }
}

/// TLS of the service's own. Files that change are read again.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawServiceTls {
    /// PEM file of the certificate, with those between it and its authority.
    #[schemars(extend("format" = "path"))]
    pub certificate: Option<String>,
    /// PEM file of its key. Nobody but its owner may have any right to it.
    #[schemars(extend("format" = "path"))]
    pub key: Option<String>,
    /// PEM file of authorities: callers show a certificate of theirs, besides a service key or a token. None: they need not.
    #[schemars(extend("format" = "path"))]
    pub client_ca_file: Option<String>,
}

/// What a request may ask for.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawServiceLimits {
    /// Kibibytes of a request's body.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_body_kib: u32,
    /// Items of a batch.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_batch: u32,
    /// How long a request may take, from its first byte to the last of its answer.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub timeout: DurationText,
    /// Connections at a time. When there are as many, the one on which nothing was asked for longest makes room for whoever comes.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: u32,
    /// Requests of each caller a second, a second's worth of them at once, in each process of the service. None: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: Option<u32>,
}

impl Default for RawServiceLimits {
    fn default() -> Self {
        Self {
            max_body_kib: 1_024,
            max_batch: 1_000,
            timeout: DurationText::from("30s"),
            max_connections: 10_000,
            requests_per_second: None,
        }
    }
}

/// An issuer of tokens (JWT) that the service believes: an OpenID provider, or anybody who publishes their keys as a JWK set.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawIssuer {
    /// What its tokens say in `iss`, to the letter. With `https://`, or on this machine with `http://`.
    #[schemars(extend("x-required" = true))]
    pub url: Option<String>,
    /// What its tokens say in `aud`: one of these.
    #[schemars(extend("x-required" = true))]
    pub audience: Option<Vec<String>>,
    /// Where its keys are. None: where the issuer says by OpenID Connect Discovery (`/.well-known/openid-configuration`).
    pub jwks_url: Option<String>,
    /// Signatures that are believed: of `RS256`, `ES256` and `EdDSA`. Which one a token has is decided by its key.
    pub algorithms: Vec<String>,
    /// By how much the issuer's clock may differ from this machine's.
    #[schemars(extend("x-maximum" = "5m"))]
    pub leeway: DurationText,
    /// PEM file of the authorities that may vouch for the issuer, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// What claims grant, by the name of the rule. A token to which none applies may do nothing.
    pub grants: BTreeMap<String, RawClaimGrant>,
}

impl Default for RawIssuer {
    fn default() -> Self {
        Self {
            url: None,
            audience: None,
            jwks_url: None,
            algorithms: ["RS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            leeway: DurationText::from("30s"),
            ca_file: None,
            grants: BTreeMap::new(),
        }
    }
}

/// What a claim grants.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawClaimGrant {
    /// The claim that is looked at: `roles`, `scope`, or by the names that lead to it `realm_access.roles`.
    #[schemars(extend("x-required" = true))]
    pub claim: Option<String>,
    /// What it has to be, or to have among its items or words.
    #[schemars(extend("x-required" = true))]
    pub value: Option<String>,
    /// What is granted then.
    #[schemars(extend("x-required" = true))]
    pub role: Option<Role>,
    /// Only for values of these tenants. None: of all.
    pub tenants: Option<Vec<String>>,
    /// Only for values of the tenants that this claim names, one or several. A token without it is granted nothing here.
    pub tenant_claim: Option<String>,
    /// Only for columns of these classes. None: of all.
    pub classes: Option<Vec<String>>,
    /// Only for these columns and values of the policy. None: for all.
    pub columns: Option<Vec<String>>,
}
