//! Events as signed calls of a webhook, as Standard Webhooks 1.0.0 has them signed: libraries of many languages verify that.

use std::path::PathBuf;

use async_trait::async_trait;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::post::Poster;
use super::{Arrived, Line, Missed, Receiver};
use crate::hex::hex;
use crate::kms::secret::{self, Readers};
use crate::policy::SinkPolicy;
use crate::{Code, Error, Result};

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// What a secret begins with; base64 follows.
const PREFIX: &str = "whsec_";
/// Bytes of a secret, as the specification has them.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub(super) struct Webhook {
    poster: Poster,
    secret_file: PathBuf,
}

impl Webhook {
    pub(super) fn open(policy: &SinkPolicy) -> Result<Self> {
        let secret_file = policy.secret_file.clone().unwrap_or_default();
        let webhook = Self { poster: Poster::open(policy)?, secret_file };
        webhook.keys()?;
        Ok(webhook)
    }

    /// A key for each line of the file, so that the receiver's can be changed before ours is taken away.
    fn keys(&self) -> Result<Vec<hmac::Key>> {
        let text = secret::read(&self.secret_file, Readers::Closed)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys: Option<Vec<_>> = lines.map(key).collect();
        keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
            let path = self.secret_file.display();
            Error::new(Code::FileFailed, format!("cannot sign calls of a webhook with what is in `{path}`"))
                .cause("a secret is `whsec_` and 24 to 64 bytes in base64")
                .hint(format!(
                    "make one: printf 'whsec_%s\\n' \"$(openssl rand -base64 32)\" >{path}; chmod 600 {path}"
                ))
        })
    }

    fn headers(&self, body: &str, at: i64) -> Result<HeaderMap> {
        // The same lines once more are the same message.
        let id = format!("enfold_{}", hex(&digest::digest(&digest::SHA256, body.as_bytes()).as_ref()[..16]));
        let signatures = sign(&self.keys()?, &id, at, body);
        let unfit = |_| Error::new(Code::Internal, "a signature does not fit a header");
        Ok(HeaderMap::from_iter([
            (ID, HeaderValue::try_from(id).map_err(unfit)?),
            (TIMESTAMP, HeaderValue::from(at)),
            (SIGNATURE, HeaderValue::try_from(signatures).map_err(unfit)?),
        ]))
    }
}

#[async_trait]
impl Receiver for Webhook {
    async fn send(&mut self, lines: &[Line]) -> std::result::Result<Arrived, Missed> {
        let body = body(lines);
        let headers = self.headers(&body, jiff::Timestamp::now().as_second());
        self.poster.post(headers.map_err(|error| Missed::later(error.to_string()))?, body).await?;
        Ok(Arrived::all(lines))
    }
}

/// `events` and `checkpoints`, each letter for letter the line of the log that it is.
fn body(lines: &[Line]) -> String {
    let of = |entries: bool| {
        let lines = lines.iter().filter(|line| line.kind.is_some() == entries).map(|line| &*line.text);
        lines.collect::<Vec<_>>().join(",")
    };
    format!("{{\"events\":[{}],\"checkpoints\":[{}]}}", of(true), of(false))
}

fn key(line: &str) -> Option<hmac::Key> {
    let secret = zeroize::Zeroizing::new(STANDARD.decode(line.strip_prefix(PREFIX)?).ok()?);
    SECRET_BYTES.contains(&secret.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &secret))
}

/// The value of `webhook-signature`: one for each key.
fn sign(keys: &[hmac::Key], id: &str, at: i64, body: &str) -> String {
    let signed = format!("{id}.{at}.{body}");
    let signatures = keys.iter().map(|key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes()))));
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the specification's own libraries.
    #[test]
    fn a_call_is_signed_as_the_specification_says() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(&[key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_none_is_refused() {
        for bad in
            ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64 at all, is it?"]
        {
            assert!(key(bad).is_none(), "{bad}");
        }
    }
}
