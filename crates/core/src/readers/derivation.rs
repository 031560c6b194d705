//! From what an application has in its environment to the key that it seals with.

use std::num::NonZeroU32;

use aws_lc_rs::{hkdf, pbkdf2};
use zeroize::Zeroizing;

use super::error::{Error, Result};
use super::primitives::sha256;

/// A key of 256 bits.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// How a key is made of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// The secret is the key: 32 bytes.
    None,
    Sha256,
    /// RFC 5869, with SHA-256.
    Hkdf {
        salt: Vec<u8>,
        info: Vec<u8>,
    },
    /// RFC 8018 section 5.2.
    Pbkdf2 {
        digest: Digest,
        salt: Vec<u8>,
        iterations: NonZeroU32,
    },
    /// RFC 7914.
    Scrypt {
        salt: Vec<u8>,
        cost: Scrypt,
    },
}

/// The digest of a PBKDF2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    Sha1,
    Sha256,
    Sha512,
}

/// The cost of an scrypt, within the bounds of [`Scrypt::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrypt {
    log_n: u8,
    r: u32,
    p: u32,
}

/// Memory that a derivation may take: 128 bytes times N and r (RFC 7914 section 2).
const MAX_MEMORY: u64 = 1 << 30;

impl Scrypt {
    /// Node's default, and Python's example.
    pub const USUAL: Self = Self { log_n: 14, r: 8, p: 1 };

    /// `n`: a power of two. None beyond 1 GiB of memory, or where there is no such scrypt.
    pub fn new(n: u64, r: u32, p: u32) -> Option<Self> {
        let sound = n.is_power_of_two() && n > 1 && r > 0 && (1..=64).contains(&p);
        let memory = n.checked_mul(128)?.checked_mul(u64::from(r))?;
        let log_n = u8::try_from(n.trailing_zeros()).ok()?;
        (sound && memory <= MAX_MEMORY && scrypt::Params::new(log_n, r, p).is_ok()).then_some(Self { log_n, r, p })
    }
}

impl Derivation {
    pub(super) fn key(&self, secret: &[u8]) -> Result<Key> {
        let mut key = Zeroizing::new([0; 32]);
        if secret.is_empty() {
            return Err(Error::Key("a secret that is not empty"));
        }
        match self {
            Self::None if secret.len() == key.len() => key.copy_from_slice(secret),
            Self::None => return Err(Error::Key("32 bytes")),
            Self::Sha256 => key.copy_from_slice(&*sha256(secret)),
            Self::Hkdf { salt, info } => {
                hkdf_to(hkdf::HKDF_SHA256, salt, info, secret, &mut *key)?;
            }
            Self::Pbkdf2 { digest, salt, iterations } => stretch(*digest, secret, salt, *iterations, &mut *key),
            Self::Scrypt { salt, cost } => {
                let params = scrypt::Params::new(cost.log_n, cost.r, cost.p).map_err(|_| Error::Library)?;
                scrypt::scrypt(secret, salt, &params, &mut *key).map_err(|_| Error::Library)?;
            }
        }
        Ok(key)
    }
}

/// PBKDF2.
pub(super) fn stretch(digest: Digest, secret: &[u8], salt: &[u8], iterations: NonZeroU32, out: &mut [u8]) {
    let algorithm = match digest {
        Digest::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
        Digest::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        Digest::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
    };
    pbkdf2::derive(algorithm, iterations, salt, secret, out);
}

/// HKDF.
pub(super) fn hkdf_to(
    algorithm: hkdf::Algorithm,
    salt: &[u8],
    info: &[u8],
    secret: &[u8],
    out: &mut [u8],
) -> Result<()> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prk = hkdf::Salt::new(algorithm, salt).extract(secret);
    let info = [info];
    let okm = prk.expand(&info, Len(out.len())).map_err(|_| Error::Library)?;
    okm.fill(out).map_err(|_| Error::Library)
}
