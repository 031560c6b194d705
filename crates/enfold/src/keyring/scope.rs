//! What a data key covers, as text: in the catalog, in the signed state, in the key service's context.

use std::fmt;
use std::str::FromStr;

use crate::kms::{EncryptionContext, TenantTag};
use crate::{Code, Error, Result};

/// `ring`, `record`, `column:ID`, `tenant@TAG`, `index:IDS/NAME`, `index:IDS/NAME@TAG`, `rows`, `cache`. A tenant is in it as its
/// keyed hash only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScopeId(String);

impl ScopeId {
    /// One data key for the whole ring.
    pub fn ring() -> Self {
        Self("ring".into())
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

    /// A blind index over columns, for one tenant or across them.
    pub fn index(column_ids: &[String], name: &str, tenant: Option<&TenantTag>) -> Self {
        let tag = tenant.map(|t| format!("@{}", t.as_str())).unwrap_or_default();
        Self(format!("index:{}/{name}{tag}", column_ids.join("+")))
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
        let kind = text.split([':', '@']).next().unwrap_or_default();
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
    let kind = body.split_once(':').map_or(body, |(kind, _)| kind);
    let context = context.with(EncryptionContext::SCOPE, kind)?;
    match tag {
        Some(tag) => context.with(EncryptionContext::TENANT, tag),
        None => Ok(context),
    }
}
