//! Values: sealed and opened in batches, in their order, with a result for each.
//!
//! Items may be of different columns; those of one column are done together. What an item names is checked against what the
//! caller may do before anything is known of the value, and by names alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use enfold::access::{Permission, Subject};
use enfold::error::{Actor, Retry};
use enfold::{
    CallContext, Code, Column, Error, Form, OpenRequest, OpenedValue, OwnedPart, Part, PayloadType, Place, Result,
    SealRequest, Source,
};
use enfold_core::Envelope;
use enfold_core::readers::{Beside, Companion};
use enfold_core::stored::{self, Stored};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Failure;
use super::body::{Asked, Data};
use super::datum::{Datum, PlacePart};
use super::edge::Call;
use super::outcome::{Group, ItemResult, Results, note_refusals};
use crate::Shared;
use crate::identity::{Allowed, Batch, Caller, denied};

/// Values to seal.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncryptRequest {
    /// Why, for the log of events. A policy may require it.
    reason: Option<String>,
    items: Vec<EncryptItem>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EncryptItem {
    /// A column (`schema.table.column` on Postgres, `table.column` on SQLite) or a value of the policy, by its name.
    column: String,
    /// Whose it is, where the column's table has a tenant. A string, a whole number or a UUID, as in the table.
    tenant: Option<PlacePart>,
    /// The row's key, where the column is bound to its row.
    #[serde(default)]
    row: Vec<PlacePart>,
    value: Datum,
    /// Whom the value is about, such as the id of a user: `enfold log opened --subject` finds the event by it. The log has a keyed
    /// hash.
    subject: Option<String>,
    /// Handed back with the result.
    reference: Option<String>,
}

/// Stored values to open.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecryptRequest {
    /// Why, for the log of events. A policy may require it.
    reason: Option<String>,
    items: Vec<DecryptItem>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DecryptItem {
    /// As it was sealed.
    column: String,
    /// As it was sealed.
    tenant: Option<PlacePart>,
    /// As it was sealed.
    #[serde(default)]
    row: Vec<PlacePart>,
    /// What the column holds.
    #[serde(alias = "ciphertext")]
    stored: Datum,
    /// What the columns hold that the policy names in `companions`, by the words there (`iv`, `tag`, `data_key`, `data_key_iv`, `key`,
    /// `version`): as they are stored, a number as it prints. What is NULL is null, or left out.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Option<Datum>>")]
    companions: BTreeMap<Companion, Option<Datum>>,
    /// Whom the value is about: `enfold log opened --subject` finds the event by it.
    subject: Option<String>,
    /// Handed back with the result.
    reference: Option<String>,
}

pub(crate) type EncryptAnswer = Data<Results<Sealed>>;
pub(crate) type DecryptAnswer = Data<Results<Opened>>;

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sealed {
    /// What the column is to hold.
    stored: Datum,
    /// The data key that it is sealed under; missing while the column is in mode `legacy`, and `stored` is what it held before:
    /// the value itself, or as the policy's `writes` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Opened {
    value: Datum,
    source: SourceWord,
    /// The data key that it was sealed under, where the source is an envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    /// The policy's reader that opened it, where the source is another product's format.
    #[serde(skip_serializing_if = "Option::is_none")]
    reader: Option<String>,
}

/// What a value was stored as.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum SourceWord {
    Envelope,
    /// In the clear: the column is not converted yet.
    Plaintext,
    /// As another product encrypted it.
    Format,
}

pub(crate) async fn encrypt(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Asked(request): Asked<EncryptRequest>,
) -> Result<EncryptAnswer, Failure> {
    let items = request.items.into_iter().map(Item::from).collect();
    Ok(Data { data: each(&shared, &caller, &call, request.reason, items).await? })
}

pub(crate) async fn decrypt(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Arc<Caller>>,
    Extension(call): Extension<Call>,
    Asked(request): Asked<DecryptRequest>,
) -> Result<DecryptAnswer, Failure> {
    let items = request.items.into_iter().map(Item::from).collect();
    Ok(Data { data: each(&shared, &caller, &call, request.reason, items).await? })
}

/// An item of either request, its place by the library's types.
struct Item {
    column: String,
    tenant: Option<OwnedPart>,
    row: Vec<OwnedPart>,
    datum: Datum,
    companions: BTreeMap<Companion, Option<Datum>>,
    subject: Option<String>,
    reference: Option<String>,
}

impl Item {
    fn beside(&self) -> Vec<(Companion, &[u8])> {
        let held = self.companions.iter().filter_map(|(part, held)| Some((*part, held.as_ref()?)));
        held.map(|(part, held)| (part, held.bytes.as_slice())).collect()
    }

