//! Inline kinds: every value has a data key of its own, carried wrapped in its header (scope `record`).

use crate::binding::Binding;
use crate::cipher::Nonces;
use crate::derive::Purpose;
use crate::envelope::{Envelope, Kind, PayloadType, header_start};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::NONCE_LEN;
use crate::open::{Opened, open_with_key};
use crate::padding::Padding;
use crate::seal::{Associated, SealItem, seal_under};
use crate::subkey::Subkey;
use crate::wrap::{KeyWrap, record_context};

/// Makes envelopes of [`Kind::InlineRing`]: a new data key for each value, wrapped by the ring's data key, so no call to
/// the key service. An [`crate::Opener`] of the ring's data key opens them.
pub struct RecordSealer {
    wrap: KeyWrap,
}

impl RecordSealer {
    pub fn new(ring_key: &DataKey, key_id: KeyId) -> Self {
        Self { wrap: KeyWrap::new(ring_key, key_id) }
    }

    pub fn key_id(&self) -> KeyId {
        self.wrap.key_id()
    }

    /// Seals one value under a new data key.
    pub fn seal(&self, binding: &Binding, payload: PayloadType, padding: Padding, plaintext: &[u8]) -> Result<Vec<u8>> {
        let record_key = DataKey::generate()?;
        let wrapped = self.wrap.wrap(&record_key, &record_context(binding))?;
        let item = SealItem { binding, payload, padding, plaintext };
        seal_inline(&record_key, Kind::InlineRing, self.key_id(), &wrapped, &item)
    }
}

/// Makes an envelope of [`Kind::InlineRoot`]. `record_key` must be new for this value; `root_id` is the catalog's id of
/// the root key, and `wrapped` (1 to 65,535 bytes) what the key service made of the record key.
pub fn seal_with(record_key: &DataKey, root_id: KeyId, wrapped: &[u8], item: &SealItem<'_>) -> Result<Vec<u8>> {
    seal_inline(record_key, Kind::InlineRoot, root_id, wrapped, item)
}

/// Opens an envelope of [`Kind::InlineRoot`] under the data key that the key service unwrapped from
/// [`Envelope::wrapped`].
pub fn open_with(record_key: &DataKey, envelope: &Envelope<'_>, binding: &Binding) -> Result<Opened> {
    if envelope.kind() != Kind::InlineRoot {
        return Err(Error::KeyMismatch);
    }
    open_with_key(record_key, envelope, binding, &mut Associated::new())
}

fn seal_inline(
    record_key: &DataKey,
    kind: Kind,
    wrapping_id: KeyId,
    wrapped: &[u8],
    item: &SealItem<'_>,
) -> Result<Vec<u8>> {
    let start = header_start(kind, wrapping_id, Some(wrapped))?;
    let subkey = Subkey::fresh(record_key, wrapping_id, Purpose::Value)?;
    let mut room = [0; NONCE_LEN];
    seal_under(&subkey, &start, item, &mut Nonces::draw(&mut room)?, &mut Associated::new())
}
