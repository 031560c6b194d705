//! Blind indexes for equality.
//!
//! HMAC-SHA-256 of the normalised values under a key that is derived, for each set of columns and each index name, from
//! an index data key. That key is not the one that seals the columns, so it survives their rotation. What an index
//! reveals is equality, and with it frequencies; a truncated one reveals less and finds some rows too many, so a lookup
//! opens what it found and compares.

use aws_lc_rs::hmac;

use crate::binding::{Part, Role, push};
use crate::derive::{NO_SALT, Purpose, derive};
use crate::error::{Error, Result};
use crate::key::{DataKey, KeyId};
pub use crate::normalise::{Normaliser, VERSION as NORMALISER_VERSION};

/// First bytes of every index value: its generation, big-endian. Two generations live side by side while an index is
/// rotated, and are told apart by a prefix match.
pub const GENERATION_LEN: usize = 2;

/// What the policy says of a blind index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSpec {
    /// The ring's id.
    pub ring_id: String,
    /// Ids of the columns it covers, in order; one for a plain index.
    pub column_ids: Vec<String>,
    pub name: String,
    /// Applied in order to each value.
    pub normalise: Vec<Normaliser>,
    /// Bits kept of the 256, 8 to 256.
    pub bits: u16,
    /// A unique index keeps all bits: a truncated one refuses values that differ.
    pub unique: bool,
    /// Lookups cross tenants, so the tenant is not part of it.
    pub cross_tenant: bool,
    pub generation: u16,
}

/// A blind index made ready: it has its key. It cannot be printed or copied.
pub struct BlindIndex {
    key: hmac::Key,
    spec: IndexSpec,
}

impl BlindIndex {
    /// `index_key` is a data key that is used for indexes only.
    pub fn new(index_key: &DataKey, key_id: KeyId, spec: IndexSpec) -> Result<Self> {
        if !(8..=256).contains(&spec.bits) {
            return Err(Error::IndexBits(spec.bits));
        }
        if spec.unique && spec.bits != 256 {
            return Err(Error::IndexUniqueTruncated(spec.bits));
        }
        if spec.column_ids.is_empty() {
            return Err(Error::IndexColumns { columns: 0, values: 0 });
        }
        let derived = derive(index_key, key_id, Purpose::Index, &NO_SALT, &context(&spec))?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &*derived.key), spec })
    }

    pub fn spec(&self) -> &IndexSpec {
        &self.spec
    }

    /// Length in bytes of every value of this index.
    pub fn value_len(&self) -> usize {
        GENERATION_LEN + usize::from(self.spec.bits).div_ceil(8)
    }

    /// The index value of a row, or of a lookup: generation, then as many bits as are kept.
    ///
    /// One value for each column, in order. A row with a NULL among them has no index value: its index column is
    /// NULL too. `tenant` is there exactly when the index does not cross tenants; `None` then means a table without.
    pub fn compute(&self, tenant: Option<Part<'_>>, values: &[&str]) -> Result<Vec<u8>> {
        if values.len() != self.spec.column_ids.len() {
            return Err(Error::IndexColumns { columns: self.spec.column_ids.len(), values: values.len() });
        }
        if self.spec.cross_tenant && tenant.is_some() {
            return Err(Error::IndexTenant);
        }
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(128));
        if let Some(tenant) = tenant {
            push(&mut message, Role::Tenant, tenant);
        }
        for value in values {
            let value = zeroize::Zeroizing::new(self.normalise(value));
            push(&mut message, Role::IndexValue, Part::Text(&value));
        }
        Ok(self.cut(hmac::sign(&self.key, &message).as_ref()))
    }

    fn normalise(&self, value: &str) -> String {
        self.spec.normalise.iter().fold(value.to_owned(), |text, step| step.apply(&text))
    }

    fn cut(&self, tag: &[u8]) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.value_len());
        value.extend_from_slice(&self.spec.generation.to_be_bytes());
        value.extend_from_slice(&tag[..usize::from(self.spec.bits).div_ceil(8)]);
        let beyond = (8 - self.spec.bits % 8) % 8;
        if let Some(last) = value.last_mut() {
            *last &= 0xff << beyond;
        }
        value
    }
}

/// Everything that must agree for two values to be comparable, so that a policy that was changed without a new
/// generation finds nothing instead of something wrong.
fn context(spec: &IndexSpec) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    push(&mut out, Role::Ring, Part::Text(&spec.ring_id));
    spec.column_ids.iter().for_each(|id| push(&mut out, Role::Column, Part::Text(id)));
    push(&mut out, Role::IndexName, Part::Text(&spec.name));
    push(&mut out, Role::Field, Part::Int(i64::from(spec.generation)));
    push(&mut out, Role::Field, Part::Int(i64::from(NORMALISER_VERSION)));
    let steps: Vec<u8> = spec.normalise.iter().flat_map(|step| step.code()).collect();
    push(&mut out, Role::Field, Part::Bytes(&steps));
    push(&mut out, Role::Field, Part::Int(i64::from(spec.bits)));
    push(&mut out, Role::Field, Part::Int(i64::from(spec.cross_tenant)));
    out
}