    fn row(&self) -> Vec<Part<'_>> {
        self.row.iter().map(OwnedPart::as_part).collect()
    }
}

impl From<EncryptItem> for Item {
    fn from(item: EncryptItem) -> Self {
        let EncryptItem { column, tenant, row, value: datum, subject, reference } = item;
        let (tenant, row) = (tenant.as_ref().map(PlacePart::owned), row.iter().map(PlacePart::owned).collect());
        Self { column, tenant, row, datum, companions: BTreeMap::new(), subject, reference }
    }
}

impl From<DecryptItem> for Item {
    fn from(item: DecryptItem) -> Self {
        let DecryptItem { column, tenant, row, stored: datum, companions, subject, reference } = item;
        let (tenant, row) = (tenant.as_ref().map(PlacePart::owned), row.iter().map(PlacePart::owned).collect());
        Self { column, tenant, row, datum, companions, subject, reference }
    }
}

/// An item with the place of its value.
#[derive(Clone, Copy)]
struct Placed<'a> {
    item: &'a Item,
    place: Place<'a>,
    /// What stands beside the value.
    beside: Beside<'a>,
    /// The caller may do this for single tenants only.
    tenants_only: bool,
}

/// What is done with values of one column together.
trait Work: Sized {
    const NEEDS: Permission;

    /// A result for each, in their order.
    fn work(
        column: &Column,
        context: &CallContext,
        items: &[Placed<'_>],
    ) -> impl Future<Output = Vec<Result<Self>>> + Send;
}

impl Work for Sealed {
    const NEEDS: Permission = Permission::Encrypt;

    async fn work(column: &Column, context: &CallContext, items: &[Placed<'_>]) -> Vec<Result<Self>> {
        let requests: Vec<_> = items.iter().map(seal_request).collect();
        let sealed = column.seal_many(context, &requests).await;
        requests.iter().zip(sealed).map(|(request, stored)| Ok(Self::of(request, stored?))).collect()
    }
}

impl Work for Opened {
    const NEEDS: Permission = Permission::Decrypt;

    async fn work(column: &Column, context: &CallContext, items: &[Placed<'_>]) -> Vec<Result<Self>> {
        let mut results: Vec<_> = items.iter().map(|placed| bound_to_nobody(column, placed).map(Err)).collect();
        let wanted: Vec<usize> = (0..items.len()).filter(|at| results[*at].is_none()).collect();
        let requests: Vec<_> = wanted.iter().map(|at| open_request(&items[*at])).collect();
        let opened = column.open_many(context, &requests).await;
        for (at, opened) in wanted.into_iter().zip(opened) {
            results[at] = Some(match opened {
                Err(error) if items[at].tenants_only => Err(untold(column, error)),
                opened => opened.map(Self::of),
            });
        }
        results.into_iter().flatten().collect()
    }
}

fn seal_request<'a>(placed: &Placed<'a>) -> SealRequest<'a> {
    let Datum { form, bytes } = &placed.item.datum;
    let payload = match form {
        Form::Text => PayloadType::Text,
        Form::Bytes => PayloadType::Bytes,
        Form::Json => PayloadType::Json,
    };
    SealRequest { place: placed.place, form: *form, payload, value: bytes }
}

fn open_request<'a>(placed: &Placed<'a>) -> OpenRequest<'a> {
    let Datum { form, bytes } = &placed.item.datum;
    OpenRequest { place: placed.place, form: *form, stored: bytes, beside: placed.beside }
}

/// What other products encrypted is bound to no tenant: whose it is cannot be told from it, so a tenant's caller gets none.
fn bound_to_nobody(column: &Column, placed: &Placed<'_>) -> Option<Error> {
    let Datum { form, bytes } = &placed.item.datum;
    let foreign = placed.tenants_only && column.reader_of(*form, bytes, placed.beside).is_some();
    foreign.then(|| denied(Permission::Decrypt))
}

/// Why a value does not open would tell a tenant's caller what there is of others: that a key is there, or was destroyed.
fn untold(column: &Column, error: Error) -> Error {
    let of_stored = matches!(error.code().actor(), Actor::Data | Actor::Operator);
    if !of_stored || error.code().retry() == Retry::Later {
        return error;
    }
    tracing::info!(target: "enfold_server", column = column.name(), "not told to a tenant's caller: {error}");
    Error::new(Code::OpenFailed, format!("cannot open a value of `{}`", column.name()))
        .hint("it was changed, or belongs to another column, tenant or row")
}

