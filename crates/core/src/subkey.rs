//! Salted subkeys: made by HKDF from a data key, used for AES-256-GCM, counted, and forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_lc_rs::{constant_time, rand};

use crate::cipher::Cipher;
use crate::derive::{Purpose, derive};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::{COMMITMENT_LEN, SALT_LEN, SUBKEY_BYTES, SUBKEY_VALUES};
use crate::process::Guard;

/// A subkey and what it commits to.
pub(crate) struct Subkey {
    pub(crate) cipher: Cipher,
    /// Salt and commitment, as they stand next to each other in a header.
    pub(crate) public: [u8; SALT_LEN + COMMITMENT_LEN],
}

impl Subkey {
    pub(crate) fn derive(key: &DataKey, key_id: KeyId, purpose: Purpose, salt: &[u8; SALT_LEN]) -> Result<Self> {
        let derived = derive(key, key_id, purpose, salt, &[])?;
        let mut public = [0; SALT_LEN + COMMITMENT_LEN];
        public[..SALT_LEN].copy_from_slice(salt);
        public[SALT_LEN..].copy_from_slice(&derived.commitment);
        Ok(Self { cipher: Cipher::new(&derived.key)?, public })
    }

    pub(crate) fn salt(&self) -> &[u8; SALT_LEN] {
        self.public.first_chunk().expect("48 bytes begin with 16")
    }

    pub(crate) fn commitment(&self) -> &[u8; COMMITMENT_LEN] {
        self.public.last_chunk().expect("48 bytes end with 32")
    }

    /// A subkey under a salt of its own.
    pub(crate) fn fresh(key: &DataKey, key_id: KeyId, purpose: Purpose) -> Result<Self> {
        let mut salt = [0; SALT_LEN];
        rand::fill(&mut salt).map_err(|_| Error::Random)?;
        Self::derive(key, key_id, purpose, &salt)
    }
}

/// Subkeys that seal: one at a time, the next one made when its budget is spent.
///
/// They hang in a chain, so that whoever seals reads the current one without a lock. The first is derived when something
/// is sealed: a process that only opens never does. A spent one stays until the sealer goes: half a kilobyte for every
/// 2^24 values.
pub(crate) struct SealingSubkeys {
    key: DataKey,
    key_id: KeyId,
    purpose: Purpose,
    guard: Guard,
    first: Place,
}

/// Where a link of the chain is, or will be.
type Place = OnceLock<Box<Link>>;

struct Link {
    subkey: Subkey,
    /// Values in the upper bits, bytes in the lower: one addition takes from both budgets.
    taken: AtomicU64,
    next: Place,
}

impl SealingSubkeys {
    pub(crate) fn new(key: &DataKey, key_id: KeyId, purpose: Purpose) -> Self {
        Self { key: key.duplicate(), key_id, purpose, guard: Guard::new(), first: Place::new() }
    }

    /// A subkey with room for this much: far less than a whole budget.
    pub(crate) fn reserve(&self, values: u64, bytes: u64) -> Result<&Subkey> {
        if values == 1 {
            self.guard.check_one()?;
        } else {
            self.guard.check()?;
        }
        let mut place = &self.first;
        loop {
            let link = match place.get() {
                Some(link) => link,
                None => {
                    let fresh = Box::new(Link::new(self.derive_fresh()?));
                    place.get_or_init(|| fresh)
                }
            };
            if link.reserve(values, bytes) {
                return Ok(&link.subkey);
            }
            place = &link.next;
        }
    }

    /// A subkey for one value alone.
    pub(crate) fn fresh(&self) -> Result<Subkey> {
        self.guard.check()?;
        self.derive_fresh()
    }

    pub(crate) fn key_id(&self) -> KeyId {
        self.key_id
    }

    fn derive_fresh(&self) -> Result<Subkey> {
        Subkey::fresh(&self.key, self.key_id, self.purpose)
    }

    #[cfg(test)]
    pub(crate) fn spend(&self, values: u64, bytes: u64) {
        let first = self.first.get().expect("something was sealed");
        first.taken.fetch_add(values << BYTES_BITS | bytes, Ordering::Relaxed);
    }
}

/// Room for 2^36 bytes and for what is asked on top of them by everybody who asks at the same moment: 8 times the
/// budget again. The values have the 24 bits above, and 2^24 of them are the budget and the first bit that is too many.
const BYTES_BITS: u32 = 39;

