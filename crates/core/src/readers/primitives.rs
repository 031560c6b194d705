//! The library's primitives as these formats use them.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptingKey, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac};
use zeroize::{Zeroize, Zeroizing};

use super::Plaintext;
use super::error::{Error, Result};

pub(super) const BLOCK: usize = 16;
pub(super) const NONCE: usize = 12;
pub(super) const TAG: usize = 16;

/// AES-GCM with a nonce of 96 bits, which the library draws, and a tag of 128.
pub(super) struct Gcm(RandomizedNonceKey);

/// What AES-GCM made of a plaintext.
pub(super) struct Sealed {
    pub(super) iv: Vec<u8>,
    pub(super) ciphertext: Vec<u8>,
    pub(super) tag: Vec<u8>,
}

impl Gcm {
    /// `key`: 16 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        let algorithm = match key.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return Err(Error::Key("16 or 32 bytes")),
        };
        RandomizedNonceKey::new(algorithm, key).map(Self).map_err(|_| Error::Library)
    }

    pub(super) fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<Sealed> {
        let mut ciphertext = plaintext.to_vec();
        let sealed = self.0.seal_in_place_separate_tag(Aad::from(context), &mut ciphertext);
        let Ok((nonce, tag)) = sealed else {
            // It may still be the plaintext.
            ciphertext.zeroize();
            return Err(Error::Library);
        };
        Ok(Sealed { iv: nonce.as_ref().to_vec(), ciphertext, tag: tag.as_ref().to_vec() })
    }

    pub(super) fn open(&self, nonce: &[u8], context: &[u8], ciphertext: &[u8], tag: &[u8]) -> Result<Plaintext> {
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| Error::Malformed)?;
        if tag.len() != TAG {
            return Err(Error::Malformed);
        }
        let mut body = Zeroizing::new(Vec::with_capacity(ciphertext.len() + TAG));
        body.extend_from_slice(ciphertext);
        body.extend_from_slice(tag);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(context), &mut body).map_err(|_| Error::Refused)?;
        let len = opened.len();
        body.truncate(len);
        Ok(body)
    }

    /// Of nonce, ciphertext and tag one after the other.
    pub(super) fn open_joined(&self, context: &[u8], joined: &[u8]) -> Result<Plaintext> {
        let (nonce, body) = joined.split_at_checked(NONCE).ok_or(Error::Malformed)?;
        let at = body.len().checked_sub(TAG).ok_or(Error::Malformed)?;
        self.open(nonce, context, &body[..at], &body[at..])
    }
}

/// AES-CBC, the padding of PKCS#7 taken off. Authenticate first: what it says of a padding tells of the plaintext.
pub(super) fn cbc_pkcs7(key: &[u8], iv: &[u8; BLOCK], ciphertext: &[u8]) -> Result<Plaintext> {
    whole_blocks(ciphertext)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(aes(key)?).map_err(|_| Error::Library)?;
    let mut body = Zeroizing::new(ciphertext.to_vec());
    let len = key.decrypt(&mut body, context(iv)).map_err(|_| Error::Refused)?.len();
    body.truncate(len);
    Ok(body)
}

/// AES-CBC with the padding of PKCS#7, under an IV that the library draws: the IV, and the ciphertext.
pub(super) fn seal_cbc_pkcs7(key: &[u8], plaintext: &[u8]) -> Result<([u8; BLOCK], Vec<u8>)> {
    let key = PaddedBlockEncryptingKey::cbc_pkcs7(aes(key)?).map_err(|_| Error::Library)?;
    // Room for the padding: when it is appended, no copy of the plaintext may be left behind.
    let mut body = Vec::with_capacity(plaintext.len() + BLOCK);
    body.extend_from_slice(plaintext);
    let Ok(context) = key.encrypt(&mut body) else {
        body.zeroize();
        return Err(Error::Library);
    };
    let iv = <&[u8]>::try_from(&context).map_err(|_| Error::Library)?;
    Ok((iv.try_into().map_err(|_| Error::Library)?, body))
}

/// AES-CBC with whatever padding there is.
pub(super) fn cbc(key: &[u8], iv: &[u8; BLOCK], ciphertext: &[u8]) -> Result<Plaintext> {
    whole_blocks(ciphertext)?;
    let key = DecryptingKey::cbc(aes(key)?).map_err(|_| Error::Library)?;
    let mut body = Zeroizing::new(ciphertext.to_vec());
    key.decrypt(&mut body, context(iv)).map_err(|_| Error::Library)?;
    Ok(body)
}

/// AES-CFB with a segment of 128 bits and an IV of zeros, as OpenPGP uses it (RFC 4880 section 13.9, without the resync).
pub(super) fn cfb(key: &[u8], ciphertext: &[u8]) -> Result<Plaintext> {
    let key = DecryptingKey::cfb128(aes(key)?).map_err(|_| Error::Library)?;
    let mut body = Zeroizing::new(ciphertext.to_vec());
    key.decrypt(&mut body, context(&[0; BLOCK])).map_err(|_| Error::Library)?;
    Ok(body)
}

/// HMAC-SHA-256, compared in constant time.
pub(super) fn authenticate(key: &[u8], data: &[u8], tag: &[u8]) -> Result<()> {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), data, tag).map_err(|_| Error::Refused)
}

/// HMAC-SHA-256.
pub(super) fn authentication(key: &[u8], data: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data)
}

pub(super) fn sha1(data: &[u8]) -> [u8; 20] {
    array(&digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data))
}

pub(super) fn sha256(data: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(array(&digest::digest(&digest::SHA256, data)))
}

fn array<const N: usize>(digest: &digest::Digest) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(digest.as_ref());
    out
}

fn aes(key: &[u8]) -> Result<UnboundCipherKey> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        32 => &AES_256,
        _ => return Err(Error::Key("16, 24 or 32 bytes")),
    };
    UnboundCipherKey::new(algorithm, key).map_err(|_| Error::Library)
}

fn context(iv: &[u8; BLOCK]) -> DecryptionContext {
    DecryptionContext::Iv128(FixedLength::from(iv))
}

fn whole_blocks(ciphertext: &[u8]) -> Result<()> {
    if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(BLOCK) { Err(Error::Malformed) } else { Ok(()) }
}
