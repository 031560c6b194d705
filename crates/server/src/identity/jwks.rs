//! The keys that an issuer signs with: fetched where the policy says, kept for a while, and fetched again for an id that is not
//! known, though not more often than every [`AGAIN`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold::policy::{IssuerPolicy, TokenAlgorithm};
use enfold::{Code, Error, Result};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use serde_json::Value;

use super::fetch::Fetcher;

/// For an id that is not known, the issuer is asked again no earlier: whoever makes ids up costs it no more than that.
const AGAIN: Duration = Duration::from_secs(5);
/// How old the keys may be before they are fetched again without anybody asking: an issuer that takes a key back is heard.
const REFRESH: Duration = Duration::from_secs(300);
/// How old they may be where the issuer does not answer.
const STALE: Duration = Duration::from_secs(3_600);
/// Of an issuer.
const MOST_KEYS: usize = 100;

/// A public key, and the one algorithm that it is for.
pub(crate) struct VerifyingKey {
    id: Option<String>,
    pub(crate) algorithm: TokenAlgorithm,
    pub(crate) key: DecodingKey,
}

pub(crate) struct Keys {
    pub(crate) fetcher: Fetcher,
    held: Mutex<Held>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Held {
    keys: Vec<Arc<VerifyingKey>>,
    /// When they were fetched.
    at: Option<Instant>,
    /// When it was last tried.
    tried: Option<Instant>,
}

impl Keys {
    pub(crate) fn new(policy: &IssuerPolicy) -> Result<Self> {
        Ok(Self { fetcher: Fetcher::new(policy)?, held: Mutex::default(), fetching: tokio::sync::Mutex::default() })
    }

    /// The keys that a token with this key id may be of: the one, or where it has none, all.
    pub(crate) async fn find(&self, id: Option<&str>) -> Result<Vec<Arc<VerifyingKey>>> {
        if let Some(found) = self.held_of(id) {
            return Ok(found);
        }
        let _fetching = self.fetching.lock().await;
        // Not where somebody fetched while this one waited, or a moment ago.
        if self.held().tried.is_none_or(|tried| tried.elapsed() >= AGAIN)
            && let Err(error) = self.fetch().await
        {
            tracing::warn!(target: "enfold_server", "{error}");
        }
        match self.held_of(id) {
            Some(found) => Ok(found),
            None if self.is_stale() => {
                Err(Error::new(Code::IssuerUnavailable, "nobody knows which keys the token's issuer signs with now"))
            }
            None => Ok(Vec::new()),
        }
    }

    /// Fetches them where that is due; for a task in the background.
    pub(crate) async fn refresh(&self) -> Result<()> {
        let (at, tried) = {
            let held = self.held();
            (held.at, held.tried)
        };
        let is_due = at.is_none_or(|at| at.elapsed() >= REFRESH) && tried.is_none_or(|tried| tried.elapsed() >= AGAIN);
        if !is_due {
            return Ok(());
        }
        let _fetching = self.fetching.lock().await;
        self.fetch().await
    }

    async fn fetch(&self) -> Result<()> {
        self.held().tried = Some(Instant::now());
        let at = Instant::now();
        let document = self.fetcher.keys().await?;
        let keys = parse(&document)?;
        let mut held = self.held();
        held.keys = keys.into_iter().map(Arc::new).collect();
        held.at = Some(at);
        Ok(())
    }

    /// None where they would have to be fetched first.
    fn held_of(&self, id: Option<&str>) -> Option<Vec<Arc<VerifyingKey>>> {
        let held = self.held();
        held.at.filter(|at| at.elapsed() < STALE)?;
        let found: Vec<_> = held.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).cloned().collect();
        (!found.is_empty()).then_some(found)
    }

    fn is_stale(&self) -> bool {
        self.held().at.is_none_or(|at| at.elapsed() >= STALE)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        // Nothing under this lock panics half-way through a change.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of a JWK set (RFC 7517) that can verify signatures of ours. What is of another kind is left out, as the RFC wants it.
fn parse(document: &Value) -> Result<Vec<VerifyingKey>> {
    let Some(keys) = document["keys"].as_array() else {
        return Err(Error::new(Code::IssuerUnavailable, "what the issuer gave out is no set of keys"));
    };
    Ok(keys.iter().take(MOST_KEYS).filter_map(verifying).collect())
}

fn verifying(key: &Value) -> Option<VerifyingKey> {
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    let algorithm = algorithm(&jwk).filter(|_| is_for_signatures(&jwk.common))?;
    Some(VerifyingKey { algorithm, key: DecodingKey::from_jwk(&jwk).ok()?, id: jwk.common.key_id })
}

/// By the key's type, if the key does not say that it is for another: RSA keys are for RS256 alone, and secrets for nothing.
fn algorithm(jwk: &Jwk) -> Option<TokenAlgorithm> {
    let (algorithm, said) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (TokenAlgorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (TokenAlgorithm::Es256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (TokenAlgorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    jwk.common.key_algorithm.is_none_or(|named| named == said).then_some(algorithm)
}

fn is_for_signatures(common: &CommonParameters) -> bool {
    let operations = common.key_operations.as_ref();
    common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}
