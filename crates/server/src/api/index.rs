//! Values of blind indexes: what is stored beside a value, and what a lookup compares with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use enfold::access::{Permission, Subject};
use enfold::policy::IndexPolicy;
use enfold::{CallContext, Code, Error, Form, Index, IndexRequest, OwnedPart, Place, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Failure;
use super::body::{Asked, Data};
use super::datum::{Datum, PlacePart};
use super::edge::Call;
use super::outcome::{Group, ItemResult, Results, note_refusals};
use crate::Shared;
use crate::identity::{Batch, Caller, denied};

/// Values to compute blind indexes of.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexAsked {
    /// Why. A policy may require it.
    reason: Option<String>,
    items: Vec<IndexItem>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexItem {
    /// The column that the index is of, or the table where it is of several columns.
    of: String,
    /// The index, as the policy calls it.
    index: String,
    /// Whose row it is, where the table has a tenant.
    tenant: Option<PlacePart>,
    /// A text for each column that the index covers, in the order of the policy's `over`.
    values: Vec<Datum>,
    /// Handed back with the result.
    reference: Option<String>,
}

pub(crate) type IndexAnswer = Data<Results<Indexed>>;

#[derive(Serialize, JsonSchema)]
pub(crate) struct Indexed {
    /// What the index's column is to hold beside the value.
    stored: Datum,
    /// What a lookup compares that column with: it holds one of these. Two while the index is rotated.
    lookup: Vec<Datum>,
}

pub(crate) async fn index(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Asked(request): Asked<IndexAsked>,
) -> Result<IndexAnswer, Failure> {
    shared.check_batch(request.items.len())?;
    let context = call.context(&caller, request.reason);
    let mut batch = Batch::new(&caller, Permission::Encrypt, context.reason.as_deref());
    let mut outcomes: Vec<Option<Result<Indexed>>> = Vec::new();
    outcomes.resize_with(request.items.len(), || None);
    let mut by_index: BTreeMap<(&str, &str), Group<Row<'_>>> = BTreeMap::new();
    for (at, item) in request.items.iter().enumerate() {
        match row(&shared, &mut batch, item) {
            Ok(row) => {
                let (places, rows) = by_index.entry((&item.of, &item.index)).or_default();
                places.push(at);
                rows.push(row);
            }
            Err(error) => outcomes[at] = Some(Err(error)),
        }
    }
    for ((of, name), (at, rows)) in by_index {
        let done = match shared.enfold.index(of, name) {
            Ok(index) => compute(&index, &context, &rows).await,
            Err(error) => at.iter().map(|_| Err(error.clone())).collect(),
        };
        at.into_iter().zip(done).for_each(|(at, done)| outcomes[at] = Some(done));
    }
    let of = request.items.iter().map(|item| item.of.as_str());
    note_refusals(&shared, &caller, &call, of.zip(&outcomes));
    let references = request.items.into_iter().map(|item| item.reference);
    let items = references.zip(outcomes).map(|(reference, done)| ItemResult::of(reference, done)).collect();
    Ok(Data { data: Results { items } })
}

/// The texts of one row, and whose it is.
struct Row<'a> {
    tenant: Option<OwnedPart>,
    values: Vec<&'a str>,
}

/// What an item asks for, if the caller may seal in every column that the index covers: an index value tells whether two values
/// are equal.
fn row<'a>(shared: &Shared, batch: &mut Batch<'_>, item: &'a IndexItem) -> Result<Row<'a>> {
    let tenant = item.tenant.as_ref().map(PlacePart::owned);
    let policy = shared.enfold.policy();
    let (table, index) = match policy.column(&item.of) {
        Some((table, column)) => (Some(table), column.indexes.get(&item.index)),
        None => policy.tables.get(&item.of).map_or((None, None), |table| (Some(table), table.indexes.get(&item.index))),
    };
    let covered: Vec<(String, Option<&str>)> = match (table, index) {
        (Some(table), Some(index)) => index
            .over
            .iter()
            .map(|column| {
                (format!("{}.{column}", table.name), table.columns.get(column).and_then(|c| c.class.as_deref()))
            })
            .collect(),
        _ => vec![(item.of.clone(), None)],
    };
    for (column, class) in &covered {
        let subject = Subject { column, class: *class, tenant: tenant.as_ref().map(OwnedPart::as_part) };
        let allowed = batch.check(&subject)?;
        if index.is_some_and(|index: &IndexPolicy| index.cross_tenant) && allowed.tenants_only {
            // One key for all tenants: it would tell whether others have the value.
            return Err(denied(Permission::Encrypt));
        }
    }
    let text = |datum: &'a Datum| match datum.form {
        Form::Text => std::str::from_utf8(&datum.bytes).ok(),
        _ => None,
    };
    let values: Option<Vec<&str>> = item.values.iter().map(text).collect();
    let values = values.ok_or_else(|| Error::new(Code::ValueInvalid, "a blind index is of texts"))?;
    Ok(Row { tenant, values })
}

async fn compute(index: &Index, context: &CallContext, rows: &[Row<'_>]) -> Vec<Result<Indexed>> {
    let requests = rows.iter().map(|row| IndexRequest {
        place: Place { tenant: row.tenant.as_ref().map(OwnedPart::as_part), row: &[] },
        values: &row.values,
    });
    let requests: Vec<_> = requests.collect();
    let stored = index.to_store_many(context, &requests).await;
    let lookups = index.lookup_many(context, &requests).await;
    let datum = |bytes: Vec<u8>| Datum::new(Form::Bytes, Zeroizing::new(bytes));
    let indexed = |(stored, lookup): (Result<Vec<u8>>, Result<Vec<Vec<u8>>>)| {
        Ok(Indexed { stored: datum(stored?), lookup: lookup?.into_iter().map(datum).collect() })
    };
    stored.into_iter().zip(lookups).map(indexed).collect()
}
