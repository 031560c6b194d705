//! `audit --residue`: copies of plaintext that a conversion in place leaves behind, and how each is cleared.

use std::collections::BTreeMap;

use enfold::Result;
use enfold::policy::Policy;
use serde::{Deserialize, Serialize};

use super::targets::{Selection, target};
use crate::database::{Database, Probe};
use crate::model::TableName;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResidueReport {
    pub tables: Vec<TableResidue>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableResidue {
    pub table: TableName,
    pub found: Vec<crate::database::Residue>,
}

impl ResidueReport {
    /// Whether any copy was seen. Places that are only named (backups, archives) do not count: nobody looked.
    pub fn seen(&self) -> bool {
        self.tables.iter().flat_map(|t| &t.found).any(|r| r.found.is_some_and(|n| n > 0))
    }
}

/// Plaintext values known to have been in a table's columns, by the policy's name of the table.
pub type Probes = BTreeMap<String, Vec<Probe>>;

/// Looks for residue of every selected table. Without probes only what can be counted without them is counted.
pub async fn residue(
    database: &dyn Database,
    policy: &Policy,
    selection: &Selection,
    probes: &Probes,
) -> Result<ResidueReport> {
    let mut tables = Vec::new();
    for (name, table, chosen) in selection.of(policy) {
        let facts = database.inspect(table).await?;
        let target = target(name, table, &facts, &chosen)?;
        let probes = probes.get(name).map(Vec::as_slice).unwrap_or_default();
        tables.push(TableResidue { table: facts.table, found: database.residue(&target, probes).await? });
    }
    Ok(ResidueReport { tables })
}
