//! What a process has seen of its ring's state, and when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{KeyRing, RowKey};
use crate::catalog::{Purpose, SignedState};
use crate::clock::Clock;
use crate::state::RingState;
use crate::{Code, Error, Result};

/// A state older than this is looked at again before it is used: a disable is in force within this time.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the policy pins.
#[derive(Clone)]
pub(crate) struct Trusted {
    pub(crate) operator_key: [u8; 32],
}

/// A state that was verified, with the key that authenticates the ring's rows.
pub(crate) struct View {
    pub(crate) state: RingState,
    pub(crate) rows: Arc<RowKey>,
    /// Which of the policy's customers a tenant's tag stands for, by their place in its list.
    pub(super) tenants: Arc<BTreeMap<String, usize>>,
    stored: SignedState,
    /// Which one of those that this ring's process took in, from 1.
    pub(crate) serial: u64,
}

pub(super) struct Seen {
    trusted: Trusted,
    clock: Arc<dyn Clock>,
    last: Mutex<Last>,
    glance: Glance,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
}

/// What stands in [`Last`], for those who only want to know whether it is still what they saw: no lock.
#[derive(Default)]
struct Glance {
    /// The view that holds; 0 where there is none or it was refused.
    serial: AtomicU64,
    /// Until when it holds without another look, in nanoseconds of the clock.
    until: AtomicU64,
}

#[derive(Default)]
struct Last {
    view: Option<Arc<View>>,
    /// The state that is there now was refused.
    refused: Option<Error>,
    /// When the catalog last answered.
    answered: Option<Duration>,
    /// When it was last asked.
    asked: Option<Duration>,
    /// The highest epoch ever seen here: a lower one is refused for the life of the process.
    high: u64,
}

impl Last {
    /// Until when this is used without another look. Where the catalog was asked a moment ago and did not answer, it is
    /// not asked again by everybody.
    fn good_until(&self, max_unseen: Duration) -> Duration {
        let Some(answered) = self.answered else { return Duration::ZERO };
        let asked = self.asked.map(|asked| (asked + LOOK_EVERY).min(answered + max_unseen));
        asked.unwrap_or_default().max(answered + LOOK_EVERY)
    }
}

impl Seen {
    pub(super) fn new(trusted: Trusted, clock: Arc<dyn Clock>) -> Self {
        let (last, glance) = (Mutex::default(), Glance::default());
        Self { trusted, clock, last, glance, looking: tokio::sync::Mutex::default() }
    }

    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    pub(super) fn unix_ms(&self) -> i64 {
        self.clock.unix_ms()
    }

    /// Whether this view is still the one that [`KeyRing::view`] would give without a look.
    pub(super) fn still_holds(&self, serial: u64, now: Duration) -> bool {
        // The time first: whoever reads a time that is still to come reads a serial no older than it.
        let until = self.glance.until.load(Ordering::Acquire);
        nanos(now) < until && self.glance.serial.load(Ordering::Acquire) == serial
    }

