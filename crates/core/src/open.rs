//! Opening values.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::binding::Binding;
use crate::derive::Purpose;
use crate::envelope::{Envelope, Kind, PayloadType};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::padding::unpad;
use crate::seal::Associated;
use crate::subkey::{OpeningSubkeys, Subkey, check};
use crate::wrap::{self, KeyUnwrap};

/// A value that was opened. It cannot be printed, and is wiped on drop.
pub struct Opened {
    pub payload: PayloadType,
    pub plaintext: Zeroizing<Vec<u8>>,
}

/// One envelope of a batch.
#[derive(Clone, Copy)]
pub struct OpenItem<'a> {
    pub envelope: Envelope<'a>,
    pub binding: &'a Binding,
}

/// Opens envelopes that name its data key, and those whose own data key is wrapped by it.
///
/// It is shared between threads and keeps a bounded number of subkeys, the least recently used going first. Beyond the
/// output a value costs no allocation once its subkey is known (an inline kind's is never kept).
pub struct Opener {
    subkeys: OpeningSubkeys,
    unwrap: KeyUnwrap,
}

/// Subkeys that an opener keeps unless told otherwise: as many as processes sealed under one data key in a while, at
/// about half a kilobyte each.
pub const DEFAULT_SUBKEYS: usize = 256;

impl Opener {
    pub fn new(data_key: &DataKey, key_id: KeyId) -> Self {
        Self::with_subkeys(data_key, key_id, DEFAULT_SUBKEYS)
    }

    /// `most`: how many subkeys to keep, at least one.
    pub fn with_subkeys(data_key: &DataKey, key_id: KeyId, most: usize) -> Self {
        Self {
            subkeys: OpeningSubkeys::new(data_key, key_id, Purpose::Value, most),
            unwrap: KeyUnwrap::with_subkeys(data_key, key_id, most),
        }
    }

    pub fn key_id(&self) -> KeyId {
        self.subkeys.key_id()
    }

    /// Opens one value. An envelope of [`Kind::InlineRoot`] needs the key service first: see
    /// [`crate::record::open_with`].
    pub fn open(&self, envelope: &Envelope<'_>, binding: &Binding) -> Result<Opened> {
        self.open_one(envelope, binding, &mut None, &mut Associated::new())
    }

    /// Opens a batch: a result for each envelope, in order.
    pub fn open_many(&self, items: &[OpenItem<'_>]) -> Vec<Result<Opened>> {
        let (mut last, mut associated) = (None, Associated::new());
        items.iter().map(|item| self.open_one(&item.envelope, item.binding, &mut last, &mut associated)).collect()
    }

    fn open_one(
        &self,
        envelope: &Envelope<'_>,
        binding: &Binding,
        last: &mut Option<Arc<Subkey>>,
        associated: &mut Associated,
    ) -> Result<Opened> {
        if envelope.key_id() != self.key_id() {
            return Err(Error::KeyMismatch);
        }
        match envelope.kind() {
            Kind::ByReference => {
                let subkey = self.subkeys.find_again(last, envelope.salt(), envelope.commitment())?;
                open_under(subkey, envelope, binding, associated)
            }
            Kind::InlineRing => {
                let wrapped = envelope.wrapped().ok_or(Error::OpenFailed)?;
                let record_key =
                    self.unwrap.unwrap(wrapped, &wrap::record_context(binding)).map_err(|_| Error::OpenFailed)?;
                open_with_key(&record_key, envelope, binding, associated)
            }
            Kind::InlineRoot => Err(Error::KeyMismatch),
        }
    }
}

/// Opens under a data key that belongs to this envelope alone.
pub(crate) fn open_with_key(
    record_key: &DataKey,
    envelope: &Envelope<'_>,
    binding: &Binding,
    associated: &mut Associated,
) -> Result<Opened> {
    let subkey = Subkey::derive(record_key, envelope.key_id(), Purpose::Value, envelope.salt())?;
    check(&subkey, envelope.commitment())?;
    open_under(&subkey, envelope, binding, associated)
}

/// The commitment has been checked.
fn open_under(
    subkey: &Subkey,
    envelope: &Envelope<'_>,
    binding: &Binding,
    associated: &mut Associated,
) -> Result<Opened> {
    let body = envelope.body();
    let mut plaintext = Zeroizing::new(Vec::with_capacity(body.len()));
    subkey.cipher.open(envelope.nonce(), associated.of(envelope.header(), binding), body, &mut plaintext)?;
    if envelope.is_padded() {
        unpad(&mut plaintext)?;
    }
    Ok(Opened { payload: envelope.payload(), plaintext })
}
