//! Sealing values by reference to a data key.

use std::cell::Cell;

use crate::binding::Binding;
use crate::cipher::Nonces;
use crate::derive::Purpose;
use crate::envelope::{Kind, PayloadType, header_start};
use crate::error::Result;
use crate::key::{DataKey, KeyId};
use crate::layout::{COMMITMENT_LEN, KEY_PREFIX_LEN, NONCE_LEN, SALT_LEN, TAG_LEN};
use crate::padding::Padding;
use crate::subkey::{SealingSubkeys, Subkey};

/// Whether the values that one sealer seals may be seen to belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Salt {
    /// One salt until the subkey's budget is spent: fast.
    #[default]
    Shared,
    /// A salt, so a derivation, for every value.
    Each,
}

/// One value of a batch.
#[derive(Clone, Copy)]
pub struct SealItem<'a> {
    pub binding: &'a Binding,
    pub payload: PayloadType,
    pub padding: Padding,
    pub plaintext: &'a [u8],
}

/// Makes envelopes that name their data key.
///
/// It is shared between threads, renews its subkey when 2^24 values or 2^36 bytes are spent, and refuses in a process
/// that was forked from the one that made it ([`crate::Error::ProcessChanged`]): make another one there. Beyond the output,
/// a value costs no allocation; a batch costs two.
pub struct Sealer {
    subkeys: SealingSubkeys,
    salt: Salt,
    /// The header up to the salt, payload type and padding left open.
    start: Vec<u8>,
}

/// Values of a batch that share one draw of nonces and one reservation of the budget.
const MOST_VALUES: usize = 1024;
/// Bytes after which such a run ends, so that the budget is never asked for more than one value beyond it.
const MOST_BYTES: u64 = 1 << 26;

impl Sealer {
    pub fn new(data_key: &DataKey, key_id: KeyId) -> Result<Self> {
        Self::with_salt(data_key, key_id, Salt::Shared)
    }

    pub fn with_salt(data_key: &DataKey, key_id: KeyId, salt: Salt) -> Result<Self> {
        let subkeys = SealingSubkeys::new(data_key, key_id, Purpose::Value);
        Ok(Self { subkeys, salt, start: header_start(Kind::ByReference, key_id, None)? })
    }

    pub fn key_id(&self) -> KeyId {
        self.subkeys.key_id()
    }

    /// Seals one value: the binary form, 99 bytes longer than the padded value.
    pub fn seal(&self, binding: &Binding, payload: PayloadType, padding: Padding, plaintext: &[u8]) -> Result<Vec<u8>> {
        let item = SealItem { binding, payload, padding, plaintext };
        let shared = self.shared(std::slice::from_ref(&item))?;
        let mut room = [0; NONCE_LEN];
        self.seal_item(shared, &item, &mut Nonces::draw(&mut room)?, &mut Associated::new())
    }

    /// Seals a batch: a result for each value, in order.
    pub fn seal_many(&self, items: &[SealItem<'_>]) -> Vec<Result<Vec<u8>>> {
        let mut results = Vec::with_capacity(items.len());
        let mut room = vec![0; NONCE_LEN * items.len().min(MOST_VALUES)];
        let mut associated = Associated::new();
        let mut left = items;
        while !left.is_empty() {
            let (run, rest) = left.split_at(run_len(left));
            left = rest;
            let room = &mut room[..NONCE_LEN * run.len()];
            match self.shared(run).and_then(|shared| Ok((shared, Nonces::draw(room)?))) {
                Ok((shared, mut nonces)) => {
                    let seal = |item| self.seal_item(shared, item, &mut nonces, &mut associated);
                    results.extend(run.iter().map(seal));
                }
                Err(error) => results.extend(run.iter().map(|_| Err(error))),
            }
        }
        results
    }

    /// The subkey of a whole run, with room for it; none where each value has its own.
    fn shared(&self, run: &[SealItem<'_>]) -> Result<Option<&Subkey>> {
        match self.salt {
            Salt::Shared => {
                let bytes = run.iter().map(cost).fold(0, u64::saturating_add);
                self.subkeys.reserve(run.len() as u64, bytes).map(Some)
            }
            Salt::Each => Ok(None),
        }
    }

    fn seal_item(
        &self,
        shared: Option<&Subkey>,
        item: &SealItem<'_>,
        nonces: &mut Nonces<'_>,
        associated: &mut Associated,
    ) -> Result<Vec<u8>> {
        match shared {
            Some(subkey) => seal_under(subkey, &self.start, item, nonces, associated),
            None => seal_under(&self.subkeys.fresh()?, &self.start, item, nonces, associated),
        }
    }
}

/// Seals one value under a subkey whose budget was asked. `start` is the header up to the salt, with payload type and
/// padding left open.
pub(crate) fn seal_under(
    subkey: &Subkey,
    start: &[u8],
    item: &SealItem<'_>,
    nonces: &mut Nonces<'_>,
    associated: &mut Associated,
) -> Result<Vec<u8>> {
    let padded = item.padding.padded_len(item.plaintext.len())?;
    let header = start.len() + SALT_LEN + COMMITMENT_LEN;
    let mut out = Vec::with_capacity(header + NONCE_LEN + padded + TAG_LEN);
    out.extend_from_slice(start);
    out[KEY_PREFIX_LEN] = item.payload as u8;
    out[KEY_PREFIX_LEN + 1] = item.padding.byte();
    out.extend_from_slice(&subkey.public);
    let data = associated.of(&out, item.binding);
    subkey.cipher.seal(nonces, data, &mut out, item.plaintext, item.padding)?;
    Ok(out)
}

/// Associated data: the header, then the binding, next to each other.
///
/// The memory is the thread's and is used again for every value, so that no value pays for it.
pub(crate) struct Associated(Vec<u8>);

thread_local! {
    static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A thread keeps no more than this after an unusually long binding.
const MOST_KEPT: usize = 1 << 12;

impl Associated {
    pub(crate) fn new() -> Self {
        Self(MEMORY.take())
    }

    pub(crate) fn of(&mut self, header: &[u8], binding: &Binding) -> &[u8] {
        self.0.clear();
        self.0.extend_from_slice(header);
        self.0.extend_from_slice(binding.encoded());
        &self.0
    }
}

impl Drop for Associated {
    fn drop(&mut self) {
        if self.0.capacity() <= MOST_KEPT {
            MEMORY.set(std::mem::take(&mut self.0));
        }
    }
}

/// What a value takes out of the byte budget: as much as it can be, padded.
fn cost(item: &SealItem<'_>) -> u64 {
    item.padding.padded_len(item.plaintext.len()).map_or(0, |len| len as u64)
}

/// How many of the items, at least one, make one run.
fn run_len(items: &[SealItem<'_>]) -> usize {
    let mut bytes = 0_u64;
    let fits = items.iter().take(MOST_VALUES).take_while(|item| {
        let room = bytes < MOST_BYTES;
        bytes = bytes.saturating_add(cost(item));
        room
    });
    fits.count().max(1)
}
