//! What a data key covers, as text: in the catalog, in the signed state, in the key service's context.

use std::fmt;
use std::str::FromStr;

use enfold_core::index::IndexSpec;

use crate::kms::{EncryptionContext, TenantTag};
use crate::{Code, Error, Result};

/// `ring`, `record`, `column:ID`, `tenant@TAG`, `index:IDS/NAME`, `index:IDS/NAME@TAG`, `rows`, `cache`. A tenant is in it as its
/// keyed hash only. From its second generation on a blind index has the generation in its scope, `index.2:IDS/NAME`: each has
/// a key of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(String);

impl ScopeId {
    /// One data key for the whole ring.
    pub fn ring() -> Self {
        Self("ring".into())
    }

    /// The tag of the tenant whose a scope is; none where it covers several.
    pub fn tenant_tag(&self) -> Option<&str> {
        tenant_tag(&self.0)
    }

    /// The ring's data key that wraps those of records.
    pub fn record() -> Self {
        Self("record".into())
    }

    pub fn column(id: &str) -> Self {
        Self(format!("column:{id}"))
    }

    pub fn tenant(tag: &TenantTag) -> Self {
        Self(format!("tenant@{}", tag.as_str()))
    }

    /// A generation of a blind index over columns, for one tenant or across them.
    pub fn index(spec: &IndexSpec, tenant: Option<&TenantTag>) -> Self {
        let tag = tenant.map(|t| format!("@{}", t.as_str())).unwrap_or_default();
        let generation = if spec.generation == 1 { String::new() } else { format!(".{}", spec.generation) };
        Self(format!("index{generation}:{}{tag}", index_id(&spec.column_ids, &spec.name)))
    }

    /// The key that authenticates the ring's rows.
    pub fn rows() -> Self {
        Self("rows".into())
    }

    /// The key that seals the ring's entries in the shared cache.
    pub fn cache() -> Self {
        Self("cache".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// From the spelling of the catalog, for commands that name a scope they have read there.
impl FromStr for ScopeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let kind = kind(text.split([':', '@']).next().unwrap_or_default());
        if ["ring", "record", "column", "tenant", "index", "rows", "cache"].contains(&kind) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(Code::Usage, "a scope is `ring`, `record`, `column:ID` or `tenant@TAG`"))
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A blind index in signed states, and in scopes: `IDS/NAME`.
pub(crate) fn index_id(column_ids: &[String], name: &str) -> String {
    format!("{}/{name}", column_ids.join("+"))
}

/// Of which generation of this blind index a scope is; none where it is another's.
pub(crate) fn index_generation(scope: &str, index: &str) -> Option<u16> {
    let (kind, body) = scope.split_once(':')?;
    let body = tenant_tag(body).map_or(body, |tag| &body[..body.len() - tag.len() - 1]);
    let generation = kind.strip_prefix("index").filter(|_| body == index)?;
    if generation.is_empty() { Some(1) } else { generation.strip_prefix('.')?.parse().ok() }
}

/// Without the generation of an index.
fn kind(text: &str) -> &str {
    text.split_once('.').map_or(text, |(kind, _)| kind)
}

/// The tag of the tenant whose a scope is; none where it covers several.
pub(crate) fn tenant_tag(scope: &str) -> Option<&str> {
    let (_, tag) = scope.rsplit_once('@')?;
    // An id of a column may have the mark in it as well.
    (tag.len() == TenantTag::LEN && tag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(tag)
}

/// Adds a scope in its spelling to a key service's context: its kind, and the tenant's tag by its own name, so that
/// rights can be conditioned on either.
pub(crate) fn into_context(scope: &str, context: EncryptionContext) -> Result<EncryptionContext> {
    let (body, tag) = match scope.rsplit_once('@') {
        Some((body, tag)) => (body, Some(tag)),
        None => (scope, None),
    };
    let kind = kind(body.split_once(':').map_or(body, |(kind, _)| kind));
    let context = context.with(EncryptionContext::SCOPE, kind)?;
    match tag {
        Some(tag) => context.with(EncryptionContext::TENANT, tag),
        None => Ok(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::KeyMaterial;

    #[test]
    fn the_generation_of_an_index_is_in_its_scope_and_not_in_what_the_key_service_sees() {
        let mut spec = IndexSpec {
            ring_id: "r1".into(),
            column_ids: vec!["u:1".into(), "u2".into()],
            name: "eq".into(),
            normalise: vec![],
            bits: 256,
            unique: true,
            cross_tenant: true,
            generation: 1,
        };
        let id = index_id(&spec.column_ids, &spec.name);
        assert_eq!(ScopeId::index(&spec, None).as_str(), "index:u:1+u2/eq");
        spec.generation = 12;
        let tag = TenantTag::compute(&KeyMaterial::from_bytes(&mut [7; 32]), b"acme");
        for tag in [None, Some(&tag)] {
            let scope = ScopeId::index(&spec, tag);
            assert_eq!(scope.as_str().parse::<ScopeId>().unwrap(), scope);
            assert_eq!(index_generation(scope.as_str(), &id), Some(12));
            assert_eq!(index_generation(scope.as_str(), "u2/eq"), None);
            let context = into_context(scope.as_str(), EncryptionContext::default()).unwrap();
            assert_eq!(context.get(EncryptionContext::SCOPE), Some("index"));
        }
        assert_eq!(index_generation("column:u:1+u2/eq", &id), None);
    }
}
