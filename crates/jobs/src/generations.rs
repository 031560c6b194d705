//! Two generations of a blind index in one table, while the index is rotated.
//!
//! The column that the application knows keeps its name throughout. Beside it the next generation has a column of ours, filled
//! by writers and by a sweep; at the cut the two change names in one transaction, and the former one stays until somebody
//! drops it. A unique index is over each of the two for as long as the column is looked at.

use serde::{Deserialize, Serialize};

/// The longest name that Postgres keeps. It cuts longer ones, and two must not become one.
const LONGEST: usize = 63;

/// A generation as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The first two bytes of each of its values.
    pub generation: u16,
    /// Length of each of its values, in bytes.
    pub bytes: u16,
}

/// A step of an index's rotation, at the index's column. Each is idempotent: run twice, it is done once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationChange {
    /// Adds the column of the next generation, and has the database put there its part of what writers store. A writer that
    /// stores the present generation alone empties it by that.
    Begin { now: Stored, next: Stored },
    /// Has the database know at any moment whether a row has the present generation alone.
    Watch,
    /// Has the next generation take the column's name, if no row lacks it. From then on what writers store is kept only as
    /// far as it is of that generation, and refused where none of it is.
    Cut { now: Stored, next: Stored, unique: bool, tenant: Option<String> },
    /// Takes [`Self::Begin`] back: what writers store is kept as far as it is of the present generation.
    GiveUp { now: Stored, next: Stored },
    /// Drops the column of the former generation.
    DropFormer,
}

/// What is in the table for an index's column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexPlace {
    /// The column itself is there.
    pub there: bool,
    /// The column of the next generation is.
    pub next: bool,
    /// The column of the former generation is.
    pub former: bool,
    /// What else hangs on the column, so that it would stay with the former generation: views, indexes, constraints of
    /// others, each named for a person.
    pub others: Vec<String>,
}

/// The column of the next generation of an index.
pub fn next_column(column: &str) -> String {
    fit(&format!("enfold_next_{column}"))
}

/// The column of the former one.
pub fn former_column(column: &str) -> String {
    fit(&format!("enfold_former_{column}"))
}

/// The name as it is, or cut with a checksum of the whole.
pub(crate) fn fit(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let mark = format!("_{}", mark(name));
    let mut end = LONGEST - mark.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &name[..end])
}

/// A short name for a long one.
pub(crate) fn mark(name: &str) -> String {
    format!("{:08x}", fnv(name))
}

/// FNV-1a, 32 bits: only to tell names apart, so nothing stronger is needed, and it is the same for ever.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
