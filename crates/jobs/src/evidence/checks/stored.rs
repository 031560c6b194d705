//! What is stored, and what was done about it.

use std::collections::BTreeMap;

use enfold::Result;
use enfold::policy::{ColumnPolicy, Mode};

use super::{Found, Look};
use crate::model::{CountsSought, Goal, JobState, KeptCount};
use crate::ops::audit::{ColumnAudit, ColumnStatus};
use crate::ops::{self, Selection};
use crate::shown::{count, time};
use crate::store::JobRecord;

const NO_COLUMN: &str = "the policy names no column";
/// Earlier counts that are looked at.
const EARLIER: u32 = 10_000;

pub(super) async fn coverage(look: &Look<'_>) -> Result<Found> {
    let (database, catalog) = (look.session.db.as_ref(), look.enfold.catalog().as_ref());
    let before = CountsSought { column: None, since_ms: None, until_ms: None, after: None, limit: EARLIER };
    let before = database.kept_counts(&before).await?;
    let audit = ops::full_audit(database, Some(catalog), &look.session.policy, &Selection::All).await?;
    if audit.columns.is_empty() {
        return Ok(Found::not_checked(NO_COLUMN, Vec::new()));
    }
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for column in &audit.columns {
        let (name, census) = (&column.column, &column.census);
        if column.status == ColumnStatus::Refused {
            wrong.push(format!("{name} cannot hold envelopes, and was not counted"));
            continue;
        }
        let others = census.plaintext + census.lookalikes;
        lines.push(format!(
            "{name}: counted {} rows, {} envelopes ({}), {} values that are none, {} NULL",
            count(census.rows),
            count(census.envelopes),
            versions(look, column).await?,
            count(others),
            count(census.nulls)
        ));
        lines.extend(earlier(name, &before));
        if others > 0 {
            wrong.push(format!("{name} holds {} values that are no envelopes", count(others)));
        }
    }
    Ok(Found::of(lines, &wrong))
}

/// What earlier counts of a column found. They are what was noted in the database, and no part of the outcome.
fn earlier(name: &str, kept: &[KeptCount]) -> Option<String> {
    let table = |column: &str| name.strip_suffix(column)?.strip_suffix('.');
    let is_of = |kept: &&KeptCount| table(&kept.column).is_some_and(|table| kept.table.is_meant_by(table));
    let of: Vec<&KeptCount> = kept.iter().filter(is_of).collect();
    let (last, first) = (of.first()?.counts.at_ms, of.last()?.counts.at_ms);
    let leaks = of.iter().filter(|kept| kept.counts.plaintext + kept.counts.lookalikes > 0).count();
    Some(format!(
        "{name}: {} earlier counts are kept, from {} to {}; {leaks} of them found values that are no envelopes",
        of.len(),
        time(first).unwrap_or_default(),
        time(last).unwrap_or_default()
    ))
}

/// How many envelopes are under which version of their data key.
async fn versions(look: &Look<'_>, column: &ColumnAudit) -> Result<String> {
    let (name, census) = (&column.column, &column.census);
    let by = match &column.by_version {
        Some(by) => by.clone(),
        // The audit does without what the catalog does not tell. Evidence does not.
        None => ops::by_version(look.enfold.catalog().as_ref(), &look.session.policy, name, census).await?,
    };
    let mut told: Vec<String> =
        by.versions.iter().map(|(version, envelopes)| format!("version {version}: {}", count(*envelopes))).collect();
    let elsewhere = census.by_key.values().sum::<u64>() - by.versions.values().sum::<u64>();
    if elsewhere > 0 {
        told.push(format!("under data keys that its ring does not have: {}", count(elsewhere)));
    }
    Ok(if told.is_empty() { "under no data key".to_owned() } else { told.join(", ") })
}

pub(super) fn columns<'a>(look: &'a Look<'_>) -> impl Iterator<Item = (String, &'a ColumnPolicy)> {
    let tables = look.session.policy.tables.iter();
    tables.flat_map(|(table, policy)| {
        policy.columns.iter().map(move |(name, column)| (format!("{table}.{name}"), column))
    })
}

pub(super) async fn modes(look: &Look<'_>) -> Result<Found> {
    let names: Vec<String> = columns(look).map(|(name, _)| name).collect();
    if names.is_empty() {
        return Ok(Found::not_checked(NO_COLUMN, Vec::new()));
    }
    let modes = look.session.keys.modes(&names).await?;
    let told: Vec<(String, Mode)> = names.into_iter().zip(modes).collect();
    let weaker = told.iter().filter(|(_, mode)| *mode != Mode::Kms);
    let wrong: Vec<String> = weaker.map(|(name, mode)| format!("{name} is in mode {}", mode.word())).collect();
    Ok(Found::of(told.iter().map(|(name, mode)| format!("{name}: mode {}", mode.word())).collect(), &wrong))
}

pub(super) async fn classes(look: &Look<'_>) -> Result<Found> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (name, column) in columns(look) {
        match &column.class {
            Some(class) => lines.push(format!("{name}: {class}")),
            None => wrong.push(format!("{name} has no class")),
        }
    }
    if lines.is_empty() && wrong.is_empty() {
        return Ok(Found::not_checked(NO_COLUMN, lines));
    }
    Ok(Found::of(lines, &wrong))
}

pub(super) async fn reencryption(look: &Look<'_>) -> Result<Found> {
    let mut newest: BTreeMap<String, JobRecord> = BTreeMap::new();
    for job in look.session.db.store().jobs().await?.into_iter().filter(|job| job.goal == Goal::Reencrypt) {
        let table = job.target.policy_table.clone();
        if newest.get(&table).is_none_or(|known| known.id < job.id) {
            newest.insert(table, job);
        }
    }
    if newest.is_empty() {
        return Ok(Found::not_checked("no re-encryption is on record", Vec::new()));
    }
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (table, job) in &newest {
        let at = time(job.changed_ms).unwrap_or_default();
        let (changed, failed) = (count(job.progress.rows_changed), count(job.progress.rows_failed));
        lines.push(format!(
            "{table}: job {}, {changed} rows re-encrypted, {failed} failed, last changed at {at}",
            job.id.0
        ));
        if job.state != JobState::Completed {
            wrong.push(format!("job {} of {table} did not complete", job.id.0));
        }
    }
    Ok(Found::of(lines, &wrong))
}
