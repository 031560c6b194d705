//! Data keys wrapped by a data key: for inline kinds, and for whatever the key ring nests.
//!
//! The same construction as for values under a purpose of its own: salt 16, commitment 32, nonce 12, the 32 bytes
//! encrypted, tag 16; 108 bytes. The associated data is the salt, the commitment and a context that the caller gives.

use zeroize::Zeroizing;

use crate::binding::{Binding, Part, Role, push};
use crate::cipher::Nonces;
use crate::derive::Purpose;
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
use crate::layout::{COMMITMENT_LEN, KEY_LEN, NONCE_LEN, SALT_LEN, TAG_LEN, WRAPPED_KEY_LEN};
use crate::padding::Padding;
use crate::subkey::{OpeningSubkeys, SealingSubkeys, Subkey};

/// What a wrapped key belongs to, in a canonical encoding.
pub struct WrapContext(Vec<u8>);

impl WrapContext {
    /// Typed fields, in an order that the caller keeps (`["data key", ring id, key id]`).
    pub fn of(fields: &[Part<'_>]) -> Self {
        let mut bytes = Vec::with_capacity(96);
        fields.iter().for_each(|field| push(&mut bytes, Role::Field, *field));
        Self(bytes)
    }
}

/// The context of a record's data key: the value's own binding.
pub(crate) fn record_context(binding: &Binding) -> WrapContext {
    WrapContext(binding.encoded().to_vec())
}

/// Wraps data keys under a data key.
pub struct KeyWrap {
    subkeys: SealingSubkeys,
}

impl KeyWrap {
    pub fn new(wrapping: &DataKey, key_id: KeyId) -> Self {
        Self { subkeys: SealingSubkeys::new(wrapping, key_id, Purpose::Wrap) }
    }

    pub fn key_id(&self) -> KeyId {
        self.subkeys.key_id()
    }

    /// 108 bytes.
    pub fn wrap(&self, key: &DataKey, context: &WrapContext) -> Result<Vec<u8>> {
        let subkey = self.subkeys.reserve(1, KEY_LEN as u64)?;
        let mut room = [0; NONCE_LEN];
        wrap_under(subkey, key, context, &mut Nonces::draw(&mut room)?)
    }
}

/// Unwraps what a [`KeyWrap`] of the same key has wrapped.
pub struct KeyUnwrap {
    subkeys: OpeningSubkeys,
}

impl KeyUnwrap {
    pub fn new(wrapping: &DataKey, key_id: KeyId) -> Self {
        Self::with_subkeys(wrapping, key_id, crate::open::DEFAULT_SUBKEYS)
    }

    pub(crate) fn with_subkeys(wrapping: &DataKey, key_id: KeyId, most: usize) -> Self {
        Self { subkeys: OpeningSubkeys::new(wrapping, key_id, Purpose::Wrap, most) }
    }

    /// Refuses what was changed, wrapped under another key, or wrapped for another context.
    pub fn unwrap(&self, wrapped: &[u8], context: &WrapContext) -> Result<DataKey> {
        let wrapped: &[u8; WRAPPED_KEY_LEN] = wrapped.try_into().map_err(|_| Error::UnwrapFailed)?;
        let (salt, rest) = take::<SALT_LEN>(wrapped)?;
        let (commitment, rest) = take::<COMMITMENT_LEN>(rest)?;
        let (nonce, body) = take::<NONCE_LEN>(rest)?;
        let subkey = self.subkeys.find(salt, commitment).map_err(refused)?;
        let mut key = Zeroizing::new(Vec::with_capacity(KEY_LEN + TAG_LEN));
        let data = associated(&subkey, context);
        subkey.cipher.open(nonce, &data, body, &mut key).map_err(refused)?;
        DataKey::from_slice(&mut key)
    }
}

pub(crate) fn wrap_under(
    subkey: &Subkey,
    key: &DataKey,
    context: &WrapContext,
    nonces: &mut Nonces<'_>,
) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(WRAPPED_KEY_LEN);
    out.extend_from_slice(&subkey.public);
    let data = associated(subkey, context);
    subkey.cipher.seal(nonces, &data, &mut out, key.bytes(), Padding::None)?;
    Ok(out)
}

fn associated(subkey: &Subkey, context: &WrapContext) -> Vec<u8> {
    [&subkey.public[..], &context.0].concat()
}

fn take<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8])> {
    bytes.split_first_chunk().ok_or(Error::UnwrapFailed)
}

fn refused(error: Error) -> Error {
    if error == Error::OpenFailed { Error::UnwrapFailed } else { error }
}
