//! Salted subkeys: made by HKDF from a data key, used for AES-256-GCM, counted, and forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aws_lc_rs::rand;
use subtle::ConstantTimeEq;

use crate::cipher::Cipher;
use crate::derive::{Purpose, derive};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::{COMMITMENT_LEN, SALT_LEN, SUBKEY_BYTES, SUBKEY_VALUES};
use crate::process::Guard;

/// A subkey, what it commits to, and how much it has sealed.
pub(crate) struct Subkey {
    pub(crate) cipher: Cipher,
    pub(crate) salt: [u8; SALT_LEN],
    pub(crate) commitment: [u8; COMMITMENT_LEN],
    values: AtomicU64,
    bytes: AtomicU64,
}

impl Subkey {
    pub(crate) fn derive(key: &DataKey, key_id: KeyId, purpose: Purpose, salt: &[u8; SALT_LEN]) -> Result<Self> {
        let derived = derive(key, key_id, purpose, salt, &[])?;
        Ok(Self {
            cipher: Cipher::new(&derived.key)?,
            salt: *salt,
            commitment: derived.commitment,
            values: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// A subkey under a salt of its own.
    pub(crate) fn fresh(key: &DataKey, key_id: KeyId, purpose: Purpose) -> Result<Self> {
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| Error::Random)?;
        Self::derive(key, key_id, purpose, &salt)
    }

    /// Takes this much out of the budget. What is taken and not used is lost, which only ends the subkey earlier.
    fn reserve(&self, values: u64, bytes: u64) -> bool {
        self.values.fetch_add(values, Ordering::Relaxed).saturating_add(values) <= SUBKEY_VALUES
            && self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= SUBKEY_BYTES
    }
}

/// The subkey that seals now, replaced when its budget is spent.
pub(crate) struct SealingSubkeys {
    key: DataKey,
    key_id: KeyId,
    purpose: Purpose,
    guard: Guard,
    current: RwLock<Arc<Subkey>>,
}

impl SealingSubkeys {
    pub(crate) fn new(key: &DataKey, key_id: KeyId, purpose: Purpose) -> Result<Self> {
        let current = RwLock::new(Arc::new(Subkey::fresh(key, key_id, purpose)?));
        Ok(Self { key: key.duplicate(), key_id, purpose, guard: Guard::new(), current })
    }

    /// A subkey with room for this much, which must be less than a whole budget.
    pub(crate) fn reserve(&self, values: u64, bytes: u64) -> Result<Arc<Subkey>> {
        // Before the lock: after a fork another thread of the parent may have held it.
        self.guard.check()?;
        loop {
            let subkey = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
            if subkey.reserve(values, bytes) {
                return Ok(subkey);
            }
            let fresh = Arc::new(Subkey::fresh(&self.key, self.key_id, self.purpose)?);
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(&current, &subkey) {
                *current = fresh;
            }
        }
    }

    /// A subkey for one value alone.
    pub(crate) fn fresh(&self) -> Result<Subkey> {
        self.guard.check()?;
        Subkey::fresh(&self.key, self.key_id, self.purpose)
    }

    pub(crate) fn void(&mut self) {
        self.guard.void();
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    #[cfg(test)]
    pub(crate) fn spend(&self, values: u64, bytes: u64) {
        let current = self.current.read().unwrap();
        current.values.fetch_add(values, Ordering::Relaxed);
        current.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Subkeys that open, by salt; the least recently used goes when there is no room.
pub(crate) struct OpeningSubkeys {
    key: DataKey,
    key_id: KeyId,
    purpose: Purpose,
    most: usize,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    subkeys: HashMap<[u8; SALT_LEN], (Arc<Subkey>, u64)>,
    clock: u64,
}

impl OpeningSubkeys {
    pub(crate) fn new(key: &DataKey, key_id: KeyId, purpose: Purpose, most: usize) -> Self {
        Self { key: key.duplicate(), key_id, purpose, most: most.max(1), known: Mutex::default() }
    }

    /// The subkey of this salt, if the data key is the one that is committed to.
    ///
    /// Only a subkey whose commitment was right is kept: whoever does not have the data key cannot push others out.
    pub(crate) fn find(&self, salt: &[u8; SALT_LEN], commitment: &[u8; COMMITMENT_LEN]) -> Result<Arc<Subkey>> {
        if let Some(subkey) = self.known.lock().unwrap_or_else(PoisonError::into_inner).touch(salt) {
            return check(&subkey, commitment).map(|()| subkey);
        }
        let subkey = Arc::new(Subkey::derive(&self.key, self.key_id, self.purpose, salt)?);
        check(&subkey, commitment)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&subkey), self.most);
        Ok(subkey)
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.known.lock().unwrap().subkeys.len()
    }
}

impl Known {
    fn touch(&mut self, salt: &[u8; SALT_LEN]) -> Option<Arc<Subkey>> {
        self.clock += 1;
        let (subkey, used) = self.subkeys.get_mut(salt)?;
        *used = self.clock;
        Some(Arc::clone(subkey))
    }

    /// Looking for the oldest costs a walk over all of them, which is small beside the derivation that led here.
    fn insert(&mut self, subkey: Arc<Subkey>, most: usize) {
        if self.subkeys.len() >= most && !self.subkeys.contains_key(&subkey.salt) {
            let oldest = self.subkeys.iter().min_by_key(|(_, (_, used))| *used).map(|(salt, _)| *salt);
            oldest.and_then(|salt| self.subkeys.remove(&salt));
        }
        self.subkeys.insert(subkey.salt, (subkey, self.clock));
    }
}

/// The commitment of a subkey against the one an envelope carries, in constant time.
pub(crate) fn check(subkey: &Subkey, commitment: &[u8; COMMITMENT_LEN]) -> Result<()> {
    if bool::from(subkey.commitment.ct_eq(commitment)) { Ok(()) } else { Err(Error::OpenFailed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (DataKey, KeyId) {
        (DataKey::from_bytes(&mut [1; 32]), KeyId::from_bytes([2; 16]))
    }

    #[test]
    fn a_subkey_is_replaced_when_its_values_or_its_bytes_are_spent() {
        let (key, id) = key();
        for (values, bytes) in [(SUBKEY_VALUES - 1, 0), (0, SUBKEY_BYTES - 1)] {
            let subkeys = SealingSubkeys::new(&key, id, Purpose::Value).unwrap();
            let first = subkeys.reserve(0, 0).unwrap();
            subkeys.spend(values, bytes);
            assert!(Arc::ptr_eq(&first, &subkeys.reserve(1, 1).unwrap()), "the last of the budget is there to be used");
            let second = subkeys.reserve(1, 1).unwrap();
            assert_ne!(first.salt, second.salt);
            assert_ne!(first.commitment, second.commitment);
        }
    }

    #[test]
    fn an_opener_keeps_the_subkeys_used_last_and_no_more_than_it_may() {
        let (key, id) = key();
        let opening = OpeningSubkeys::new(&key, id, Purpose::Value, 2);
        let find = |byte: u8| {
            let known = Subkey::derive(&key, id, Purpose::Value, &[byte; SALT_LEN]).unwrap();
            opening.find(&known.salt, &known.commitment).unwrap()
        };
        let first = find(1);
        find(2);
        assert!(Arc::ptr_eq(&first, &find(1)), "a subkey is derived once");
        find(3);
        assert_eq!(opening.held(), 2);
        assert!(Arc::ptr_eq(&first, &find(1)), "2 was used longer ago");
    }

    #[test]
    fn a_wrong_commitment_is_refused_and_pushes_nothing_out() {
        let (key, id) = key();
        let opening = OpeningSubkeys::new(&key, id, Purpose::Value, 2);
        let known = Subkey::derive(&key, id, Purpose::Value, &[1; SALT_LEN]).unwrap();
        let mut wrong = known.commitment;
        wrong[31] ^= 1;
        assert_eq!(opening.find(&known.salt, &wrong).err(), Some(Error::OpenFailed));
        assert_eq!(opening.held(), 0);
        opening.find(&known.salt, &known.commitment).unwrap();
        assert_eq!(opening.find(&known.salt, &wrong).err(), Some(Error::OpenFailed), "nor when the subkey is known");
    }
}
