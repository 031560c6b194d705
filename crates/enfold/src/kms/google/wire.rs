//! What is sent to Cloud KMS and what it answers, in the words of its REST reference, version 1.
//!
//! Of an answer only the words of its error go on (`PERMISSION_DENIED`, `IAM_PERMISSION_DENIED`): its sentences may
//! quote what was sent. Where a state or a reason is told in a sentence alone, the sentence is looked at and not repeated.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::crc32c::Crc32c;
use crate::error::{Code, Error, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::http::{self, Answer};
use crate::kms::json::Text;
use crate::kms::uri::KeyUri;

/// The body of `:encrypt`. Bytes are base64.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypt<'a> {
    pub plaintext: &'a str,
    pub additional_authenticated_data: &'a str,
    pub plaintext_crc32c: Crc32c,
    pub additional_authenticated_data_crc32c: Crc32c,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encrypted {
    /// The version that encrypted.
    pub name: String,
    pub ciphertext: String,
    pub ciphertext_crc32c: Crc32c,
    #[serde(default)]
    pub verified_plaintext_crc32c: bool,
    #[serde(default)]
    pub verified_additional_authenticated_data_crc32c: bool,
}

/// The body of `:decrypt`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decrypt<'a> {
    pub ciphertext: &'a str,
    pub additional_authenticated_data: &'a str,
    pub ciphertext_crc32c: Crc32c,
    pub additional_authenticated_data_crc32c: Crc32c,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Decrypted {
    /// Left out where it is empty.
    #[serde(default)]
    pub plaintext: Text,
    pub plaintext_crc32c: Crc32c,
}

/// A key.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CryptoKey {
    pub name: String,
    pub purpose: String,
    pub primary: Option<CryptoKeyVersion>,
    /// `7776000s`.
    pub rotation_period: Option<String>,
    pub next_rotation_time: Option<jiff::Timestamp>,
    /// How long its versions wait for their destruction.
    pub destroy_scheduled_duration: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CryptoKeyVersion {
    pub name: String,
    pub state: String,
    #[serde(default)]
    pub protection_level: String,
    /// Of one that waits for its destruction.
    pub destroy_time: Option<jiff::Timestamp>,
}

/// A page of them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Versions {
    pub crypto_key_versions: Vec<CryptoKeyVersion>,
    pub next_page_token: String,
}

/// Changes a version, with `updateMask=state`.
#[derive(Serialize)]
pub(super) struct NewState {
    pub state: &'static str,
}

/// Changes a key, with `updateMask=rotationPeriod,nextRotationTime`. What is not there is taken away.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rotation {
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_period: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_rotation_time: Option<jiff::Timestamp>,
}

impl Rotation {
    pub(super) fn every(period: Duration, next: jiff::Timestamp) -> Self {
        Self { rotation_period: Some(format!("{}s", period.as_secs())), next_rotation_time: Some(next) }
    }
}

/// The body of `:updatePrimaryVersion`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpdatePrimary<'a> {
    pub crypto_key_version_id: &'a str,
}

#[derive(Default, Deserialize)]
struct Refusal {
    error: Status,
}

/// `google.rpc.Status` as REST has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    message: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Detail {
    /// Of `google.rpc.ErrorInfo`.
    reason: String,
    /// Of `google.rpc.RetryInfo`.
    retry_delay: Option<String>,
}

