//! Opening a batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use enfold_core::readers::fits;
use enfold_core::stored::{self, Stored};
use enfold_core::{Envelope, Form, KeyId, Kind, OpenItem, Opened, Part, PayloadType, record};
use futures_util::stream::{self, StreamExt};
use zeroize::Zeroizing;

use super::{Bindings, Column, OpenRequest, OpenedValue, Source, check_context};
use crate::events::{CallContext, EventKind};
use crate::keyring::roots::data_key;
use crate::keyring::{BATCHES_AT_ONCE, LiveKey, View, Way};
use crate::kms::{UnwrapRequest, WrappedKey};
use crate::policy::{Lookalikes, Mode};
use crate::readers::Fetched;
use crate::traces::span;
use crate::{Code, Error, Result, core_error};

/// Values of other products that are opened before others get their turn.
const FOREIGN_AT_ONCE: usize = 16;

/// Opens one value under a data key that opened another of the same column a moment ago; with when it began, as in `seal.rs`.
pub(super) fn again(
    column: &Column,
    context: &CallContext,
    request: &OpenRequest<'_>,
) -> Option<(OpenedValue, Duration)> {
    let seat = &*column.seat;
    check_context(&column.enfold, seat, context).ok()?;
    seat.check(&request.place).ok()?;
    let Stored::Envelope(bytes) = stored::detect(request.form, request.stored) else { return None };
    let envelope = Envelope::parse(&bytes).ok().filter(|envelope| envelope.kind() != Kind::InlineRoot)?;
    let found = seat.near.opening.find(&seat.ring, &envelope.key_id())?;
    let binding = seat.binding(&seat.bound(request.place));
    found.key.spend(&seat.ring.policy.cache, 1, 0);
    let opened = found.key.opener().ok()?.open(&envelope, &binding).ok()?;
    column.done_one(&found, context);
    let source = Source::Envelope { key: found.key.id() };
    Some((OpenedValue { value: opened.plaintext, payload: opened.payload, source }, found.at))
}

/// `Err` is for what concerns all values alike.
pub(super) async fn open_many(
    column: &Column,
    context: &CallContext,
    requests: &[OpenRequest<'_>],
) -> Result<Vec<Result<OpenedValue>>> {
    let (view, mode) = column.enter(context).await?;
    let bindings = Bindings::of(&column.seat, requests.iter().map(|r| r.place));
    let batch = Batch { column, context, view, mode, requests, bindings };
    let mut results: Vec<Option<Result<OpenedValue>>> = Vec::with_capacity(requests.len());
    let mut envelopes: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut foreign = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        match batch.read(request) {
            Ok(Read::Value(value)) => results.push(Some(Ok(value))),
            Ok(Read::Envelope(bytes)) => {
                envelopes.insert(at, bytes);
                results.push(None);
            }
            Ok(Read::Foreign) => {
                foreign.push(at);
                results.push(None);
            }
            Err(error) => results.push(Some(Err(error))),
        }
    }
    for (at, result) in batch.open_envelopes(&envelopes).await {
        results[at] = Some(result);
    }
    for (at, result) in batch.open_foreign(&foreign).await {
        results[at] = Some(result);
    }
    let missing = || Err(Error::new(Code::Internal, "a value of a batch had no result"));
    Ok(results.into_iter().map(|r| r.unwrap_or_else(missing)).collect())
}

struct Batch<'a> {
    column: &'a Column,
    context: &'a CallContext,
    view: Arc<View>,
    mode: Mode,
    requests: &'a [OpenRequest<'a>],
    bindings: Bindings,
}

/// What a cell turned out to hold.
enum Read {
    Value(OpenedValue),
    Envelope(Vec<u8>),
    /// A value in a format that one of the column's readers recognises.
    Foreign,
}

type Results = Vec<(usize, Result<OpenedValue>)>;

