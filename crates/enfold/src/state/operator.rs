//! The operators' signing key, in a file that applications cannot read.

use std::path::Path;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::{RingState, signed_bytes};
use crate::catalog::SignedState;
use crate::private_file::Private;
use crate::{Code, Error, Result};

const FILE_PREFIX: &str = "enfold-operator-key-1:";
const SEED_LEN: usize = 32;
/// What a key file holds at most.
const LONGEST: usize = 128;

/// Signs ring states. It cannot be printed or copied. The file is one line, `enfold-operator-key-1:` and the 32-byte
/// seed of RFC 8032 in 43 characters of unpadded base64url, and nobody but its owner may have any right to it.
pub struct OperatorKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; SEED_LEN]>,
}

impl OperatorKey {
    /// A new key, in memory only.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        rand::fill(&mut *seed).map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a key"))?;
        Self::from_seed(seed).ok_or_else(|| Error::new(Code::Internal, "the library refused an Ed25519 seed"))
    }

    /// Makes the key file, mode 0600. Refuses to touch a file that is there already.
    pub fn init(path: &Path) -> Result<Self> {
        let key = Self::generate()?;
        key.write(path)?;
        Ok(key)
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// `OperatorKeyMissing` if there is none, `KeyFilePermissions` if others have rights to it, `KeyFileInvalid` if it
    /// holds something else.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = key_file(path).read(LONGEST).map_err(|error| match path.try_exists() {
            Ok(true) | Err(_) => error,
            Ok(false) => Error::new(Code::OperatorKeyMissing, format!("there is no operators' key `{shown}`"))
                .hint("run this where the operators' key is, or name it: `trust.operator_key_file` in enfold.toml")
                .hint("for a new installation, `enfold init` makes one"),
        })?;
        Self::parse(&text).ok_or_else(|| {
            Error::new(Code::KeyFileInvalid, format!("the file `{shown}` holds no operators' key"))
                .cause(format!("one line is expected: `{FILE_PREFIX}` and 43 characters of base64url"))
                .hint("restore it from a copy; states signed by another key are refused by every application")
        })
    }

    /// Another of the same key, for a second holder in this process.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        Self::from_seed(self.seed.clone())
            .ok_or_else(|| Error::new(Code::Internal, "the library refused an Ed25519 seed"))
    }

    /// What applications pin, 32 bytes.
    pub fn public_key(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.pair.public_key().as_ref());
        out
    }

    /// Signs a state as it is to be published.
    pub fn sign(&self, state: &RingState) -> Result<SignedState> {
        let document = state.encode()?;
        let signature = self.pair.sign(&signed_bytes(&document)).as_ref().to_vec();
        Ok(SignedState { ring: state.ring.clone(), epoch: state.epoch, document, signature })
    }

    /// Signs bytes that begin with a domain of their own.
    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    fn from_seed(seed: Zeroizing<[u8; SEED_LEN]>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
        Some(Self { pair, seed })
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let encoded = line.strip_prefix(FILE_PREFIX.as_bytes())?;
        let mut room = Zeroizing::new([0; SEED_LEN + 3]);
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut *room).ok()?;
        if length != SEED_LEN {
            return None;
        }
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        seed.copy_from_slice(&room[..SEED_LEN]);
        Self::from_seed(seed)
    }

    /// A state signed by a key that was lost with the machine could never be followed by another: it is on the disk when
    /// this returns.
    fn write(&self, path: &Path) -> Result<()> {
        let mut line = Zeroizing::new(String::with_capacity(FILE_PREFIX.len() + 44));
        line.push_str(FILE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(*self.seed, &mut line);
        line.push('\n');
        key_file(path).create(line.as_bytes())
    }
}

fn key_file(path: &Path) -> Private<'_> {
    Private { path, what: "operators' key" }
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
