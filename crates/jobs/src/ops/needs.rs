//! Which values still need a data key: what must be zero before it may be disabled.

use enfold::{KeyId, Result};
use serde::{Deserialize, Serialize};

use super::session::Session;
use super::targets::{Selection, storable, target};
use crate::database::Counts;

/// What was counted, table by table, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Tables that hold a value under one of the keys.
    pub tables: Vec<TableNeeds>,
    /// Values of the policy that live in no column, so that nobody can count them.
    pub uncounted: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableNeeds {
    /// The policy's name of the table.
    pub table: String,
    /// Rows with such a value.
    pub rows: u64,
}

impl Needs {
    /// Whether no value was found that needs the keys.
    pub fn is_none(&self) -> bool {
        self.tables.is_empty()
    }
}

/// Counts the rows with a value under one of `keys`, data keys of `ring`, in every protected column of the ring. It is a
/// count and no proof: it tells what the database holds now.
pub async fn needs(session: &Session, ring: &str, keys: &[KeyId]) -> Result<Needs> {
    let mut needs = Needs::default();
    for (name, table, columns) in Selection::All.of(&session.policy) {
        let ours: Vec<&str> = columns.into_iter().filter(|column| table.columns[*column].ring == ring).collect();
        if ours.is_empty() {
            continue;
        }
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        // A column whose type can hold no envelope holds none.
        let (ours, _) = storable(&facts, &ours);
        if ours.is_empty() {
            continue;
        }
        let rows = session.db.store().count_under(&target(name, table, &facts, &ours)?, keys).await?;
        if rows > 0 {
            needs.tables.push(TableNeeds { table: name.to_owned(), rows });
        }
    }
    let values = session.policy.values.iter().filter(|(_, value)| value.ring == ring);
    needs.uncounted = values.map(|(name, _)| name.clone()).collect();
    Ok(needs)
}
