//! `[traces]`: where spans are sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Spans that say in which phase the time of a call goes, for a collector of OpenTelemetry. A program that uses the library sets up its
/// own, for the target `traces` of `tracing`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawTraces {
    /// Where OTLP over HTTP is taken as JSON: `http://127.0.0.1:4318/v1/traces`. None: no spans are made.
    pub endpoint: Option<String>,
    /// PEM file of the authorities that may vouch for it, instead of the system's.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<String>,
    /// Of a hundred traces that begin here, how many are sent. Of those that a caller began, the ones that the caller says.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u8,
}

impl Default for RawTraces {
    fn default() -> Self {
        Self { endpoint: None, ca_file: None, percent: 100 }
    }
}
