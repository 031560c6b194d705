//! Rows: the statement that reads them, what identifies a version, and how a row becomes the engine's.

use aws_lc_rs::digest::{Context, SHA256};
use enfold::Result;
use enfold_core::binding::OwnedPart;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension};

use crate::model::{Storage, Target};
use crate::sqlite::names::{printed, quote, same};
use crate::sqlite::prune;
use crate::sqlite::shape::Shape;
use crate::store::{Row, RowVersion};

/// How to read the rows of one target: a column list and what stands where in it.
///
/// The list begins with the row id; then come the *versioned* columns (converted, index, those beside values, tenant, bound), whose exact
/// stored bytes make the digest; then those that only name the row to a person.
pub(super) struct Reader {
    pub(super) rowid: String,
    pub(super) table: String,
    list: String,
    versioned: usize,
    cells: usize,
    indexed: usize,
    beside: usize,
    tenant: bool,
    row_key: usize,
    /// Names for the label; empty: the row id.
    key: Vec<String>,
    /// Of a pruning: which rows there are at all, those that go, as a condition on `t`.
    pub(super) doomed: Option<String>,
}

impl Reader {
    pub(super) fn new(connection: &Connection, target: &Target) -> Result<Self> {
        let shape = Shape::read(connection, &target.table.table)?;
        let rowid = shape.rowid()?;
        // A key that is itself converted would print values.
        let printable = !target.key.iter().any(|k| target.columns.iter().any(|c| same(&c.name, k)));
        let key = if printable { target.key.clone() } else { Vec::new() };
        let versioned: Vec<&String> = target
            .columns
            .iter()
            .map(|c| &c.name)
            .chain(target.indexes.iter().map(|i| &i.column))
            .chain(target.companions())
            .chain(&target.tenant)
            .chain(&target.row_key)
            .collect();
        for name in versioned.iter().copied().chain(&key) {
            shape.require(name)?;
        }
        let list = versioned.iter().copied().chain(&key).map(|c| format!(", {}", quote(c))).collect::<String>();
        Ok(Self {
            list: format!("{rowid}{list}"),
            rowid,
            table: quote(&shape.name),
            versioned: versioned.len(),
            cells: target.columns.len(),
            indexed: target.indexes.len(),
            beside: target.companions().count(),
            tenant: target.tenant.is_some(),
            row_key: target.row_key.len(),
            key,
            doomed: target.prune.as_ref().map(|rule| prune::condition(rule, &shape)).transpose()?,
        })
    }

    pub(super) fn range_sql(&self) -> String {
        let Self { list, table, rowid, .. } = self;
        let wanted = self.wanted();
        format!("SELECT {list} FROM {table} t WHERE {rowid} BETWEEN ?1 AND ?2 AND {wanted} ORDER BY {rowid} LIMIT ?3")
    }

    pub(super) fn row_sql(&self) -> String {
        let Self { list, table, rowid, .. } = self;
        format!("SELECT {list} FROM {table} t WHERE {rowid} = ?1 AND {}", self.wanted())
    }

    fn wanted(&self) -> &str {
        self.doomed.as_deref().map_or("1", |doomed| doomed)
    }

    /// The row as the engine sees it.
    pub(super) fn row(&self, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
        let rowid = row.get(0)?;
        let mut digest = Digest::new();
        for i in 0..self.versioned {
            digest.add(row.get_ref(1 + i)?);
        }
        let mut at = 1..;
        let mut take = |n: usize| at.by_ref().take(n).collect::<Vec<usize>>();
        let bytes = |i: usize| row.get_ref(i).map(cell_bytes);
        let cells = take(self.cells).into_iter().map(bytes).collect::<rusqlite::Result<_>>()?;
        let indexed = take(self.indexed).into_iter().map(bytes).collect::<rusqlite::Result<_>>()?;
        let beside = take(self.beside).into_iter().map(bytes).collect::<rusqlite::Result<_>>()?;
        let tenant = match take(usize::from(self.tenant)).first() {
            Some(i) => part(row.get_ref(*i)?),
            None => None,
        };
        // A key part that cannot be bound (NULL, a floating-point number) is left out: a binding that is too short is
        // refused by whoever seals.
        let mut row_key = Vec::with_capacity(self.row_key);
        for i in take(self.row_key) {
            row_key.extend(part(row.get_ref(i)?));
        }
        let label = self.label(row, rowid)?;
        Ok(Row {
            version: RowVersion::Digest { rowid, digest: digest.finish() },
            label,
            origins: Vec::new(),
            cells,
            indexed,
            beside,
            tenant,
            row_key,
        })
    }

    /// The exact values of the versioned columns of a row, by row id.
    pub(super) fn versioned(&self, connection: &Connection, rowid: i64) -> rusqlite::Result<Option<Vec<Stored>>> {
        let mut statement = connection.prepare_cached(&self.row_sql())?;
        statement
            .query_row([rowid], |row| (0..self.versioned).map(|i| row.get_ref(1 + i).map(Stored::from)).collect())
            .optional()
    }