impl Batch<'_> {
    fn read(&self, request: &OpenRequest<'_>) -> Result<Read> {
        match stored::detect(request.form, request.stored) {
            Stored::Plain => self.plaintext(request),
            // Only what cannot be an envelope of any version may be somebody's text. What is well formed and does not
            // open stays refused: it may be a stolen envelope, or one whose key is gone.
            Stored::Lookalike(enfold_core::Error::Malformed(_))
                if self.column.seat.lookalikes == Lookalikes::Plaintext && self.reads_plaintext() =>
            {
                self.plaintext(request)
            }
            Stored::Lookalike(error) => Err(self.failed(error)),
            Stored::Envelope(bytes) => {
                self.column.seat.check(&request.place)?;
                Ok(Read::Envelope(bytes))
            }
        }
    }

    fn reads_plaintext(&self) -> bool {
        self.mode != Mode::Kms || self.column.conversion
    }

    fn plaintext(&self, request: &OpenRequest<'_>) -> Result<Read> {
        if !self.reads_plaintext() {
            return Err(Error::new(
                Code::PlaintextRefused,
                format!("`{}` holds plaintext where only envelopes may be", self.column.seat.name),
            )
            .hint("`enfold audit` shows how many; `enfold apply` converts them"));
        }
        let value = request.foreign();
        if self.column.seat.reads.iter().any(|reader| reader.recognises(&value)) {
            return Ok(Read::Foreign);
        }
        if !request.beside.is_empty() {
            let name = &self.column.seat.name;
            return Err(Error::new(Code::ValueInvalid, format!("cannot tell what a value of `{name}` is"))
                .cause("something stands beside it, and no reader of the column has parts there"));
        }
        let value = Zeroizing::new(request.stored.to_vec());
        Ok(Read::Value(OpenedValue { value, payload: payload(request.form), source: Source::Plaintext }))
    }

    async fn open_envelopes(&self, envelopes: &BTreeMap<usize, Vec<u8>>) -> Results {
        let mut results = Vec::with_capacity(envelopes.len());
        let mut by_key: BTreeMap<KeyId, Vec<(usize, Envelope<'_>)>> = BTreeMap::new();
        let mut by_root: BTreeMap<KeyId, Vec<(usize, Envelope<'_>)>> = BTreeMap::new();
        for (at, bytes) in envelopes {
            match Envelope::parse(bytes) {
                Ok(envelope) => {
                    let groups = if envelope.kind() == Kind::InlineRoot { &mut by_root } else { &mut by_key };
                    groups.entry(envelope.key_id()).or_default().push((*at, envelope));
                }
                Err(error) => results.push((*at, Err(self.failed(error)))),
            }
        }
        let by_key: Vec<_> = by_key.into_iter().collect();
        let open: Vec<_> = by_key.chunks(self.column.seat.ring.batch()).map(|some| self.open_by_keys(some)).collect();
        results.extend(stream::iter(open).buffered(BATCHES_AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten());
        for (id, items) in by_root {
            let opened = self.open_by_root(id, &items).await;
            collect(&mut results, id, &items, opened);
        }
        results
    }

    /// Values under some data keys, which are fetched together.
    async fn open_by_keys(&self, groups: &[(KeyId, Vec<(usize, Envelope<'_>)>)]) -> Results {
        let seat = &*self.column.seat;
        let is_far = |id: &KeyId| seat.near.opening.find(&seat.ring, id).is_none();
        let far: Vec<KeyId> = groups.iter().map(|(id, _)| *id).filter(is_far).collect();
        if far.len() > 1 {
            seat.ring.load(&self.view, &far).await;
        }
        let mut results = Vec::new();
        for (id, items) in groups {
            let opened = self.open_by_key(*id, items).await;
            collect(&mut results, *id, items, opened);
        }
        results
    }

    async fn open_by_key(&self, id: KeyId, items: &[(usize, Envelope<'_>)]) -> Result<Vec<Result<Opened>>> {
        let key = self.key(id).await?;
        key.spend(&self.column.seat.ring.policy.cache, items.len(), 0);
        let batch =
            items.iter().map(|(at, envelope)| OpenItem { envelope: *envelope, binding: self.bindings.get(*at) });
        let (batch, opener) = (batch.collect::<Vec<_>>(), key.opener()?);
        let opened = span!("open", "crypto", values = items.len()).in_scope(|| opener.open_many(&batch));
        let count = opened.iter().filter(|r| r.is_ok()).count();
        self.column.done(EventKind::Open, count, Some((id, Some(key.version()))), self.context);
        Ok(opened.into_iter().map(|r| r.map_err(|e| self.failed(e))).collect())
    }

    async fn key(&self, id: KeyId) -> Result<Arc<LiveKey>> {
        let seat = &*self.column.seat;
        if let Some(found) = seat.near.opening.find(&seat.ring, &id) {
            return Ok(found.key);
        }
        let key = seat.ring.by_id(&self.view, id).await?;
        let counter = seat.counter(EventKind::Open, &key);
        seat.ring.keep_opening(&seat.near, Way { view: &self.view, mode: self.mode, key: &key, counter });
        Ok(key)
    }

    /// Values whose own data key the root key wrapped: one request to the key service for each.
    async fn open_by_root(&self, id: KeyId, items: &[(usize, Envelope<'_>)]) -> Result<Vec<Result<Opened>>> {
        let ring = &self.column.seat.ring;
        let root = ring.root_named(id).await?;
        let mut contexts = Vec::with_capacity(items.len());
        let mut wrapped = Vec::with_capacity(items.len());
        for (at, envelope) in items {
            let tenant: Option<Part<'_>> = self.requests[*at].place.tenant;
            contexts.push(self.column.record_context(&self.view, tenant)?);
            wrapped.push(WrappedKey::new(envelope.wrapped().unwrap_or_default().to_vec())?);
        }
        let wanted = wrapped.iter().zip(&contexts).map(|(wrapped, context)| UnwrapRequest { wrapped, context });
        let keys = root.kms.unwrap(&wanted.collect::<Vec<_>>()).await;
        let open = |((at, envelope), key): (&(usize, Envelope<'_>), Result<crate::kms::KeyMaterial>)| {
            record::open_with(&data_key(key?), envelope, self.bindings.get(*at)).map_err(|e| self.failed(e))
        };
        let opened = items.iter().zip(keys).map(open).collect::<Vec<_>>();
        let count = opened.iter().filter(|r| r.is_ok()).count();
        self.column.done(EventKind::Open, count, Some((id, None)), self.context);
        Ok(opened)
    }

    /// Values of other products, by the column's readers.
    async fn open_foreign(&self, items: &[usize]) -> Results {
        let mut results = Vec::with_capacity(items.len());
        let fetched = self.fetch(items).await;
        for (done, at) in items.iter().enumerate() {
            // A format may stretch a passphrase for every value: others get their turn in between.
            if done % FOREIGN_AT_ONCE == FOREIGN_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            results.push((*at, self.open_one_foreign(*at, &fetched).await));
        }
        let opened = results.iter().filter(|(_, result)| result.is_ok()).count();
        self.column.done(EventKind::Open, opened, None, self.context);
        results
    }

    /// What each of the column's readers needs of a key service for these values, all of it at once.
    async fn fetch(&self, items: &[usize]) -> Vec<Fetched> {
        let mut fetched = Vec::with_capacity(self.column.seat.reads.len());
        for reader in &self.column.seat.reads {
            let values = items.iter().map(|at| (*at, self.requests[*at].foreign(), self.requests[*at].place.tenant));
            let values: Vec<_> = values.filter(|(_, value, _)| reader.recognises(value)).collect();
            fetched.push(reader.fetch(&values).await);
        }
        fetched
    }

    /// The first reader that opens it; that another recognises it as well is no mistake where none has a beginning of its own.
    async fn open_one_foreign(&self, at: usize, fetched: &[Fetched]) -> Result<OpenedValue> {
        let (form, value) = (self.requests[at].form, self.requests[at].foreign());
        let mut refused = Error::new(Code::OpenFailed, format!("cannot open a value of `{}`", self.column.seat.name));
        let readers = self.column.seat.reads.iter().zip(fetched);
        for (reader, fetched) in readers.filter(|(reader, _)| reader.recognises(&value)) {
            if !reader.is_ready() {
                reader.get_ready().await?;
            }
            match reader.open(at, &value, fetched)? {
                Ok(value) if !fits(form, &value) => {
                    let line = format!("reader `{}` opens a value of `{}`", reader.name(), self.column.seat.name);
                    return Err(Error::new(Code::ValueInvalid, line).cause(match form {
                        Form::Json => "what it holds is not JSON, and the column's values are",
                        _ => "what it holds is not text, and the column's values are",
                    }));
                }
                Ok(value) => {
                    let source = Source::Format { reader: reader.name().to_owned() };
                    return Ok(OpenedValue { value, payload: payload(form), source });
                }
                Err(error) => refused = refused.cause(format!("reader `{}` recognises it: {error}", reader.name())),
            }
        }
        Err(refused.hint("give the reader the key that encrypted it, or restore the value from a backup"))
    }

    fn failed(&self, error: enfold_core::Error) -> Error {
        core_error(error, format!("cannot open a value of `{}`", self.column.seat.name))
    }
}

/// Puts what came of the values under one key in their places.
fn collect(results: &mut Results, key: KeyId, items: &[(usize, Envelope<'_>)], opened: Result<Vec<Result<Opened>>>) {
    let opened = opened.unwrap_or_else(|error| items.iter().map(|_| Err(error.clone())).collect());
    for ((at, _), opened) in items.iter().zip(opened) {
        let source = Source::Envelope { key };
        results.push((*at, opened.map(|o| OpenedValue { value: o.plaintext, payload: o.payload, source })));
    }
}

/// What a value is that says nothing of itself.
fn payload(form: Form) -> PayloadType {
    match form {
        Form::Text => PayloadType::Text,
        Form::Bytes => PayloadType::Bytes,
        Form::Json => PayloadType::Json,
    }
}
