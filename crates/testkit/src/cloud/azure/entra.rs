//! Who signs in to the fake, with what, and what each may do.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{FakeAzure, refusal};
use crate::certificates::Authority;
use crate::cloud::identity::Assertion;
use crate::cloud::server::{Reply, Request};

/// What a call needs. The names are of the data actions below `Microsoft.KeyVault/vaults/keys/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Get,
    Wrap,
    Unwrap,
    Rotate,
    /// Everything else that changes a key.
    Manage,
}

pub const TENANT: &str = "11111111-2222-4333-8444-555555555555";
/// The application.
pub const CLIENT: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
/// The identity of the machine.
pub const MACHINE: &str = "99999999-8888-4777-8666-555555555555";
/// What a program in an App Service has to show.
pub const IDENTITY_HEADER: &str = "an-identity-header";

/// `AADSTS7000222`.
const SECRET_EXPIRED: u64 = 7_000_222;
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[derive(Default)]
pub(super) struct Entra {
    pub(super) endpoint: String,
    rights: BTreeMap<String, BTreeSet<Right>>,
    /// With when each ends.
    secrets: BTreeMap<String, i64>,
    /// Public keys by the thumbprint of their certificate.
    certificates: BTreeMap<String, Vec<u8>>,
    /// Tokens of a cluster that the application trusts.
    federated: BTreeSet<String>,
    /// Ids of assertions, each of which is good once.
    seen: BTreeSet<String>,
    tokens: BTreeMap<String, Token>,
    issued: u64,
}

struct Token {
    principal: &'static str,
    resource: String,
    ends: i64,
}

/// A certificate with its key in PEM, as a file of them is written.
pub struct Certificate {
    pub pem: String,
    thumbprint: String,
    public: Vec<u8>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = Authority::new().self_signed_rsa("orders");
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &made.certificate));
        Self { pem: made.pem, thumbprint, public: made.public_key }
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeAzure {
    /// Lets the application or the machine do something with every key.
    pub fn grant(&self, principal: &str, rights: &[Right]) {
        self.state().entra.rights.insert(principal.to_owned(), rights.iter().copied().collect());
    }

    /// The application has this secret from now on, and no other.
    pub fn set_secret(&self, secret: &str) {
        self.state().entra.secrets = [(secret.to_owned(), i64::MAX)].into();
    }

    /// Its secrets come to their end, and so do the tokens that were given out for them.
    pub fn expire_secrets(&self) {
        self.state().entra.secrets.values_mut().for_each(|ends| *ends = now());
        self.end_tokens();
    }

    pub fn add_certificate(&self, certificate: &Certificate) {
        let (thumbprint, public) = (certificate.thumbprint.clone(), certificate.public.clone());
        self.state().entra.certificates.insert(thumbprint, public);
    }

    /// The application trusts this token of a cluster.
    pub fn trust(&self, token: &str) {
        self.state().entra.federated.insert(token.to_owned());
    }

    /// Every token that was given out ends now.
    pub fn end_tokens(&self) {
        self.state().entra.tokens.clear();
    }

    /// How many tokens were given out.
    pub fn issued(&self) -> u64 {
        self.state().entra.issued
    }
}

