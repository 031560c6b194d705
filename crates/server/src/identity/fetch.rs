//! Fetches what an issuer publishes, the document of OpenID Connect Discovery and its keys, and takes codes for ID tokens to it.

use std::time::Duration;

use enfold::policy::IssuerPolicy;
use enfold::{Code, Error, Result, tls};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

/// For one document, the connection included.
const WITHIN: Duration = Duration::from_secs(5);
/// Much more than such a document has.
const LONGEST: usize = 1 << 20;

pub(crate) struct Fetcher {
    client: Client,
    issuer: String,
    /// Where the policy says that the keys are; found out from the issuer where it does not.
    keys: Option<String>,
}

impl Fetcher {
    pub(super) fn new(policy: &IssuerPolicy) -> Result<Self> {
        let client = tls::http_client(policy.ca_file.as_deref(), WITHIN, "an issuer of tokens")?;
        Ok(Self { client, issuer: policy.url.clone(), keys: policy.jwks_url.clone() })
    }

    /// The JWK set.
    pub(super) async fn keys(&self) -> Result<Value> {
        if let Some(url) = &self.keys {
            return self.get(url).await;
        }
        let about = self.about().await?;
        self.get(self.place(&about, "jwks_uri")?).await
    }

    /// What the issuer says of itself.
    pub(crate) async fn about(&self) -> Result<Value> {
        let about =
            self.get(&format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'))).await?;
        // OpenID Connect Discovery 1.0, section 4.3: whoever answers for another issuer is not the one that was asked.
        if about["issuer"].as_str() != Some(&self.issuer) {
            return Err(self.failed("it says to be another issuer than the policy names"));
        }
        Ok(about)
    }

    /// A URL out of what the issuer says of itself.
    pub(crate) fn place<'a>(&self, about: &'a Value, name: &str) -> Result<&'a str> {
        let url = about[name].as_str().filter(|url| enfold::policy::is_safe_url(url));
        url.ok_or_else(|| self.failed(&format!("its `{name}` is no place that can be trusted")))
    }

    async fn get(&self, url: &str) -> Result<Value> {
        self.answer(self.client.get(url)).await
    }

    /// Posts a form, with the client's name and secret where it has one (RFC 6749, section 2.3.1).
    pub(crate) async fn post(&self, url: &str, form: String, client: Option<(&str, &str)>) -> Result<Value> {
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        if let Some((name, secret)) = client {
            request = request.basic_auth(encoded(name), Some(encoded(secret)));
        }
        self.answer(request).await
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Value> {
        let unreached = |_| self.failed("it could not be reached, or hung up");
        let mut response = request.send().await.map_err(unreached)?;
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
        Error::new(Code::IssuerUnavailable, format!("cannot get from issuer `{}` what it has to say", self.issuer))
            .cause(why)
    }
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
