//! What a token answers, and what it is here.
//!
//! Return values are those of PKCS#11; none has a text of its own, and of each only its name is passed on.

use cryptoki::context::Function;
use cryptoki::error::{Error as TokenError, RvError};

use crate::error::{Code, Error};
use crate::kms::failure::{self, Operation};
use crate::kms::uri::KeyUri;

/// PKCS#11 3.1: what an AEAD mechanism may answer instead of `CKR_ENCRYPTED_DATA_INVALID`.
const AEAD_DECRYPT_FAILED: u64 = 0x42;

/// Why a key could not be used.
pub(super) enum Fault {
    Token(TokenError),
    /// The wrap, the key and the context do not belong together.
    Wrap,
    /// The token answered something that it should not.
    Answer(&'static str),
    /// The operating system draws no random bytes.
    Random,
}

impl From<TokenError> for Fault {
    fn from(error: TokenError) -> Self {
        Self::Token(error)
    }
}

/// Whose fault a return value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Data,
    Right,
    Pin,
    PinLocked,
    Mechanism,
    Busy,
    /// The token, the way to it or the session: what another session may put right.
    Away,
    Protocol,
}

/// What the token says is certain, whichever session asks it.
pub(super) fn is_final(fault: &Fault) -> bool {
    match fault {
        Fault::Token(error) => kind(error) != Kind::Away,
        Fault::Wrap | Fault::Answer(_) | Fault::Random => true,
    }
}

/// The bytes that were given do not open. Certain only where the token says so.
pub(super) fn is_about_the_data(error: &TokenError) -> bool {
    kind(error) == Kind::Data
}

/// The bytes may not have opened, or the token may be unable to do anything: some say no more than that it failed.
pub(super) fn may_be_about_the_data(error: &TokenError) -> bool {
    matches!(
        error,
        TokenError::Pkcs11(
            RvError::GeneralError | RvError::FunctionFailed | RvError::DeviceError | RvError::ArgumentsBad,
            Function::Decrypt
        )
    )
}

/// The token counts it as a wrong PIN, or may.
pub(super) fn is_a_wrong_pin(error: &TokenError) -> bool {
    kind(error) == Kind::Pin
}

/// A nonce of ours was refused: the token draws nonces itself.
pub(super) fn wants_no_nonce(error: &TokenError) -> bool {
    matches!(
        error,
        TokenError::Pkcs11(
            RvError::MechanismParamInvalid | RvError::ArgumentsBad,
            Function::EncryptInit | Function::Encrypt
        )
    )
}

pub(super) fn fault(operation: Operation, uri: &KeyUri, fault: &Fault) -> Error {
    match fault {
        Fault::Token(error) => refused(operation, uri, error),
        Fault::Wrap => failure::wrap_invalid(operation, uri),
        Fault::Answer(what) => failure::failed(Code::KmsProtocol, operation, uri).cause(*what),
        Fault::Random => failure::failed(Code::Internal, operation, uri).cause("no random bytes could be drawn"),
    }
}

pub(super) fn refused(operation: Operation, uri: &KeyUri, error: &TokenError) -> Error {
    let said = named(error);
    match kind(error) {
        Kind::Data => failure::wrap_invalid(operation, uri).cause(said),
        Kind::Right => failure::denied(operation, uri)
            .cause(said)
            .hint("the key needs `CKA_ENCRYPT` to wrap and `CKA_DECRYPT` to unwrap, and the user the right to use it"),
        Kind::Pin => pin_refused(operation, uri).cause(said),
        Kind::PinLocked => failure::denied(operation, uri)
            .cause("the token has locked the user's PIN after too many wrong ones")
            .cause(said)
            .hint("its security officer sets a new one"),
        Kind::Mechanism => failure::failed(Code::KmsUriInvalid, operation, uri)
            .cause("the token does not do AES-GCM with this key")
            .cause(said)
            .hint("make an AES key of 256 bits on a token with the mechanism `CKM_AES_GCM`"),
        Kind::Busy => failure::throttled(operation, uri)
            .cause(said)
            .hint("lower `key_services.pkcs11.sessions`, or raise what the token allows"),
        Kind::Away => {
            failure::failed(Code::KmsUnavailable, operation, uri).cause("the token cannot be used now").cause(said)
        }
        Kind::Protocol => failure::failed(Code::KmsProtocol, operation, uri).cause(said),
    }
}

pub(super) fn pin_refused(operation: Operation, uri: &KeyUri) -> Error {
    failure::denied(operation, uri)
        .cause("the token does not take the PIN")
        .hint("put the right one where the PIN is kept; it is read again without a restart")
}

pub(super) fn last_try(operation: Operation, uri: &KeyUri) -> Error {
    failure::denied(operation, uri).cause("one more wrong PIN would lock the token, so none is tried").hint(
        "sign in once with another program (`pkcs11-tool --login --list-objects`): the token counts anew after it",
    )
}

/// `C_Decrypt` answered `CKR_GENERAL_ERROR`, in those words.
pub(super) fn named(error: &TokenError) -> String {
    match error {
        TokenError::Pkcs11(value, function) => format!("`C_{function:?}` answered `{}`", value_name(*value)),
        TokenError::NullFunctionPointer | TokenError::MissingSymbol(_) => "the module lacks a function".to_owned(),
        _ => "the module's answer has no meaning".to_owned(),
    }
}

