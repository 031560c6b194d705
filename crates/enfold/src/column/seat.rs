//! What the policy and the signed state say of one column.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use enfold_core::{Binding, Padding};

use super::Place;
use crate::events::{Counter, EventKind, Origin};
use crate::keyring::{KeyRing, LiveKey, Near};
use crate::metrics::Work;
use crate::policy::{ColumnPolicy, Lookalikes, Mode, Salt, Scope, TablePolicy, ValuePolicy};
use crate::readers::{FormatReader, Reads};
use crate::state::RingState;
use crate::{Code, Error, Result};

/// Where values are bound to, and by which rules. Everything here is fixed for the life of the process.
pub(crate) struct Seat {
    /// As the policy spells it; the signed column map names it so too.
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) ring: Arc<KeyRing>,
    tenant: Rule,
    row: Rule,
    /// How many parts a row's key has.
    row_parts: usize,
    pub(super) padding: Padding,
    pub(super) salt: Salt,
    pub(super) lookalikes: Lookalikes,
    /// Readers of other products' formats.
    pub(super) reads: Reads,
    /// That one of them in whose format mode `legacy` writes.
    pub(super) writes: Option<Arc<FormatReader>>,
    min_mode: Mode,
    /// A value that lives in no column was never stored in the clear, so it has no mode to pass through.
    always_sealed: bool,
    pub(super) near: Near,
    /// What was done with values of its class.
    pub(super) work: Arc<Work>,
    /// The binding's part that all values of the column share.
    column: Binding,
    origin: Arc<Origin>,
}

/// The seats of a process by name: however many handles a column has, they share what they know of its data keys.
#[derive(Default)]
pub(crate) struct Seats(Mutex<HashMap<String, Arc<Seat>>>);

impl Seats {
    pub(crate) fn get(&self, name: &str, make: impl FnOnce() -> Result<Seat>) -> Result<Arc<Seat>> {
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seat) = seats.get(name) {
            return Ok(Arc::clone(seat));
        }
        let seat = Arc::new(make()?);
        seats.insert(name.to_owned(), Arc::clone(&seat));
        Ok(seat)
    }
}

/// Whether a part of a place is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Required,
    /// The table has none: a caller who gives one means another table.
    Absent,
    /// Given or not, it is not bound.
    Ignored,
    /// Bound where it is given.
    Free,
}