    /// Says in the glance what stands in `last`, whose lock the caller holds. The serial first: see [`Self::still_holds`].
    fn show(&self, last: &Last, max_unseen: Duration) {
        let view = last.view.as_ref().filter(|_| last.refused.is_none());
        self.glance.serial.store(view.map_or(0, |view| view.serial), Ordering::Release);
        self.glance.until.store(nanos(last.good_until(max_unseen)), Ordering::Release);
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // No code under this lock panics half-way through a change.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyRing {
    /// The ring's state, at most [`LOOK_EVERY`] old, or at most `max_unseen` where the catalog does not answer.
    pub(crate) async fn view(&self) -> Result<Arc<View>> {
        if let Some(known) = self.fresh() {
            return known;
        }
        let _looking = self.seen.looking.lock().await;
        if let Some(known) = self.fresh() {
            return known;
        }
        match self.look_now().await {
            Ok(()) => self.held(),
            Err(error) => self.unseen(error),
        }
    }

    /// Looks again, whatever the age: for the background watch, and after a publication.
    pub(crate) async fn look(&self) -> Result<()> {
        let _looking = self.seen.looking.lock().await;
        self.look_now().await
    }

    /// An answer without I/O, where the last look is young enough.
    fn fresh(&self) -> Option<Result<Arc<View>>> {
        let until = self.seen.last().good_until(self.policy.cache.max_unseen);
        (self.seen.now() < until).then(|| self.held())
    }

    fn held(&self) -> Result<Arc<View>> {
        let last = self.seen.last();
        match (&last.refused, &last.view) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(view)) => Ok(Arc::clone(view)),
            (None, None) => {
                Err(Error::new(Code::StateUnseen, format!("the state of ring `{}` was never seen", self.name)))
            }
        }
    }

    /// The catalog did not answer: what was seen last holds for a while.
    fn unseen(&self, error: Error) -> Result<Arc<View>> {
        let limit = self.policy.cache.max_unseen;
        let answered = self.seen.last().answered;
        match answered {
            None => Err(error),
            Some(at) if self.seen.now().saturating_sub(at) < limit => self.held(),
            Some(_) => Err(Error::new(
                Code::StateUnseen,
                format!("the state of ring `{}` was not seen for longer than {} s", self.name, limit.as_secs()),
            )
            .cause(error.to_string())
            .hint("a key may have been disabled meanwhile, so nothing is opened until the catalog answers again")),
        }
    }

    async fn look_now(&self) -> Result<()> {
        {
            let mut last = self.seen.last();
            last.asked = Some(self.seen.now());
            self.seen.show(&last, self.policy.cache.max_unseen);
        }
        let states = self.catalog.states().await?;
        let stored = states.into_iter().find(|s| s.ring == self.id());
        let outcome = self.take_in(stored).await;
        self.name_again(&outcome).await;
        if let Some(epoch) = self.hold(outcome)? {
            self.acknowledge(epoch).await;
        }
        Ok(())
    }

    /// Keeps what a look found; the epoch that this process goes by now, if it may go by it.
    fn hold(&self, outcome: Result<Arc<View>>) -> Result<Option<u64>> {
        let max_unseen = self.policy.cache.max_unseen;
        let now = self.seen.now();
        let mut last = self.seen.last();
        match outcome {
            Ok(view) => {
                let epoch = view.state.epoch;
                last.answered = Some(now);
                last.high = last.high.max(epoch);
                last.view = Some(view);
                last.refused = None;
                self.seen.show(&last, max_unseen);
                Ok(Some(epoch))
            }
            // A key service or the catalog did not answer half-way: nothing is known.
            Err(error) if error.code().retry() == crate::error::Retry::Later => Err(error),
            Err(error) => {
                last.answered = Some(now);
                let known = last.refused.as_ref().is_some_and(|e| e.code() == error.code());
                last.refused = Some(error.clone());
                self.seen.show(&last, max_unseen);
                drop(last);
                // Said once, not each second.
                if !known {
                    self.refuse(error);
                }
                Ok(None)
            }
        }
    }

    /// Operators publish a state when they changed something about keys. Where what they changed cannot be read now, the
    /// background look reads it later.
    async fn name_again(&self, outcome: &Result<Arc<View>>) {
        let is_new = |view: &Arc<View>| self.seen.last().view.as_ref().is_some_and(|held| held.serial != view.serial);
        if outcome.as_ref().is_ok_and(is_new)
            && let Err(error) = self.refresh_names().await
        {
            tracing::info!(target: "enfold::keyring", ring = self.name, "cannot read the ids of root keys: {error}");
        }
    }

    async fn take_in(&self, stored: Option<SignedState>) -> Result<Arc<View>> {
        let (held, high) = {
            let last = self.seen.last();
            (last.view.clone(), last.high)
        };
        let held_serial = held.as_ref().map_or(0, |view| view.serial);
        let Some(stored) = stored else {
            return Err(self.without_state(high));
        };
        if let Some(view) = &held
            && view.stored == stored
        {
            return Ok(Arc::clone(view));
        }
        let trusted = &self.seen.trusted;
        let state = RingState::verify(&stored, self.id(), &trusted.operator_key, high.max(self.policy.min_epoch))?;
        // Before a root key is asked for anything under this state.
        self.roots.stand(&state.roots);
        let (rows, tenants) = match held {
            Some(view) if view.rows.is(&state.rows) => (Arc::clone(&view.rows), Arc::clone(&view.tenants)),
            _ => {
                let rows = self.row_key(&state).await?;
                let tenants = self.customers.by_tag(&rows);
                (Arc::new(rows), Arc::new(tenants))
            }
        };
        let serial = held_serial + 1;
        Ok(Arc::new(View { state, rows, tenants, stored, serial }))
    }

    /// Unwraps the key that authenticates the ring's rows: one call to a key service in the life of a process.
    async fn row_key(&self, state: &RingState) -> Result<RowKey> {
        let id = state.rows.key.0;
        let row = self.catalog.key(self.id(), id).await?.ok_or_else(|| self.not_found(id))?;
        let swapped = || {
            Error::new(
                Code::StateTampered,
                format!("the row-authentication key of ring `{}` is not the signed one", self.name),
            )
            .hint("restore its row from a backup of the catalog")
        };
        if row.purpose != Purpose::Rows {
            return Err(swapped());
        }
        let key = self.roots.unwrap(&row.wraps, &self.context(&row)?).await?;
        let rows = RowKey::new(&key, id)?;
        if !rows.is(&state.rows) {
            return Err(swapped());
        }
        rows.verify(&row)?;
        Ok(rows)
    }

    fn without_state(&self, high: u64) -> Error {
        let pinned = self.policy.min_epoch;
        let was = match (high, pinned) {
            (0, 0) => None,
            (0, _) => Some(format!("the policy pins epoch {pinned}, so it was there")),
            _ => Some(format!("epoch {high} was seen before")),
        };
        if let Some(was) = was {
            return Error::new(Code::StateTampered, format!("the state of ring `{}` was taken away", self.name))
                .cause(was)
                .hint("restore the catalog's ring state from a backup");
        }
        Error::new(Code::CatalogVersion, format!("ring `{}` has no signed state in the catalog", self.name))
            .hint("run `enfold init` where the operators' key is")
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
