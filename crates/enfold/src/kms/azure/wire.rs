//! What is sent to Key Vault and Managed HSM and what they answer, in the words of their REST reference.
//!
//! Of an answer only the words of its error go on (`Forbidden`, `ForbiddenByRbac`): its sentences name callers and keys.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::http::{self, Answer};
use crate::kms::json::Text;
use crate::kms::service::DAY;
use crate::kms::uri::KeyUri;

/// The one version of the API that is spoken.
pub(super) const API_VERSION: &str = "7.4";

/// How a data key is wrapped. The number is part of the wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrapping {
    RsaOaep256 = 1,
    /// AES key wrap (RFC 3394) with a key of 256 bits, in a managed HSM.
    A256Kw = 2,
}

/// The body of `wrapkey` and `unwrapkey`. Bytes are base64 for URLs, without padding.
#[derive(Serialize)]
pub(super) struct KeyOperation<'a> {
    pub alg: &'static str,
    pub value: &'a str,
}

#[derive(Deserialize)]
pub(super) struct KeyResult {
    pub kid: String,
    pub value: Text,
}

/// A key, as `get` and `rotate` show it.
#[derive(Deserialize)]
pub(super) struct KeyBundle {
    pub key: JsonWebKey,
    #[serde(default)]
    pub attributes: Attributes,
}

#[derive(Deserialize)]
pub(super) struct JsonWebKey {
    pub kid: String,
    pub kty: String,
    #[serde(default)]
    key_ops: Vec<String>,
    /// Of keys of AES in a managed HSM, where it is told.
    key_size: Option<u32>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Attributes {
    pub enabled: bool,
    /// Not before, and not after: seconds since 1970.
    pub nbf: Option<i64>,
    pub exp: Option<i64>,
    /// `Recoverable+Purgeable`: what becomes of the key when it is deleted.
    pub recovery_level: String,
    pub recoverable_days: u32,
    /// When this version was made.
    pub created: Option<i64>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self { enabled: true, nbf: None, exp: None, recovery_level: String::new(), recoverable_days: 0, created: None }
    }
}

impl Attributes {
    /// After a deletion; nothing where that is for good at once.
    pub(super) fn recoverable_for(&self) -> Duration {
        let recoverable = ["Recoverable", "CustomizedRecoverable"];
        let soft = self.recovery_level.split('+').any(|word| recoverable.contains(&word));
        DAY * if soft { self.recoverable_days } else { 0 }
    }
}

/// Changes a version. What is not there stays.
#[derive(Serialize)]
pub(super) struct NewAttributes {
    attributes: Enabled,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

impl NewAttributes {
    pub(super) fn enabled(enabled: bool) -> Self {
        Self { attributes: Enabled { enabled } }
    }
}

/// A page of the versions of a key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyList {
    pub value: Vec<KeyItem>,
    pub next_link: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct KeyItem {
    pub kid: String,
    #[serde(default)]
    pub attributes: Attributes,
}

/// What a deletion is answered with, besides the key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletedKey {
    /// Seconds since 1970.
    pub scheduled_purge_date: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: Said,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    code: String,
    #[serde(alias = "innerError")]
    innererror: Option<Box<Said>>,
}

impl Wrapping {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RsaOaep256 => "RSA-OAEP-256",
            Self::A256Kw => "A256KW",
        }
    }

    pub(super) const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::RsaOaep256),
            2 => Some(Self::A256Kw),
            _ => None,
        }
    }
}

impl KeyBundle {
    /// How this key wraps; none where it does not.
    pub(super) fn wrapping(&self) -> Option<Wrapping> {
        let allows = |operation: &str| self.key.key_ops.is_empty() || self.key.key_ops.iter().any(|o| o == operation);
        let wrapping = match self.key.kty.as_str() {
            "RSA" | "RSA-HSM" => Wrapping::RsaOaep256,
            "oct-HSM" if self.key.key_size.is_none_or(|bits| bits == 256) => Wrapping::A256Kw,
            _ => return None,
        };
        (allows("wrapKey") && allows("unwrapKey")).then_some(wrapping)
    }
}

/// The version in a key's identifier, if it is one of that key.
pub(super) fn version<'a>(host: &str, name: &str, kid: &'a str) -> Option<&'a str> {
    let rest = kid.strip_prefix("https://")?.strip_prefix(host)?;
    // Some answers carry the port.
    let rest = rest.strip_prefix(":443").unwrap_or(rest);
    let version = rest.strip_prefix("/keys/")?.strip_prefix(name)?.strip_prefix('/')?;
    let hex = version.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (version.len() == 32 && hex).then_some(version)
}

/// The answer to a call that succeeded.
pub(super) fn success<T: DeserializeOwned>(operation: Operation, uri: &KeyUri, answer: &Answer) -> Result<T> {
    if answer.status != 200 {
        return Err(refused(operation, uri, answer));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| failure::unusable(operation, uri, "it is not of the expected shape"))
}

