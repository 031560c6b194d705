//! What a wrap is authenticated with, and what the key service's own log will show.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;

use super::material::KeyMaterial;
use crate::error::{Code, Error, Result};
use crate::hex::hex;

/// Name-value pairs that a wrapped key is bound to: the same pairs must be given to unwrap it.
///
/// They travel in the clear and end in the key service's log, and rights can be conditioned on them (AWS:
/// `kms:EncryptionContext:enfold:ring`). So nothing secret belongs in them, and a tenant enters as a [`TenantTag`] only.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct EncryptionContext {
    pairs: BTreeMap<String, String>,
}

impl EncryptionContext {
    /// The ring's id.
    pub const RING: &'static str = "enfold:ring";
    /// The scope of the data key: `record`, `tenant`, `column` or `ring`.
    pub const SCOPE: &'static str = "enfold:scope";
    /// The data key's id.
    pub const DATA_KEY: &'static str = "enfold:data-key";
    /// What the key is for, where it is not one that seals values (`index`, `rows`).
    pub const PURPOSE: &'static str = "enfold:purpose";
    /// The tenant's tag.
    pub const TENANT: &'static str = "enfold:tenant";
    /// Which layer of a data key that a customer's root key guards as well: `ours` or `customer`.
    pub const LAYER: &'static str = "enfold:layer";
    /// The customer's root key, where two layers are put over a data key; in no call.
    pub(crate) const CUSTOMER_KEY: &'static str = "enfold:customer-key";

    /// AWS KMS takes at most 8,192 characters of the context written as JSON (API reference, `Encrypt`); other
    /// services take more. Counted here as the bytes of names and values with 6 for quotes, colon and comma each.
    const MAX_BYTES: usize = 8192;

    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one of Enfold's own pairs. Refuses a name that is there already, and control characters.
    pub fn with(mut self, name: &str, value: &str) -> Result<Self> {
        self.insert(name, value)?;
        Ok(self)
    }

    /// Adds a tenant by its tag.
    pub fn with_tenant(self, tag: &TenantTag) -> Result<Self> {
        self.with(Self::TENANT, &tag.0)
    }

    /// Adds the ring's labels under their own names, so that rights can be conditioned on them. Names that begin with
    /// `enfold:` or `aws:` are refused: those are taken.
    pub fn with_labels<'a>(mut self, labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Self> {
        for (name, value) in labels {
            if name.starts_with("enfold:") {
                return Err(invalid(name, "names that begin with `enfold:` are Enfold's own"));
            }
            self.insert(name, value)?;
        }
        Ok(self)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.get(name).map(String::as_str)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// One byte string for each context and one context for each byte string: the number of pairs, then each name and
    /// each value behind its length, all 32-bit big-endian. For providers that authenticate the context themselves.
    pub fn canonical(&self) -> Vec<u8> {
        // `insert` keeps the whole context under 8,192 bytes, so no length here can pass 32 bits.
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes();
        let mut out = Vec::with_capacity(64 * self.pairs.len() + 4);
        out.extend_from_slice(&length(self.pairs.len()));
        for (name, value) in &self.pairs {
            out.extend_from_slice(&length(name.len()));
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&length(value.len()));
            out.extend_from_slice(value.as_bytes());
        }
        out
    }

    fn insert(&mut self, name: &str, value: &str) -> Result<()> {
        if name.is_empty() || value.is_empty() {
            return Err(invalid(name, "neither the name nor the value may be empty"));
        }
        if name.starts_with("aws:") {
            return Err(invalid(name, "names that begin with `aws:` are the key service's own"));
        }
        if name.chars().chain(value.chars()).any(char::is_control) {
            return Err(invalid(name, "control characters are not allowed"));
        }
        if self.pairs.contains_key(name) {
            return Err(invalid(name, "it is there already"));
        }
        let used: usize = self.pairs.iter().map(|(n, v)| n.len() + v.len() + 6).sum();
        if used + name.len() + value.len() + 6 > Self::MAX_BYTES {
            return Err(invalid(name, "the context would pass 8192 bytes"));
        }
        self.pairs.insert(name.to_owned(), value.to_owned());
        Ok(())
    }
}