fn kind(error: &TokenError) -> Kind {
    use RvError as Rv;
    let TokenError::Pkcs11(value, _) = error else { return Kind::Protocol };
    match value {
        Rv::EncryptedDataInvalid | Rv::EncryptedDataLenRange | Rv::SignatureInvalid => Kind::Data,
        Rv::UnknownErrorCode(AEAD_DECRYPT_FAILED) => Kind::Data,
        Rv::KeyFunctionNotPermitted | Rv::ActionProhibited | Rv::FunctionRejected => Kind::Right,
        Rv::PinIncorrect | Rv::PinInvalid | Rv::PinLenRange | Rv::PinExpired | Rv::UserPinNotInitialized => Kind::Pin,
        Rv::PinLocked => Kind::PinLocked,
        Rv::MechanismInvalid | Rv::MechanismParamInvalid | Rv::KeyTypeInconsistent | Rv::KeySizeRange => {
            Kind::Mechanism
        }
        Rv::SessionCount | Rv::DeviceMemory | Rv::HostMemory => Kind::Busy,
        Rv::GeneralError
        | Rv::FunctionFailed
        | Rv::FunctionCanceled
        | Rv::DeviceError
        | Rv::DeviceRemoved
        | Rv::TokenNotPresent
        | Rv::TokenNotRecognized
        | Rv::SlotIdInvalid
        | Rv::SessionClosed
        | Rv::SessionHandleInvalid
        | Rv::SessionReadWriteSoExists
        | Rv::UserNotLoggedIn
        | Rv::UserAnotherAlreadyLoggedIn
        | Rv::UserTooManyTypes
        | Rv::KeyHandleInvalid
        | Rv::ObjectHandleInvalid
        | Rv::OperationActive
        | Rv::OperationNotInitialized
        | Rv::CryptokiNotInitialized
        | Rv::VendorDefined(_) => Kind::Away,
        _ => Kind::Protocol,
    }
}

/// As the standard spells it.
fn value_name(value: RvError) -> String {
    let (RvError::UnknownErrorCode(number) | RvError::VendorDefined(number)) = value else {
        let mut name = String::from("CKR");
        for c in format!("{value:?}").chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_uppercase());
        }
        return name;
    };
    format!("CKR 0x{number:X}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Retry;

    fn of(value: RvError, function: Function) -> (Code, String) {
        let uri = "pkcs11:token=a;object=b".parse().unwrap();
        let error = refused(Operation::Unwrap, &uri, &TokenError::Pkcs11(value, function));
        (error.code(), error.to_string())
    }

    #[test]
    fn each_state_of_a_token_has_its_code() {
        use RvError as Rv;
        for (value, code) in [
            (Rv::PinIncorrect, Code::KmsAccessDenied),
            (Rv::PinLocked, Code::KmsAccessDenied),
            (Rv::PinExpired, Code::KmsAccessDenied),
            (Rv::UserPinNotInitialized, Code::KmsAccessDenied),
            (Rv::KeyFunctionNotPermitted, Code::KmsAccessDenied),
            (Rv::MechanismInvalid, Code::KmsUriInvalid),
            (Rv::KeyTypeInconsistent, Code::KmsUriInvalid),
            (Rv::TokenNotPresent, Code::KmsUnavailable),
            (Rv::DeviceRemoved, Code::KmsUnavailable),
            (Rv::GeneralError, Code::KmsUnavailable),
            (Rv::SessionHandleInvalid, Code::KmsUnavailable),
            (Rv::VendorDefined(0x8000_0001), Code::KmsUnavailable),
            (Rv::SessionCount, Code::KmsThrottled),
            (Rv::EncryptedDataInvalid, Code::WrapInvalid),
            (Rv::UnknownErrorCode(0x42), Code::WrapInvalid),
            (Rv::BufferTooSmall, Code::KmsProtocol),
            (Rv::UnknownErrorCode(0x43), Code::KmsProtocol),
        ] {
            assert_eq!(of(value, Function::Login).0, code, "{value:?}");
        }
    }

    #[test]
    fn what_concerns_a_pin_is_never_tried_again_by_itself() {
        for value in [RvError::PinIncorrect, RvError::PinLocked, RvError::PinLenRange, RvError::PinExpired] {
            let error = TokenError::Pkcs11(value, Function::Login);
            assert_eq!(is_a_wrong_pin(&error), value != RvError::PinLocked);
            assert!(is_final(&Fault::Token(error)), "{value:?}");
            assert_eq!(of(value, Function::Login).0.retry(), Retry::Never);
        }
    }

    #[test]
    fn a_return_value_is_called_as_the_standard_calls_it() {
        assert!(of(RvError::GeneralError, Function::Decrypt).1.ends_with("`C_Decrypt` answered `CKR_GENERAL_ERROR`"));
        let vendors = of(RvError::VendorDefined(0x8000_00C3), Function::EncryptInit).1;
        assert!(vendors.ends_with("`C_EncryptInit` answered `CKR 0x800000C3`"), "{vendors}");
    }
}
