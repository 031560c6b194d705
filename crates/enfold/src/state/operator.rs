//! The operators' signing key, in a file that applications cannot read.

use std::path::Path;

use super::{RingState, signed_bytes};
use crate::catalog::SignedState;
use crate::signing_key::{Purpose, SigningKey};
use crate::{Code, Error, Result};

const PURPOSE: Purpose = Purpose { prefix: "enfold-operator-key-1:", what: "operators' key" };

/// Signs ring states. It cannot be printed or copied. The file is one line, `enfold-operator-key-1:` and the 32-byte
/// seed of RFC 8032 in 43 characters of unpadded base64url, and nobody but its owner may have any right to it.
pub struct OperatorKey(SigningKey);

impl OperatorKey {
    /// A new key, in memory only.
    pub fn generate() -> Result<Self> {
        SigningKey::generate().map(Self)
    }

    /// Makes the key file, mode 0600. Refuses to touch a file that is there already.
    pub fn init(path: &Path) -> Result<Self> {
        SigningKey::init(path, PURPOSE).map(Self)
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// `OperatorKeyMissing` if there is none, `KeyFilePermissions` if others have rights to it, `KeyFileInvalid` if it
    /// holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let found = SigningKey::load(path, PURPOSE).map_err(|error| match error.code() {
            Code::KeyFileInvalid => {
                error.hint("restore it from a copy; states signed by another key are refused by every application")
            }
            _ => error,
        })?;
        found.map(Self).ok_or_else(|| {
            Error::new(Code::OperatorKeyMissing, format!("there is no operators' key `{}`", path.display()))
                .hint("run this where the operators' key is, or name it: `trust.operator_key_file` in enfold.toml")
                .hint("for a new installation, `enfold init` makes one")
        })
    }

    /// Another of the same key, for a second holder in this process.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        self.0.duplicate().map(Self)
    }

    /// What applications pin, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public_key()
    }

    /// Signs a state as it is to be published.
    pub fn sign(&self, state: &RingState) -> Result<SignedState> {
        let document = state.encode()?;
        let signature = self.0.sign(&signed_bytes(&document));
        Ok(SignedState { ring: state.ring.clone(), epoch: state.epoch, document, signature })
    }

    /// Signs bytes that begin with a domain of their own.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_file_reads_back_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        let key = OperatorKey::init(&path).unwrap();
        assert_eq!(OperatorKey::load(&path).unwrap().public_key(), key.public_key());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(OperatorKey::init(&path).is_err());
        assert_eq!(OperatorKey::load(&path).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_missing_an_open_and_a_wrong_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.key");
        let code = || OperatorKey::load(&path).err().unwrap().code();
        assert_eq!(code(), Code::OperatorKeyMissing);
        OperatorKey::init(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(code(), Code::KeyFilePermissions);
        std::fs::write(&path, "something else\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(code(), Code::KeyFileInvalid);
    }
}