/// `3` of `…/cryptoKeyVersions/3`, if it is a version of that key.
pub(super) fn version(key: &str, name: &str) -> Option<u32> {
    let number = name.strip_prefix(key)?.strip_prefix("/cryptoKeyVersions/")?;
    number.parse().ok().filter(|n| *n > 0 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// A duration as Protocol Buffers write it in JSON.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The answer to a call that succeeded.
pub(super) fn success<T: DeserializeOwned>(operation: Operation, uri: &KeyUri, answer: &Answer) -> Result<T> {
    if answer.status != 200 {
        return Err(refused(operation, uri, answer));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|_| failure::unusable(operation, uri, "it is not of the expected shape"))
}

/// Bytes were changed on their way. Google's guide on data integrity wants the answer thrown away and the call made
/// again, a few times: so this is an error that may pass.
pub(super) fn damaged(operation: Operation, uri: &KeyUri, which: &str) -> Error {
    failure::failed(Code::KmsUnavailable, operation, uri)
        .cause(format!("{which} did not arrive as it was sent: its checksum differs"))
}

fn refused(operation: Operation, uri: &KeyUri, answer: &Answer) -> Error {
    let Refusal { error: said } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let reason = said.details.iter().map(|d| d.reason.as_str()).find(|r| !r.is_empty());
    let error = kind(operation, uri, answer.status, &said, reason);
    let names: Vec<&str> = [said.status.as_str()].into_iter().chain(reason).filter(|name| is_plain(name)).collect();
    let error = error.cause(match names.is_empty() {
        true => http::answered(answer.status),
        false => format!("Cloud KMS refused with `{}`", names.join("`, `")),
    });
    let delay = said.details.iter().find_map(|d| duration(d.retry_delay.as_deref()?));
    match delay.filter(|_| error.code() == Code::KmsThrottled) {
        Some(delay) => error.try_again_after(delay),
        None => answer.paced(error),
    }
}

fn kind(operation: Operation, uri: &KeyUri, status: u16, said: &Status, reason: Option<&str>) -> Error {
    match (said.status.as_str(), reason.unwrap_or_default()) {
        ("PERMISSION_DENIED" | "FAILED_PRECONDITION", "SERVICE_DISABLED") => failure::denied(operation, uri)
            .cause("the Cloud KMS API is not enabled in the project")
            .hint("enable it: `gcloud services enable cloudkms.googleapis.com --project PROJECT`"),
        ("PERMISSION_DENIED", _) => failure::denied(operation, uri).hint(format!(
            "grant {} on the key to whoever runs this: `gcloud kms keys add-iam-policy-binding`",
            right(operation)
        )),
        ("UNAUTHENTICATED", _) => failure::credential_expired(operation, uri),
        ("NOT_FOUND", _) => failure::not_found(operation, uri),
        ("RESOURCE_EXHAUSTED", _) => failure::throttled(operation, uri),
        ("UNAVAILABLE" | "INTERNAL" | "DEADLINE_EXCEEDED" | "ABORTED" | "CANCELLED" | "UNKNOWN", _) => {
            failure::failed(Code::KmsUnavailable, operation, uri).cause("the key service failed for now")
        }
        ("FAILED_PRECONDITION", _) => precondition(operation, uri, &said.message),
        ("INVALID_ARGUMENT", _) => argument(operation, uri, &said.message),
        // A proxy that answers in another format: the status is all there is.
        _ => http::by_status(operation, uri, status)
            .unwrap_or_else(|| failure::failed(Code::KmsProtocol, operation, uri)),
    }
}

/// `… is not enabled, current state is: DESTROYED.`
fn precondition(operation: Operation, uri: &KeyUri, message: &str) -> Error {
    let state = message.rsplit_once("current state is: ").map(|(_, state)| state.trim_end_matches('.'));
    match state {
        Some("DISABLED") => failure::disabled(operation, uri),
        Some("DESTROY_SCHEDULED") => failure::pending_deletion(operation, uri),
        Some("DESTROYED") => failure::not_found(operation, uri).cause("the version that is needed is destroyed"),
        Some("PENDING_GENERATION" | "PENDING_IMPORT") => failure::failed(Code::KmsUnavailable, operation, uri)
            .cause("the version that is needed is still being made"),
        _ => failure::failed(Code::KmsKeyDisabled, operation, uri)
            .cause("the root key is in a state in which it does not do this")
            .hint("look at it: `gcloud kms keys versions list`"),
    }
}

fn argument(operation: Operation, uri: &KeyUri, message: &str) -> Error {
    if message.contains("checksum") || message.contains("crc32c") {
        return damaged(operation, uri, "what was sent");
    }
    match operation {
        // What is not the wrap comes from us and is always of the same form.
        Operation::Unwrap => failure::wrap_invalid(operation, uri),
        _ => failure::failed(Code::KmsUriInvalid, operation, uri)
            .cause("the key does not do this")
            .hint("name a key with the purpose ENCRYPT_DECRYPT, as `gcloud kms keys create … --purpose encryption`"),
    }
}

/// Names of errors are words of capitals; anything else came from somewhere that does not speak the protocol.
fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The least role that holds the right.
fn right(operation: Operation) -> &'static str {
    match operation {
        Operation::Wrap | Operation::Generate => "`roles/cloudkms.cryptoKeyEncrypter`",
        Operation::Unwrap | Operation::Decrypt => "`roles/cloudkms.cryptoKeyDecrypter`",
        Operation::Describe => "`roles/cloudkms.viewer`",
        Operation::Sign => "`roles/cloudkms.signer`",
        Operation::Rewrap => "`roles/cloudkms.cryptoKeyEncrypterDecrypter`",
        Operation::Rotate
        | Operation::ScheduleRotation
        | Operation::Disable
        | Operation::Enable
        | Operation::ScheduleDeletion
        | Operation::CancelDeletion => "`roles/cloudkms.admin`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_of_the_key_that_was_asked() {
        assert_eq!(version("a/k", "a/k/cryptoKeyVersions/12"), Some(12));
        for bad in [
            "a/k",
            "a/k/cryptoKeyVersions/",
            "a/k/cryptoKeyVersions/+1",
            "a/k/cryptoKeyVersions/0",
            "a/l/cryptoKeyVersions/1",
        ] {
            assert_eq!(version("a/k", bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_seconds_with_a_fraction() {
        assert_eq!(duration("7776000s"), Some(Duration::from_secs(7_776_000)));
        assert_eq!(duration("1.500s"), Some(Duration::from_millis(1500)));
        for bad in ["", "s", "1", "-1s", "1m", "infs"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
