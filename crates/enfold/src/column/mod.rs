//! The column handle: seal and open values, one or many, each bound to its place.
//!
//! Batch first: one value is a batch of one. Results come in the order of the requests, one for each, so that one bad
//! value never hides the rest. A value that does not open is an error and nothing else: the stored bytes are never
//! handed out in its place, because whoever saves them again would make them the value.
//!
//! A single value whose neighbour went the same way a moment ago is a shortcut past the batch (`again` in `seal.rs` and
//! `open.rs`): where everything is as it was then, and it succeeds. In every other case the batch says what is wrong.

mod before;
mod index;
mod open;
mod seal;
mod seat;
mod warm;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enfold_core::index::IndexSpec;
use enfold_core::readers::{Beside, Foreign};
use enfold_core::{Binding, Form, KeyId, Part, PayloadType};
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use crate::error::Retry;
use crate::events::{CallContext, Event, EventKind, SubjectTag};
use crate::handle::Enfold;
use crate::keyring::{Found, View};
use crate::metrics::Series;
use crate::policy::{Detail, Mode};
use crate::traces::TARGET;
use crate::{Code, Error, Result};

pub use index::{Index, IndexRequest};
pub(crate) use seat::{Seat, Seats};

/// Where a value lives: whose it is, and in which row. Both as the policy asks for them: a table with a tenant column
/// wants the tenant, a column with `bind_row` wants the row's key, in the order of `row_key`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub tenant: Option<Part<'a>>,
    pub row: &'a [Part<'a>],
}

impl<'a> Place<'a> {
    /// For tables without a tenant and columns that are not bound to their row.
    pub const fn none() -> Self {
        Self { tenant: None, row: &[] }
    }

    pub const fn tenant(tenant: Part<'a>) -> Self {
        Self { tenant: Some(tenant), row: &[] }
    }
}

/// A value to seal.
#[derive(Clone, Copy)]
pub struct SealRequest<'a> {
    pub place: Place<'a>,
    /// In which form the place holds its values.
    pub form: Form,
    pub payload: PayloadType,
    pub value: &'a [u8],
}

/// Stored bytes to open.
#[derive(Clone, Copy)]
pub struct OpenRequest<'a> {
    pub place: Place<'a>,
    pub form: Form,
    /// As the database returned them.
    pub stored: &'a [u8],
    /// What the columns hold that the policy names in `companions`; those that are NULL are left out. Empty for a column
    /// without companions.
    pub beside: Beside<'a>,
}

impl<'a> OpenRequest<'a> {
    fn foreign(&self) -> Foreign<'a> {
        Foreign::new(self.form, self.stored, self.beside)
    }
}

/// A value that was read. It cannot be printed, and is wiped on drop.
pub struct OpenedValue {
    pub value: Zeroizing<Vec<u8>>,
    /// What the sealer said it is; the form's own where it was stored in the clear.
    pub payload: PayloadType,
    pub source: Source,
}

/// What a value was stored as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In the clear: the column is not converted yet.
    Plaintext,
    /// As another product encrypted it, read by the reader of this name in the policy.
    Format { reader: String },
    /// In an envelope that names this key.
    Envelope { key: KeyId },
}

/// A protected column, or a value that lives in no column. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Column {
    enfold: Enfold,
    seat: Arc<Seat>,
    indexes: Arc<BTreeMap<String, IndexSpec>>,
    conversion: bool,
}

impl Column {
    pub(crate) fn new(enfold: Enfold, seat: Arc<Seat>, indexes: BTreeMap<String, IndexSpec>) -> Self {
        Self { enfold, seat, indexes: Arc::new(indexes), conversion: false }
    }

    /// As the policy calls it.
    pub fn name(&self) -> &str {
        &self.seat.name
    }

    /// The id that its values are bound to.
    pub fn id(&self) -> &str {
        &self.seat.id
    }

    pub(crate) fn ring(&self) -> &Arc<crate::keyring::KeyRing> {
        &self.seat.ring
    }

    /// The mode that the operators signed.
    pub async fn mode(&self) -> Result<Mode> {
        let view = self.seat.ring.view().await?;
        self.seat.mode(&view.state)
    }

    /// The same column for a job that converts its values: it seals whatever the mode is, and reads plaintext whatever
    /// the mode is. An application that used it could undo what `enforce` made sure of.
    #[must_use]
    pub fn for_conversion(&self) -> Self {
        Self { conversion: true, ..self.clone() }
    }

    /// The reader of another product's format that takes stored bytes, with what stands beside them, for a value of its own:
    /// by form alone, without a key, and whatever the mode is. Envelopes are nobody's but ours.
    pub fn reader_of(&self, form: Form, stored: &[u8], beside: Beside<'_>) -> Option<&str> {
        if matches!(enfold_core::stored::detect(form, stored), enfold_core::stored::Stored::Envelope(_)) {
            return None;
        }
        let value = Foreign::new(form, stored, beside);
        self.seat.reads.iter().find(|reader| reader.recognises(&value)).map(|reader| reader.name())
    }

