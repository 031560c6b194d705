//! Which values still need a data key: what must be zero before it may be disabled.

use enfold::{KeyId, Result};
use serde::{Deserialize, Serialize};

use super::session::Session;
use super::targets::{Selection, sealed_targets};
use crate::model::Target;

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
    for target in targets(session, ring).await? {
        let rows = session.db.store().count_under(&target, keys).await?;
        if rows > 0 {
            needs.tables.push(TableNeeds { table: target.policy_table, rows });
        }
    }
    let values = session.policy.values.iter().filter(|(_, value)| value.ring == ring);
    needs.uncounted = values.map(|(name, _)| name.clone()).collect();
    Ok(needs)
}

/// Every table of the policy in which a value may be under a data key of the ring, with the columns that can hold one.
pub(super) async fn targets(session: &Session, ring: &str) -> Result<Vec<Target>> {
    let targets = sealed_targets(session, &Selection::All, |column| column.ring == ring).await?;
    Ok(targets.into_iter().map(|(_, target)| target).collect())
}