    /// The digest of a row as it is now, without a copy of it.
    pub(super) fn digest(&self, connection: &Connection, rowid: i64) -> rusqlite::Result<Option<[u8; 32]>> {
        let mut statement = connection.prepare_cached(&self.row_sql())?;
        statement
            .query_row([rowid], |row| {
                let mut digest = Digest::new();
                for i in 0..self.versioned {
                    digest.add(row.get_ref(1 + i)?);
                }
                Ok(digest.finish())
            })
            .optional()
    }

    fn label(&self, row: &rusqlite::Row<'_>, rowid: i64) -> rusqlite::Result<String> {
        if self.key.is_empty() {
            return Ok(format!("rowid={rowid}"));
        }
        let mut parts = Vec::with_capacity(self.key.len());
        for (i, name) in self.key.iter().enumerate() {
            parts.push(format!("{name}={}", printed(row.get_ref(1 + self.versioned + i)?)));
        }
        Ok(parts.join(","))
    }
}

/// A value with its storage class. rusqlite's own owned type cannot hold a text that is not UTF-8; this one can.
#[derive(Clone, PartialEq)]
pub(super) enum Stored {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Stored {
    /// `bytes` as they are stored in a column of that storage.
    pub(super) fn of(storage: Storage, bytes: Option<&[u8]>) -> Self {
        match (storage, bytes) {
            (_, None) => Self::Null,
            (Storage::Text | Storage::Json, Some(bytes)) => Self::Text(bytes.to_vec()),
            (Storage::Bytes, Some(bytes)) => Self::Blob(bytes.to_vec()),
        }
    }

    /// Whether a column of that storage may hold this value. Anything else would come back as another type.
    pub(super) fn fits(&self, storage: Storage) -> bool {
        match self {
            Self::Null => true,
            Self::Text(_) => storage != Storage::Bytes,
            Self::Blob(_) => storage == Storage::Bytes,
            Self::Integer(_) | Self::Real(_) => false,
        }
    }

    /// SQLite's word for the storage class.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) => "INTEGER",
            Self::Real(_) => "REAL",
            Self::Text(_) => "TEXT",
            Self::Blob(_) => "BLOB",
        }
    }

    fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(n) => ValueRef::Integer(*n),
            Self::Real(x) => ValueRef::Real(*x),
            Self::Text(bytes) => ValueRef::Text(bytes),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

impl Drop for Stored {
    /// It may be plaintext.
    fn drop(&mut self) {
        if let Self::Text(bytes) | Self::Blob(bytes) = self {
            zeroize::Zeroize::zeroize(bytes);
        }
    }
}

impl From<ValueRef<'_>> for Stored {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(n) => Self::Integer(n),
            ValueRef::Real(x) => Self::Real(x),
            ValueRef::Text(bytes) => Self::Text(bytes.to_vec()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

impl ToSql for Stored {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_ref()))
    }
}

/// What identifies the version of a row that was read.
pub(super) fn digest_of(values: &[Stored]) -> [u8; 32] {
    let mut digest = Digest::new();
    for value in values {
        digest.add(value.as_ref());
    }
    digest.finish()
}

/// SHA-256 over storage classes, lengths and bytes: the text `1`, the blob `1` and the number 1 are three versions.
struct Digest(Context);

impl Digest {
    fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    fn add(&mut self, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => self.part(0, &[]),
            ValueRef::Integer(n) => self.part(1, &n.to_le_bytes()),
            ValueRef::Real(x) => self.part(2, &x.to_bits().to_le_bytes()),
            ValueRef::Text(bytes) => self.part(3, bytes),
            ValueRef::Blob(bytes) => self.part(4, bytes),
        }
    }

    fn part(&mut self, class: u8, bytes: &[u8]) {
        self.0.update(&[class]);
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

/// The bytes of a cell. Numbers are given as they print: they count as plaintext, and `write` refuses to change them.
pub(in crate::sqlite) fn cell_bytes(value: ValueRef<'_>) -> Option<Vec<u8>> {
    match value {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes.to_vec()),
        ValueRef::Integer(n) => Some(n.to_string().into_bytes()),
        ValueRef::Real(x) => Some(x.to_string().into_bytes()),
    }
}

/// A tenant or a key as a part of a binding, by its storage class; NULL and floating-point numbers are none.
fn part(value: ValueRef<'_>) -> Option<OwnedPart> {
    match value {
        ValueRef::Integer(n) => Some(OwnedPart::Int(n)),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok().map(|text| OwnedPart::Text(text.to_owned())),
        ValueRef::Blob(bytes) => Some(OwnedPart::Bytes(bytes.to_vec())),
        ValueRef::Null | ValueRef::Real(_) => None,
    }
}
