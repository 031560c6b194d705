//! `[service]`: the process that applications, operators and auditors call over HTTP.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurationText;

/// What `enfold serve` does.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawService {
    /// The address and the port that it listens on: `127.0.0.1:8470`, `[::1]:8470`.
    #[schemars(extend("format" = "socket-address"))]
    pub listen: String,
    /// What a request may ask for.
    pub limits: RawServiceLimits,
}

impl Default for RawService {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8470".to_owned(), limits: RawServiceLimits::default() }
    }
}

/// What a request may ask for.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawServiceLimits {
    /// Kibibytes of a request's body.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_body_kib: u32,
    /// Items of a batch.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_batch: u32,
    /// How long a request may take, from its first byte to the last of its answer.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub timeout: DurationText,
    /// Connections at a time. Who comes when there are as many waits until one ends.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: u32,
}

impl Default for RawServiceLimits {
    fn default() -> Self {
        Self { max_body_kib: 1_024, max_batch: 1_000, timeout: DurationText::from("30s"), max_connections: 10_000 }
    }
}
