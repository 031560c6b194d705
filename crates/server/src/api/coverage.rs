//! Coverage: what is protected, as it was counted last, or as a sample of now has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use enfold::access::Permission;
use enfold::policy::{Mode, Policy};
use enfold::{Enfold, KeyId, Result};
use enfold_jobs::model::{Census, NotedColumn};
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
use crate::identity::{Caller, denied};

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
struct TableCoverage {
    table: String,
    columns: Vec<ColumnCoverage>,
}

/// A column of the policy.
#[derive(Serialize, JsonSchema)]
struct ColumnCoverage {
    column: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    /// `legacy`, `hybrid` or `kms`, as the operators signed it.
    mode: &'static str,
    /// As the policy wants it.
    wanted: &'static str,
    /// Whether the table refuses plaintext in it now. Missing where nothing was noted of the column yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<bool>,
    /// Of every row, as `enfold audit --full` found it last. A count, not a proof.
    #[serde(skip_serializing_if = "Option::is_none")]
    counted: Option<Counts>,
    /// The last verification, in which every value was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<Verified>,
    /// Of now, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Sample>,
}

#[derive(Serialize, JsonSchema)]
struct Counts {
    rows: u64,
    nulls: u64,
    plaintext: u64,
    envelopes: u64,
    /// Begin like an envelope and have not its form.
    lookalikes: u64,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Verified {
    rows: u64,
    failed: u64,
    at: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Sample {
    #[serde(flatten)]
    counts: Counts,
    /// Envelopes by the version of their data key.
    by_key_version: Vec<UnderVersion>,
    /// Why nothing was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct UnderVersion {
    /// Missing where the catalog has no such data key: each record has one of its own, or it is not ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    envelopes: u64,
}

pub(crate) async fn coverage(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Sought(asked): Sought<CoverageAsked>,
) -> Result<CoverageAnswer, Failure> {
    // Counts are of all tenants, classes and columns.
    if !caller.has_everywhere(Permission::Read) {
        return Err(Failure(denied(Permission::Read)));
    }
    let session = shared.session(&call.context(&caller, None)).await?;
    let noted = session.db.noted_columns().await?;
    let sample = match asked.count {
        None => None,
        Some(Count::Now) => Some(shared.latest_sample.get(GOOD_FOR, sampled(&session)).await?),
    };
    let mut tables = Vec::new();
    for (table, policy) in &session.policy.tables {
        let names: Vec<String> = policy.columns.keys().map(|column| format!("{table}.{column}")).collect();
        let modes = session.keys.modes(&names).await?;
        let mut columns = Vec::with_capacity(names.len());
        for ((column, name), mode) in policy.columns.keys().zip(&names).zip(modes) {
            let noted = noted.iter().find(|noted| noted.column == *column && noted.table.is_meant_by(table));
            let sample = sample.as_ref().and_then(|found| found.columns.iter().find(|audited| audited.column == *name));
            columns.push(ColumnCoverage::of(&shared.enfold, name, mode, noted, sample).await?);
        }
        tables.push(TableCoverage { table: table.clone(), columns });
    }
    Ok(Data { data: Coverage { tables } })
}

async fn sampled(session: &Session) -> Result<AuditReport> {
    ops::audit(session.db.as_ref(), &session.policy, &Selection::All, Some(SAMPLE)).await
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
        let counts = noted.and_then(|noted| noted.counted);
        let verified = noted.and_then(|noted| noted.verified);
        let sample = match sample {
            Some(audited) => Some(Sample {
                counts: Counts::of(&audited.census),
                by_key_version: by_version(enfold, name, &audited.census).await?,
                refused: audited.reason.clone(),
            }),
            None => None,
        };
        Ok(Self {
            column: name.to_owned(),
            class: policy.and_then(|policy| policy.class.clone()),
            mode: mode.word(),
            wanted: policy.map_or(mode, |policy| policy.mode).word(),
            enforced: noted.map(|noted| noted.enforced),
            counted: counts.map(|counts| Counts {
                rows: counts.rows,
                nulls: counts.nulls,
                plaintext: counts.plaintext,
                envelopes: counts.envelopes,
                lookalikes: counts.lookalikes,
                at: time(counts.at_ms),
            }),
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
}

async fn by_version(enfold: &Enfold, column: &str, census: &Census) -> Result<Vec<UnderVersion>> {
    let ids: Vec<KeyId> = census.by_key.keys().filter_map(|id| id.parse().ok()).collect();
    let rows = enfold.catalog().keys_named(ring_id(enfold.policy(), column), &ids).await?;
    let version_of: BTreeMap<String, u32> = rows.iter().map(|row| (row.id.to_string(), row.version)).collect();
    let mut by_version: BTreeMap<Option<u32>, u64> = BTreeMap::new();
    for (id, envelopes) in &census.by_key {
        *by_version.entry(version_of.get(id).copied()).or_default() += envelopes;
    }
    Ok(by_version.into_iter().map(|(version, envelopes)| UnderVersion { version, envelopes }).collect())
}

fn ring_id<'a>(policy: &'a Policy, column: &str) -> &'a str {
    let ring = policy.column(column).and_then(|(_, column)| policy.rings.get(&column.ring));
    ring.map_or("", |ring| ring.id.as_str())
}
