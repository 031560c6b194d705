//! Counts of what readers of other products' formats recognise, for plans and reports.

use std::collections::BTreeMap;

use enfold::Result;
use enfold::policy::{Policy, TablePolicy};

use crate::database::Database;
use crate::model::Target;
use crate::recognise::{Recognised, Recogniser};

/// Rows of a table that a plan looks at: enough to meet a format that one value in a hundred has.
pub(super) const SAMPLE: u64 = 1_000;

/// By column, for the columns of a target that have readers; `sample` rows of the table, or all.
pub(super) async fn recognised(
    database: &dyn Database,
    policy: &Policy,
    table: &TablePolicy,
    target: &Target,
    sample: Option<u64>,
) -> Result<BTreeMap<String, Recognised>> {
    let mut all = BTreeMap::new();
    for (at, column) in target.columns.iter().enumerate() {
        if let Some(by) = Recogniser::of(policy, table, &column.name, column.storage) {
            all.insert(column.name.clone(), database.recognise(target, at, &by, sample).await?);
        }
    }
    Ok(all)
}
