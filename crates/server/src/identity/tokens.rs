//! Tokens of the issuers that the policy names: signature, issuer, audience and times, and what their claims grant.
//!
//! The algorithm is the key's and never the token's word, so that no public key is taken for a secret and nothing unsigned is let in;
//! keys come from where the policy says and never from where a token's header says. Which rules hold is RFC 8725's.

use std::collections::BTreeSet;

use enfold::access::{Grant, Role};
use enfold::policy::{ClaimGrant, EmergencyPolicy, IssuerPolicy, TokenAlgorithm};
use enfold::{Error, Result};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, Header, Validation, dangerous, decode, decode_header};
use serde_json::Value;

use super::jwks::{Keys, VerifyingKey};
use super::{Identity, unauthenticated};

/// More than a token of any issuer needs, and little enough to be looked at by whoever sends it.
const LONGEST: usize = 16 * 1024;
/// Of an identifier, as OpenID Connect bounds it.
const LONGEST_SUBJECT: usize = 255;

/// An issuer, with the keys that it signs with.
pub(crate) struct Issuer {
    /// As the policy calls it.
    pub(crate) name: String,
    pub(crate) policy: IssuerPolicy,
    pub(crate) keys: Keys,
    emergency: EmergencyPolicy,
}

/// Whose token it is, if it is good.
pub(crate) async fn identity(issuers: &[Issuer], token: &str) -> Result<Identity> {
    let header = header(token)?;
    // Not believed yet: it only says whose key is to be tried.
    let unverified: Value = dangerous::insecure_decode_claims(token).map_err(|_| refused("its claims are not JSON"))?;
    let said = unverified["iss"].as_str().unwrap_or_default();
    let issuer = issuers.iter().find(|issuer| issuer.policy.url == said);
    let issuer = issuer.ok_or_else(|| refused("no issuer of the policy made it"))?;
    issuer.identity(&issuer.claims(token, &header, &issuer.policy.audience).await?)
}

/// Who signed in, by the ID token that the issuer gave this client for this sign-in (OpenID Connect Core 1.0, section 3.1.3.7).
pub(crate) async fn person(issuer: &Issuer, token: &str, client_id: &str, nonce: &str) -> Result<Identity> {
    let header = header(token)?;
    let claims = issuer.claims(token, &header, &[client_id.to_owned()]).await?;
    let is_shared = claims["aud"].as_array().is_some_and(|audiences| audiences.len() > 1);
    let is_ours = match claims["azp"].as_str() {
        Some(authorized) => authorized == client_id,
        None => claims["azp"].is_null() && !is_shared,
    };
    if !is_ours {
        return Err(refused("it was made for another client"));
    }
    if claims["nonce"].as_str() != Some(nonce) {
        return Err(refused("it was made for another sign-in"));
    }
    issuer.identity(&claims)
}

fn header(token: &str) -> Result<Header> {
    if token.len() > LONGEST {
        return Err(refused("it is too long for a token"));
    }
    let header = decode_header(token).map_err(|_| refused("it is neither a service key nor a signed token"))?;
    check_header(&header)?;
    Ok(header)
}

/// What would have to be understood to be obeyed is refused (RFC 7515, section 4.1.11), and so is a token that says to be of
/// another kind, such as a logout token (RFC 8725, section 3.11).
fn check_header(header: &Header) -> Result<()> {
    if header.crit.is_some() {
        return Err(refused("it has critical headers"));
    }
    let kind = header.typ.as_deref().unwrap_or("JWT");
    let kind = kind.strip_prefix("application/").unwrap_or(kind);
    if kind.eq_ignore_ascii_case("jwt") || kind.eq_ignore_ascii_case("at+jwt") {
        return Ok(());
    }
    Err(refused("it is a token of another kind"))
}

/// The claims, if the key signed them for us and they hold now.
fn verified(policy: &IssuerPolicy, audience: &[String], key: &VerifyingKey, token: &str, now: i64) -> Result<Value> {
    let mut rules = Validation::new(of_jwt(key.algorithm));
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    rules.set_issuer(&[&policy.url]);
    rules.set_audience(audience);
    rules.validate_nbf = true;
    rules.leeway = policy.leeway.as_secs();
    let claims: Value = decode(token, &key.key, &rules).map_err(|error| refused(why(&error)))?.claims;
    // Not among what the library looks at: a token from the future is none.
    let latest = now.saturating_add(i64::try_from(policy.leeway.as_secs()).unwrap_or(i64::MAX));
    match claims["iat"].as_f64() {
        Some(issued) if issued <= latest as f64 => Ok(claims),
        Some(_) => Err(refused("it was issued in the future")),
        None if claims["iat"].is_null() => Ok(claims),
        None => Err(refused("it does not say when it was issued in a way that can be read")),
    }
}

