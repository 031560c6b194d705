//! What is sent to a transit engine and what it answers, in the words of its API documentation.
//!
//! The servers tell what went wrong in English sentences only, so those are recognised here; none is repeated, because
//! some quote what was sent. What is not recognised is refused as an answer that the protocol does not allow.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::http::{self, Answer};
use crate::kms::json::{self, Text, body};
use crate::kms::material::KeyMaterial;
use crate::kms::service::RotationPlan;
use crate::kms::uri::KeyUri;

/// One item of a batch.
#[derive(Serialize)]
pub(super) struct Item<'a> {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_it_is")]
    plaintext: Option<Zeroizing<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    context: String,
}

impl<'a> Item<'a> {
    pub(super) fn plaintext(key: &KeyMaterial, context: String) -> Self {
        Self { plaintext: Some(json::encode(&STANDARD, key.expose())), ciphertext: None, context }
    }

    pub(super) fn ciphertext(text: &'a str, context: String) -> Self {
        Self { plaintext: None, ciphertext: Some(text), context }
    }

    fn len(&self) -> usize {
        self.plaintext.as_ref().map_or(0, |t| t.len()) + self.ciphertext.map_or(0, str::len) + self.context.len()
    }
}

#[derive(Serialize)]
struct Referenced<'a> {
    #[serde(flatten)]
    item: &'a Item<'a>,
    /// Echoed by the server, so that an answer cannot be taken for another's.
    reference: String,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch_input: Vec<Referenced<'a>>,
}

#[derive(Deserialize)]
pub(super) struct BatchData {
    pub batch_results: Vec<ItemAnswer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ItemAnswer {
    pub ciphertext: String,
    pub plaintext: Text,
    pub error: Option<String>,
    pub reference: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DataKey {
    pub plaintext: Text,
    pub ciphertext: String,
}

/// What `read transit/keys/NAME` says.
#[derive(Deserialize)]
pub(super) struct KeyConfiguration {
    #[serde(rename = "type")]
    kind: String,
    derived: bool,
    supports_encryption: bool,
    supports_decryption: bool,
    pub latest_version: u32,
    pub min_decryption_version: u32,
    #[serde(default)]
    pub min_available_version: u32,
    /// Of servers that have it.
    #[serde(default)]
    pub soft_deleted: bool,
    /// Seconds; zero for a key that is rotated only when somebody asks. Absent on servers before it was there.
    auto_rotate_period: Option<u64>,
    /// When each version was made: seconds since 1970, for the kinds of keys that serve here.
    #[serde(default)]
    keys: BTreeMap<String, serde_json::Value>,
}

impl KeyConfiguration {
    /// Of 256 bits, and bound to a context.
    pub(super) fn usable(&self) -> bool {
        let whole = matches!(self.kind.as_str(), "aes256-gcm96" | "chacha20-poly1305" | "xchacha20-poly1305");
        whole && self.derived && self.supports_encryption && self.supports_decryption
    }

    /// The server looks once an hour which keys are due.
    pub(super) fn rotation(&self) -> Option<RotationPlan> {
        let period = Duration::from_secs(self.auto_rotate_period?);
        if period.is_zero() {
            return Some(RotationPlan::default());
        }
        let made = self.keys.get(&self.latest_version.to_string()).and_then(serde_json::Value::as_i64);
        let made = made.and_then(|made| jiff::Timestamp::from_second(made).ok());
        Some(RotationPlan {
            period: Some(period),
            next: made.and_then(|made| made.checked_add(period).ok()),
            ..RotationPlan::default()
        })
    }
}

#[derive(Deserialize)]
struct Reply<T> {
    data: T,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errors: Vec<String>,
}

/// `vault:v1:` and base64: a nonce of 12 or 24 bytes, the key, a tag of 16. Only the one spelling that the server
/// makes is taken, so that no two texts are the same wrap.
pub(super) fn is_ciphertext(text: &[u8]) -> bool {
    let rest = text.strip_prefix(b"vault:v").unwrap_or_default();
    let Some(colon) = rest.iter().position(|&b| b == b':') else { return false };
    let (version, sealed) = (&rest[..colon], &rest[colon + 1..]);
    let numbered = (1..=9).contains(&version.len()) && version.iter().all(u8::is_ascii_digit) && version[0] != b'0';
    numbered && STANDARD.decode(sealed).is_ok_and(|bytes| bytes.len() == 60 || bytes.len() == 72)
}

pub(super) fn batch_body<'a>(items: &[&'a Item<'a>]) -> Bytes {
    let room = items.iter().map(|item| item.len() + 96).sum::<usize>() + 32;
    let referenced = |(at, item): (usize, &&'a Item<'a>)| Referenced { item, reference: at.to_string() };
    body(&Batch { batch_input: items.iter().enumerate().map(referenced).collect() }, room)
}

pub(super) fn data_key_body(context: &str) -> Bytes {
    #[derive(Serialize)]
    struct Wanted<'a> {
        context: &'a str,
        bits: usize,
    }
    body(&Wanted { context, bits: KeyMaterial::LEN * 8 }, context.len() + 64)
}

pub(super) fn rotate_every_body(period: Option<Duration>) -> Bytes {
    #[derive(Serialize)]
    struct Wanted {
        auto_rotate_period: u64,
    }
    body(&Wanted { auto_rotate_period: period.unwrap_or_default().as_secs() }, 64)
}

/// Straight into the body; it is there whenever it is written.
fn as_it_is<S: Serializer>(text: &Option<Zeroizing<String>>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(text.as_ref().map_or("", |t| t.as_str()))
}

/// The data of an answer with the status 200.
pub(super) fn success<T: DeserializeOwned>(operation: Operation, uri: &KeyUri, answer: &Answer) -> Result<T> {
    match answer.status {
        200 => data(operation, uri, answer),
        _ => Err(failed(operation, uri, answer)),
    }
}

