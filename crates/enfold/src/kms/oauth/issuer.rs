//! Requests to whoever issues tokens, and what is made of the answers.
//!
//! Of a refusal only the `error` word of RFC 6749, section 5.2, is repeated, and the numbers that Microsoft Entra ID puts
//! beside it: the description may quote what was sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::AccessToken;
use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::http::{self, Answer, Body, Call, Http};
use crate::kms::json::Text;
use crate::kms::uri::KeyUri;

/// The life of a token whose issuer does not say: short enough to be true of all of them.
const UNSAID: Duration = Duration::from_secs(300);

/// Asks for tokens for one root key.
pub(in crate::kms) struct Issuer {
    pub http: Http,
    pub uri: KeyUri,
}

/// One request for a token.
pub(in crate::kms) struct Request<'a> {
    pub url: &'a str,
    pub headers: Vec<(&'static str, Zeroizing<String>)>,
    /// None: it is asked for with `GET`.
    pub body: Option<Body>,
    /// What to look at where it is refused.
    pub hint: &'a str,
}

/// A form, in a place that is wiped.
pub(in crate::kms) struct Form(Zeroizing<String>);

/// RFC 6749, section 5.1, with the spellings that the clouds' machines have of it.
#[derive(Deserialize)]
struct Granted {
    #[serde(alias = "accessToken")]
    access_token: Text,
    /// Seconds from now.
    #[serde(default, deserialize_with = "number")]
    expires_in: Option<u64>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "number")]
    expires_on: Option<u64>,
    /// RFC 3339.
    #[serde(default, rename = "expireTime")]
    expire_time: Option<jiff::Timestamp>,
}

#[derive(Deserialize)]
struct Refused {
    error: Option<String>,
    /// Of Microsoft Entra ID, which refuses a secret that has expired in the same word as a wrong one.
    #[serde(default)]
    error_codes: Vec<u64>,
}

impl Issuer {
    /// Sends one request and takes the token of its answer.
    pub(in crate::kms) async fn token(&self, operation: Operation, request: Request<'_>) -> Result<AccessToken> {
        let (url, began) = (request.url, Instant::now());
        let answer = self.fetch(operation, request).await?;
        self.take(operation, url, &answer, began)
    }

    /// The token of an answer. `began`: before it was asked for.
    pub(in crate::kms) fn take(
        &self,
        operation: Operation,
        url: &str,
        answer: &Answer,
        began: Instant,
    ) -> Result<AccessToken> {
        let granted: Option<Granted> = serde_json::from_slice(&answer.body).ok();
        let is_one = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        match granted.filter(|granted| is_one(&granted.access_token.0)) {
            Some(granted) => {
                let life = granted.life();
                Ok(AccessToken::new(granted.access_token.0, began, life))
            }
            None => Err(self.failed(operation, Code::KmsProtocol, url).cause("its answer holds no token")),
        }
    }

    /// Sends one request and gives the whole answer, if it is a success.
    pub(in crate::kms) async fn fetch(&self, operation: Operation, request: Request<'_>) -> Result<Answer> {
        self.secured(operation, request.url)?;
        let method = if request.body.is_some() { Method::POST } else { Method::GET };
        let call = Call { method, url: request.url, headers: request.headers, body: request.body };
        let answer = self.http.send(operation, &self.uri, call).await;
        let answer = answer.map_err(|e| e.cause(asked(request.url)).while_doing(self.signing_in()))?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let code = match answer.status {
            429 => Code::KmsThrottled,
            408 | 500.. => Code::KmsUnavailable,
            _ => Code::KmsAccessDenied,
        };
        let error = self.failed(operation, code, request.url).cause(http::answered(answer.status));
        let error = match word(&answer) {
            Some(word) => error.cause(format!("it said {word}")),
            None => error,
        };
        Err(answer.paced(if code == Code::KmsAccessDenied { error.hint(request.hint) } else { error }))
    }

    /// Where no token can be asked for at all.
    pub(in crate::kms) fn lacking(&self, operation: Operation, fact: impl Into<String>) -> Error {
        failure::failed(Code::KmsAccessDenied, operation, &self.uri).cause(fact).while_doing(self.signing_in())
    }

    fn failed(&self, operation: Operation, code: Code, url: &str) -> Error {
        failure::failed(code, operation, &self.uri).cause(asked(url)).while_doing(self.signing_in())
    }

    fn signing_in(&self) -> String {
        format!("cannot sign in for `{}`", self.uri)
    }