impl Sealed {
    /// An envelope is never what it was made from, so what came back as it went in is the value itself.
    fn of(request: &SealRequest<'_>, stored: Vec<u8>) -> Self {
        let is_value = stored == request.value;
        let key_id = match stored::detect(request.form, &stored) {
            Stored::Envelope(bytes) if !is_value => Envelope::parse(&bytes).ok().map(|e| e.key_id().to_string()),
            _ => None,
        };
        Self { stored: Datum::new(request.form, Zeroizing::new(stored)), key_id }
    }
}

impl Opened {
    fn of(opened: OpenedValue) -> Self {
        let form = match opened.payload {
            PayloadType::Text => Form::Text,
            PayloadType::Bytes => Form::Bytes,
            PayloadType::Json => Form::Json,
        };
        let (source, key_id, reader) = match opened.source {
            Source::Envelope { key } => (SourceWord::Envelope, Some(key.to_string()), None),
            Source::Plaintext => (SourceWord::Plaintext, None, None),
            Source::Format { reader } => (SourceWord::Format, None, Some(reader)),
        };
        Self { value: Datum::new(form, opened.value), source, key_id, reader }
    }
}

/// Does what is asked for the items of each column that are about one subject; the results are in the order of the items.
async fn each<T: Work>(
    shared: &Shared,
    caller: &Caller,
    call: &Call,
    reason: Option<String>,
    items: Vec<Item>,
) -> Result<Results<T>> {
    shared.check_batch(items.len())?;
    let context = &call.context(caller, reason);
    let mut batch = Batch::new(caller, T::NEEDS, context.reason.as_deref());
    let rows: Vec<_> = items.iter().map(|item| (item.row(), item.beside())).collect();
    let mut outcomes: Vec<Option<Result<T>>> = Vec::new();
    outcomes.resize_with(items.len(), || None);
    let mut together: BTreeMap<(&str, Option<&str>), Group<Placed<'_>>> = BTreeMap::new();
    for (at, (item, (row, beside))) in items.iter().zip(&rows).enumerate() {
        match place(shared, &mut batch, item, row, beside) {
            Ok(placed) => {
                let (places, items) = together.entry((&item.column, item.subject.as_deref())).or_default();
                places.push(at);
                items.push(placed);
            }
            Err(error) => {
                shared.exporter.requests.refused(T::NEEDS, error.code());
                outcomes[at] = Some(Err(error));
            }
        }
    }
    for ((name, subject), (at, placed)) in together {
        let done = match about(shared, context, name, subject).await {
            Ok((column, context)) => T::work(&column, &context, &placed).await,
            Err(error) => {
                at.iter().for_each(|_| shared.exporter.requests.refused(T::NEEDS, error.code()));
                at.iter().map(|_| Err(error.clone())).collect()
            }
        };
        at.into_iter().zip(done).for_each(|(at, done)| outcomes[at] = Some(done));
    }
    note_refusals(shared, caller, call, items.iter().map(|item| item.column.as_str()).zip(&outcomes));
    let references = items.into_iter().map(|item| item.reference);
    let items = references.zip(outcomes).map(|(reference, done)| ItemResult::of(reference, done)).collect();
    Ok(Results { items })
}

/// Where an item's value lives, if the caller may do this there: by names alone.
fn place<'a>(
    shared: &Shared,
    batch: &mut Batch<'_>,
    item: &'a Item,
    row: &'a [Part<'a>],
    beside: Beside<'a>,
) -> Result<Placed<'a>> {
    let tenant = item.tenant.as_ref().map(OwnedPart::as_part);
    let class = shared.enfold.policy().column(&item.column).and_then(|(_, column)| column.class.as_deref());
    let subject = Subject { column: &item.column, class, tenant };
    let Allowed { tenants_only } = batch.check(&subject)?;
    Ok(Placed { item, place: Place { tenant, row }, beside, tenants_only })
}

/// A column, and the call to it as one about this subject.
async fn about<'a>(
    shared: &Shared,
    context: &'a CallContext,
    name: &str,
    subject: Option<&str>,
) -> Result<(Column, Cow<'a, CallContext>)> {
    let column = column(shared, name)?;
    let Some(subject) = subject else { return Ok((column, Cow::Borrowed(context))) };
    let subject = Some(column.subject_tag(subject).await?);
    Ok((column, Cow::Owned(CallContext { subject, ..context.clone() })))
}

fn column(shared: &Shared, name: &str) -> Result<Column> {
    shared.enfold.column(name).or_else(|error| shared.enfold.value(name).map_err(|_| error))
}
