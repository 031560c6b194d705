//! What an envelope is authenticated with besides its own header.
//!
//! The encoding is canonical: each part is its role, its type, its length and its bytes, so two bindings are equal as
//! bytes exactly when they are equal as places.

/// One typed part of a binding (a tenant, a component of a row key). Types are part of the encoding: the text `7` and
/// the integer 7 bind differently.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    Text(&'a str),
    Int(i64),
    Uuid([u8; 16]),
    Bytes(&'a [u8]),
}

impl Part<'_> {
    pub fn to_owned(&self) -> OwnedPart {
        match *self {
            Part::Text(s) => OwnedPart::Text(s.to_owned()),
            Part::Int(n) => OwnedPart::Int(n),
            Part::Uuid(u) => OwnedPart::Uuid(u),
            Part::Bytes(b) => OwnedPart::Bytes(b.to_vec()),
        }
    }
}

/// A [`Part`] that owns what it holds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum OwnedPart {
    Text(String),
    Int(i64),
    Uuid([u8; 16]),
    Bytes(Vec<u8>),
}

impl OwnedPart {
    pub fn as_part(&self) -> Part<'_> {
        match self {
            OwnedPart::Text(s) => Part::Text(s),
            OwnedPart::Int(n) => Part::Int(*n),
            OwnedPart::Uuid(u) => Part::Uuid(*u),
            OwnedPart::Bytes(b) => Part::Bytes(b),
        }
    }
}

/// What a part says. The numbers are in the format; never reuse one.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Ring = 1,
    Column = 2,
    Tenant = 3,
    RowKey = 4,
    /// The name of a blind index.
    IndexName = 5,
    /// A value that a blind index covers.
    IndexValue = 6,
    /// A field of something that is authenticated or wrapped and is not a value.
    Field = 7,
}

/// The place a value lives in: ring, column id, tenant, row key.
///
/// It owns its canonical encoding. A binding may be kept and given other tenants and row keys with
/// [`Binding::set_place`] and [`Binding::set_row`], which reuse its memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    bytes: Vec<u8>,
    /// Where the tenant begins.
    tenant: usize,
    /// Where the row key begins.
    row: usize,
}

impl Binding {
    /// `ring_id` and `column_id` are the ids of the policy, not names.
    pub fn new(ring_id: &str, column_id: &str) -> Self {
        let mut bytes = Vec::with_capacity(128);
        push(&mut bytes, Role::Ring, Part::Text(ring_id));
        push(&mut bytes, Role::Column, Part::Text(column_id));
        let tenant = bytes.len();
        Self { bytes, tenant, row: tenant }
    }

    /// Another place of the same ring and column, for whoever makes many.
    #[must_use]
    pub fn elsewhere(&self, tenant: Option<Part<'_>>, row_key: &[Part<'_>]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&self.bytes[..self.tenant]);
        let mut place = Self { bytes, tenant: self.tenant, row: self.tenant };
        place.set_place(tenant, row_key);
        place
    }

    /// Binds to a tenant, or to none, which is a place of its own.
    #[must_use]
    pub fn tenant(mut self, tenant: Option<Part<'_>>) -> Self {
        let row_key = self.bytes.split_off(self.row);
        self.set_place(tenant, &[]);
        self.bytes.extend_from_slice(&row_key);
        self
    }

    /// Binds to a row, whose key may have several components, in their order; to no row when there are none.
    #[must_use]
    pub fn row_key(mut self, components: &[Part<'_>]) -> Self {
        self.set_row(components);
        self
    }

    /// Replaces tenant and row key and keeps the memory: for the next row of the same column.
    pub fn set_place(&mut self, tenant: Option<Part<'_>>, row_key: &[Part<'_>]) {
        self.bytes.truncate(self.tenant);
        if let Some(part) = tenant {
            push(&mut self.bytes, Role::Tenant, part);
        }
        self.row = self.bytes.len();
        self.set_row(row_key);
    }

    /// Replaces the row key and keeps the memory.
    pub fn set_row(&mut self, components: &[Part<'_>]) {
        self.bytes.truncate(self.row);
        components.iter().for_each(|part| push(&mut self.bytes, Role::RowKey, *part));
    }

    /// The tenant's part of the encoding, empty where there is none: the same bytes exactly for the same tenant.
    pub fn encoded_tenant(&self) -> &[u8] {
        &self.bytes[self.tenant..self.row]
    }

    /// The canonical encoding, as it enters the associated data.
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }
}

/// Role (1 byte), type (1), length (8, big-endian), bytes.
///
/// The length has 8 bytes so that no length that a slice can have needs a check.
pub(crate) fn push(out: &mut Vec<u8>, role: Role, part: Part<'_>) {
    let int;
    let (kind, bytes): (u8, &[u8]) = match &part {
        Part::Text(s) => (1, s.as_bytes()),
        Part::Int(n) => {
            int = n.to_be_bytes();
            (2, &int)
        }
        Part::Uuid(u) => (3, u),
        Part::Bytes(b) => (4, b),
    };
    out.extend_from_slice(&[role as u8, kind]);
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}
