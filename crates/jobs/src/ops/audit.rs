//! `audit`: looks at stored bytes, and says for each column whether any plaintext is left.
//!
//! It needs no key, so an auditor's role can run it. It counts by form; whether every envelope opens is for `verify`.

use enfold::Result;
use enfold::catalog::Catalog;
use enfold::policy::Policy;
use serde::{Deserialize, Serialize};

use super::coverage;
use super::foreign::recognised;
use super::targets::{Selection, storable, target};
use crate::database::{Counts, Database};
use crate::model::{ByVersion, Census, ColumnNote};
use crate::recognise::Recognised;

/// What the stored bytes of every selected column are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditReport {
    /// Every row, or a sample.
    pub full: bool,
    /// The counts are in `enfold.coverage` for people who look with psql. Never those of a sample, and not where the role that
    /// audits may write nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub noted: bool,
    pub columns: Vec<ColumnAudit>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ColumnAudit {
    /// `table.column`, as the policy names both.
    pub column: String,
    pub status: ColumnStatus,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(flatten)]
    pub census: Census,
    /// Its envelopes by the versions of their data keys, where the catalog was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_version: Option<ByVersion>,
    /// What its readers of other products' formats make of the values that are no envelopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readers: Option<Recognised>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnStatus {
    /// Every value that was looked at is an envelope or NULL.
    Encrypted,
    /// There is plaintext, or something that begins like an envelope and is not one.
    Leaks,
    /// No plaintext was seen: what is no envelope has the form of one of the column's readers. Another product encrypted it, and
    /// under which key nobody looked.
    Foreign,
    /// Nothing was there to look at.
    Empty,
    /// Its type cannot hold an envelope, so whatever it holds is plaintext, and nothing was counted.
    Refused,
}

impl AuditReport {
    /// Whether any column leaks.
    pub fn leaks(&self) -> bool {
        self.count(ColumnStatus::Leaks) > 0
    }

    /// How many columns came out so.
    pub fn count(&self, status: ColumnStatus) -> usize {
        self.columns.iter().filter(|column| column.status == status).count()
    }
}

/// Audits `selection`; at most `sample` rows of each table, or all. Of which versions the data keys are is not asked.
///
/// # Errors
/// `TableMissing` for what the policy names and the database has not; those of the database.
pub async fn audit(
    database: &dyn Database,
    policy: &Policy,
    selection: &Selection,
    sample: Option<u64>,
) -> Result<AuditReport> {
    look(database, None, policy, selection, sample).await
}

/// As [`audit`], over every row; `catalog` is asked for the versions of data keys. What it does not tell is left out: nothing else
/// needs it.
///
/// # Errors
/// As [`audit`].
pub async fn full_audit(
    database: &dyn Database,
    catalog: Option<&dyn Catalog>,
    policy: &Policy,
    selection: &Selection,
) -> Result<AuditReport> {
    look(database, catalog, policy, selection, None).await
}

async fn look(
    database: &dyn Database,
    catalog: Option<&dyn Catalog>,
    policy: &Policy,
    selection: &Selection,
    sample: Option<u64>,
) -> Result<AuditReport> {
    let (mut columns, mut notes) = (Vec::new(), Vec::new());
    for (name, table, chosen) in selection.of(policy) {
        let facts = database.inspect(table, Counts::LeftOut).await?;
        let (can, cannot) = storable(&facts, &chosen);
        if !can.is_empty() {
            let target = target(name, table, &facts, &can)?;
            let counts = database.census(&target, sample).await?;
            let mut readers = recognised(database, policy, table, &target, sample).await?;
            for (column, census) in target.columns.iter().zip(counts) {
                let (readers, seen) = (readers.remove(&column.name), coverage::seen(table, &facts, column));
                let (column, status) = (format!("{name}.{}", column.name), status(&census, readers.as_ref()));
                let by_version = match catalog {
                    Some(catalog) => coverage::by_version(catalog, policy, &column, &census).await.ok(),
                    None => None,
                };
                notes.push(ColumnNote { census: Some(census.clone()), by_version: by_version.clone(), ..seen });
                columns.push(ColumnAudit { column, status, reason: None, census, by_version, readers });
            }
        }
        columns.extend(cannot.into_iter().map(|(column, reason)| ColumnAudit {
            column: format!("{name}.{column}"),
            status: ColumnStatus::Refused,
            reason: Some(reason),
            census: Census::default(),
            by_version: None,
            readers: None,
        }));
    }
    let full = sample.is_none();
    let noted = full && database.note_columns(&notes).await?;
    Ok(AuditReport { full, noted, columns })
}

fn status(census: &Census, readers: Option<&Recognised>) -> ColumnStatus {
    let all_recognised = readers.is_some_and(|found| found.plaintext == 0 && found.looked_at() > 0);
    if all_recognised && census.lookalikes == 0 {
        ColumnStatus::Foreign
    } else if census.plaintext > 0 || census.lookalikes > 0 {
        ColumnStatus::Leaks
    } else if census.envelopes == 0 {
        ColumnStatus::Empty
    } else {
        ColumnStatus::Encrypted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plain_value_or_one_lookalike_is_a_leak() {
        let clean = Census { rows: 9, nulls: 1, envelopes: 8, ..Census::default() };
        assert_eq!(status(&clean, None), ColumnStatus::Encrypted);
        assert_eq!(status(&Census { plaintext: 1, ..clean.clone() }, None), ColumnStatus::Leaks);
        assert_eq!(status(&Census { lookalikes: 1, ..clean }, None), ColumnStatus::Leaks);
        assert_eq!(status(&Census { rows: 3, nulls: 3, ..Census::default() }, None), ColumnStatus::Empty);
    }

    #[test]
    fn what_readers_recognise_to_the_last_value_is_no_leak() {
        let census = |lookalikes| Census { rows: 5, envelopes: 1, plaintext: 4, lookalikes, ..Census::default() };
        let found = |n, plaintext| Recognised { by_reader: [("old".to_owned(), n)].into(), plaintext };
        assert_eq!(status(&census(0), Some(&found(4, 0))), ColumnStatus::Foreign);
        assert_eq!(status(&census(0), Some(&found(3, 1))), ColumnStatus::Leaks);
        assert_eq!(status(&census(1), Some(&found(4, 0))), ColumnStatus::Leaks);
        assert_eq!(status(&census(0), Some(&Recognised::default())), ColumnStatus::Leaks);
    }
}
