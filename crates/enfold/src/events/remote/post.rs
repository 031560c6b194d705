//! Posts what HTTP takes: the part that webhooks and OTLP share.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use zeroize::Zeroizing;

use super::Missed;
use crate::kms::secret::{self, Readers};
use crate::policy::SinkPolicy;
use crate::{Code, Error, Result, tls};

/// For one request, the connection included.
const WITHIN: Duration = Duration::from_secs(10);
/// Of an answer more is not read: nothing but a short word is expected.
const LONGEST_ANSWER: usize = 64 << 10;

pub(super) struct Poster {
    client: Client,
    url: String,
    headers_file: Option<PathBuf>,
}

impl Poster {
    pub(super) fn open(policy: &SinkPolicy) -> Result<Self> {
        let client = tls::http_client(policy.ca_file.as_deref(), WITHIN, "a receiver of events")?;
        let poster = Self { client, url: policy.url.clone(), headers_file: policy.headers_file.clone() };
        poster.headers()?;
        Ok(poster)
    }

    /// Posts JSON, and gives the answer to it.
    pub(super) async fn post(&self, mut headers: HeaderMap, body: String) -> std::result::Result<Vec<u8>, Missed> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.extend(self.headers().map_err(|error| Missed::later(error.to_string()))?);
        let unreached = |error: reqwest::Error| {
            let why =
                if error.is_timeout() { "it did not answer in time" } else { "it could not be reached, or hung up" };
            Missed::later(why)
        };
        let mut answer = self.client.post(&self.url).headers(headers).body(body).send().await.map_err(unreached)?;
        let status = answer.status().as_u16();
        let says = format!("it answered with HTTP status {status}");
        let asked = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        match status {
            200..300 => {}
            // What is sent is at fault: that it is no good, or too much of it.
            400 | 413 | 422 => return Err(Missed::Refused(says)),
            // Anything else is somebody's to put right, and what waits is worth keeping until then.
            _ => return Err(Missed::Later(says, Duration::from_secs(asked.unwrap_or(0)))),
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreached)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_ANSWER {
                break;
            }
        }
        Ok(body)
    }

    /// Those of the file, read anew so that whoever renews a token in it needs no restart.
    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let Some(path) = &self.headers_file else { return Ok(headers) };
        let refused = |n: usize| {
            Error::new(Code::FileFailed, format!("cannot use the headers in `{}`", path.display()))
                .cause(format!("line {} is not one, as `Authorization: Bearer …`", n + 1))
        };
        let text: Zeroizing<String> = secret::read(path, Readers::Closed)?;
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| refused(n))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| refused(n))?;
            let mut value = HeaderValue::from_str(value.trim()).map_err(|_| refused(n))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }
}
