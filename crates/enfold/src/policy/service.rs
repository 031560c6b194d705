//! `[service]`, resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::model::{TablePolicy, ValuePolicy};
use super::network::Network;
use super::raw::{RawClaimGrant, RawConsole, RawEmergency, RawIssuer, RawService, RawServiceLimits, RawServiceTls};
use super::resolve::{Resolver, duration, keys};
use super::words::did_you_mean;
use crate::access::{Grant, Role};

/// How `enfold serve` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePolicy {
    pub listen: SocketAddr,
    /// Whose word it is where a request came from.
    pub trusted_proxies: Vec<Network>,
    pub proxy_header: ProxyHeader,
    pub tls: Option<ServiceTls>,
    pub limits: ServiceLimits,
    /// Whose tokens are believed, by the names that events give their subjects.
    pub issuers: BTreeMap<String, IssuerPolicy>,
    pub console: ConsolePolicy,
    pub emergency: EmergencyPolicy,
}

/// What access in an emergency takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmergencyPolicy {
    /// Of a token's claim `amr`, what proves a second factor; one is enough.
    pub amr: BTreeSet<String>,
    /// Of its claim `acr`.
    pub acr: BTreeSet<String>,
    /// Whether somebody else approves.
    pub approval: bool,
    /// How long it lasts at most.
    pub longest: Duration,
}

/// The header in which a proxy says where a request came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, as most proxies have it.
    #[default]
    XForwardedFor,
    /// `Forwarded`, as RFC 7239 has it.
    Forwarded,
}

/// Who is let into the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsolePolicy {
    /// Where people sign in; `None` where nobody does.
    pub sign_in: Option<ConsoleSignIn>,
    /// How long a session lasts in which nobody does anything.
    pub idle: Duration,
    /// How long it lasts altogether.
    pub session: Duration,
}

/// A client of an issuer (OpenID Connect Core 1.0, section 3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSignIn {
    /// By its name in the policy.
    pub issuer: String,
    pub client_id: String,
    pub client_secret_file: Option<PathBuf>,
    /// Where browsers reach the service, without a slash at its end.
    pub url: String,
    pub scopes: Vec<String>,
}

/// TLS of the service's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of certificates that callers have to show.
    pub client_ca_file: Option<PathBuf>,
}

/// What a request may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Bytes.
    pub max_body: usize,
    pub max_batch: usize,
    pub timeout: Duration,
    pub max_connections: usize,
    /// Of each caller.
    pub requests_per_second: Option<NonZeroU32>,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerPolicy {
    /// What its tokens say in `iss`.
    pub url: String,
    /// One of these is what they say in `aud`.
    pub audience: Vec<String>,
    /// Where its keys are, if it is not asked.
    pub jwks_url: Option<String>,
    pub algorithms: BTreeSet<TokenAlgorithm>,
    pub leeway: Duration,
    pub ca_file: Option<PathBuf>,
    pub grants: BTreeMap<String, ClaimGrant>,
}

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TokenAlgorithm {
    Rs256,
    Es256,
    EdDsa,
}

/// What a claim grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimGrant {
    /// The names that lead to it.
    pub claim: Vec<String>,
    pub value: String,
    pub grant: Grant,
    /// Where the tenants stand that it is for, instead of those in `grant`.
    pub tenant_claim: Option<Vec<String>>,
}

/// Whether what is fetched from there is its owner's word: over TLS, or from this machine.
pub fn is_safe_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let is_here = url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    });
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    is_plain && (url.scheme() == "https" || (url.scheme() == "http" && is_here))
}

pub(super) fn resolve(
    at: &mut Resolver<'_>,
    raw: RawService,
    tables: &BTreeMap<String, TablePolicy>,
    values: &BTreeMap<String, ValuePolicy>,
) -> ServicePolicy {
    let listen = raw.listen.parse().unwrap_or_else(|_| {
        at.report(&keys(&["service", "listen"]), "not an address and a port, as `127.0.0.1:8470`");
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    });
    let trusted_proxies = raw.trusted_proxies.iter().filter_map(|network| {
        let parsed = network.parse().ok();
        if parsed.is_none() {
            at.report(&keys(&["service", "trusted_proxies"]), "not all of them are networks, as `10.0.0.0/8`");
        }
        parsed
    });
    let trusted_proxies = trusted_proxies.collect();
    let tls = tls(at, raw.tls);
    let mut urls: BTreeMap<String, String> = BTreeMap::new();
    let mut issuers = BTreeMap::new();
    for (name, raw) in raw.issuers {
        if let Some(issuer) = issuer(at, &name, raw, tables, values) {
            if let Some(other) = urls.insert(issuer.url.clone(), name.clone()) {
                at.report(&keys(&["service", "issuers", &name, "url"]), format!("the issuer is `{other}` already"));
            }
            issuers.insert(name, issuer);
        }
    }
    let console = console(at, raw.console, &issuers);
    let emergency = emergency(at, raw.emergency, &issuers);
    ServicePolicy {
        listen,
        trusted_proxies,
        proxy_header: raw.proxy_header,
        tls,
        limits: limits(&raw.limits),
        issuers,
        console,
        emergency,
    }
}

