//! Fetches what an issuer publishes: the document of OpenID Connect Discovery, and its keys.

use std::time::Duration;

use enfold::policy::IssuerPolicy;
use enfold::{Code, Error, Result, tls};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde_json::Value;

/// For one document, the connection included.
const WITHIN: Duration = Duration::from_secs(5);
/// Much more than such a document has.
const LONGEST: usize = 1 << 20;

pub(super) struct Fetcher {
    client: Client,
    issuer: String,
    /// Where the policy says that the keys are; found out from the issuer where it does not.
    keys: Option<String>,
}

impl Fetcher {
    pub(super) fn new(policy: &IssuerPolicy) -> Result<Self> {
        let trust = tls::Trust { authorities: policy.ca_file.as_deref(), ..tls::Trust::default() };
        let unverifiable =
            || Error::new(Code::FileFailed, "this machine has no root certificates to verify an issuer of tokens with");
        // As for key services: no redirect is followed, and no proxy of the environment used.
        let client = Client::builder()
            .tls_backend_preconfigured(tls::client(&trust, unverifiable)?)
            .redirect(Policy::none())
            .no_proxy()
            .timeout(WITHIN)
            .build()
            .map_err(|_| Error::new(Code::Internal, "cannot make a client for HTTP"))?;
        Ok(Self { client, issuer: policy.url.clone(), keys: policy.jwks_url.clone() })
    }

    /// The JWK set.
    pub(super) async fn keys(&self) -> Result<Value> {
        if let Some(url) = &self.keys {
            return self.get(url).await;
        }
        let about =
            self.get(&format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'))).await?;
        // OpenID Connect Discovery 1.0, section 4.3: whoever answers for another issuer is not the one that was asked.
        if about["issuer"].as_str() != Some(&self.issuer) {
            return Err(self.failed("it says to be another issuer than the policy names"));
        }
        let url = about["jwks_uri"].as_str().filter(|url| enfold::policy::is_safe_url(url));
        self.get(url.ok_or_else(|| self.failed("it names no place of its keys that can be trusted"))?).await
    }

    async fn get(&self, url: &str) -> Result<Value> {
        let unreached = |_| self.failed("it could not be reached, or hung up");
        let mut response = self.client.get(url).send().await.map_err(unreached)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(self.failed(&format!("it answered with HTTP status {}", response.status().as_u16())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreached)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST {
                return Err(self.failed("its answer has no end"));
            }
        }
        serde_json::from_slice(&body).map_err(|_| self.failed("its answer is not JSON"))
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(Code::IssuerUnavailable, format!("cannot fetch the keys of issuer `{}`", self.issuer)).cause(why)
    }
}
