//! What AWS KMS says when it refuses, put into Enfold's words.
//!
//! Of an answer only the error's name and the request id go on: its text may quote what was sent. The names are those
//! of the API reference (`Encrypt`, `Decrypt`, `GenerateDataKey`, `DescribeKey`, "Common errors").

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;

use crate::error::{Code, Error};
use crate::kms::failure::{self, Operation};
use crate::kms::uri::{KeyUri, RootKey};

/// The small generic part: everything else is compiled once.
pub(super) fn refused<E>(operation: Operation, uri: &KeyUri, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + RequestId + StdError + Send + Sync + 'static,
{
    let how = match error {
        SdkError::TimeoutError(_) => How::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => How::TimedOut,
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) if lacks_credentials(error) => {
            How::NoCredentials
        }
        SdkError::DispatchFailure(_) => How::Unreachable,
        SdkError::ResponseError(response) => How::Answer { name: None, status: response.raw().status().as_u16() },
        SdkError::ServiceError(service) => {
            How::Answer { name: service.err().code(), status: service.raw().status().as_u16() }
        }
        _ => How::Unsent,
    };
    translate(operation, uri, how, error.request_id())
}

#[derive(Clone, Copy)]
enum How<'a> {
    TimedOut,
    Unreachable,
    NoCredentials,
    Unsent,
    Answer { name: Option<&'a str>, status: u16 },
}

/// Which of Enfold's failures a name of AWS stands for.
enum Kind {
    Disabled,
    InvalidState,
    NotFound,
    Denied,
    Expired,
    Throttled,
    Unavailable,
    WrapInvalid,
    WrongUsage,
    Unknown,
}

fn translate(operation: Operation, uri: &KeyUri, how: How<'_>, request: Option<&str>) -> Error {
    let (name, status) = match how {
        How::TimedOut => return failure::timed_out(operation, uri),
        How::Unreachable => {
            return failure::failed(Code::KmsUnavailable, operation, uri)
                .cause("AWS KMS could not be reached")
                .hint("check the region and the endpoint of the URI, and the way there");
        }
        How::NoCredentials => {
            return failure::failed(Code::KmsAccessDenied, operation, uri)
                .cause("no AWS credentials were found")
                .hint("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role");
        }
        How::Unsent => {
            return failure::failed(Code::Internal, operation, uri).cause("the request could not be built");
        }
        How::Answer { name, status } => (name, status),
    };
    let error = match kind(name, status) {
        Kind::Disabled => failure::disabled(operation, uri),
        Kind::InvalidState => failure::pending_deletion(operation, uri),
        Kind::NotFound => not_found(operation, uri),
        Kind::Denied => failure::denied(operation, uri)
            .hint(format!(
                "grant `{}` on the key to whoever runs this, in IAM or in the key's policy",
                right(operation)
            ))
            .hint("a condition on the encryption context refuses in the same way"),
        Kind::Expired => failure::credential_expired(operation, uri),
        Kind::Throttled => failure::throttled(operation, uri),
        Kind::Unavailable => failure::failed(Code::KmsUnavailable, operation, uri).cause("AWS KMS failed for now"),
        Kind::WrapInvalid => failure::wrap_invalid(operation, uri),
        Kind::WrongUsage => failure::failed(Code::KmsUriInvalid, operation, uri)
            .cause("the key is not made for encryption")
            .hint("name a symmetric key with the usage ENCRYPT_DECRYPT"),
        Kind::Unknown => failure::failed(Code::KmsProtocol, operation, uri),
    };
    error.cause(answered(operation, name, status, request))
}

/// A key that is in another region is not there.
fn not_found(operation: Operation, uri: &KeyUri) -> Error {
    let error = failure::not_found(operation, uri);
    let RootKey::Aws(key) = uri.root() else { return error };
    error.cause(format!("AWS KMS in `{}` was asked, for this account", key.region())).hint(format!(
        "keys and aliases belong to one region and one account: `aws kms describe-key --region {} --key-id {}`",
        key.region(),
        key.key()
    ))
}

fn kind(name: Option<&str>, status: u16) -> Kind {
    match name.unwrap_or_default() {
        "DisabledException" => Kind::Disabled,
        "KMSInvalidStateException" => Kind::InvalidState,
        "NotFoundException" => Kind::NotFound,
        "AccessDeniedException"
        | "AccessDenied"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired" => Kind::Denied,
        "ExpiredTokenException" | "ExpiredToken" => Kind::Expired,
        "ThrottlingException" | "Throttling" | "RequestLimitExceeded" | "TooManyRequestsException" => Kind::Throttled,
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "InternalFailure"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Kind::Unavailable,
        "InvalidCiphertextException" | "IncorrectKeyException" => Kind::WrapInvalid,
        "InvalidKeyUsageException" => Kind::WrongUsage,
        // A name we do not know, or a proxy that answers in another format: the status is all there is.
        _ => match status {
            401 | 403 => Kind::Denied,
            429 => Kind::Throttled,
            500.. => Kind::Unavailable,
            _ => Kind::Unknown,
        },
    }
}

/// `AWS KMS refused `Decrypt` with `DisabledException` (request 5f1c)`.
fn answered(operation: Operation, name: Option<&str>, status: u16, request: Option<&str>) -> String {
    let said = match name {
        Some(name) if is_plain(name) => format!("`{name}`"),
        _ => format!("HTTP status {status}"),
    };
    let request = request.filter(|id| is_plain(id)).map(|id| format!(" (request {id})")).unwrap_or_default();
    format!("AWS KMS refused `{}` with {said}{request}", action(operation))
}

/// Names and request ids are words; anything else came from somewhere that does not speak the protocol.
fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn action(operation: Operation) -> &'static str {
    match operation {
        Operation::Wrap => "Encrypt",
        Operation::Unwrap => "Decrypt",
        Operation::Generate => "GenerateDataKey",
        Operation::Describe => "DescribeKey",
        Operation::Rewrap => "ReEncrypt",
        Operation::Rotate => "RotateKeyOnDemand",
    }
}

fn right(operation: Operation) -> String {
    format!("kms:{}", action(operation))
}

/// The SDK has no error of its own for this: it is somewhere down the chain, as the credentials' provider said it.
fn lacks_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut link = Some(error);
    while let Some(error) = link {
        if error.is::<CredentialsError>() {
            return true;
        }
        link = error.source();
    }
    false
}
