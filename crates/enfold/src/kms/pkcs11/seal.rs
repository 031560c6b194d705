//! The wrap: AES-256-GCM by the token, under the root key itself.
//!
//! `p11: ‖ version 1 ‖ nonce 12 ‖ ciphertext 32 ‖ tag 16`. The associated data is a prefix of this purpose, everything
//! before the nonce, and the canonical encryption context; so whatever else was encrypted under the same key is no wrap.
//! The nonce is random, 96 bits, so one key may make 2^32 wraps (NIST SP 800-38D, section 8.3). We draw it, unless the
//! token insists on doing so.

use aws_lc_rs::rand;
use cryptoki::error::Error as TokenError;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use zeroize::Zeroizing;

use super::answer::{self, Fault};
use super::open::Open;
use crate::kms::context::EncryptionContext;
use crate::kms::material::KeyMaterial;

const PURPOSE: &[u8] = b"enfold/v1 pkcs11 wrap\0";
const HEADER: &[u8] = b"p11:\x01";
const NONCE: usize = 12;
const TAG: usize = 16;
const SEALED: usize = KeyMaterial::LEN + TAG;

type Nonce = [u8; NONCE];

/// What a wrap is authenticated with besides itself.
pub(super) fn associated(context: &EncryptionContext) -> Vec<u8> {
    [PURPOSE, HEADER, &context.canonical()].concat()
}

/// Whether it can be a wrap of a token at all.
pub(super) fn is_wrap(bytes: &[u8]) -> bool {
    bytes.len() == HEADER.len() + NONCE + SEALED && bytes.starts_with(HEADER)
}

pub(super) fn wrap(open: &Open, key: &KeyMaterial, associated: &[u8]) -> Result<Vec<u8>, Fault> {
    let (nonce, sealed) = encrypt(open, key.expose(), associated)?;
    if sealed.len() != SEALED {
        return Err(Fault::Answer("the token gave a ciphertext of another length than AES-GCM has"));
    }
    Ok([HEADER, &nonce, &sealed].concat())
}

/// Opens what [`wrap`] made, and nothing else.
pub(super) fn unwrap(open: &Open, wrapped: &[u8], associated: &[u8]) -> Result<KeyMaterial, Fault> {
    if !is_wrap(wrapped) {
        return Err(Fault::Wrap);
    }
    let (nonce, sealed) = wrapped[HEADER.len()..].split_at(NONCE);
    match decrypt(open, nonce, sealed, associated) {
        Ok(mut plain) => KeyMaterial::from_slice(&mut plain)
            .ok_or(Fault::Answer("the token opened a wrap to another length than a key has")),
        Err(error) if answer::is_about_the_data(&error) => Err(Fault::Wrap),
        // "Failed" may be the bytes or the token; another wrap tells which.
        Err(error) if answer::may_be_about_the_data(&error) => match opens_its_own(open) {
            Some(false) => Err(Fault::Token(error)),
            Some(true) | None => Err(Fault::Wrap),
        },
        Err(error) => Err(Fault::Token(error)),
    }
}

/// A key that the token drew.
pub(super) fn draw(open: &Open) -> Result<KeyMaterial, Fault> {
    const BYTES: u32 = 32;
    const _: () = assert!(BYTES as usize == KeyMaterial::LEN);
    let mut drawn = Zeroizing::new(open.session.generate_random_vec(BYTES)?);
    KeyMaterial::from_slice(&mut drawn)
        .ok_or(Fault::Answer("the token drew another number of bytes than it was asked for"))
}

/// Whether the token opens what it has just sealed; `None` where the key may not seal.
fn opens_its_own(open: &Open) -> Option<bool> {
    const THROWN_AWAY: [u8; KeyMaterial::LEN] = [0; KeyMaterial::LEN];
    // Associated data that no wrap has: this is no wrap of a key.
    let associated = b"enfold/v1 pkcs11 trial\0";
    match encrypt(open, &THROWN_AWAY, associated) {
        Ok((nonce, sealed)) => Some(decrypt(open, &nonce, &sealed, associated).is_ok()),
        Err(fault) if answer::is_final(&fault) => None,
        Err(_) => Some(false),
    }
}

fn encrypt(open: &Open, plain: &[u8], associated: &[u8]) -> Result<(Nonce, Vec<u8>), Fault> {
    if open.draws_nonces.get()
        && let Some(sealed) = encrypt_under_theirs(open, plain, associated)?
    {
        return Ok(sealed);
    }
    let mut nonce = [0; NONCE];
    rand::fill(&mut nonce).map_err(|_| Fault::Random)?;
    match encrypt_with(open, &mut nonce, plain, associated) {
        Err(error) if answer::wants_no_nonce(&error) => {}
        done => {
            open.draws_nonces.set(false);
            return Ok((nonce, done?));
        }
    }
    let sealed = encrypt_under_theirs(open, plain, associated)?;
    open.draws_nonces.set(sealed.is_some());
    sealed.ok_or(Fault::Answer("the token refused a nonce, and drew none itself"))
}

/// A token that draws nonces takes zeros and writes its own in their place. `None` where it has sealed under the zeros:
/// what it gave is thrown away unseen.
fn encrypt_under_theirs(open: &Open, plain: &[u8], associated: &[u8]) -> Result<Option<(Nonce, Vec<u8>)>, TokenError> {
    let mut nonce = [0; NONCE];
    let sealed = encrypt_with(open, &mut nonce, plain, associated)?;
    Ok((nonce != [0; NONCE]).then_some((nonce, sealed)))
}

fn encrypt_with(open: &Open, nonce: &mut Nonce, plain: &[u8], associated: &[u8]) -> Result<Vec<u8>, TokenError> {
    let mechanism = Mechanism::AesGcm(GcmParams::new(nonce, associated, TAG_BITS.into())?);
    open.session.encrypt(&mechanism, open.key, plain)
}

fn decrypt(open: &Open, nonce: &[u8], sealed: &[u8], associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    let mut nonce = nonce.to_vec();
    let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, associated, TAG_BITS.into())?);
    open.session.decrypt(&mechanism, open.key, sealed).map(Zeroizing::new)
}

const TAG_BITS: u64 = 128;
const _: () = assert!(TAG_BITS == 8 * TAG as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_the_form_of_a_wrap_is_sent_to_a_token() {
        let good = [HEADER, &[0; NONCE + SEALED]].concat();
        assert!(is_wrap(&good) && good.len() == 65);
        assert!(!is_wrap(&good[..64]) && !is_wrap(&[&good[..], &[0]].concat()));
        for at in 0..HEADER.len() {
            let mut other = good.clone();
            other[at] ^= 1;
            assert!(!is_wrap(&other), "byte {at}");
        }
    }

    #[test]
    fn no_context_has_the_associated_data_of_a_trial() {
        let none = associated(&EncryptionContext::new());
        assert!(none.starts_with(PURPOSE) && !none.starts_with(b"enfold/v1 pkcs11 trial"));
    }
}
