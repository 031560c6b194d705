//! The one thing a data key is used for: HKDF-SHA-256 (RFC 5869; NIST SP 800-56C rev. 2, two-step).
//!
//! Extract takes a salt and the data key; expand takes the label, the suite, a purpose and the key id, so that no two
//! purposes and no two keys share an output, and gives a 32-byte key and a 32-byte commitment to the data key. The
//! commitment is safe to publish: it is the second block of an expansion whose first block is the secret.

use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::{COMMITMENT_LEN, KEY_LEN, SALT_LEN, SUITE};

const LABEL: &[u8; 9] = b"enfold/v1";

/// What a derived key is for. The numbers are in the format; never reuse one.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// Seals values.
    Value = 1,
    /// Wraps data keys under a data key.
    Wrap = 2,
    /// Authenticates rows of the catalog.
    RowAuth = 3,
    /// Computes a blind index.
    Index = 4,
}

/// A derived key and the commitment that goes with it.
pub(crate) struct Derived {
    pub(crate) key: Zeroizing<[u8; KEY_LEN]>,
    pub(crate) commitment: [u8; COMMITMENT_LEN],
}

/// `context` follows the key id in the expansion's info: empty for purposes that have none.
pub(crate) fn derive(
    data_key: &DataKey,
    key_id: KeyId,
    purpose: Purpose,
    salt: &[u8; SALT_LEN],
    context: &[u8],
) -> Result<Derived> {
    let info: [&[u8]; 4] = [LABEL, &[SUITE, purpose as u8], key_id.as_bytes(), context];
    let mut bytes = Zeroizing::new([0; KEY_LEN + COMMITMENT_LEN]);
    hkdf_sha256(salt, data_key.bytes(), &info, bytes.as_mut())?;
    let (key, commitment) = bytes.split_at(KEY_LEN);
    let mut derived = Derived { key: Zeroizing::new([0; KEY_LEN]), commitment: [0; COMMITMENT_LEN] };
    derived.key.copy_from_slice(key);
    derived.commitment.copy_from_slice(commitment);
    Ok(derived)
}

/// Extract, then expand to the length of `out`: at most 8,160 bytes (RFC 5869 section 2.3).
pub(crate) fn hkdf_sha256(salt: &[u8], key: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<()> {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    let okm = prk.expand(info, Len(out.len())).map_err(|_| Error::Library)?;
    okm.fill(out).map_err(|_| Error::Library)
}

/// The salt of purposes whose key must come out the same in every process.
pub(crate) const NO_SALT: [u8; SALT_LEN] = [0; SALT_LEN];
