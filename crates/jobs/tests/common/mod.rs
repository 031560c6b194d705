//! The keys of a policy, and a session over its database, as one process has them.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::path::Path;
use std::time::Duration;

use enfold::clock::{Clock, SystemClock};
use enfold::policy::{self, Variables};
use enfold::{CallContext, Enfold, Result};
use enfold_jobs::ops::Session;

/// As the policy of this text says, in a file of this folder.
pub(crate) async fn open(text: &str, folder: &Path, who: &CallContext) -> Result<(Enfold, Session)> {
    let enfold = Enfold::open(policy::parse(text, &folder.join("enfold.toml"), &Variables::new())?).await?;
    let session = session(&enfold, who).await?;
    Ok((enfold, session))
}

pub(crate) async fn session(enfold: &Enfold, who: &CallContext) -> Result<Session> {
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await?;
    Session::over(enfold.clone(), db, who)
}

/// The machine's clock, so many days on.
pub(crate) struct InDays(SystemClock, i64);

impl InDays {
    pub(crate) fn new(days: i64) -> Self {
        Self(SystemClock::new(), days)
    }
}

impl Clock for InDays {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn unix_ms(&self) -> i64 {
        self.0.unix_ms() + self.1 * 86_400_000
    }
}
