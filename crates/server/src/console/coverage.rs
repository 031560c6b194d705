//! Coverage: how each column stands, and how it stood at every count that was kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use enfold::Result;
use enfold::access::Permission;
use enfold_jobs::shown::{count, moment, time};
use serde::Deserialize;

use super::chart::{CountedAt, OverTime};
use super::guard::Sent;
use super::view::{Chrome, Html, ago};
use crate::Shared;
use crate::api::coverage::{
    ColumnCoverage, Counts, Sample, TableCoverage, UnderVersion, last_sampled, sampled, tables,
};
use crate::api::history::{ColumnCount, HistoryAsked, kept};
use crate::api::{Call, Failure, Sought, to_its_end};
use crate::identity::Caller;

const HERE: &str = "/console/coverage";
/// Counts that charts are drawn of, and those on a page of a column.
const DRAWN: u32 = 10_000;
const SHOWN: u32 = 200;

#[derive(Deserialize)]
pub(super) struct Which {
    column: Option<String>,
    after: Option<i64>,
}

#[derive(Template)]
#[template(path = "coverage.html")]
struct CoveragePage {
    chrome: Chrome,
    tiles: Vec<Tile>,
    tables: Vec<TableView>,
}

#[derive(Template)]
#[template(path = "coverage_column.html")]
struct ColumnPage {
    chrome: Chrome,
    column: String,
    chart: Option<OverTime>,
    counts: Vec<CountView>,
    next: Option<i64>,
}

/// How many columns are as they shall be.
struct Tile {
    says: &'static str,
    good: usize,
    all: usize,
}

struct TableView {
    name: String,
    chart: Option<OverTime>,
    /// What the chart is of, newest first.
    moments: Vec<MomentView>,
    columns: Vec<ColumnView>,
}

struct MomentView {
    at: String,
    envelopes: String,
    others: String,
}

struct ColumnView {
    /// Of the policy, and without its table.
    full: String,
    name: String,
    class: String,
    mode: &'static str,
    wanted: &'static str,
    enforced: Option<bool>,
    counted: Option<CountedView>,
    /// Of the last count, as far as it is known: `100 %`.
    under_current: Option<String>,
    counted_ago: Option<(String, String)>,
    verified: Option<VerifiedView>,
    sample: Option<SampleView>,
}

/// Numbers as they are shown.
struct CountedView {
    rows: String,
    envelopes: String,
    plaintext: String,
    lookalikes: String,
    nulls: String,
}

struct VerifiedView {
    at: String,
    ago: String,
    failed: u64,
}

enum SampleView {
    Counted(CountedView, String),
    Refused(String),
}

struct CountView {
    at: String,
    mode: String,
    enforced: bool,
    counted: CountedView,
    versions: String,
}

impl CountedView {
    fn of(counts: &Counts) -> Self {
        Self {
            rows: count(counts.rows),
            envelopes: count(counts.envelopes),
            plaintext: count(counts.plaintext),
            lookalikes: count(counts.lookalikes),
            nulls: count(counts.nulls),
        }
    }
}

fn others(counts: &Counts) -> u64 {
    counts.plaintext + counts.lookalikes
}

fn versions(each: &[UnderVersion]) -> String {
    let say = |under: &UnderVersion| match under.version {
        Some(version) => format!("version {version}: {}", count(under.envelopes)),
        None => format!("not in the catalog: {}", count(under.envelopes)),
    };
    each.iter().map(say).collect::<Vec<_>>().join(", ")
}

fn since(at: &str) -> String {
    moment(at).map(ago).unwrap_or_default()
}

impl ColumnView {
    /// `last` is its last count that was kept.
    fn of(table: &str, column: &ColumnCoverage, last: Option<&ColumnCount>) -> Self {
        let at = column.counted.as_ref().and_then(|counts| counts.at.clone());
        // Of the count that is shown, and not of an earlier one that was kept while this was not.
        let last = last.filter(|last| last.counts.at == at);
        let share = |last: &ColumnCount| match (last.under_current?, last.counts.envelopes) {
            (_, 0) => None,
            (current, all) => Some(format!("{} %", current * 100 / all)),
        };
        Self {
            full: column.column.clone(),
            name: column.column.strip_prefix(&format!("{table}.")).unwrap_or(&column.column).to_owned(),
            class: column.class.clone().unwrap_or_default(),
            mode: column.mode,
            wanted: column.wanted,
            enforced: column.enforced,
            counted: column.counted.as_ref().map(CountedView::of),
            under_current: last.and_then(share),
            counted_ago: at.map(|at| (since(&at), at)),
            verified: column.verified.as_ref().map(|verified| {
                let at = verified.at.clone().unwrap_or_default();
                VerifiedView { ago: since(&at), at, failed: verified.failed }
            }),
            sample: column.sample.as_ref().map(SampleView::of),
        }
    }
}