/// Names only: a label's value is the policy's business, not the log's.
impl std::fmt::Debug for EncryptionContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.pairs.keys()).finish()
    }
}

/// The first half of a keyed hash, in hex. One key makes tags of several kinds; the prefix keeps them apart.
pub(crate) fn tag(key: &KeyMaterial, prefix: &[u8], bytes: &[u8]) -> String {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    mac.update(prefix);
    mac.update(bytes);
    hex(&mac.sign().as_ref()[..TenantTag::LEN / 2])
}

/// A tenant as the key service's log may see it: HMAC-SHA-256 under a key of the ring, the first 128 bits in hex.
///
/// There is no other way to make one, so a tenant in the clear cannot get into a context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantTag(String);

impl TenantTag {
    /// Characters of a tag.
    pub const LEN: usize = 32;

    /// `tenant`: the binding's canonical bytes of the tenant.
    pub fn compute(key: &KeyMaterial, tenant: &[u8]) -> Self {
        Self(tag(key, b"enfold/v1 tenant tag\0", tenant))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn invalid(name: &str, why: &str) -> Error {
    // A name with control characters would forge log lines; `escape_debug` writes them out.
    let name = name.escape_debug();
    Error::new(Code::PolicyInvalid, format!("cannot use `{name}` in an encryption context")).cause(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs.iter().fold(EncryptionContext::new(), |c, (n, v)| c.with(n, v).unwrap())
    }

    #[test]
    fn order_of_insertion_does_not_matter() {
        assert_eq!(context(&[("a", "1"), ("b", "2")]).canonical(), context(&[("b", "2"), ("a", "1")]).canonical());
    }

    #[test]
    fn moving_a_border_between_name_and_value_changes_the_canonical_bytes() {
        assert_ne!(context(&[("ab", "c")]).canonical(), context(&[("a", "bc")]).canonical());
        assert_ne!(context(&[("a", "1"), ("b", "2")]).canonical(), context(&[("a", "1b2")]).canonical());
    }

    #[test]
    fn reserved_double_empty_and_control_names_are_refused() {
        let labels = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        for name in ["enfold:ring", "aws:arn", "", "a\nb"] {
            let error = EncryptionContext::new().with_labels(&labels(name)).unwrap_err();
            assert_eq!(error.code(), Code::PolicyInvalid, "{name:?}");
            assert!(!error.to_string().contains('\n'));
        }
        assert!(context(&[("a", "1")]).with("a", "1").is_err());
        assert!(EncryptionContext::new().with("a", "").is_err());
    }

    #[test]
    fn a_context_that_aws_would_refuse_for_its_size_is_refused_here() {
        assert!(EncryptionContext::new().with("a", &"x".repeat(8185)).is_ok());
        assert!(EncryptionContext::new().with("a", &"x".repeat(8186)).is_err());
    }

    #[test]
    fn a_tenant_is_in_the_context_only_as_a_keyed_hash() {
        let (mut one, mut two) = ([1; 32], [2; 32]);
        let (one, two) = (KeyMaterial::from_bytes(&mut one), KeyMaterial::from_bytes(&mut two));
        let tag = TenantTag::compute(&one, b"acme");
        assert_eq!(tag, TenantTag::compute(&one, b"acme"));
        assert_ne!(tag, TenantTag::compute(&two, b"acme"), "another ring's key gives another tag");
        assert_ne!(tag, TenantTag::compute(&one, b"acmf"));
        let context = EncryptionContext::new().with_tenant(&tag).unwrap();
        let value = context.get(EncryptionContext::TENANT).unwrap();
        assert_eq!(value.len(), 32);
        assert!(value.bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
