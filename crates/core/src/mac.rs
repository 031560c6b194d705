//! Authenticating what stands beside wrapped keys in the catalog.
//!
//! A wrap alone proves nothing: anyone can wrap under an RSA key, or under a KMS key they may use. So every data-key row
//! carries HMAC-SHA-256 under a key derived (purpose "row-auth") from a data key of its ring, and that key's check
//! value stands in the ring's signed state.

use aws_lc_rs::{constant_time, hmac};

use crate::binding::{Part, Role, push};
use crate::derive::{NO_SALT, Purpose, derive};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::COMMITMENT_LEN;

/// Makes and checks the tags of catalog rows.
pub struct RowMac {
    key: hmac::Key,
    check_value: [u8; COMMITMENT_LEN],
}

/// Length of a tag in bytes.
pub const TAG_LEN: usize = 32;

impl RowMac {
    pub fn new(data_key: &DataKey, key_id: KeyId) -> Result<Self> {
        let derived = derive(data_key, key_id, Purpose::RowAuth, &NO_SALT, &[])?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*derived.key), check_value: derived.commitment })
    }

    /// What the signed state holds to say which key authenticates its rows. Public: it commits to the data key and
    /// tells nothing about it.
    pub fn check_value(&self) -> [u8; COMMITMENT_LEN] {
        self.check_value
    }

    /// Whether this is the key that the signed state names, in constant time.
    pub fn is(&self, check_value: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(&self.check_value, check_value).is_ok()
    }

    /// The tag of a row: its fields, typed, in an order that the caller keeps. A first field that names the kind of row
    /// keeps two tables apart.
    pub fn tag(&self, fields: &[Part<'_>]) -> [u8; TAG_LEN] {
        let tag = hmac::sign(&self.key, &encode(fields));
        tag.as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }

    /// Refuses a row that this key did not tag, in constant time.
    pub fn verify(&self, fields: &[Part<'_>], tag: &[u8]) -> Result<()> {
        hmac::verify(&self.key, &encode(fields), tag).map_err(|_| Error::OpenFailed)
    }
}

fn encode(fields: &[Part<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    fields.iter().for_each(|field| push(&mut bytes, Role::Field, *field));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(byte: u8) -> RowMac {
        RowMac::new(&DataKey::from_bytes(&mut [byte; 32]), KeyId::from_bytes([1; 16])).unwrap()
    }

    #[test]
    fn a_row_is_accepted_as_it_was_tagged_and_in_no_other_way() {
        let row = [Part::Text("data key"), Part::Uuid([3; 16]), Part::Int(7), Part::Bytes(b"wrapped")];
        let tag = mac(1).tag(&row);
        assert_eq!(mac(1).verify(&row, &tag), Ok(()));
        assert_eq!(mac(2).verify(&row, &tag), Err(Error::OpenFailed));
        let moved =
            [Part::Text("data ke"), Part::Text("y"), Part::Uuid([3; 16]), Part::Int(7), Part::Bytes(b"wrapped")];
        assert_eq!(mac(1).verify(&moved, &tag), Err(Error::OpenFailed));
        let retyped = [Part::Text("data key"), Part::Bytes(&[3; 16]), Part::Int(7), Part::Bytes(b"wrapped")];
        assert_eq!(mac(1).verify(&retyped, &tag), Err(Error::OpenFailed));
        assert_eq!(mac(1).verify(&row, &tag[..31]), Err(Error::OpenFailed));
    }

    #[test]
    fn the_check_value_tells_two_keys_apart() {
        assert!(mac(1).is(&mac(1).check_value()));
        assert!(!mac(1).is(&mac(2).check_value()));
        assert!(!mac(1).is(&[]));
    }
}