impl SampleView {
    fn of(sample: &Sample) -> Self {
        match &sample.refused {
            Some(why) => Self::Refused(why.clone()),
            None => Self::Counted(CountedView::of(&sample.counts), versions(&sample.by_key_version)),
        }
    }
}

impl CountView {
    fn of(count: &ColumnCount) -> Self {
        Self {
            at: count.counts.at.clone().unwrap_or_default(),
            mode: count.mode.clone().unwrap_or_default(),
            enforced: count.enforced,
            counted: CountedView::of(&count.counts),
            versions: count.by_key_version.as_deref().map(versions).unwrap_or_default(),
        }
    }
}

impl TableView {
    fn of(table: &TableCoverage, counts: &[ColumnCount]) -> Self {
        let of = |column: &str| table.columns.iter().any(|known| known.column == column);
        // The columns of a table are counted together.
        let mut together: BTreeMap<i64, CountedAt> = BTreeMap::new();
        for count in counts.iter().filter(|count| of(&count.column)) {
            let at = together.entry(count.at_ms).or_default();
            at.at_ms = count.at_ms;
            at.envelopes += count.counts.envelopes;
            at.others += others(&count.counts);
        }
        let together: Vec<CountedAt> = together.into_values().collect();
        let columns = table.columns.iter().map(|column| {
            let last = counts.iter().find(|count| count.column == column.column);
            ColumnView::of(&table.table, column, last)
        });
        Self {
            name: table.table.clone(),
            columns: columns.collect(),
            moments: together.iter().rev().map(MomentView::of).collect(),
            chart: OverTime::of(&together),
        }
    }
}

impl MomentView {
    fn of(counted: &CountedAt) -> Self {
        Self {
            at: time(counted.at_ms).unwrap_or_default(),
            envelopes: count(counted.envelopes),
            others: count(counted.others),
        }
    }
}

pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Extension(chrome): Extension<Chrome>,
    Sought(which): Sought<Which>,
) -> Result<Response, Failure> {
    caller.check_everywhere(Permission::Read)?;
    let session = shared.session(&call.context(&caller, None)).await?;
    if let Some(column) = which.column {
        let asked = HistoryAsked { column: Some(column.clone()), after: which.after, ..HistoryAsked::default() };
        let found = kept(&session, &asked, SHOWN).await?;
        let drawn = found.counts.iter().rev().map(|count| CountedAt {
            at_ms: count.at_ms,
            envelopes: count.counts.envelopes,
            others: others(&count.counts),
        });
        let chart = OverTime::of(&drawn.collect::<Vec<_>>());
        let counts = found.counts.iter().map(CountView::of).collect();
        return Ok(Html(ColumnPage { chrome, column, chart, counts, next: found.next }).into_response());
    }
    let sample = last_sampled(&shared);
    let tables = tables(&shared.enfold, &session, sample.as_deref()).await?;
    let found = kept(&session, &HistoryAsked::default(), DRAWN).await?;
    let tiles = tiles(&tables);
    let tables = tables.iter().map(|table| TableView::of(table, &found.counts)).collect();
    Ok(Html(CoveragePage { chrome, tiles, tables }).into_response())
}

fn tiles(tables: &[TableCoverage]) -> Vec<Tile> {
    let columns = || tables.iter().flat_map(|table| &table.columns);
    let all = columns().count();
    let tile =
        |says, is_good: fn(&&ColumnCoverage) -> bool| Tile { says, good: columns().filter(is_good).count(), all };
    vec![
        tile("Columns counted without plaintext", |column| {
            column.counted.as_ref().is_some_and(|counts| others(counts) == 0)
        }),
        tile("Columns whose table refuses plaintext", |column| column.enforced == Some(true)),
        tile("Columns in the mode that the policy wants", |column| column.mode == column.wanted),
    ]
}

/// Counts a sample of each table; it is shown for a minute.
pub(super) async fn sample(sent: Sent) -> Result<Response, Failure> {
    sent.caller.check_everywhere(Permission::Read)?;
    let session = sent.shared.session(&sent.context(None)).await?;
    let shared = Arc::clone(&sent.shared);
    to_its_end(async move { sampled(&shared, &session).await }).await?;
    Ok(sent.done("A sample was counted, of 10,000 rows of each table at most. It is shown for a minute, and is no count of a column.", HERE))
}
