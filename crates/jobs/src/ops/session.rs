//! What every operation works with: the policy, the database it is about, and the keys.

use std::sync::Arc;

use enfold::policy::Policy;

use super::keys::Keys;
use crate::database::Database;

/// One policy over one database.
#[derive(Clone)]
pub struct Session {
    pub policy: Arc<Policy>,
    pub db: Arc<dyn Database>,
    pub keys: Arc<dyn Keys>,
}
