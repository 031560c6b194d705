//! [`Codec`] over the columns of a policy: what the engine does to a row's values, with the keys of the policy.
//!
//! It owns the decisions (what is sealed already, what is somebody's text that only looks so, what goes to the error
//! table) and none of the keys: those are behind [`Cells`], which [`enfold::Column`] implements.

mod judge;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use enfold::policy::Lookalikes;
use enfold::{Beside, Code, Error, KeyId, Leaving, Result};
use enfold_core::{Form, Part, PayloadType};
use zeroize::Zeroizing;

use crate::codec::{Codec, Verdict};
use crate::model::{Goal, Storage, Target, TargetColumn, TargetIndex};
use crate::store::Row;

/// Where one value lives.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub tenant: Option<Part<'a>>,
    pub row: &'a [Part<'a>],
}

/// A value to seal, or stored bytes to open.
#[derive(Clone, Copy)]
pub struct CellItem<'a> {
    pub place: Place<'a>,
    pub bytes: &'a [u8],
    /// What stands beside stored bytes.
    pub beside: Beside<'a>,
}

/// The values that one blind index covers.
#[derive(Clone)]
pub struct IndexItem<'a> {
    pub place: Place<'a>,
    pub values: Vec<&'a [u8]>,
}

/// One column's keys, in batches: a result for each item, in order.
#[async_trait]
pub trait Cells: Send + Sync {
    /// Stored bytes, in the given form.
    async fn seal_many(&self, form: Form, payload: PayloadType, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>>;

    /// The reader of another product's format that takes stored bytes, with what stands beside them, for a value of its own; none where the column has
    /// none that does. By form alone, without a key.
    fn reader_of(&self, _form: Form, _stored: &[u8], _beside: Beside<'_>) -> Option<&str> {
        None
    }

    /// Values as a cell holds them in the format of this reader, which the column writes.
    async fn write_back_many(&self, _reader: &str, _form: Form, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>> {
        let none = || Error::new(Code::Internal, "a column without a writer was to be written in another format");
        items.iter().map(|_| Err(none())).collect()
    }

    /// The values of envelopes, and of what a reader recognises; never stored bytes for what does not open.
    async fn open_many(&self, form: Form, items: &[CellItem<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>>;

    /// The data keys that a re-encryption moves values away from.
    async fn former_keys(&self, leaving: &Leaving) -> Result<Arc<HashSet<KeyId>>>;

    /// The version of a data key, for marks beside what was sealed under it.
    async fn version_of(&self, key: KeyId) -> Result<u32> {
        Err(Error::new(Code::KeyNotFound, format!("data key `{key}` has no version")))
    }

    /// The values of an index, whose first column this is. Of the generation that the target names; where it names none, of all
    /// that live, the one in force first.
    async fn index_many(&self, index: &TargetIndex, items: &[IndexItem<'_>]) -> Vec<Result<Vec<Vec<u8>>>>;
}

/// A column of the policy as the codec uses it.
#[derive(Clone)]
pub struct Protected {
    pub cells: Arc<dyn Cells>,
    pub lookalikes: Lookalikes,
}

/// Judges rows by the columns of a policy.
pub struct ColumnCodec {
    columns: BTreeMap<String, Protected>,
}

impl ColumnCodec {
    /// `columns` by name, `table.column` as the policy names both. Not by id: an archive's columns may share one.
    pub fn new(columns: BTreeMap<String, Protected>) -> Self {
        Self { columns }
    }

    fn column(&self, target: &Target, at: usize) -> Result<&Protected> {
        let name = format!("{}.{}", target.policy_table, target.columns[at].name);
        self.columns.get(&name).ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("cannot convert `{name}`")).cause("the policy has no such column")
        })
    }
}

#[async_trait]
impl Codec for ColumnCodec {
    async fn judge(&self, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>> {
        judge::judge(self, goal, target, rows).await
    }

    async fn former_keys(&self, target: &Target) -> Result<Vec<KeyId>> {
        let mut keys = HashSet::new();
        for at in 0..target.columns.len() {
            keys.extend(self.column(target, at)?.cells.former_keys(&target.leaving).await?.iter());
        }
        Ok(keys.into_iter().collect())
    }
}

impl Storage {
    /// The form of an envelope in such a column.
    pub fn form(self) -> Form {
        match self {
            Storage::Text => Form::Text,
            Storage::Bytes => Form::Bytes,
            Storage::Json => Form::Json,
        }
    }

    /// What a value of such a column is, inside the envelope.
    pub fn payload(self) -> PayloadType {
        match self {
            Storage::Text => PayloadType::Text,
            Storage::Bytes => PayloadType::Bytes,
            Storage::Json => PayloadType::Json,
        }
    }
}

impl TargetColumn {
    /// What a value of it is, inside the envelope. Of a source it is what the database prints.
    pub fn payload(&self) -> PayloadType {
        if self.shadow.is_some() { PayloadType::Text } else { self.storage.payload() }
    }
}

/// Whether an error is about one value, so that the other rows of the batch can go on.
pub(crate) fn concerns_one_row(code: Code) -> bool {
    matches!(
        code,
        Code::EnvelopeMalformed
            | Code::EnvelopeNewer
            | Code::OpenFailed
            | Code::KeyNotFound
            | Code::KeyDisabled
            | Code::KeyDestroyed
            // One tenant's rows: what a customer withdrew must not stop the others.
            | Code::CustomerKeyRefused
            | Code::WrapInvalid
            | Code::PlaintextRefused
            | Code::PlaintextFound
            | Code::ValueTooLarge
            | Code::ValueInvalid
            | Code::BindingIncomplete
    )
}
