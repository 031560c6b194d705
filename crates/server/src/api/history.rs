//! Coverage over time: what was counted of every row of a column, and when.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use enfold::access::Permission;
use enfold::policy::Policy;
use enfold::{Code, Error, Result};
use enfold_jobs::model::{CountsSought, KeptCount, TableName};
use enfold_jobs::ops::Session;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Failure;
use super::audit::{LARGEST_PAGE, PAGE, moment};
use super::body::{Data, Sought};
use super::coverage::{Counts, UnderVersion};
use super::edge::Call;
use crate::Shared;
use crate::identity::Caller;

/// Which counts are looked for. What is left out is not asked about.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HistoryAsked {
    /// As the policy spells it.
    pub(crate) column: Option<String>,
    /// From this moment on: `2026-03-01` (its beginning, in UTC) or `2026-03-01T12:00:00Z`.
    pub(crate) since: Option<String>,
    /// Before this moment.
    pub(crate) until: Option<String>,
    /// Begins after this place.
    pub(crate) after: Option<i64>,
    /// Not more than so many: 100, if nothing is said, and 1000 at most.
    pub(crate) limit: Option<u32>,
}

pub(crate) type HistoryAnswer = Data<CountsPage>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct CountsPage {
    /// Newest first.
    pub(crate) counts: Vec<ColumnCount>,
    /// What `after` has to be for the next page; missing where this one is not full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<i64>,
}

/// A count of every row of a column.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ColumnCount {
    /// Where a later page begins.
    place: i64,
    /// As the policy spells it; one that has left the policy as the database does.
    pub(crate) column: String,
    /// As it was noted last before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// Whether the table refused plaintext in it.
    pub(crate) enforced: bool,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    /// Of the envelopes, those under data keys that sealed then. This and what follows is missing where whoever counted could not ask
    /// the catalog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) under_current: Option<u64>,
    /// Envelopes by the version of their data key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) by_key_version: Option<Vec<UnderVersion>>,
    #[serde(skip)]
    pub(crate) at_ms: i64,
}

pub(crate) async fn history(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Sought(asked): Sought<HistoryAsked>,
) -> Result<HistoryAnswer, Failure> {
    caller.check_everywhere(Permission::Read)?;
    let session = shared.session(&call.context(&caller, None)).await?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    Ok(Data { data: kept(&session, &asked, limit).await? })
}

/// A page of the counts that are looked for.
pub(crate) async fn kept(session: &Session, asked: &HistoryAsked, limit: u32) -> Result<CountsPage> {
    let none = CountsPage { counts: Vec::new(), next: None };
    let column = match &asked.column {
        None => None,
        Some(name) => match noted_as(session, name).await? {
            Some(noted) => Some(noted),
            None => return Ok(none),
        },
    };
    let sought = CountsSought {
        column,
        since_ms: asked.since.as_deref().map(moment).transpose()?,
        until_ms: asked.until.as_deref().map(moment).transpose()?,
        after: asked.after,
        limit,
    };
    let found = session.db.kept_counts(&sought).await?;
    let next = found.last().map(|count| count.place).filter(|_| found.len() == limit as usize);
    let counts = found.into_iter().map(|count| ColumnCount::of(&session.policy, count)).collect();
    Ok(CountsPage { counts, next })
}

/// What the database calls a column of the policy, where it was ever noted.
async fn noted_as(session: &Session, name: &str) -> Result<Option<(TableName, String)>> {
    if session.policy.column(name).is_none() {
        return Err(Error::new(Code::UnknownColumn, "the policy has no such column"));
    }
    let noted = session.db.noted_columns().await?;
    let found = noted.into_iter().find(|noted| policy_name(&session.policy, &noted.table, &noted.column) == name);
    Ok(found.map(|noted| (noted.table, noted.column)))
}

fn policy_name(policy: &Policy, table: &TableName, column: &str) -> String {
    let known = policy.tables.iter().find(|(name, of)| table.is_meant_by(name) && of.columns.contains_key(column));
    match (known, table.schema.as_str()) {
        (Some((name, _)), _) => format!("{name}.{column}"),
        (None, "") => format!("{}.{column}", table.table),
        (None, schema) => format!("{schema}.{}.{column}", table.table),
    }
}

impl ColumnCount {
    fn of(policy: &Policy, kept: KeptCount) -> Self {
        let by = kept.by_version.as_ref();
        Self {
            place: kept.place,
            column: policy_name(policy, &kept.table, &kept.column),
            mode: kept.mode,
            enforced: kept.enforced,
            under_current: by.map(|by| by.current),
            by_key_version: by.map(|by| UnderVersion::each(by, kept.counts.envelopes)),
            counts: Counts::noted(&kept.counts),
            at_ms: kept.counts.at_ms,
        }
    }
}
