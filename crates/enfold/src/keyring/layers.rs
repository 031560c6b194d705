//! Two layers over one data key, each with a layer key of its own: both are needed.
//!
//! The data key is sealed under the customer's layer key, and the result under ours. The customer's root key wraps the one
//! layer key, each of our root keys the other. So every call to a key service is over 256 bits, as all of them take; none of
//! them sees the data key; the two are asked at the same time; and another root key of ours is given its wrap without the
//! customer. The sealing is that of `kms/aead.rs`.

use enfold_core::DataKey;

use super::roots;
use crate::Result;
use crate::kms::{EncryptionContext, KeyMaterial, aead};

const PREFIX: &[u8] = b"lay:";
const CUSTOMERS: &[u8] = b"enfold/v1 customer layer";
const OURS: &[u8] = b"enfold/v1 layer over a customer's";

/// The keys of both layers.
pub(super) struct LayerKeys {
    pub(super) ours: KeyMaterial,
    pub(super) customers: KeyMaterial,
}

impl LayerKeys {
    /// The data key under both.
    pub(super) fn lay(&self, key: &DataKey, context: &EncryptionContext) -> Result<Vec<u8>> {
        let inner = aead::seal(PREFIX, CUSTOMERS, &self.customers, roots::material(key).expose(), context)?;
        aead::seal(PREFIX, OURS, &self.ours, &inner, context)
    }

    /// What [`Self::lay`] was given; `None` for everything else.
    pub(super) fn lift(&self, sealed: &[u8], context: &EncryptionContext) -> Option<DataKey> {
        let inner = aead::open(PREFIX, OURS, &self.ours, sealed, context)?;
        let mut key = aead::open(PREFIX, CUSTOMERS, &self.customers, &inner, context)?;
        KeyMaterial::from_slice(&mut key).map(roots::data_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(ours: u8, customers: u8) -> LayerKeys {
        let of = |byte| KeyMaterial::from_bytes(&mut [byte; KeyMaterial::LEN]);
        LayerKeys { ours: of(ours), customers: of(customers) }
    }

    fn context(of: &str) -> EncryptionContext {
        EncryptionContext::new().with("of", of).unwrap()
    }

    #[test]
    fn both_layer_keys_are_needed_and_the_context() {
        let key = DataKey::generate().unwrap();
        let sealed = keys(1, 2).lay(&key, &context("a")).unwrap();
        let opened = keys(1, 2).lift(&sealed, &context("a")).unwrap();
        assert!(roots::material(&opened).expose() == roots::material(&key).expose());
        for (ours, customers) in [(1, 3), (3, 2), (2, 1), (1, 1), (2, 2)] {
            assert!(keys(ours, customers).lift(&sealed, &context("a")).is_none(), "{ours} and {customers}");
        }
        assert!(keys(1, 2).lift(&sealed, &context("b")).is_none());
    }

    #[test]
    fn whoever_has_one_layer_key_lifts_one_layer_at_most() {
        let key = DataKey::generate().unwrap();
        let sealed = keys(1, 2).lay(&key, &context("a")).unwrap();
        let of = |byte| KeyMaterial::from_bytes(&mut [byte; KeyMaterial::LEN]);
        let inner = aead::open(PREFIX, OURS, &of(1), &sealed, &context("a")).unwrap();
        let plain = roots::material(&key);
        assert!(!inner.windows(KeyMaterial::LEN).any(|window| window == plain.expose()));
        assert!(aead::open(PREFIX, CUSTOMERS, &of(1), &inner, &context("a")).is_none());
        assert!(aead::open(PREFIX, CUSTOMERS, &of(2), &sealed, &context("a")).is_none());
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_refused() {
        let sealed = keys(1, 2).lay(&DataKey::generate().unwrap(), &context("a")).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(keys(1, 2).lift(&changed, &context("a")).is_none(), "byte {at}");
            assert!(keys(1, 2).lift(&sealed[..at], &context("a")).is_none(), "cut at {at}");
        }
    }
}