impl Entra {
    /// Whether whoever calls may do this. `resource`: of the key, where there is one.
    pub(super) fn admit(&self, request: &Request, resource: Option<&str>, right: Right) -> Result<(), Reply> {
        let unauthorized = || {
            let challenge =
                format!("Bearer authorization=\"{}/{TENANT}\", resource=\"https://vault.azure.net\"", self.endpoint);
            refusal(401, "Unauthorized", None).header("www-authenticate", challenge)
        };
        let token = request.bearer().and_then(|token| self.tokens.get(token)).ok_or_else(unauthorized)?;
        if token.ends <= now() || resource.is_some_and(|resource| resource != token.resource) {
            return Err(unauthorized());
        }
        match self.rights.get(token.principal).is_some_and(|rights| rights.contains(&right)) {
            true => Ok(()),
            false => Err(refusal(403, "Forbidden", Some("ForbiddenByRbac"))),
        }
    }

    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        let token_path = format!("/{TENANT}/oauth2/v2.0/token");
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", path) if path == token_path => self.token(request),
            ("GET", "/metadata/identity/oauth2/token") => {
                let sound = request.header("metadata") == Some("true") && request.header("x-forwarded-for").is_none();
                self.machine(request, sound, "2018-02-01")
            }
            ("GET", "/msi/token") => {
                let sound = request.header("x-identity-header") == Some(IDENTITY_HEADER);
                self.machine(request, sound, "2019-08-01")
            }
            _ => refused(404, "not_found"),
        }
    }

    fn token(&mut self, request: &Request) -> Reply {
        let form = request.form().unwrap_or_default();
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let Some(resource) = field("scope").strip_suffix("/.default").map(str::to_owned) else {
            return refused(400, "invalid_scope");
        };
        if field("grant_type") != "client_credentials" {
            return refused(400, "unsupported_grant_type");
        }
        let known = match form.len() {
            4 => match self.secrets.get(field("client_secret")) {
                Some(ends) if *ends <= now() => return numbered(401, "invalid_client", SECRET_EXPIRED),
                known => known.is_some(),
            },
            5 if field("client_assertion_type") == ASSERTION_TYPE => {
                let assertion = field("client_assertion");
                self.federated.contains(assertion) || self.is_asserted(assertion)
            }
            _ => return refused(400, "invalid_request"),
        };
        match known && field("client_id") == CLIENT {
            true => self.give(CLIENT, resource),
            false => refused(401, "invalid_client"),
        }
    }

    /// What the documentation on certificate credentials asks of an assertion.
    fn is_asserted(&mut self, text: &str) -> bool {
        let Some(assertion) = Assertion::parse(text) else { return false };
        let thumbprint = assertion.header.get("x5t#S256").and_then(Value::as_str).unwrap_or_default();
        let Some(public) = self.certificates.get(thumbprint) else { return false };
        let (from, to) = (assertion.time("nbf"), assertion.time("exp"));
        assertion.header.get("alg") == Some(&"PS256".into())
            && assertion.is_signed_by(public)
            && assertion.claim("aud") == format!("{}/{TENANT}/oauth2/v2.0/token", self.endpoint)
            && assertion.claim("iss") == CLIENT
            && assertion.claim("sub") == CLIENT
            && from <= now() + 60
            && to > now()
            && to - from <= 600
            && !assertion.claim("jti").is_empty()
            && self.seen.insert(assertion.claim("jti").to_owned())
    }

    fn machine(&mut self, request: &Request, sound: bool, version: &str) -> Reply {
        let known = request.query.keys().all(|key| ["api-version", "resource", "client_id"].contains(&key.as_str()));
        let named = request.query.get("client_id").is_none_or(|id| id == MACHINE);
        let version = request.query.get("api-version").is_some_and(|v| v == version);
        match request.query.get("resource").cloned() {
            Some(resource) if sound && known && named && version => self.give(MACHINE, resource),
            _ => refused(400, "invalid_request"),
        }
    }

    /// The machine's endpoints write numbers as strings, and some of them leave `expires_in` out.
    fn give(&mut self, principal: &'static str, resource: String) -> Reply {
        let (token, ends) = self.make(principal, resource);
        let mut answer = json!({ "access_token": token, "token_type": "Bearer" });
        match principal {
            MACHINE => answer["expires_on"] = ends.to_string().into(),
            _ => answer["expires_in"] = (ends - now()).into(),
        }
        Reply::json(200, &answer)
    }

    fn make(&mut self, principal: &'static str, resource: String) -> (String, i64) {
        self.issued += 1;
        let (token, ends) = (format!("eyJ.fake.{}", self.issued), now() + 3600);
        self.tokens.insert(token.clone(), Token { principal, resource, ends });
        (token, ends)
    }

    /// A token, without a sign-in.
    #[cfg(test)]
    pub(super) fn token_for(&mut self, resource: &str, rights: &[Right]) -> String {
        self.rights.insert(CLIENT.to_owned(), rights.iter().copied().collect());
        self.make(CLIENT, resource.to_owned()).0
    }
}

fn refused(status: u16, error: &str) -> Reply {
    numbered(status, error, 70000)
}

/// "Microsoft Entra authentication and authorization error codes" has the numbers.
fn numbered(status: u16, error: &str, number: u64) -> Reply {
    let description = format!("AADSTS{number}: quotes what was sent");
    Reply::json(status, &json!({ "error": error, "error_description": description, "error_codes": [number] }))
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
