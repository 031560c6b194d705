//! The wrap of those who hold the wrapping key themselves: the providers memory and local, the shared cache, and the
//! layers over a data key that a customer's root key guards as well.
//!
//! `prefix ‖ version 1 ‖ salt 16 ‖ nonce 12 ‖ ciphertext ‖ tag 16`; the ciphertext of a key is 32 bytes long. HKDF-SHA-256 (RFC 5869) over the root key with
//! the random salt gives an AES-256-GCM key for this wrap alone, so the root key is used for nothing but HKDF and the
//! count of wraps under it is not bounded by the nonce (NIST SP 800-38D section 8.3). The nonce is drawn where it is
//! used, inside the crypto library, as a FIPS module wants it (section 8.2.2). The associated data is everything before
//! the nonce and then the canonical encryption context; GCM itself binds the nonce.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, rand};
use zeroize::{Zeroize, Zeroizing};

use super::context::EncryptionContext;
use super::material::{KeyMaterial, WrappedKey};
use crate::error::{Code, Error, Result};

const VERSION: u8 = 1;
const SALT: usize = 16;
const TAG: usize = 16;

/// Seals `key` under `root`. `purpose` keeps providers apart even if they were given the same root key.
pub(crate) fn wrap(
    prefix: &[u8],
    purpose: &'static [u8],
    root: &KeyMaterial,
    key: &KeyMaterial,
    context: &EncryptionContext,
) -> Result<WrappedKey> {
    WrappedKey::new(seal(prefix, purpose, root, key.expose(), context)?)
}

/// Opens what [`wrap`] made; `None` for everything else, with no word on what was wrong.
pub(crate) fn unwrap(
    prefix: &[u8],
    purpose: &'static [u8],
    root: &KeyMaterial,
    wrapped: &WrappedKey,
    context: &EncryptionContext,
) -> Option<KeyMaterial> {
    KeyMaterial::from_slice(&mut open(prefix, purpose, root, wrapped.as_bytes(), context)?)
}

/// As [`wrap`], of bytes that are not a key: of a wrap, where two layers are wanted.
pub(crate) fn seal(
    prefix: &[u8],
    purpose: &'static [u8],
    root: &KeyMaterial,
    plain: &[u8],
    context: &EncryptionContext,
) -> Result<Vec<u8>> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).map_err(|_| Error::new(Code::Internal, "cannot draw random bytes for a wrap"))?;

    let mut wrapped = Vec::with_capacity(prefix.len() + 1 + SALT + NONCE_LEN + plain.len() + TAG);
    wrapped.extend_from_slice(prefix);
    wrapped.push(VERSION);
    wrapped.extend_from_slice(&salt);
    let aad = [&wrapped[..], &context.canonical()].concat();

    // The plaintext is sealed where it lies; on any way out of here the copy holds ciphertext or zeros.
    let mut sealed = Zeroizing::new(plain.to_vec());
    let cannot = |_| Error::new(Code::Internal, "cannot seal a data key under a key of this process");
    let (nonce, tag) = wrapping_key(root, &salt, purpose)
        .and_then(|k| k.seal_in_place_separate_tag(Aad::from(aad), &mut sealed))
        .map_err(cannot)?;
    wrapped.extend_from_slice(nonce.as_ref());
    wrapped.extend_from_slice(&sealed);
    wrapped.extend_from_slice(tag.as_ref());
    Ok(wrapped)
}

/// Opens what [`seal`] made; `None` for everything else.
pub(crate) fn open(
    prefix: &[u8],
    purpose: &'static [u8],
    root: &KeyMaterial,
    bytes: &[u8],
    context: &EncryptionContext,
) -> Option<Zeroizing<Vec<u8>>> {
    let body = bytes.strip_prefix(prefix)?.strip_prefix(&[VERSION])?;
    let (salt, rest) = body.split_at_checked(SALT)?;
    let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
    let aad = [&bytes[..bytes.len() - rest.len()], &context.canonical()].concat();
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    let key = wrapping_key(root, salt, purpose).ok()?;
    let length = key.open_in_place(nonce, Aad::from(aad), &mut opened).ok()?.len();
    opened.truncate(length);
    Some(opened)
}

fn wrapping_key(
    root: &KeyMaterial,
    salt: &[u8],
    purpose: &'static [u8],
) -> std::result::Result<RandomizedNonceKey, aws_lc_rs::error::Unspecified> {
    let pseudo_random = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(root.expose());
    let mut key = [0; KeyMaterial::LEN];
    let filled = pseudo_random.expand(&[purpose], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
    let made = filled.and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, &key));
    key.zeroize();
    made
}

// HKDF-SHA-256's output block is 32 bytes and AES-256 takes 32: one block, no truncation.
const _: () = assert!(KeyMaterial::LEN == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_of_a_wrap_is_refused() {
        let (root, key) = (KeyMaterial::generate().unwrap(), KeyMaterial::generate().unwrap());
        let context = EncryptionContext::new().with("a", "1").unwrap();
        let good = wrap(b"dev:", b"test", &root, &key, &context).unwrap();
        assert_eq!(unwrap(b"dev:", b"test", &root, &good, &context).unwrap().expose(), key.expose());
        for bit in 0..good.as_bytes().len() * 8 {
            let mut bytes = good.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bad = WrappedKey::new(bytes).unwrap();
            assert!(unwrap(b"dev:", b"test", &root, &bad, &context).is_none(), "bit {bit}");
        }
        for cut in 1..good.as_bytes().len() {
            let bad = WrappedKey::new(good.as_bytes()[..cut].to_vec()).unwrap();
            assert!(unwrap(b"dev:", b"test", &root, &bad, &context).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_wrap_made_for_another_purpose_is_refused() {
        let (root, key) = (KeyMaterial::generate().unwrap(), KeyMaterial::generate().unwrap());
        let context = EncryptionContext::new();
        let wrapped = wrap(b"dev:", b"one", &root, &key, &context).unwrap();
        assert!(unwrap(b"dev:", b"two", &root, &wrapped, &context).is_none());
    }
}
