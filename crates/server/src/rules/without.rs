//! A build without Cedar: there are no rules, and no policy is served that names some.

use std::sync::Arc;

use enfold::access::Permission;
use enfold::policy::Policy;
use enfold::{Code, Error, Result};

use super::{Asker, Value};

/// None can be had.
pub enum Rules {}

/// None of them can hold for anybody.
pub(crate) enum Ruled {}

impl Rules {
    /// # Errors
    /// `Usage` where the policy names rules: they are never passed over.
    pub fn read(policy: &Policy) -> Result<Option<Self>> {
        if policy.access_rules.is_none() {
            return Ok(None);
        }
        Err(Error::new(Code::Usage, "this program was built without access rules")
            .cause("the policy names some in `access.rules`")
            .hint("build it with `--features cedar`, or leave `access.rules` out"))
    }

    pub fn names(&self) -> Vec<&str> {
        match *self {}
    }
}

impl Ruled {
    pub(crate) fn new(rules: &Arc<Rules>, _: &Asker<'_>) -> Self {
        match **rules {}
    }

    pub(crate) fn forbidden(&self, _: Permission, _: Option<Value<'_>>) -> Option<String> {
        match *self {}
    }

    pub(crate) fn look_at_tenants(&self, _: Permission, _: Value<'_>) -> bool {
        match *self {}
    }
}
