//! Coverage: what is protected, as it was counted last, or as a sample of now has it.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use enfold::access::Permission;
use enfold::policy::Mode;
use enfold::{Enfold, Result};
use enfold_jobs::model::{ByVersion, Census, NotedColumn, NotedCounts};
use enfold_jobs::ops::audit::{AuditReport, ColumnAudit};
use enfold_jobs::ops::{self, Selection, Session};
use enfold_jobs::shown::time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::body::{Data, Sought};
use super::edge::Call;
use super::latest::Latest;
use crate::Shared;
use crate::identity::Caller;

/// Rows of each table that are looked at now.
const SAMPLE: u64 = 10_000;
/// How long a sample is told again: whoever asks more often costs the database no more.
const GOOD_FOR: Duration = Duration::from_secs(60);

pub(crate) type LatestSample = Latest<AuditReport>;

/// Whether something is counted.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CoverageAsked {
    /// `now`: look at 10,000 rows of each table at most, besides what was noted. It is told again for a minute.
    count: Option<Count>,
}

#[derive(PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Count {
    Now,
}

pub(crate) type CoverageAnswer = Data<Coverage>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Coverage {
    tables: Vec<TableCoverage>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct TableCoverage {
    pub(crate) table: String,
    pub(crate) columns: Vec<ColumnCoverage>,
}

/// A column of the policy.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ColumnCoverage {
    pub(crate) column: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
    /// `legacy`, `hybrid` or `kms`, as the operators signed it.
    pub(crate) mode: &'static str,
    /// As the policy wants it.
    pub(crate) wanted: &'static str,
    /// Whether the table refuses plaintext in it now. Missing where nothing was noted of the column yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforced: Option<bool>,
    /// Of every row, as `enfold audit --full` found it last. A count, not a proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) counted: Option<Counts>,
    /// The last verification, in which every value was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verified: Option<Verified>,
    /// Of now, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sample: Option<Sample>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Counts {
    pub(crate) rows: u64,
    pub(crate) nulls: u64,
    pub(crate) plaintext: u64,
    pub(crate) envelopes: u64,
    /// Begin like an envelope and have not its form.
    pub(crate) lookalikes: u64,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Verified {
    pub(crate) rows: u64,
    pub(crate) failed: u64,
    pub(crate) at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Envelopes by the version of their data key.
    pub(crate) by_key_version: Vec<UnderVersion>,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refused: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct UnderVersion {
    /// Missing where the catalog has no such data key: each record has one of its own, or it is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u32>,
    pub(crate) envelopes: u64,
}

pub(crate) async fn coverage(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Sought(asked): Sought<CoverageAsked>,
) -> Result<CoverageAnswer, Failure> {
    caller.check_everywhere(Permission::Read)?;
    let session = shared.session(&call.context(&caller, None)).await?;
    let sample = match asked.count {
        None => None,
        Some(Count::Now) => Some(sampled(&shared, &session).await?),
    };
    Ok(Data { data: Coverage { tables: tables(&shared.enfold, &session, sample.as_deref()).await? } })
}

/// Looks at some rows of each table, unless somebody did within the last minute.
pub(crate) async fn sampled(shared: &Shared, session: &Session) -> Result<Arc<AuditReport>> {
    let look = ops::audit(session.db.as_ref(), &session.policy, &Selection::All, Some(SAMPLE));
    shared.latest_sample.get(GOOD_FOR, look).await
}

/// What was sampled within the last minute.
pub(crate) fn last_sampled(shared: &Shared) -> Option<Arc<AuditReport>> {
    shared.latest_sample.last(GOOD_FOR)
}

/// The policy's tables, with what is known of each column.
pub(crate) async fn tables(
    enfold: &Enfold,
    session: &Session,
    sample: Option<&AuditReport>,
) -> Result<Vec<TableCoverage>> {
    let noted = session.db.noted_columns().await?;
    let mut tables = Vec::new();
    for (table, policy) in &session.policy.tables {
        let names: Vec<String> = policy.columns.keys().map(|column| format!("{table}.{column}")).collect();
        let modes = session.keys.modes(&names).await?;
        let mut columns = Vec::with_capacity(names.len());
        for ((column, name), mode) in policy.columns.keys().zip(&names).zip(modes) {
            let noted = noted.iter().find(|noted| noted.column == *column && noted.table.is_meant_by(table));
            let sample = sample.and_then(|found| found.columns.iter().find(|audited| audited.column == *name));
            columns.push(ColumnCoverage::of(enfold, name, mode, noted, sample).await?);
        }
        tables.push(TableCoverage { table: table.clone(), columns });
    }
    Ok(tables)
}

impl ColumnCoverage {
    async fn of(
        enfold: &Enfold,
        name: &str,
        mode: Mode,
        noted: Option<&NotedColumn>,
        sample: Option<&ColumnAudit>,
    ) -> Result<Self> {
        let policy = enfold.policy().column(name).map(|(_, policy)| policy);
        let verified = noted.and_then(|noted| noted.verified);
        let sample = match sample {
            Some(audited) => {
                let by = ops::by_version(enfold.catalog().as_ref(), enfold.policy(), name, &audited.census).await?;
                Some(Sample {
                    counts: Counts::of(&audited.census),
                    by_key_version: UnderVersion::each(&by, audited.census.envelopes),
                    refused: audited.reason.clone(),
                })
            }
            None => None,
        };
        Ok(Self {
            column: name.to_owned(),
            class: policy.and_then(|policy| policy.class.clone()),
            mode: mode.word(),
            wanted: policy.map_or(mode, |policy| policy.mode).word(),
            enforced: noted.map(|noted| noted.enforced),
            counted: noted.and_then(|noted| noted.counted).as_ref().map(Counts::noted),
            verified: verified.map(|v| Verified { rows: v.rows, failed: v.failed, at: time(v.at_ms) }),
            sample,
        })
    }
}

impl Counts {
    fn of(census: &Census) -> Self {
        let Census { rows, nulls, plaintext, envelopes, lookalikes, .. } = *census;
        Self { rows, nulls, plaintext, envelopes, lookalikes, at: None }
    }

    pub(super) fn noted(counts: &NotedCounts) -> Self {
        let NotedCounts { rows, nulls, plaintext, envelopes, lookalikes, at_ms } = *counts;
        Self { rows, nulls, plaintext, envelopes, lookalikes, at: time(at_ms) }
    }
}

impl UnderVersion {
    /// Of so many envelopes.
    pub(super) fn each(by: &ByVersion, envelopes: u64) -> Vec<Self> {
        let known: u64 = by.versions.values().sum();
        let elsewhere = Some(envelopes.saturating_sub(known)).filter(|left| *left > 0);
        let elsewhere = elsewhere.map(|envelopes| Self { version: None, envelopes });
        let known =
            by.versions.iter().map(|(version, envelopes)| Self { version: Some(*version), envelopes: *envelopes });
        elsewhere.into_iter().chain(known).collect()
    }
}
