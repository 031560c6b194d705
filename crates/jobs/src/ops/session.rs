//! What every operation works with: the policy, the database it is about, and the keys.

use std::sync::Arc;

use enfold::policy::Policy;
use enfold::{CallContext, Enfold, Result};

use super::keys::Keys;
use super::policy_keys::PolicyKeys;
use crate::database::Database;

/// One policy over one database.
#[derive(Clone)]
pub struct Session {
    pub policy: Arc<Policy>,
    pub db: Arc<dyn Database>,
    pub keys: Arc<dyn Keys>,
}

impl Session {
    /// Opens the keys of a policy and connects to its database. `context` says who asks and why.
    pub async fn open(policy: Policy, context: &CallContext) -> Result<Self> {
        let enfold = Enfold::open(policy).await?;
        let db = crate::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await?;
        Self::over(enfold, db, context)
    }

    /// With keys and a database that are open already.
    pub fn over(enfold: Enfold, db: Arc<dyn Database>, context: &CallContext) -> Result<Self> {
        let policy = Arc::new(enfold.policy().clone());
        let keys = Arc::new(PolicyKeys::new(enfold, context)?);
        Ok(Self { policy, db, keys })
    }
}
