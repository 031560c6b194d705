//! What a column used a moment ago, found again in one step.
//!
//! On the way of a call stand the state, the column's mode in it, the tenant's tag, the pointer to the data key that
//! seals, and that data key. Of a value whose neighbour went this way all of it is known, if nothing has changed since: so
//! it is kept here with what tells that nothing has. Everything that is found is what the whole way would have given at
//! that moment without asking anybody; where that is not certain nothing is found, and the whole way is gone.
//!
//! No data key is held here: tickets do not keep it alive when its cache lets it go.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enfold_core::KeyId;

use super::{KeyRing, LiveKey, ScopeId, View};
use crate::cache::Ticket;
use crate::catalog::Purpose;
use crate::events::Counter;
use crate::metrics::{PARTS, part};
use crate::policy::Mode;

/// The data keys of one column by what leads to them.
pub(crate) struct Near {
    /// By the tenant's part of the binding where each tenant has a data key, and else under nothing.
    pub(crate) sealing: Shelf<Box<[u8]>>,
    /// By the id that an envelope names.
    pub(crate) opening: Shelf<KeyId>,
}

/// A bounded number of ways. Full, it is emptied: each way is found again by going it once.
pub(crate) struct Shelf<K> {
    most: usize,
    /// Threads have parts of their own, as far as there are parts: two that seal for one tenant would take the memory of
    /// one part from each other for every value.
    parts: [Mutex<HashMap<K, Arc<Known>>>; PARTS],
}

struct Known {
    /// The view by which all this was so.
    view: u64,
    mode: Mode,
    /// Which data key seals, where that was asked.
    pointer: Option<Ticket<KeyId>>,
    key: Ticket<LiveKey>,
    counter: Counter,
}

/// What was found.
pub(crate) struct Found {
    known: Arc<Known>,
    pub(crate) key: Arc<LiveKey>,
    /// When, by the ring's clock.
    pub(crate) at: Duration,
}

impl Found {
    pub(crate) fn mode(&self) -> Mode {
        self.known.mode
    }

    pub(crate) fn counter(&self) -> &Counter {
        &self.known.counter
    }
}

impl Near {
    /// `most`: how many data keys the ring's cache holds.
    pub(crate) fn new(most: usize) -> Self {
        Self { sealing: Shelf::new(most), opening: Shelf::new(most) }
    }
}

impl<K: Eq + Hash> Shelf<K> {
    fn new(most: usize) -> Self {
        Self { most: most.max(1), parts: Default::default() }
    }

    /// The data key, if the whole way would lead to it now without asking anybody.
    pub(crate) fn find<Q: Eq + Hash + ?Sized>(&self, ring: &KeyRing, by: &Q) -> Option<Found>
    where
        K: Borrow<Q>,
    {
        let known = Arc::clone(self.part().get(by)?);
        let at = ring.seen.now();
        if !ring.seen.still_holds(known.view, at) || known.pointer.as_ref().is_some_and(|p| !p.is_good(at)) {
            return None;
        }
        let key = known.key.value(at)?;
        if key.is_spent(&ring.policy.cache) {
            return None;
        }
        ring.keys.found_by_ticket();
        if known.pointer.is_some() {
            ring.pointers.found_by_ticket();
        }
        Some(Found { known, key, at })
    }

    fn part(&self) -> MutexGuard<'_, HashMap<K, Arc<Known>>> {
        // No code under this lock panics half-way through a change.
        self.parts[part()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, by: K, known: Known) {
        let mut all = self.part();
        if all.len() >= self.most && !all.contains_key(&by) {
            all.clear();
        }
        all.insert(by, Arc::new(known));
    }
}

/// A way that was gone: what [`Shelf`] is told of it.
pub(crate) struct Way<'a> {
    pub(crate) view: &'a View,
    pub(crate) mode: Mode,
    pub(crate) key: &'a Arc<LiveKey>,
    pub(crate) counter: Counter,
}

impl KeyRing {
    /// Keeps the way to the data key that seals in a scope.
    pub(crate) fn keep_sealing(&self, near: &Near, by: &[u8], scope: &ScopeId, way: Way<'_>) {
        let pointer = (way.view.state.epoch, Purpose::Seal, scope.clone());
        if let Some((id, ticket)) = self.pointers.ticket(&pointer)
            && *id == way.key.id()
            && let Some(known) = self.known(Some(ticket), way)
        {
            near.sealing.keep(by.into(), known);
        }
    }

    /// Keeps the way to the data key that an envelope names.
    pub(crate) fn keep_opening(&self, near: &Near, way: Way<'_>) {
        let id = way.key.id();
        if let Some(known) = self.known(None, way) {
            near.opening.keep(id, known);
        }
    }

    /// Nothing, where the cache has another key by now.
    fn known(&self, pointer: Option<Ticket<KeyId>>, way: Way<'_>) -> Option<Known> {
        let (held, key) = self.keys.ticket(&way.key.id())?;
        let Way { view, mode, counter, .. } = way;
        Arc::ptr_eq(&held, way.key).then(|| Known { view: view.serial, mode, pointer, key, counter })
    }
}
