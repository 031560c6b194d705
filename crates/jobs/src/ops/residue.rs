//! `audit --residue`: copies of plaintext that a conversion in place leaves behind, and how each is cleared.

use std::collections::BTreeMap;

use enfold::Result;
use enfold::policy::Policy;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::session::Session;
use super::targets::{Selection, storable, target};
use crate::codec::Verdict;
use crate::database::{Counts, Database, Probe};
use crate::model::{Goal, TableName};
use crate::store::Cell;

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

/// Shorter values are in any database by chance.
const SHORTEST: usize = 6;

/// Opens the values of at most `per_table` rows of each selected table, so that copies of them can be looked for.
/// Nothing is written; every opening goes into the log of events as any other does. Values that do not open, values
/// still stored as plaintext and those of less than six bytes are left out.
pub async fn probes(session: &Session, selection: &Selection, per_table: u32) -> Result<Probes> {
    let mut all = Probes::new();
    for (name, table, chosen) in selection.of(&session.policy) {
        let facts = session.db.inspect(table, Counts::LeftOut).await?;
        let (can, _) = storable(&facts, &chosen);
        if can.is_empty() {
            continue;
        }
        let mut target = target(name, table, &facts, &can)?;
        // Blind indexes may not be there yet, and have no part in opening.
        target.indexes.clear();
        let rows = session.db.peek(&target, per_table).await?;
        let mut found = Vec::new();
        for verdict in session.keys.codec().judge(Goal::Unprotect, &target, &rows).await? {
            let Verdict::Convert(mut change) = verdict else { continue };
            for (column, cell) in target.columns.iter().zip(&mut change.cells) {
                if let Cell::Set(Some(value)) = cell {
                    let value = Zeroizing::new(std::mem::take(value));
                    found.push(Probe { column: column.name.clone(), value });
                }
            }
        }
        found.retain(|probe| probe.value.len() >= SHORTEST);
        found.sort_by(|a, b| (&a.column, a.value.as_slice()).cmp(&(&b.column, b.value.as_slice())));
        found.dedup_by(|a, b| a.column == b.column && a.value == b.value);
        all.insert(name.to_owned(), found);
    }
    Ok(all)
}

/// Looks for residue of every selected table. Without probes only what can be counted without them is counted.
pub async fn residue(
    database: &dyn Database,
    policy: &Policy,
    selection: &Selection,
    probes: &Probes,
) -> Result<ResidueReport> {
    let mut tables = Vec::new();
    for (name, table, chosen) in selection.of(policy) {
        let facts = database.inspect(table, Counts::LeftOut).await?;
        let (can, _) = storable(&facts, &chosen);
        if can.is_empty() {
            continue;
        }
        let target = target(name, table, &facts, &can)?;
        let probes = probes.get(name).map(Vec::as_slice).unwrap_or_default();
        tables.push(TableResidue { table: facts.table, found: database.residue(&target, probes).await? });
    }
    Ok(ResidueReport { tables })
}
