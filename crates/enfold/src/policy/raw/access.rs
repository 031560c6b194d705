//! `[access]`: what narrows the service's roles beyond tenants, classes and columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What narrows further what roles grant to the service's callers.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawAccess {
    /// A file of rules in Cedar, each of which forbids something (`docs/guides/access-rules.md`). It is read when the service starts,
    /// which takes a build with the feature `cedar`: one without it refuses to start.
    #[schemars(extend("format" = "path"))]
    pub rules: Option<String>,
}