/// A key whose time has not come, or is over. The service says it of wraps alone: what was wrapped still opens.
pub(super) fn out_of_time(operation: Operation, uri: &KeyUri, which: &str) -> Error {
    failure::failed(Code::KmsKeyDisabled, operation, uri).cause(format!("the root key {which}")).hint(
        "change its dates (`az keyvault key set-attributes`), or give it a new version (`az keyvault key rotate`)",
    )
}

fn refused(operation: Operation, uri: &KeyUri, answer: &Answer) -> Error {
    let Refusal { error: said } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let inner = said.innererror.as_deref().map(|inner| inner.code.as_str()).unwrap_or_default();
    let error = kind(operation, uri, answer.status, &said.code, inner);
    let names: Vec<&str> = [said.code.as_str(), inner].into_iter().filter(|name| is_plain(name)).collect();
    answer.paced(error.cause(match names.is_empty() {
        true => http::answered(answer.status),
        false => format!("the service refused with `{}`", names.join("`, `")),
    }))
}

fn kind(operation: Operation, uri: &KeyUri, status: u16, code: &str, inner: &str) -> Error {
    match (status, code, inner) {
        (403, _, "KeyDisabled") => failure::disabled(operation, uri),
        (403, _, "KeyExpired") => out_of_time(operation, uri, "has expired"),
        (403, _, "KeyNotYetValid") => out_of_time(operation, uri, "is not valid yet"),
        (403, _, "ForbiddenByFirewall") => failure::denied(operation, uri)
            .cause("the vault's firewall does not let this machine in")
            .hint("allow its network, or reach the vault through a private endpoint"),
        (403, ..) => failure::denied(operation, uri)
            .hint(format!("assign {} on the key or the vault to whoever runs this", right(operation))),
        (401, ..) => failure::credential_expired(operation, uri),
        (404, "KeyNotFound" | "", _) => failure::not_found(operation, uri),
        // What is not the wrap comes from us and is always of the same form.
        (400, ..) if operation == Operation::Unwrap => failure::wrap_invalid(operation, uri),
        (400, ..) => failure::failed(Code::KmsUriInvalid, operation, uri)
            .cause("the key does not do this")
            .hint("name an RSA key of 2048 bits or more, or an AES key of 256 bits in a managed HSM"),
        (408 | 409, ..) => {
            failure::failed(Code::KmsUnavailable, operation, uri).cause("the key service failed for now")
        }
        _ => http::by_status(operation, uri, status)
            .unwrap_or_else(|| failure::failed(Code::KmsProtocol, operation, uri)),
    }
}

/// Names of errors are words; anything else came from somewhere that does not speak the protocol.
fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// The least role that holds the right.
fn right(operation: Operation) -> &'static str {
    match operation {
        Operation::Rotate
        | Operation::ScheduleRotation
        | Operation::Disable
        | Operation::Enable
        | Operation::ScheduleDeletion => "`Key Vault Crypto Officer` (in a managed HSM `Managed HSM Crypto User`)",
        Operation::CancelDeletion => "`Key Vault Crypto Officer` (in a managed HSM `Managed HSM Crypto Officer`)",
        _ => {
            "`Key Vault Crypto Service Encryption User` (in a managed HSM `Managed HSM Crypto Service Encryption User`)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_of_the_key_that_was_asked() {
        let hex = "0123456789abcdef0123456789abcdef";
        let of = |kid: &str| version("v.vault.azure.net", "k", kid).map(str::to_owned);
        assert_eq!(of(&format!("https://v.vault.azure.net/keys/k/{hex}")).as_deref(), Some(hex));
        assert_eq!(of(&format!("https://v.vault.azure.net:443/keys/k/{hex}")).as_deref(), Some(hex));
        for bad in [
            "https://v.vault.azure.net/keys/k/",
            "https://w.vault.azure.net/keys/k/",
            "https://v.vault.azure.net/keys/kk/",
        ] {
            assert_eq!(of(&format!("{bad}{hex}x")), None);
            assert_eq!(of(&bad.replace("/k/", &format!("/{hex}/"))), None);
        }
        assert_eq!(of(&format!("https://w.vault.azure.net/keys/k/{hex}")), None);
        assert_eq!(of(&format!("https://v.vault.azure.net/keys/l/{hex}")), None);
    }

    #[test]
    fn only_keys_that_wrap_and_unwrap_are_usable() {
        let bundle = |json: &str| serde_json::from_str::<KeyBundle>(json).unwrap().wrapping();
        let key = |rest: &str| bundle(&format!(r#"{{"key":{{"kid":"k",{rest}}}}}"#));
        assert_eq!(key(r#""kty":"RSA""#), Some(Wrapping::RsaOaep256));
        assert_eq!(key(r#""kty":"RSA-HSM","key_ops":["wrapKey","unwrapKey"]"#), Some(Wrapping::RsaOaep256));
        assert_eq!(key(r#""kty":"oct-HSM","key_size":256"#), Some(Wrapping::A256Kw));
        assert_eq!(key(r#""kty":"oct-HSM","key_size":128"#), None);
        assert_eq!(key(r#""kty":"RSA","key_ops":["wrapKey"]"#), None);
        assert_eq!(key(r#""kty":"EC""#), None);
    }
}
