//! `[metrics]`: what Prometheus is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurationText;

/// Figures for Prometheus, of `enfold serve` and of `enfold worker --metrics`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawMetrics {
    /// What every name begins with, before a `_`. The rules and the dashboard in `deploy/` are written for `enfold`.
    pub prefix: String,
    /// An address of their own, on which `enfold serve` answers whoever reaches it, without credentials and in the clear. None:
    /// they are at `/metrics` of the service alone, for callers that have `encryption:read`.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: Option<String>,
    /// How often a sample of each table is looked at for plaintext, while somebody asks for figures.
    #[schemars(extend("x-minimum" = "10s", "x-maximum" = "1d"))]
    pub coverage_every: DurationText,
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self { prefix: "enfold".to_owned(), listen: None, coverage_every: DurationText::from("15m") }
    }
}
