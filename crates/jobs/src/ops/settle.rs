//! Waiting until every process goes by a state of the rings that was just signed.

use std::time::{Duration, Instant};

use enfold::Result;

use super::run::Run;
use crate::disabling::Earlier;

/// How long a wait may take to hear that it shall stop.
const LOOK: Duration = Duration::from_millis(200);

impl Run<'_> {
    /// A process that cannot look at a ring's state goes by the one it has for `cache.max_unseen`, and then stops; whoever can
    /// look does so each second.
    pub(super) async fn until_followed<'r>(&self, rings: impl Iterator<Item = &'r str>) -> Result<()> {
        let unseen =
            rings.filter_map(|ring| self.session.policy.rings.get(ring)).map(|ring| ring.cache.max_unseen).max();
        let until = Instant::now() + unseen.unwrap_or_default() + Duration::from_secs(1);
        while Instant::now() < until {
            self.pause_at_most(until.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }

    /// As [`Self::until_followed`], for the target's columns, and until the transactions have ended that may have written by a
    /// state from before.
    pub(super) async fn settle(&self) -> Result<()> {
        let columns = self.session.policy.tables.get(&self.target.policy_table).map(|table| &table.columns);
        let named = |name: &String| self.target.columns.iter().any(|column| column.name == *name);
        let ours = columns.into_iter().flatten().filter(|(name, _)| named(name));
        self.until_followed(ours.map(|(_, column)| &*column.ring)).await?;
        let db = self.session.db.disablings();
        let earlier = Earlier::now(db).await?;
        while let Some(says) = earlier.still_open(db).await? {
            self.observer.waiting(&says);
            self.pause_at_most(LOOK).await?;
        }
        Ok(())
    }

    async fn pause_at_most(&self, time: Duration) -> Result<()> {
        self.may_go_on()?;
        self.session.db.store().pause(LOOK.min(time)).await;
        Ok(())
    }
}
