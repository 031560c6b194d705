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

impl IndexSpec {
    /// Length in bytes of every value of this index.
    pub fn value_len(&self) -> usize {
        GENERATION_LEN + usize::from(self.bits).div_ceil(8)
    }
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
        self.spec.value_len()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> IndexSpec {
        IndexSpec {
            ring_id: "main".into(),
            column_ids: vec!["users.email".into()],
            name: "eq".into(),
            normalise: vec![Normaliser::Lower],
            bits: 256,
            unique: true,
            cross_tenant: false,
            generation: 1,
        }
    }

    fn index(key: u8, spec: IndexSpec) -> Result<BlindIndex> {
        BlindIndex::new(&DataKey::from_bytes(&mut [key; 32]), KeyId::from_bytes([2; 16]), spec)
    }

    fn value(key: u8, spec: IndexSpec) -> Vec<u8> {
        let columns = spec.column_ids.len();
        index(key, spec).unwrap().compute(None, &vec!["anna"; columns]).unwrap()
    }

    #[test]
    fn whatever_must_agree_makes_another_index_when_it_does_not() {
        let others = [
            IndexSpec { ring_id: "other".into(), ..spec() },
            IndexSpec { column_ids: vec!["users.phone".into()], ..spec() },
            IndexSpec { column_ids: vec!["users.email".into(), "users.phone".into()], ..spec() },
            IndexSpec { name: "login".into(), ..spec() },
            IndexSpec { normalise: vec![], ..spec() },
            IndexSpec { normalise: vec![Normaliser::Lower, Normaliser::Trim], ..spec() },
            IndexSpec { normalise: vec![Normaliser::LastN(4)], ..spec() },
            IndexSpec { normalise: vec![Normaliser::LastN(5)], ..spec() },
            IndexSpec { bits: 248, unique: false, ..spec() },
            IndexSpec { cross_tenant: true, ..spec() },
            IndexSpec { generation: 2, ..spec() },
        ];
        let mut seen: Vec<Vec<u8>> = others.into_iter().map(|other| value(1, other)).collect();
        seen.push(value(1, spec()));
        seen.push(value(3, spec()));
        // Without the generation in front and cut to one length, so that the HMACs are compared.
        let mut cut: Vec<&[u8]> = seen.iter().map(|value| &value[GENERATION_LEN..GENERATION_LEN + 31]).collect();
        cut.sort_unstable();
        cut.dedup();
        assert_eq!(cut.len(), seen.len());
        assert_eq!(
            value(1, spec()),
            value(1, IndexSpec { unique: false, ..spec() }),
            "unique says nothing of the value"
        );
    }

    #[test]
    fn a_truncated_index_keeps_its_bits_and_no_more() {
        for (bits, len) in [(8, 1), (9, 2), (12, 2), (255, 32), (256, 32)] {
            let spec = IndexSpec { bits, unique: false, generation: 513, ..spec() };
            let value = value(1, spec);
            assert_eq!(value.len(), GENERATION_LEN + len);
            assert_eq!(value[..GENERATION_LEN], [2, 1]);
            let beyond = u32::try_from(len * 8).unwrap() - u32::from(bits);
            assert!(value[value.len() - 1].trailing_zeros() >= beyond, "{bits} bits");
        }
    }

    #[test]
    fn an_index_that_cannot_be_is_refused() {
        for bits in [0, 7, 257] {
            assert_eq!(index(1, IndexSpec { bits, ..spec() }).err(), Some(Error::IndexBits(bits)));
        }
        assert_eq!(index(1, IndexSpec { bits: 255, ..spec() }).err(), Some(Error::IndexUniqueTruncated(255)));
        let none = IndexSpec { column_ids: vec![], ..spec() };
        assert_eq!(index(1, none).err(), Some(Error::IndexColumns { columns: 0, values: 0 }));
    }

    #[test]
    fn a_call_that_does_not_fit_the_index_is_refused() {
        let one = index(1, spec()).unwrap();
        assert_eq!(one.compute(None, &[]), Err(Error::IndexColumns { columns: 1, values: 0 }));
        assert_eq!(one.compute(None, &["a", "b"]), Err(Error::IndexColumns { columns: 1, values: 2 }));
        let across = index(1, IndexSpec { cross_tenant: true, ..spec() }).unwrap();
        assert_eq!(across.compute(Some(Part::Int(1)), &["a"]), Err(Error::IndexTenant));
    }
}