pub(super) fn data<T: DeserializeOwned>(operation: Operation, uri: &KeyUri, answer: &Answer) -> Result<T> {
    let reply: Reply<T> = serde_json::from_slice(&answer.body)
        .map_err(|_| failure::unusable(operation, uri, "it is not of the expected shape"))?;
    Ok(reply.data)
}

/// An answer that is a refusal as a whole.
pub(super) fn failed(operation: Operation, uri: &KeyUri, answer: &Answer) -> Error {
    answer.paced(refused(operation, uri, answer.status, &errors(answer)))
}

/// The sentences of a refusal.
pub(super) fn errors(answer: &Answer) -> String {
    let refusal: Refusal = serde_json::from_slice(&answer.body).unwrap_or_default();
    refusal.errors.join("\n")
}

pub(super) fn refused(operation: Operation, uri: &KeyUri, status: u16, said: &str) -> Error {
    if status == 503 && said.contains("sealed") {
        return failure::failed(Code::KmsUnavailable, operation, uri)
            .cause("the server is sealed")
            .hint("unseal it: `bao operator unseal`, or `vault operator unseal`");
    }
    // 412 and 47x: replicas and standbys that cannot answer yet. They come only from servers of HashiCorp.
    if matches!(status, 412 | 472 | 473) {
        return failure::failed(Code::KmsUnavailable, operation, uri)
            .cause("this node cannot answer yet")
            .cause(http::answered(status));
    }
    if let Some(error) = http::by_status(operation, uri, status) {
        return match status {
            401 | 403 => error.hint(format!("the policy of the token needs {}", right(operation))),
            _ => error,
        };
    }
    let has = |part: &str| said.contains(part);
    if status == 404 && has("no handler for route") {
        return failure::not_found(operation, uri).cause("no engine is mounted there");
    }
    if status == 404 || has("encryption key not found") || has("no existing key named") {
        return failure::not_found(operation, uri);
    }
    if has("disallowed by policy (too old)") {
        return failure::version_retired(operation, uri);
    }
    if has("soft-deleted key") {
        return failure::disabled(operation, uri).cause("it is deleted, and can be restored");
    }
    // A version that there never was is what a changed wrap names.
    if has("message authentication failed") || has("invalid ciphertext") || has("unable to decrypt") {
        return failure::wrap_invalid(operation, uri);
    }
    failure::failed(Code::KmsProtocol, operation, uri).cause(http::answered(status))
}

/// What a policy must allow on the paths of the key.
fn right(operation: Operation) -> &'static str {
    match operation {
        Operation::Wrap => "`update` on `encrypt/KEY` and `read` on `keys/KEY` of the mount",
        Operation::Unwrap => "`update` on `decrypt/KEY` and `read` on `keys/KEY` of the mount",
        Operation::Decrypt => "`update` on `decrypt/KEY` of the mount",
        Operation::Sign => "`update` on `sign/KEY` of the mount",
        Operation::Generate => "`update` on `datakey/plaintext/KEY` and `read` on `keys/KEY` of the mount",
        Operation::Describe => "`read` on `keys/KEY` of the mount",
        Operation::Rewrap => "`update` on `rewrap/KEY` and `read` on `keys/KEY` of the mount",
        Operation::Rotate => "`update` on `keys/KEY/rotate` and `read` on `keys/KEY` of the mount",
        Operation::ScheduleRotation
        | Operation::Disable
        | Operation::Enable
        | Operation::ScheduleDeletion
        | Operation::CancelDeletion => "`update` on `keys/KEY/config` and `read` on `keys/KEY` of the mount",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_spelling_of_a_wrap_is_one() {
        let sealed = STANDARD.encode([7; 60]);
        assert!(is_ciphertext(format!("vault:v1:{sealed}").as_bytes()));
        assert!(is_ciphertext(format!("vault:v12:{}", STANDARD.encode([7; 72])).as_bytes()));
        for bad in [
            String::new(),
            "vault:v1".to_owned(),
            format!("vault:v:{sealed}"),
            format!("vault:v0:{sealed}"),
            format!("vault:v01:{sealed}"),
            format!("vault:v+1:{sealed}"),
            format!("vault:v1:{sealed}\n"),
            format!("Vault:v1:{sealed}"),
            format!("vault:v1:{}", STANDARD.encode([7; 61])),
            format!("vault:v1:{}", sealed.replace('B', "B\\n")),
        ] {
            assert!(!is_ciphertext(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn a_body_is_written_without_moving() {
        let key = KeyMaterial::from_bytes(&mut [255; 32]);
        let items: Vec<_> = (0..300).map(|_| Item::plaintext(&key, "/".repeat(44))).collect();
        let items: Vec<_> = items.iter().collect();
        let room = items.iter().map(|item| item.len() + 96).sum::<usize>() + 32;
        assert!(batch_body(&items).len() <= room);
    }

    #[test]
    fn only_derived_keys_of_256_bits_are_usable() {
        let about = |kind: &str, derived: bool| KeyConfiguration {
            kind: kind.to_owned(),
            derived,
            supports_encryption: true,
            supports_decryption: true,
            latest_version: 1,
            min_decryption_version: 1,
            min_available_version: 0,
            soft_deleted: false,
            auto_rotate_period: None,
            keys: BTreeMap::new(),
        };
        assert!(about("aes256-gcm96", true).usable());
        assert!(about("xchacha20-poly1305", true).usable());
        assert!(!about("aes256-gcm96", false).usable());
        assert!(!about("aes128-gcm96", true).usable());
        assert!(!about("rsa-4096", false).usable());
    }
}