fn emergency(at: &mut Resolver<'_>, raw: RawEmergency, issuers: &BTreeMap<String, IssuerPolicy>) -> EmergencyPolicy {
    let is_granted = |issuer: &IssuerPolicy| issuer.grants.values().any(|rule| rule.grant.role == Role::Emergency);
    let proves = |words: &[String]| words.iter().any(|word| !word.is_empty());
    if issuers.values().any(is_granted) && !proves(&raw.amr) && !proves(&raw.acr) {
        at.report(
            &keys(&["service", "emergency", "amr"]),
            "the role `emergency` is granted, and nothing here says what proves a second factor, as `amr = [\"mfa\"]`",
        );
    }
    let (approval, longest) = (raw.approval, duration(&raw.longest));
    EmergencyPolicy { amr: raw.amr.into_iter().collect(), acr: raw.acr.into_iter().collect(), approval, longest }
}

fn console(at: &mut Resolver<'_>, raw: RawConsole, issuers: &BTreeMap<String, IssuerPolicy>) -> ConsolePolicy {
    let (idle, session) = (duration(&raw.idle), duration(&raw.session));
    ConsolePolicy { sign_in: sign_in(at, raw, issuers), idle, session }
}

fn sign_in(at: &mut Resolver<'_>, raw: RawConsole, issuers: &BTreeMap<String, IssuerPolicy>) -> Option<ConsoleSignIn> {
    let place = |key: &str| keys(&["service", "console", key]);
    let Some(issuer) = raw.issuer else {
        let said = [("client_id", raw.client_id), ("client_secret_file", raw.client_secret_file), ("url", raw.url)];
        for (key, _) in said.iter().filter(|(_, said)| said.is_some()) {
            at.report(&place(key), "of no use without `issuer`: where do people sign in?");
        }
        return None;
    };
    if !issuers.contains_key(&issuer) {
        let near = did_you_mean(&issuer, issuers.keys().map(String::as_str));
        at.report(&place("issuer"), format!("no issuer of this name in `service.issuers`{near}"));
    }
    let client_id = at.required(raw.client_id, &place("client_id"), "client_id = \"enfold-console\"");
    let url = at.required(raw.url, &place("url"), "url = \"https://enfold.example.com\"");
    // A path or a query would lie before ours.
    let is_place = |text: &str| {
        let url = url::Url::parse(text).ok();
        is_safe_url(text) && url.is_some_and(|url| url.path() == "/" && url.query().is_none())
    };
    if url.as_deref().is_some_and(|url| !is_place(url)) {
        at.report(&place("url"), "not a place that can be trusted, as `https://enfold.example.com`");
    }
    if !raw.scopes.iter().any(|scope| scope == "openid") {
        at.report(&place("scopes"), "`openid` is missing: without it an issuer gives no ID token");
    }
    Some(ConsoleSignIn {
        issuer,
        client_id: client_id?,
        client_secret_file: raw.client_secret_file.map(|file| at.base.join(file)),
        url: url?.trim_end_matches('/').to_owned(),
        scopes: raw.scopes,
    })
}

fn tls(at: &mut Resolver<'_>, raw: RawServiceTls) -> Option<ServiceTls> {
    let place = |key: &str| keys(&["service", "tls", key]);
    match (raw.certificate, raw.key) {
        (Some(certificate), Some(key)) => Some(ServiceTls {
            certificate: at.base.join(certificate),
            key: at.base.join(key),
            client_ca_file: raw.client_ca_file.map(|file| at.base.join(file)),
        }),
        (None, None) if raw.client_ca_file.is_none() => None,
        (None, _) => {
            at.report(&place("certificate"), "missing: TLS has a certificate and its key");
            None
        }
        (Some(_), None) => {
            at.report(&place("key"), "missing: TLS has a certificate and its key");
            None
        }
    }
}

fn limits(raw: &RawServiceLimits) -> ServiceLimits {
    let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    ServiceLimits {
        max_body: number(raw.max_body_kib).saturating_mul(1_024),
        max_batch: number(raw.max_batch),
        timeout: duration(&raw.timeout),
        max_connections: number(raw.max_connections),
        requests_per_second: raw.requests_per_second.and_then(NonZeroU32::new),
    }
}

