//! What a process has seen of its ring's state, and when.

use std::collections::BTreeMap;
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
}

pub(super) struct Seen {
    trusted: Trusted,
    clock: Arc<dyn Clock>,
    last: Mutex<Last>,
    /// One look at a time.
    looking: tokio::sync::Mutex<()>,
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

impl Seen {
    pub(super) fn new(trusted: Trusted, clock: Arc<dyn Clock>) -> Self {
        Self { trusted, clock, last: Mutex::default(), looking: tokio::sync::Mutex::default() }
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
        let now = self.seen.clock.now();
        let last = self.seen.last();
        let young = |at: Option<Duration>| at.is_some_and(|at| now.saturating_sub(at) < LOOK_EVERY);
        if young(last.answered) {
            drop(last);
            return Some(self.held());
        }
        // The catalog was asked a moment ago and did not answer: it is not asked again by everybody.
        if young(last.asked) && last.answered.is_some_and(|at| now.saturating_sub(at) < self.policy.cache.max_unseen) {
            drop(last);
            return Some(self.held());
        }
        None
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
            Some(at) if self.seen.clock.now().saturating_sub(at) < limit => self.held(),
            Some(_) => Err(Error::new(
                Code::StateUnseen,
                format!("the state of ring `{}` was not seen for longer than {} s", self.name, limit.as_secs()),
            )
            .cause(error.to_string())
            .hint("a key may have been disabled meanwhile, so nothing is opened until the catalog answers again")),
        }
    }

    async fn look_now(&self) -> Result<()> {
        self.seen.last().asked = Some(self.seen.clock.now());
        let states = self.catalog.states().await?;
        let stored = states.into_iter().find(|s| s.ring == self.id());
        let outcome = self.take_in(stored).await;
        let now = self.seen.clock.now();
        let mut last = self.seen.last();
        match outcome {
            Ok(view) => {
                last.answered = Some(now);
                last.high = last.high.max(view.state.epoch);
                last.view = Some(view);
                last.refused = None;
                Ok(())
            }
            // A key service or the catalog did not answer half-way: nothing is known.
            Err(error) if error.code().retry() == crate::error::Retry::Later => Err(error),
            Err(error) => {
                last.answered = Some(now);
                let known = last.refused.as_ref().is_some_and(|e| e.code() == error.code());
                last.refused = Some(error.clone());
                drop(last);
                // Said once, not each second.
                if !known {
                    self.refuse(error);
                }
                Ok(())
            }
        }
    }

    async fn take_in(&self, stored: Option<SignedState>) -> Result<Arc<View>> {
        let (held, high) = {
            let last = self.seen.last();
            (last.view.clone(), last.high)
        };
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
        let (rows, tenants) = match held {
            Some(view) if view.rows.is(&state.rows) => (Arc::clone(&view.rows), Arc::clone(&view.tenants)),
            _ => {
                let rows = self.row_key(&state).await?;
                let tenants = self.customers.by_tag(&rows);
                (Arc::new(rows), Arc::new(tenants))
            }
        };
        Ok(Arc::new(View { state, rows, tenants, stored }))
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