impl Issuer {
    /// Nobody is asked yet: an issuer that is down keeps no service from starting.
    pub(crate) fn new(name: &str, policy: &IssuerPolicy, emergency: &EmergencyPolicy) -> Result<Self> {
        let (name, keys) = (name.to_owned(), Keys::new(policy)?);
        Ok(Self { name, policy: policy.clone(), keys, emergency: emergency.clone() })
    }

    /// What a token says, if one of the issuer's keys signed it for this audience, and it holds now.
    async fn claims(&self, token: &str, header: &Header, audience: &[String]) -> Result<Value> {
        let keys = self.keys.find(header.kid.as_deref()).await?;
        let mut fault = refused("none of its issuer's keys has its id");
        for key in keys.iter().filter(|key| self.policy.algorithms.contains(&key.algorithm)) {
            match verified(&self.policy, audience, key, token, Timestamp::now().as_second()) {
                Ok(claims) => return Ok(claims),
                Err(error) => fault = error,
            }
        }
        Err(fault)
    }

    fn identity(&self, claims: &Value) -> Result<Identity> {
        let subject = claims["sub"].as_str().unwrap_or_default();
        let is_plain = subject.chars().all(|c| !c.is_control());
        if subject.is_empty() || subject.len() > LONGEST_SUBJECT || !is_plain {
            return Err(refused("its subject cannot be written down"));
        }
        // Without a second factor there is no emergency either.
        let has_second_factor = has_second_factor(&self.emergency, claims);
        let may = |grant: &Grant| grant.role != Role::Emergency || has_second_factor;
        let grants = self.policy.grants.values().filter_map(|rule| granted(rule, claims)).filter(may).collect();
        Ok(Identity::person(format!("{}:{subject}", self.name), grants, has_second_factor))
    }
}

/// Whether the issuer says of this sign-in what the policy takes as the proof of a second factor.
fn has_second_factor(policy: &EmergencyPolicy, claims: &Value) -> bool {
    let among = |wanted: &BTreeSet<String>, claim: &str| {
        let said = words(&claims[claim]);
        wanted.iter().any(|word| !word.is_empty() && said.contains(word.as_str()))
    };
    among(&policy.amr, "amr") || among(&policy.acr, "acr")
}

/// What one rule grants to whoever has these claims.
fn granted(rule: &ClaimGrant, claims: &Value) -> Option<Grant> {
    let has = words(at(claims, &rule.claim)?).contains(rule.value.as_str());
    let mut grant = has.then(|| rule.grant.clone())?;
    if let Some(path) = &rule.tenant_claim {
        // Without the claim there is no tenant, and the grant is for none.
        grant.tenants = Some(at(claims, path).map(tenants).unwrap_or_default());
    }
    Some(grant)
}

fn at<'a>(claims: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(claims, |claims, name| claims.get(name))
}

/// A list of strings, one of them, or several with blanks between them, as `scope` has them.
fn words(claim: &Value) -> BTreeSet<&str> {
    match claim {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).chain([text.as_str()]).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    }
}

fn tenants(claim: &Value) -> BTreeSet<String> {
    let one = |claim: &Value| match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        _ => None,
    };
    match claim {
        Value::Array(items) => items.iter().filter_map(one).collect(),
        claim => one(claim).into_iter().collect(),
    }
}

fn of_jwt(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

/// For the log; the caller is told what everybody is told whose credentials are no good.
fn refused(why: &str) -> Error {
    unauthenticated().cause(format!("the bearer's token: {why}"))
}

fn why(error: &jsonwebtoken::errors::Error) -> &'static str {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => "its algorithm is not the key's",
        ErrorKind::InvalidSignature => "its signature is not the key's",
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not good yet",
        ErrorKind::InvalidIssuer => "another issuer made it",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::MissingRequiredClaim(_) => "it lacks its issuer, audience, subject or end",
        _ => "it cannot be read",
    }
}
