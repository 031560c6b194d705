//! AES-256-GCM as the envelope uses it: the only file that knows which of the library's two interfaces a build wants.
//!
//! In a FIPS build the module itself draws each nonce (SP 800-38D section 8.2.2 inside the boundary), because a nonce
//! that is given is not an approved service there; otherwise a batch draws its nonces in one call, which is what its
//! speed depends on.

#[cfg(feature = "fips")]
use aws_lc_rs::aead::RandomizedNonceKey as GcmKey;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce};
#[cfg(not(feature = "fips"))]
use aws_lc_rs::aead::{LessSafeKey as GcmKey, UnboundKey};
#[cfg(not(feature = "fips"))]
use aws_lc_rs::rand;

use crate::error::{Error, Result};
use crate::layout::{KEY_LEN, NONCE_LEN, TAG_LEN};
use crate::padding::Padding;

/// An expanded AES-256-GCM key. The library wipes the schedule when it is dropped.
pub(crate) struct Cipher(GcmKey);

/// Random nonces, each handed out once.
pub(crate) struct Nonces<'a> {
    #[cfg(not(feature = "fips"))]
    left: &'a [u8],
    #[cfg(feature = "fips")]
    left: std::marker::PhantomData<&'a ()>,
}

impl Cipher {
    #[cfg(not(feature = "fips"))]
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Result<Self> {
        UnboundKey::new(&AES_256_GCM, key).map(|key| Self(GcmKey::new(key))).map_err(|_| Error::Library)
    }

    #[cfg(feature = "fips")]
    pub(crate) fn new(key: &[u8; KEY_LEN]) -> Result<Self> {
        GcmKey::new(&AES_256_GCM, key).map(Self).map_err(|_| Error::Library)
    }

    /// Appends nonce, ciphertext and tag of a value. One that is not padded is read where it lies and never copied.
    #[cfg(not(feature = "fips"))]
    pub(crate) fn seal(
        &self,
        nonces: &mut Nonces<'_>,
        aad: &[u8],
        out: &mut Vec<u8>,
        value: &[u8],
        padding: Padding,
    ) -> Result<()> {
        let padded = padding.padded_len(value.len())?;
        let (nonce, left) = nonces.left.split_first_chunk::<NONCE_LEN>().ok_or(Error::Random)?;
        nonces.left = left;
        out.extend_from_slice(nonce);
        let start = out.len();
        let (nonce, aad) = (Nonce::assume_unique_for_key(*nonce), Aad::from(aad));
        if padding == Padding::None {
            out.resize(start + padded + TAG_LEN, 0);
            let (body, tag) = out[start..].split_at_mut(padded);
            return self.0.seal_out_of_place_scatter(nonce, aad, value, body, &[], tag).map_err(|_| Error::Library);
        }
        out.extend_from_slice(value);
        padding.pad(out, start, padded);
        let tag = self.0.seal_in_place_separate_tag(nonce, aad, &mut out[start..]);
        append_tag(out, start, tag.map_err(|_| Error::Library))
    }

    #[cfg(feature = "fips")]
    pub(crate) fn seal(
        &self,
        _nonces: &mut Nonces<'_>,
        aad: &[u8],
        out: &mut Vec<u8>,
        value: &[u8],
        padding: Padding,
    ) -> Result<()> {
        let padded = padding.padded_len(value.len())?;
        let at = out.len();
        let start = at + NONCE_LEN;
        out.resize(start, 0);
        out.extend_from_slice(value);
        padding.pad(out, start, padded);
        let sealed = self.0.seal_in_place_separate_tag(Aad::from(aad), &mut out[start..]);
        let tag = sealed.map_err(|_| Error::Library).map(|(nonce, tag)| {
            out[at..start].copy_from_slice(nonce.as_ref());
            tag
        });
        append_tag(out, start, tag)
    }

    /// Appends the plaintext of `body` (ciphertext and tag), or leaves `out` as it was.
    pub(crate) fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.extend_from_slice(body);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(aad), &mut out[start..]);
        let len = opened.map(|plaintext| plaintext.len());
        out.truncate(start + len.unwrap_or(0));
        len.map(|_| ()).map_err(|_| Error::OpenFailed)
    }
}

/// A failed seal must not leave the plaintext that was to be sealed in the output.
fn append_tag(out: &mut Vec<u8>, start: usize, tag: Result<impl AsRef<[u8]>>) -> Result<()> {
    match tag {
        Ok(tag) => {
            debug_assert_eq!(tag.as_ref().len(), TAG_LEN);
            out.extend_from_slice(tag.as_ref());
            Ok(())
        }
        Err(error) => {
            out[start..].fill(0);
            Err(error)
        }
    }
}

impl<'a> Nonces<'a> {
    /// As many as `room` has bytes for, in one call to the generator.
    #[cfg(not(feature = "fips"))]
    pub(crate) fn draw(room: &'a mut [u8]) -> Result<Self> {
        rand::fill(room).map_err(|_| Error::Random)?;
        Ok(Self { left: room })
    }

    #[cfg(feature = "fips")]
    pub(crate) fn draw(_room: &'a mut [u8]) -> Result<Self> {
        Ok(Self { left: std::marker::PhantomData })
    }

    /// Nonces that a test vector fixes.
    #[cfg(all(test, not(feature = "fips")))]
    pub(crate) fn fixed(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }
}