const _: () = {
    assert!(SUBKEY_BYTES < 1 << BYTES_BITS);
    assert!(SUBKEY_VALUES < 1 << (u64::BITS - BYTES_BITS));
};

impl Link {
    fn new(subkey: Subkey) -> Self {
        Self { subkey, taken: AtomicU64::new(0), next: Place::new() }
    }

    /// Takes this much out of the budget. What is taken and not used is lost, which only ends the subkey earlier.
    ///
    /// A spent budget is not taken from any more, so the counter stays far from its end: beyond the budget it can only
    /// rise by what other threads ask in the moment between looking and taking.
    fn reserve(&self, values: u64, bytes: u64) -> bool {
        let wanted = values << BYTES_BITS | bytes;
        within(self.taken.load(Ordering::Relaxed))
            && within(self.taken.fetch_add(wanted, Ordering::Relaxed).saturating_add(wanted))
    }
}

fn within(taken: u64) -> bool {
    taken >> BYTES_BITS <= SUBKEY_VALUES && taken & ((1 << BYTES_BITS) - 1) <= SUBKEY_BYTES
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

    /// As [`OpeningSubkeys::find`], looking first at the one that the caller used last: the rows of one job have
    /// mostly one salt. The caller keeps it, so that threads that open at once do not count its users together.
    pub(crate) fn find_again<'a>(
        &self,
        last: &'a mut Option<Arc<Subkey>>,
        salt: &[u8; SALT_LEN],
        commitment: &[u8; COMMITMENT_LEN],
    ) -> Result<&'a Subkey> {
        let subkey = match last.take().filter(|subkey| subkey.salt() == salt) {
            Some(subkey) => subkey,
            None => self.find(salt, commitment)?,
        };
        let subkey = last.insert(subkey);
        check(subkey, commitment)?;
        Ok(subkey)
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
        if self.subkeys.len() >= most && !self.subkeys.contains_key(subkey.salt()) {
            let oldest = self.subkeys.iter().min_by_key(|(_, (_, used))| *used).map(|(salt, _)| *salt);
            oldest.and_then(|salt| self.subkeys.remove(&salt));
        }
        self.subkeys.insert(*subkey.salt(), (subkey, self.clock));
    }
}

/// The commitment of a subkey against the one an envelope carries, in constant time.
pub(crate) fn check(subkey: &Subkey, commitment: &[u8; COMMITMENT_LEN]) -> Result<()> {
    constant_time::verify_slices_are_equal(subkey.commitment(), commitment).map_err(|_| Error::OpenFailed)
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn key() -> (DataKey, KeyId) {
        (DataKey::from_bytes(&mut [1; 32]), KeyId::from_bytes([2; 16]))
    }

    #[test]
    fn a_subkey_is_replaced_when_its_values_or_its_bytes_are_spent() {
        let (key, id) = key();
        for (values, bytes) in [(SUBKEY_VALUES - 1, 0), (0, SUBKEY_BYTES - 1)] {
            let subkeys = SealingSubkeys::new(&key, id, Purpose::Value);
            let first = subkeys.reserve(0, 0).unwrap();
            subkeys.spend(values, bytes);
            assert!(ptr::eq(first, subkeys.reserve(1, 1).unwrap()), "the last of the budget is there to be used");
            let second = subkeys.reserve(1, 1).unwrap();
            assert_ne!(first.salt(), second.salt());
            assert_ne!(first.commitment(), second.commitment());
            assert!(ptr::eq(second, subkeys.reserve(1, 1).unwrap()), "a spent subkey does not come back");
        }
    }

    #[test]
    fn an_opener_keeps_the_subkeys_used_last_and_no_more_than_it_may() {
        let (key, id) = key();
        let opening = OpeningSubkeys::new(&key, id, Purpose::Value, 2);
        let find = |byte: u8| {
            let known = Subkey::derive(&key, id, Purpose::Value, &[byte; SALT_LEN]).unwrap();
            opening.find(known.salt(), known.commitment()).unwrap()
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
        let mut wrong = *known.commitment();
        wrong[31] ^= 1;
        assert_eq!(opening.find(known.salt(), &wrong).err(), Some(Error::OpenFailed));
        assert_eq!(opening.held(), 0);
        opening.find(known.salt(), known.commitment()).unwrap();
        assert_eq!(opening.find(known.salt(), &wrong).err(), Some(Error::OpenFailed), "nor when the subkey is known");
    }
}
