//! AES-256-GCM with the IV that the library has (96 bits, SP 800-38D), and with the 128 bits of many programs on Node. What is
//! sealed has an IV of its own each time, drawn at random: under one key no more than 2^32 values (SP 800-38D section 8.3).

use super::super::error::{Error, Result};
use super::super::primitives::{Gcm, NONCE, Sealed};
use super::super::{Plaintext, Secret};

/// Bytes of an IV that the library does not have.
pub(super) const LONG: usize = 16;

/// A key that opens and seals.
pub(super) enum Key {
    Usual(Gcm),
    #[cfg(not(feature = "fips"))]
    Long(long::Gcm),
}

impl Key {
    pub(super) fn new(iv_len: usize, key: &Secret) -> Result<Self> {
        match iv_len {
            NONCE => Gcm::new(key).map(Self::Usual),
            #[cfg(not(feature = "fips"))]
            _ => long::Gcm::new(key).map(Self::Long),
            #[cfg(feature = "fips")]
            _ => Err(Error::Unsupported(NOT_IN_THE_MODULE)),
        }
    }

    pub(super) fn open(&self, iv: &[u8], context: &[u8], ciphertext: &[u8], tag: &[u8]) -> Result<Plaintext> {
        match self {
            Self::Usual(key) => key.open(iv, context, ciphertext, tag),
            #[cfg(not(feature = "fips"))]
            Self::Long(key) => key.open(iv, context, ciphertext, tag),
        }
    }

    pub(super) fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<Sealed> {
        match self {
            Self::Usual(key) => key.seal(context, plaintext),
            #[cfg(not(feature = "fips"))]
            Self::Long(key) => key.seal(context, plaintext),
        }
    }
}

#[cfg(feature = "fips")]
const NOT_IN_THE_MODULE: &str = "an IV of 16 bytes, which a FIPS build leaves out";

/// The IV goes through GHASH (SP 800-38D section 7.1). The library has no interface for it, so this is another's.
#[cfg(not(feature = "fips"))]
mod long {
    use aes_gcm::aead::consts::U16;
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use aes_gcm::aes::Aes256;
    use zeroize::Zeroizing;

    use super::super::super::primitives::TAG;
    use super::{Error, LONG, Plaintext, Result, Sealed};

    pub(in super::super) struct Gcm(Box<aes_gcm::AesGcm<Aes256, U16>>);

    impl Gcm {
        pub(super) fn new(key: &[u8]) -> Result<Self> {
            aes_gcm::AesGcm::new_from_slice(key).map(Box::new).map(Self).map_err(|_| Error::Key("32 bytes"))
        }

        pub(super) fn open(&self, iv: &[u8], context: &[u8], ciphertext: &[u8], tag: &[u8]) -> Result<Plaintext> {
            let iv: [u8; LONG] = iv.try_into().map_err(|_| Error::Malformed)?;
            if tag.len() != TAG {
                return Err(Error::Malformed);
            }
            let sealed = [ciphertext, tag].concat();
            let payload = Payload { msg: &sealed, aad: context };
            self.0.decrypt(&iv.into(), payload).map(Zeroizing::new).map_err(|_| Error::Refused)
        }

        pub(super) fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<Sealed> {
            let mut iv = [0; LONG];
            aws_lc_rs::rand::fill(&mut iv).map_err(|_| Error::Library)?;
            let payload = Payload { msg: plaintext, aad: context };
            let mut ciphertext = self.0.encrypt(&iv.into(), payload).map_err(|_| Error::Library)?;
            let tag = ciphertext.split_off(plaintext.len());
            Ok(Sealed { iv: iv.to_vec(), ciphertext, tag })
        }
    }
}