    /// Makes of a value what is to be stored: an envelope, or in mode `legacy` what was stored before there was Enfold: the value
    /// as another product's code reads it where the policy says `writes`, and as it is where the column has no readers.
    ///
    /// # Errors
    /// `PlaintextRefused` in mode `legacy` where the column has readers and the policy does not say `writes`.
    pub async fn seal(
        &self,
        context: &CallContext,
        place: &Place<'_>,
        form: Form,
        payload: PayloadType,
        value: &[u8],
    ) -> Result<Vec<u8>> {
        let request = SealRequest { place: *place, form, payload, value };
        if let Some((sealed, began)) = seal::again(self, context, &request) {
            return self.answer(&self.seat.work.seal, began, sealed).await;
        }
        only(self.seal_many(context, &[request]).await)
    }

    /// Reads what is stored: an envelope, or in modes `legacy` and `hybrid` also plaintext, and what another product
    /// encrypted where the policy names a reader of its format. Of a column with companions see [`Self::open_many`].
    pub async fn open(
        &self,
        context: &CallContext,
        place: &Place<'_>,
        form: Form,
        stored: &[u8],
    ) -> Result<OpenedValue> {
        let request = OpenRequest { place: *place, form, stored, beside: &[] };
        if let Some((opened, began)) = open::again(self, context, &request) {
            return self.answer(&self.seat.work.open, began, opened).await;
        }
        only(self.open_many(context, &[request]).await)
    }

