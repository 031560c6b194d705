//! What a caller may do with the values of one request.

use std::collections::HashMap;

use enfold::Result;
use enfold::access::{Permission, Subject};

use super::{Caller, denied, not_forbidden};
use crate::rules::{Ruled, Value};

/// Values that a caller asks about together. Access rules are asked once for each column and tenant among them.
pub(crate) struct Batch<'a> {
    caller: &'a Caller,
    permission: Permission,
    /// Why they ask; empty where they do not say.
    reason: &'a str,
    forbidden: HashMap<(String, Option<String>), Option<String>>,
    look_at_tenants: HashMap<String, bool>,
}

/// For whom else it holds that a caller may do something with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// It is as a tenant's caller that they may: not for whatever tenant, or for none.
    pub(crate) tenants_only: bool,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(caller: &'a Caller, permission: Permission, reason: Option<&'a str>) -> Self {
        let (forbidden, look_at_tenants) = (HashMap::new(), HashMap::new());
        Self { caller, permission, reason: reason.unwrap_or_default(), forbidden, look_at_tenants }
    }

    /// The refusal is the same whatever is stored, or not, and by whomever.
    pub(crate) fn check(&mut self, subject: &Subject<'_>) -> Result<Allowed> {
        let caller = self.caller;
        let mut covering = caller.grants().filter(|grant| grant.covers(self.permission, subject)).peekable();
        if covering.peek().is_none() {
            return Err(denied(self.permission));
        }
        let tenants_only = covering.all(|grant| grant.tenants.is_some());
        let Some(ruled) = &caller.ruled else { return Ok(Allowed { tenants_only }) };
        let tenant = subject.tenant_text();
        let value = Value { column: subject.column, tenant: tenant.as_deref(), reason: self.reason };
        not_forbidden(self.permission, self.forbidden(ruled, value))?;
        Ok(Allowed { tenants_only: tenants_only || self.look_at_tenants(ruled, value) })
    }

    fn forbidden(&mut self, ruled: &Ruled, value: Value<'_>) -> Option<String> {
        let of = (value.column.to_owned(), value.tenant.map(str::to_owned));
        let ask = || ruled.forbidden(self.permission, Some(value));
        self.forbidden.entry(of).or_insert_with(ask).clone()
    }

    fn look_at_tenants(&mut self, ruled: &Ruled, value: Value<'_>) -> bool {
        let ask = || ruled.look_at_tenants(self.permission, value);
        *self.look_at_tenants.entry(value.column.to_owned()).or_insert_with(ask)
    }
}

#[cfg(all(test, feature = "cedar"))]
mod tests;
