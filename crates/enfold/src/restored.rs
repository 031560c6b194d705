//! The keys of a restored backup, beside those of the live system whose backup it is.

use std::sync::Arc;

use crate::events::CatalogSink;
use crate::policy::DatabaseUrl;
use crate::{Code, Enfold, Error, Result};

impl Enfold {
    /// This policy over a restored database and the catalog that was restored for it, so that its values open only if what was restored
    /// suffices: by the data keys and states that are there, under the root keys of now. Nothing that is missing is made, and no
    /// data key comes from a cache. A backup is older than the epochs that the policy pins may be, so the pins are left out.
    ///
    /// What is opened is told to the log of this one: that of the copy goes with the copy.
    ///
    /// # Errors
    /// `Usage` if the rings there are not those of this system, or have come further. What stands in the way of opening.
    pub async fn restored(&self, database: &DatabaseUrl, catalog: &DatabaseUrl) -> Result<Self> {
        let mut policy = self.policy().clone();
        (policy.database, policy.catalog) = (database.clone(), catalog.clone());
        policy.rings.values_mut().for_each(|ring| ring.min_epoch = 0);
        policy.shared_cache = None;
        (policy.events.catalog, policy.events.spill) = (false, None);
        let log = Arc::new(CatalogSink(Arc::clone(&self.0.catalog)));
        // Without a watch it signs no log and takes part in nothing that is scheduled.
        let copy = Self::builder(policy).sink(log).unprepared().without_watch().build().await;
        let copy = copy.map_err(|error| error.while_doing("cannot open the keys of the restored copy"))?;
        self.must_be_older(&copy).await?;
        Ok(copy)
    }

    async fn must_be_older(&self, copy: &Self) -> Result<()> {
        for (name, ring) in &self.0.rings {
            let (live, restored) = (ring.view().await?, copy.ring(name)?.view().await?);
            let refused = |why: &str| {
                Err(Error::new(Code::Usage, format!("ring `{name}` of the restored copy {why}"))
                    .hint("the policy leads to the live database, and `--restored` to one that its backup was restored to")
                    .hint("no restore test is on record"))
            };
            if live.state.rows != restored.state.rows {
                return refused("is another than that of the live database: it is no backup of it");
            }
            if live.state.epoch < restored.state.epoch {
                return refused("has come further than that of the live database");
            }
        }
        Ok(())
    }
}
