//! What a sweep does to a row, without knowing the database: rows in, changes out.

use async_trait::async_trait;
use enfold::{KeyId, Result};

use crate::model::{Goal, RowError, Target};
use crate::store::{Change, Row};

/// What is to be done with one row.
pub enum Verdict {
    /// It satisfies the goal already.
    Satisfied,
    /// Some of it can be converted, or all: [`Change::errors`] says what cannot.
    Convert(Change),
    /// Nothing of it can be converted and something should be; an error for each column. Other rows can.
    Failed(Vec<RowError>),
}

/// Seals and opens whole rows. [`crate::columns::ColumnCodec`] does it with a policy's columns; the simulation has one
/// of its own.
#[async_trait]
pub trait Codec: Send + Sync {
    /// One verdict for each row, in order. An `Err` is for what concerns all of them: no key, no key service.
    async fn judge(&self, goal: Goal, target: &Target, rows: &[Row]) -> Result<Vec<Verdict>>;

    /// The data keys that a re-encryption moves the target's values away from, as they are now.
    async fn former_keys(&self, target: &Target) -> Result<Vec<KeyId>>;
}