    /// As [`Self::seal`], many at once: a result for each, in order.
    pub async fn seal_many(&self, context: &CallContext, requests: &[SealRequest<'_>]) -> Vec<Result<Vec<u8>>> {
        let sealing = Box::pin(seal::seal_many(self, context, requests));
        self.batch(&self.seat.work.seal, EventKind::SealFailed, context, requests.len(), sealing)
            .instrument(self.span("seal", requests.len()))
            .await
    }

    /// What [`Self::seal_many`] makes of values in mode `legacy`, whatever the mode is: for a job that takes a column back to the
    /// format of this reader, which has to be the policy's `writes`. An application writes as the mode says.
    pub async fn write_back_many(
        &self,
        context: &CallContext,
        reader: &str,
        requests: &[SealRequest<'_>],
    ) -> Vec<Result<Vec<u8>>> {
        let sealing = Box::pin(before::write_back(self, context, reader, requests));
        self.batch(&self.seat.work.seal, EventKind::SealFailed, context, requests.len(), sealing).await
    }

    /// As [`Self::open`], many at once: a result for each, in order.
    pub async fn open_many(&self, context: &CallContext, requests: &[OpenRequest<'_>]) -> Vec<Result<OpenedValue>> {
        let opening = Box::pin(open::open_many(self, context, requests));
        self.batch(&self.seat.work.open, EventKind::OpenFailed, context, requests.len(), opening)
            .instrument(self.span("open", requests.len()))
            .await
    }

    /// What is stored in the column of the blind index `name` beside this value. See [`Index::to_store`].
    pub async fn index_to_store(
        &self,
        context: &CallContext,
        name: &str,
        place: &Place<'_>,
        value: &str,
    ) -> Result<Vec<u8>> {
        self.blind_index(name)?.to_store(context, place, &[value]).await
    }

    /// As [`Enfold::subject_tag`], of this column's ring.
    pub async fn subject_tag(&self, subject: &str) -> Result<SubjectTag> {
        Ok(self.seat.ring.view().await?.rows.subject(subject))
    }

    /// What a lookup by this value compares the column of the blind index `name` with: it holds one of these. See
    /// [`Index::lookup`].
    pub async fn lookup(
        &self,
        context: &CallContext,
        name: &str,
        place: &Place<'_>,
        value: &str,
    ) -> Result<Vec<Vec<u8>>> {
        self.blind_index(name)?.lookup(context, place, &[value]).await
    }

    /// A blind index of this column as a handle of its own.
    pub fn blind_index(&self, name: &str) -> Result<Index> {
        let spec = self.indexes.get(name).ok_or_else(|| {
            Error::new(Code::UnknownColumn, format!("`{}` has no index `{name}`", self.seat.name))
                .hint("indexes of several columns belong to their table: `enfold.index(table, name)`")
        })?;
        Ok(Index::shared(self.enfold.clone(), Arc::clone(&self.seat), spec.clone()))
    }

    fn span(&self, operation: &'static str, values: usize) -> Span {
        let (ring, column) = (self.seat.ring.name.as_str(), self.seat.name.as_str());
        tracing::info_span!(target: TARGET, "values", operation, ring, column, values)
    }

    /// What every call begins with: the caller said who it is, the state is known, and so is the mode.
    async fn enter(&self, context: &CallContext) -> Result<(Arc<View>, Mode)> {
        check_context(&self.enfold, &self.seat, context)?;
        let view = self.seat.ring.view().await?;
        let mode = self.seat.mode(&view.state)?;
        Ok((view, mode))
    }

    /// Does a batch of so many; reports what failed of it, and counts it all. `doing` is in a box: as a part of the caller's future,
    /// which is a part of others, it is nested deeper than the compiler goes.
    async fn batch<T>(
        &self,
        series: &Series,
        failed: EventKind,
        context: &CallContext,
        asked: usize,
        doing: impl Future<Output = Result<Vec<Result<T>>>>,
    ) -> Vec<Result<T>> {
        let began = Instant::now();
        let results = report(&self.enfold, &self.seat, context, failed, asked, doing.await).await;
        series.batch(&results, began.elapsed());
        results
    }

    /// Gives out what took the short way, once its event is written where the policy wants that.
    async fn answer<T>(&self, series: &Series, began: Duration, value: T) -> Result<T> {
        let answer = self.enfold.0.events.before_answer().await.map(|()| value);
        series.short(&answer, || self.enfold.0.clock.now().saturating_sub(began));
        answer
    }

    /// As [`Self::done`], for a single value.
    fn done_one(&self, found: &Found, context: &CallContext) {
        let counter = found.counter();
        match self.detail(counter.kind(), context) {
            Detail::Each => self.enfold.0.events.count(counter, context, found.at),
            Detail::Minute => self.enfold.0.events.sum(counter.to_event(context)),
            Detail::Off => {}
        }
    }

    /// How a call is written down.
    fn detail(&self, kind: EventKind, context: &CallContext) -> Detail {
        let policy = &self.enfold.policy().events;
        match kind {
            _ if context.each => Detail::Each,
            _ if self.conversion => policy.jobs,
            EventKind::Open => policy.opens,
            _ => policy.seals,
        }
    }

    /// `key`: the data key with its version, or a root key.
    fn done(&self, kind: EventKind, count: usize, key: Option<(KeyId, Option<u32>)>, context: &CallContext) {
        if count > 0 && self.enfold.0.events.is_heard() {
            let event = || {
                let event = Event::new(kind, count as u64);
                let event = key.into_iter().fold(event, |event, (id, version)| event.key(id, version));
                event.ring(self.seat.ring.id()).column(&self.seat.name).context(context)
            };
            match self.detail(kind, context) {
                Detail::Each => self.enfold.0.events.emit(event()),
                Detail::Minute => self.enfold.0.events.sum(event()),
                Detail::Off => {}
            }
        }
    }
}

/// Reports what failed of a batch: one event for each way, whatever the batch's size. What may pass by itself, such as a key service
/// that is away, is summed by the minute. Where the policy wants events written before there is an answer and they cannot be,
/// nobody has one.
async fn report<T>(
    enfold: &Enfold,
    seat: &Seat,
    context: &CallContext,
    kind: EventKind,
    asked: usize,
    results: Result<Vec<Result<T>>>,
) -> Vec<Result<T>> {
    let results = results.unwrap_or_else(|error| (0..asked).map(|_| Err(error.clone())).collect());
    let mut failed: BTreeMap<&'static str, (&Error, u64)> = BTreeMap::new();
    for error in results.iter().filter_map(|r| r.as_ref().err()) {
        failed.entry(error.code().word()).or_insert((error, 0)).1 += 1;
    }
    for (error, count) in failed.into_values() {
        let mut event = Event::failed(kind, error).ring(seat.ring.id()).column(&seat.name).context(context);
        event.count = count;
        match error.code().retry() {
            Retry::Never => enfold.0.events.emit(event),
            _ => enfold.0.events.sum(event),
        }
    }
    match enfold.0.events.before_answer().await {
        Ok(()) => results,
        Err(error) => results.into_iter().map(|_| Err(error.clone())).collect(),
    }
}

/// Whether the caller said what the policy wants to know.
fn check_context(enfold: &Enfold, seat: &Seat, context: &CallContext) -> Result<()> {
    let rules = enfold.policy().context;
    let missing = |part: &Option<String>| part.as_ref().is_none_or(|text| text.trim().is_empty());
    let said = match () {
        () if rules.require_actor && missing(&context.actor) => "actor",
        () if rules.require_reason && missing(&context.reason) => "reason",
        () => return Ok(()),
    };
    Err(Error::new(Code::ContextRequired, format!("a call for `{}` must say its {said}", seat.name))
        .hint(format!("set `{said}` in the call context; the policy requires it in `[context]`")))
}

/// The bindings of a batch. Neighbours in one place share one.
struct Bindings {
    made: Vec<Binding>,
    of: Vec<usize>,
}

impl Bindings {
    fn of<'a>(seat: &Seat, places: impl Iterator<Item = Place<'a>>) -> Self {
        let mut bindings = Self { made: Vec::new(), of: Vec::with_capacity(places.size_hint().0) };
        let mut last: Option<Place<'_>> = None;
        for place in places {
            let place = seat.bound(place);
            if last != Some(place) {
                bindings.made.push(seat.binding(&place));
                last = Some(place);
            }
            bindings.of.push(bindings.made.len() - 1);
        }
        bindings
    }

    fn get(&self, item: usize) -> &Binding {
        &self.made[self.of[item]]
    }
}

/// The result of a batch of one.
fn only<T>(mut results: Vec<Result<T>>) -> Result<T> {
    results.pop().unwrap_or_else(|| Err(Error::new(Code::Internal, "a batch of one had no result")))
}
