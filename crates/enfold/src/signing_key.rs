//! Ed25519 keys in files that nobody but their owner may read: the operators' and the log's.

use std::path::Path;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::hex::from_hex;
use crate::private_file::Private;
use crate::{Code, Error, Result};

const SEED_LEN: usize = 32;
/// What a key file holds at most.
const LONGEST: usize = 128;

/// Whether this public key made the signature (in hex) over these bytes.
pub(crate) fn is_signed(by: &[u8; 32], bytes: &[u8], signature: &str) -> bool {
    from_hex(signature).is_some_and(|signature| UnparsedPublicKey::new(&ED25519, by).verify(bytes, &signature).is_ok())
}

/// What a key is for: a file of one purpose is none of another.
#[derive(Clone, Copy)]
pub(crate) struct Purpose {
    /// What stands before the seed in the file.
    pub(crate) prefix: &'static str,
    /// In messages: `operators' key`.
    pub(crate) what: &'static str,
}

/// It cannot be printed or copied. The file is one line: the purpose's prefix and the 32-byte seed of RFC 8032 in 43 characters of
/// unpadded base64url.
pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; SEED_LEN]>,
}

impl SigningKey {
    /// A new key, in memory only.
    pub(crate) fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        rand::fill(&mut *seed).map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a key"))?;
        Self::from_seed(seed).ok_or_else(refused)
    }

    /// Makes the key file, mode 0600. Refuses to touch a file that is there already.
    pub(crate) fn init(path: &Path, purpose: Purpose) -> Result<Self> {
        let key = Self::generate()?;
        let mut line = Zeroizing::new(String::with_capacity(purpose.prefix.len() + 44));
        line.push_str(purpose.prefix);
        URL_SAFE_NO_PAD.encode_string(*key.seed, &mut line);
        line.push('\n');
        // What is signed by a key that was lost with the machine could never be followed by another: it is on the disk now.
        file(path, purpose).create(line.as_bytes())?;
        Ok(key)
    }

    /// Reads the key file. The error says whether there is none (`None`), or what is wrong with it.
    pub(crate) fn load(path: &Path, purpose: Purpose) -> Result<Option<Self>> {
        let text = match file(path, purpose).read(LONGEST) {
            Ok(text) => text,
            Err(_) if matches!(path.try_exists(), Ok(false)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::parse(&text, purpose).map(Some).ok_or_else(|| {
            Error::new(Code::KeyFileInvalid, format!("the file `{}` holds no {}", path.display(), purpose.what))
                .cause(format!("one line is expected: `{}` and 43 characters of base64url", purpose.prefix))
        })
    }

    /// Another of the same key, for a second holder in this process.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        Self::from_seed(self.seed.clone()).ok_or_else(refused)
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.pair.public_key().as_ref());
        out
    }

    /// Signs bytes that begin with a domain of their own.
    pub(crate) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }

    fn from_seed(seed: Zeroizing<[u8; SEED_LEN]>) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
        Some(Self { pair, seed })
    }

    fn parse(text: &[u8], purpose: Purpose) -> Option<Self> {
        let line = text.strip_suffix(b"\n").unwrap_or(text);
        let encoded = line.strip_prefix(purpose.prefix.as_bytes())?;
        let mut room = Zeroizing::new([0; SEED_LEN + 3]);
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, &mut *room).ok()?;
        if length != SEED_LEN {
            return None;
        }
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        seed.copy_from_slice(&room[..SEED_LEN]);
        Self::from_seed(seed)
    }
}

fn file(path: &Path, purpose: Purpose) -> Private<'_> {
    Private { path, what: purpose.what }
}

fn refused() -> Error {
    Error::new(Code::Internal, "the library refused an Ed25519 seed")
}
