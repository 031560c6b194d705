//! What AWS KMS says when it refuses, put into Enfold's words.
//!
//! Of an answer only the error's name and the request id go on: its text may quote what was sent. The names are those
//! of the API reference (`Encrypt`, `Decrypt`, `GenerateDataKey`, `DescribeKey`, "Common errors").

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;

use crate::error::{Code, Error};
use crate::kms::failure::{self, Operation};
use crate::kms::tls_fault::TlsFault;
use crate::kms::uri::{KeyUri, RootKey};

/// The small generic part: everything else is compiled once.
pub(super) fn refused<E>(operation: Operation, uri: &KeyUri, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + RequestId + StdError + Send + Sync + 'static,
{
    let how = match error {
        SdkError::TimeoutError(_) => How::TimedOut,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => How::TimedOut,
        SdkError::DispatchFailure(_) => credentials(error).unwrap_or_else(|| How::Unreachable(TlsFault::of(error))),
        SdkError::ConstructionFailure(_) => credentials(error).unwrap_or(How::Unsent),
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
    Unreachable(Option<TlsFault>),
    NoCredentials,
    /// A role, or whoever else gives the credentials, refused.
    CredentialsRefused,
    CredentialsUnreachable,
    Unsent,
    Answer {
        name: Option<&'a str>,
        status: u16,
    },
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
    Unsupported,
    UsedUp,
    Unknown,
}

fn translate(operation: Operation, uri: &KeyUri, how: How<'_>, request: Option<&str>) -> Error {
    let (name, status) = match how {
        How::TimedOut => return failure::timed_out(operation, uri),
        How::Unreachable(fault) => {
            let unavailable = failure::failed(Code::KmsUnavailable, operation, uri);
            return match fault {
                Some(fault) => fault.told(unavailable, "SSL_CERT_FILE"),
                None => unavailable
                    .cause("AWS KMS could not be reached")
                    .hint("check the region and the endpoint of the URI, and the way there"),
            };
        }
        How::NoCredentials => {
            return failure::failed(Code::KmsAccessDenied, operation, uri)
                .cause("no AWS credentials were found")
                .hint("set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role");
        }
        How::CredentialsRefused => {
            return failure::failed(Code::KmsAccessDenied, operation, uri)
                .cause("AWS gave no credentials for the role, or for whatever else was configured")
                .hint("try it by hand: `aws sts assume-role`, or `aws sts get-caller-identity`")
                .hint("the role's trust policy must name the caller, and the external id if it asks for one");
        }
        How::CredentialsUnreachable => {
            return failure::failed(Code::KmsUnavailable, operation, uri)
                .cause("whoever gives the AWS credentials could not be reached");
        }
        How::Unsent => {
            return failure::failed(Code::Internal, operation, uri).cause("the request could not be built");
        }
        How::Answer { name, status } => (name, status),
    };
    let error = match kind(name, status) {
        Kind::Disabled | Kind::InvalidState if operation == Operation::CancelDeletion => {
            failure::not_pending(operation, uri)
        }
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
        Kind::Unsupported => failure::not_so(operation, uri, "a key of this kind does not do that"),
        Kind::UsedUp => failure::not_so(operation, uri, "its rotations on demand are used up"),
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
        // A rotation is under way.
        | "ConflictException"
        | "KMSInternalException"
        | "InternalFailure"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Kind::Unavailable,
        "InvalidCiphertextException" | "IncorrectKeyException" => Kind::WrapInvalid,
        "InvalidKeyUsageException" => Kind::WrongUsage,
        "UnsupportedOperationException" => Kind::Unsupported,
        "LimitExceededException" => Kind::UsedUp,
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
        Operation::Unwrap | Operation::Decrypt => "Decrypt",
        Operation::Generate => "GenerateDataKey",
        Operation::Describe => "DescribeKey",
        Operation::Rewrap => "ReEncrypt",
        Operation::Sign => "Sign",
        Operation::Rotate => "RotateKeyOnDemand",
        Operation::ScheduleRotation => "EnableKeyRotation",
        Operation::Disable => "DisableKey",
        Operation::Enable => "EnableKey",
        Operation::ScheduleDeletion => "ScheduleKeyDeletion",
        Operation::CancelDeletion => "CancelKeyDeletion",
    }
}

fn right(operation: Operation) -> String {
    format!("kms:{}", action(operation))
}

/// What became of the credentials, if it was that. The SDK has no error of its own for it: it is somewhere down the chain,
/// as the credentials' provider said it.
fn credentials<'a>(error: &(dyn StdError + 'static)) -> Option<How<'a>> {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    Some(match chain.find_map(|error| error.downcast_ref::<CredentialsError>())? {
        CredentialsError::CredentialsNotLoaded(_) => How::NoCredentials,
        CredentialsError::ProviderTimedOut(_) => How::CredentialsUnreachable,
        _ if chain.any(<dyn StdError>::is::<ConnectorError>) => How::CredentialsUnreachable,
        _ => How::CredentialsRefused,
    })
}