fn issuer(
    at: &mut Resolver<'_>,
    name: &str,
    raw: RawIssuer,
    tables: &BTreeMap<String, TablePolicy>,
    values: &BTreeMap<String, ValuePolicy>,
) -> Option<IssuerPolicy> {
    let place = |key: &str| keys(&["service", "issuers", name, key]);
    // Events tell callers apart by it.
    if name == "service-key" || name.contains(':') {
        at.report(
            &keys(&["service", "issuers", name]),
            "an issuer is not called `service-key`, and has no `:` in its name",
        );
    }
    let url = at.required(raw.url, &place("url"), "url = \"https://login.example.com\"");
    let audience = at.required(raw.audience, &place("audience"), "audience = [\"enfold\"]");
    for (key, url) in [("url", &url), ("jwks_url", &raw.jwks_url)] {
        if url.as_ref().is_some_and(|url| !is_safe_url(url)) {
            at.report(&place(key), "not a URL that can be trusted, as `https://login.example.com`");
        }
    }
    if audience.as_ref().is_some_and(Vec::is_empty) {
        at.report(&place("audience"), "expected one audience at least: a token for somebody else is none for us");
    }
    let algorithms = algorithms(at, &place("algorithms"), &raw.algorithms);
    let mut grants = BTreeMap::new();
    for (rule, raw) in raw.grants {
        if let Some(grant) = claim_grant(at, name, &rule, raw, tables, values) {
            grants.insert(rule, grant);
        }
    }
    Some(IssuerPolicy {
        url: url?,
        audience: audience?,
        jwks_url: raw.jwks_url,
        algorithms,
        leeway: duration(&raw.leeway),
        ca_file: raw.ca_file.map(|file| at.base.join(file)),
        grants,
    })
}

fn algorithms(at: &mut Resolver<'_>, place: &[String], words: &[String]) -> BTreeSet<TokenAlgorithm> {
    const KNOWN: [(&str, TokenAlgorithm); 3] =
        [("RS256", TokenAlgorithm::Rs256), ("ES256", TokenAlgorithm::Es256), ("EdDSA", TokenAlgorithm::EdDsa)];
    let mut algorithms = BTreeSet::new();
    for word in words {
        match KNOWN.iter().find(|(known, _)| known == word) {
            Some((_, algorithm)) => drop(algorithms.insert(*algorithm)),
            None => at.report(place, "expected some of `RS256`, `ES256` and `EdDSA`"),
        }
    }
    if words.is_empty() {
        at.report(place, "expected one algorithm at least");
    }
    algorithms
}

fn claim_grant(
    at: &mut Resolver<'_>,
    issuer: &str,
    rule: &str,
    raw: RawClaimGrant,
    tables: &BTreeMap<String, TablePolicy>,
    values: &BTreeMap<String, ValuePolicy>,
) -> Option<ClaimGrant> {
    let place = |key: &str| keys(&["service", "issuers", issuer, "grants", rule, key]);
    let claim = at.required(raw.claim, &place("claim"), "claim = \"roles\"");
    let value = at.required(raw.value, &place("value"), "value = \"billing\"");
    let role = at.required(raw.role, &place("role"), "role = \"app\"");
    if raw.tenants.is_some() && raw.tenant_claim.is_some() {
        at.report(&place("tenant_claim"), "either tenants stand here or a claim names them");
    }
    let names: BTreeSet<String> = tables
        .iter()
        .flat_map(|(table, policy)| policy.columns.keys().map(move |column| format!("{table}.{column}")))
        .chain(values.keys().cloned())
        .collect();
    for column in raw.columns.iter().flatten().filter(|column| !names.contains(*column)) {
        let near = did_you_mean(column, names.iter().map(String::as_str));
        at.report(&place("columns"), format!("no column and no value of this name{near}"));
    }
    let classes: BTreeSet<&str> =
        tables.values().flat_map(|table| table.columns.values()).filter_map(|column| column.class.as_deref()).collect();
    for class in raw.classes.iter().flatten().filter(|class| !classes.contains(class.as_str())) {
        let near = did_you_mean(class, classes.iter().copied());
        at.report(&place("classes"), format!("no column has this class{near}"));
    }
    let set = |names: Option<Vec<String>>| names.map(|names| names.into_iter().collect());
    let tenants = if raw.tenant_claim.is_some() { Some(BTreeSet::new()) } else { set(raw.tenants) };
    let grant = Grant { role: role?, tenants, classes: set(raw.classes), columns: set(raw.columns) };
    if grant.is_narrowed() && !grant.role.sees_values() {
        at.report(&place("role"), "a role that sees no values cannot be narrowed by tenants, classes or columns");
    }
    let path = |claim: String| claim.split('.').map(str::to_owned).collect();
    Some(ClaimGrant { claim: path(claim?), value: value?, grant, tenant_claim: raw.tenant_claim.map(path) })
}
