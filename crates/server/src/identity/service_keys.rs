//! Service keys, by the access list as it was last read.
//!
//! It is read twice a second, so that a revocation is in force within a second. Where the catalog does not answer, the list that
//! was read last serves for [`MAX_UNSEEN`], and then nobody is let in by it. A list that the operators did not sign, or an older
//! one, lets nobody in from the moment it is read.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use enfold::access::{AccessList, ServiceKey, ShownKey};
use enfold::error::Retry;
use enfold::{Code, Enfold, Error, Result};
use jiff::Timestamp;

use super::{Identity, unauthenticated};

/// What stands in the place of an issuer's name.
const SERVICE_KEY: &str = "service-key";

/// As long as a process may go by a ring's state that it cannot look at, where the policy says nothing else.
const MAX_UNSEEN: Duration = Duration::from_secs(30);

pub(crate) struct ServiceKeys(RwLock<Seen>);

struct Seen {
    list: Arc<AccessList>,
    /// When it was read, by this machine's clock that only goes on.
    at: Instant,
    /// The list that is there now was refused.
    refused: Option<Error>,
}

impl ServiceKeys {
    pub(crate) async fn read(enfold: &Enfold) -> Result<Self> {
        let at = Instant::now();
        let list = Arc::new(enfold.access_list(0).await?);
        Ok(Self(RwLock::new(Seen { list, at, refused: None })))
    }

    /// Whoever holds the key that is shown.
    pub(crate) fn identity(&self, shown: &ShownKey<'_>) -> Result<Identity> {
        let list = self.good()?;
        let holder = list.holder(shown, Timestamp::now().as_millisecond()).ok_or_else(|| {
            // For the log, which has the id of each key that was made: whose key is it that has expired and is still used?
            unauthenticated().cause(format!("service key {} lets nobody in", shown.id()))
        })?;
        Ok(identity(holder))
    }

    /// Whoever holds the key of this id, for somebody who has shown it before.
    pub(crate) fn identity_by_id(&self, id: &str) -> Result<Identity> {
        let list = self.good()?;
        let now_ms = Timestamp::now().as_millisecond();
        let holder = list.keys.get(id).filter(|key| key.lets_in(now_ms)).ok_or_else(unauthenticated)?;
        Ok(identity(holder))
    }

    /// Whether it is known who is let in.
    pub(crate) fn are_known(&self) -> bool {
        let seen = self.seen();
        seen.refused.is_none() && seen.at.elapsed() <= MAX_UNSEEN
    }

    /// Reads the list again.
    pub(super) async fn look(&self, enfold: &Enfold) -> Result<()> {
        let (at, least) = (Instant::now(), self.seen().list.epoch);
        let read = enfold.access_list(least).await;
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(list) => *seen = Seen { list: Arc::new(list), at, refused: None },
            // What may pass does not make a list bad that was good.
            Err(error) if error.code().retry() == Retry::Later => return Err(error),
            Err(error) => {
                seen.refused = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    /// The list, if it may be gone by.
    fn good(&self) -> Result<Arc<AccessList>> {
        let seen = self.seen();
        if let Some(error) = &seen.refused {
            return Err(error.clone());
        }
        if seen.at.elapsed() > MAX_UNSEEN {
            return Err(Error::new(Code::StateUnseen, "nobody knows which service keys are good now")
                .cause("the catalog has not answered for half a minute"));
        }
        Ok(Arc::clone(&seen.list))
    }

    fn seen(&self) -> RwLockReadGuard<'_, Seen> {
        // Nothing under this lock panics half-way through a change.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(holder: &ServiceKey) -> Identity {
    Identity::program(format!("{SERVICE_KEY}:{}", holder.name), holder.grants.clone())
}