impl Seat {
    pub(crate) fn of_column(
        name: &str,
        table: &TablePolicy,
        column: &ColumnPolicy,
        ring: Arc<KeyRing>,
        reads: Reads,
        work: Arc<Work>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            id: column.id.clone(),
            column: Binding::new(ring.id(), &column.id),
            near: Near::new(ring.policy.cache.max_keys),
            origin: origin(&ring, name),
            ring,
            tenant: if table.tenant.is_some() { Rule::Required } else { Rule::Absent },
            row: if column.bind_row { Rule::Required } else { Rule::Ignored },
            row_parts: table.row_key.len(),
            padding: column.padding.map_or(Padding::None, Padding::Block),
            salt: column.salt,
            lookalikes: column.lookalikes,
            writes: reads.iter().find(|reader| column.writes.as_deref() == Some(reader.name())).cloned(),
            reads,
            work,
            min_mode: column.min_mode,
            always_sealed: false,
        }
    }

    pub(crate) fn of_value(name: &str, value: &ValuePolicy, ring: Arc<KeyRing>, work: Arc<Work>) -> Self {
        Self {
            name: name.to_owned(),
            id: value.id.clone(),
            column: Binding::new(ring.id(), &value.id),
            near: Near::new(ring.policy.cache.max_keys),
            origin: origin(&ring, name),
            ring,
            tenant: Rule::Free,
            row: Rule::Free,
            row_parts: 0,
            padding: Padding::None,
            salt: Salt::Shared,
            lookalikes: Lookalikes::Refuse,
            reads: Reads::new(),
            writes: None,
            work,
            min_mode: Mode::Kms,
            always_sealed: true,
        }
    }

    /// The mode that the operators signed; refused if the policy pins a stronger one, or another id, or lacks a reader.
    pub(crate) fn mode(&self, state: &RingState) -> Result<Mode> {
        if self.always_sealed {
            return Ok(Mode::Kms);
        }
        let mode = state.mode(&self.name, &self.id)?;
        if mode < self.min_mode {
            return Err(Error::new(
                Code::StateTampered,
                format!("the signed mode of `{}` is weaker than the one that the policy pins", self.name),
            )
            .hint("bring the column to its mode with `enfold apply`, or lower `min_mode` in enfold.toml"));
        }
        self.has_readers(state)?;
        Ok(mode)
    }

    /// Without a reader its values would be taken for plaintext, and sealed as they are.
    fn has_readers(&self, state: &RingState) -> Result<()> {
        let has = |name: &str| self.reads.iter().any(|reader| reader.name() == name);
        match state.reads(&self.name).find(|name| !has(name)) {
            None => Ok(()),
            Some(name) => Err(Error::new(
                Code::ReaderMissing,
                format!("the policy lacks the reader `{name}`, which values of `{}` may need", self.name),
            )
            .cause("the operators signed that the column is read with it")
            .hint(format!("put `{name}` back into the column's `reads` and, if it is gone, `[readers.{name}]`"))
            .hint(format!(
                "with it there, `enfold drop-reader {name}` counts what needs it, and signs that nothing does"
            ))),
        }
    }

    /// What is to be signed of the column's readers in a mode. In `legacy` it is what Enfold may write itself: where it writes
    /// nothing, nothing is converted yet, and the policy alone says what is read. In `kms` there are envelopes only.
    pub(crate) fn may_need(&self, mode: Mode) -> BTreeSet<String> {
        let needed = mode == Mode::Hybrid || mode == Mode::Legacy && self.writes.is_some();
        let reads = self.reads.iter().filter(|_| needed);
        reads.map(|reader| reader.name().to_owned()).collect()
    }

    /// Refuses a place that lacks what the value is bound to, or has what there cannot be.
    pub(super) fn check(&self, place: &Place<'_>) -> Result<()> {
        self.check_tenant(place)?;
        if self.row == Rule::Required && place.row.len() != self.row_parts {
            let (wanted, given) = (self.row_parts, place.row.len());
            return Err(self.incomplete(&format!("its row key has {wanted} parts, and {given} were given")));
        }
        Ok(())
    }

    /// As [`Self::check`], for what is bound to a tenant and to no row.
    pub(super) fn check_tenant(&self, place: &Place<'_>) -> Result<()> {
        match (self.tenant, place.tenant) {
            (Rule::Required, None) => Err(self.incomplete("its table has a tenant, and none was given")),
            (Rule::Absent, Some(_)) => Err(self.incomplete("a tenant was given, and its table has none")),
            _ => Ok(()),
        }
    }

    /// The part of a place that is bound.
    pub(super) fn bound<'a>(&self, place: Place<'a>) -> Place<'a> {
        if self.row == Rule::Ignored { Place { row: &[], ..place } } else { place }
    }

    pub(super) fn binding(&self, place: &Place<'_>) -> Binding {
        self.column.elsewhere(place.tenant, place.row)
    }

    /// What decides about the data key that seals in a place: the tenant, where each has its own.
    pub(super) fn key_of<'a>(&self, binding: &'a Binding) -> &'a [u8] {
        if self.ring.policy.scope == Scope::Tenant { binding.encoded_tenant() } else { &[] }
    }

    /// Counts values of this column under one data key.
    pub(super) fn counter(&self, kind: EventKind, key: &LiveKey) -> Counter {
        Counter::new(kind, &self.origin, key.id(), key.version())
    }

    fn incomplete(&self, why: &str) -> Error {
        Error::new(Code::BindingIncomplete, format!("cannot tell where a value of `{}` lives", self.name)).cause(why)
    }
}

fn origin(ring: &KeyRing, name: &str) -> Arc<Origin> {
    Arc::new(Origin { ring: ring.id().to_owned(), column: name.to_owned() })
}
