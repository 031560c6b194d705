//! Authenticating the catalog's data-key rows.
//!
//! A wrap alone proves nothing: anybody who may use a root key can wrap a key of their own. So each row carries a MAC
//! under a key of its ring, over everything in it, wraps and status included; the signed state commits to that key.

use enfold_core::binding::{Binding, Part};
use enfold_core::mac::RowMac;
use enfold_core::{DataKey, KeyId};

use crate::catalog::DataKeyRow;
use crate::events::SubjectTag;
use crate::hex::hex;
use crate::kms::{KeyMaterial, TenantTag, tag};
use crate::state::{KeyRef, RowAuthority};
use crate::{Code, Error, Result};

/// The ring's row-authentication key, made ready. It also makes the tags that stand for tenants.
pub(crate) struct RowKey {
    id: KeyId,
    mac: RowMac,
    tenants: KeyMaterial,
}

impl RowKey {
    pub(crate) fn new(key: &DataKey, id: KeyId) -> Result<Self> {
        let mac =
            RowMac::new(key, id).map_err(|e| crate::core_error(e, "cannot make a row-authentication key ready"))?;
        // A key of its own for tenants, so that a tag in a key service's log is never the tag of a row.
        let mut derived = mac.tag(&[Part::Text("tenant tag key")]);
        Ok(Self { id, mac, tenants: KeyMaterial::from_bytes(&mut derived) })
    }

    /// What the signed state says of this key.
    pub(crate) fn authority(&self) -> RowAuthority {
        let check = hex(&self.mac.check_value());
        RowAuthority { key: KeyRef(self.id), check }
    }

    /// Whether this is the key that the operators signed.
    pub(crate) fn is(&self, signed: &RowAuthority) -> bool {
        self.authority() == *signed
    }

    /// What stands for a tenant outside the application: a keyed hash.
    pub(crate) fn tenant(&self, tenant: Part<'_>) -> TenantTag {
        TenantTag::compute(&self.tenants, Binding::new("", "").tenant(Some(tenant)).encoded())
    }

    /// What stands in the log for whom a call is about: a keyed hash of the application's word for them.
    pub(crate) fn subject(&self, subject: &str) -> SubjectTag {
        SubjectTag::new(tag(&self.tenants, b"enfold/v1 subject tag\0", subject.as_bytes()))
    }

    /// Says that a root key has this id, for a description that is kept outside of the catalog.
    pub(crate) fn tag_root(&self, ring: &str, root: &str, id: KeyId) -> [u8; 32] {
        self.mac.tag(&root_fields(ring, root, id))
    }

    pub(crate) fn is_tag_of_root(&self, ring: &str, root: &str, id: KeyId, tag: &[u8]) -> bool {
        self.mac.verify(&root_fields(ring, root, id), tag).is_ok()
    }

    /// Says that a process with keys wrote this of an emergency.
    pub(crate) fn tag_emergency(&self, id: &str, document: &[u8]) -> [u8; 32] {
        self.mac.tag(&emergency_fields(id, document))
    }

    pub(crate) fn is_tag_of_emergency(&self, id: &str, document: &[u8], tag: &[u8]) -> bool {
        self.mac.verify(&emergency_fields(id, document), tag).is_ok()
    }

    pub(crate) fn tag(&self, row: &mut DataKeyRow) {
        row.mac = self.mac.tag(&fields(row)).to_vec();
    }

    pub(crate) fn verify(&self, row: &DataKeyRow) -> Result<()> {
        self.mac.verify(&fields(row), &row.mac).map_err(|_| {
            Error::new(Code::StateTampered, format!("data key `{}` in the catalog was changed by hand", row.id))
                .cause(format!("its row in ring `{}` is not the one that was authenticated", row.ring))
                .hint("restore the row from a backup of the catalog; `enfold doctor` lists every such row")
        })
    }
}

/// Begins with words that nothing else begins with.
fn emergency_fields<'a>(id: &'a str, document: &'a [u8]) -> [Part<'a>; 3] {
    [Part::Text("emergency"), Part::Text(id), Part::Bytes(document)]
}

/// Begins with words that no row begins with.
fn root_fields<'a>(ring: &'a str, root: &'a str, id: KeyId) -> [Part<'a>; 4] {
    [Part::Text("root key"), Part::Text(ring), Part::Text(root), Part::Uuid(*id.as_bytes())]
}

/// Everything in a row but the MAC. Versions and lengths cannot be confused: each field is typed and has its length. A row
/// with a customer's layer begins with other words, so the layer cannot be taken for a part of something else, nor away.
fn fields(row: &DataKeyRow) -> Vec<Part<'_>> {
    let mut fields = Vec::with_capacity(11 + 2 * row.wraps.len());
    match &row.customer {
        None => fields.push(Part::Text("data key")),
        Some(layer) => fields.extend([
            Part::Text("data key under a customer's key"),
            Part::Text(&layer.root),
            Part::Bytes(&layer.wrapped),
            Part::Bytes(&layer.sealed),
        ]),
    }
    fields.extend([
        Part::Text(&row.ring),
        Part::Uuid(*row.id.as_bytes()),
        Part::Text(row.purpose.as_str()),
        Part::Text(&row.scope),
        Part::Int(i64::from(row.version)),
        Part::Text(row.status.as_str()),
        Part::Int(row.created_ms),
    ]);
    for wrap in &row.wraps {
        fields.push(Part::Text(&wrap.root));
        fields.push(Part::Bytes(&wrap.wrapped));
    }
    fields
}