    /// Credentials cross a network under TLS alone. What stands on this machine, or is reached over its own link, is
    /// spoken to as it wants: metadata servers have no TLS.
    fn secured(&self, operation: Operation, url: &str) -> Result<()> {
        let parsed = url::Url::parse(url).ok();
        let sound = parsed.as_ref().is_some_and(|url| match (url.scheme(), url.host()) {
            ("https", Some(_)) => true,
            ("http", Some(url::Host::Ipv4(ip))) => ip.is_loopback() || ip.is_link_local(),
            ("http", Some(url::Host::Ipv6(ip))) => ip.is_loopback(),
            ("http", Some(url::Host::Domain(name))) => name == "localhost" || name == "metadata.google.internal",
            _ => false,
        });
        if sound {
            return Ok(());
        }
        Err(self.lacking(operation, "a token would be asked for in the clear").cause(asked(url)))
    }
}

impl Form {
    pub(in crate::kms) fn new() -> Self {
        Self(Zeroizing::new(String::new()))
    }

    #[must_use]
    pub(in crate::kms) fn field(self, name: &str, value: &str) -> Self {
        // Room for every byte of it as three, so that nothing moves while it is written.
        let mut text = Zeroizing::new(String::with_capacity(self.0.len() + name.len() + 3 * value.len() + 2));
        text.push_str(&self.0);
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        for piece in url::form_urlencoded::byte_serialize(value.as_bytes()) {
            text.push_str(piece);
        }
        Self(text)
    }

    pub(in crate::kms) fn body(self) -> Body {
        Body::Form(secret(&self.0))
    }
}

impl Granted {
    fn life(&self) -> Duration {
        if let Some(seconds) = self.expires_in {
            return Duration::from_secs(seconds);
        }
        let on = self.expires_on.and_then(|s| i64::try_from(s).ok());
        let on = self.expire_time.or_else(|| jiff::Timestamp::from_second(on?).ok());
        let left = on.map(|on| on.as_second() - jiff::Timestamp::now().as_second());
        left.map_or(UNSAID, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    }
}

fn secret(text: &Zeroizing<String>) -> Bytes {
    http::secret_body(Zeroizing::new(text.as_bytes().to_vec()))
}

/// The host alone: paths and queries of some issuers name accounts.
fn asked(url: &str) -> String {
    let host = url::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    format!("a token was asked for at `{}`", host.unwrap_or_else(|| "?".to_owned()))
}

/// `invalid_grant` and the like, with Microsoft's number where there is one; nothing that is not one word.
fn word(answer: &Answer) -> Option<String> {
    let refused: Refused = serde_json::from_slice(&answer.body).ok()?;
    let is_one = |w: &String| (1..=40).contains(&w.len()) && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let word = refused.error.filter(is_one)?;
    Some(match refused.error_codes.first() {
        Some(number) => format!("`{word}`, `AADSTS{number}`"),
        None => format!("`{word}`"),
    })
}

/// A number, or the same in quotation marks: Azure's machines write it so.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Spelling {
        Number(u64),
        Text(String),
    }
    Ok(match Option::<Spelling>::deserialize(deserializer)? {
        Some(Spelling::Number(n)) => Some(n),
        Some(Spelling::Text(text)) => text.parse().ok(),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_token_is_read_in_every_spelling() {
        let life = |rest: &str| {
            let granted: Granted = serde_json::from_str(&format!(r#"{{"access_token":"t"{rest}}}"#)).unwrap();
            granted.life().as_secs()
        };
        let in_an_hour = jiff::Timestamp::now().as_second() + 3600;
        assert_eq!(life(r#","expires_in":3599,"token_type":"Bearer""#), 3599);
        assert_eq!(life(r#","expires_in":"86399""#), 86399);
        assert_eq!(life(""), 300);
        assert_eq!(life(r#","expires_on":"1000000000""#), 0);
        assert!((3590..=3600).contains(&life(&format!(r#","expires_on":"{in_an_hour}""#))));
        let later = jiff::Timestamp::from_second(in_an_hour).unwrap();
        assert!((3590..=3600).contains(&life(&format!(r#","expireTime":"{later}""#))));
        let iam: Granted = serde_json::from_str(r#"{"accessToken":"t","expireTime":"2001-09-09T01:46:40Z"}"#).unwrap();
        assert_eq!(iam.life(), Duration::ZERO);
    }

    #[test]
    fn a_form_is_encoded_as_one() {
        let form = Form::new().field("grant_type", "a:b").field("secret", "p&q=r s+\u{e4}~%");
        assert_eq!(form.0.as_str(), "grant_type=a%3Ab&secret=p%26q%3Dr+s%2B%C3%A4%7E%25");
    }
}
