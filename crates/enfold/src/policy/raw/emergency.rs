//! `[service.emergency]`: access that somebody has only when there is need.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DurationText;

/// Access in an emergency, for those to whom an issuer's claims grant the role `emergency`: what that takes, and how long it lasts.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::policy) struct RawEmergency {
    /// Words of a token's claim `amr` (RFC 8176) that prove a second factor: one of them, such as `mfa` or `hwk`.
    pub amr: Vec<String>,
    /// Words of its claim `acr` that prove one, as the issuer defines them.
    pub acr: Vec<String>,
    /// Whether somebody else approves each request before it is in force.
    pub approval: bool,
    /// The longest time for which it can be asked.
    #[schemars(extend("x-minimum" = "1m", "x-maximum" = "1d"))]
    pub longest: DurationText,
}

impl Default for RawEmergency {
    fn default() -> Self {
        Self { amr: Vec::new(), acr: Vec::new(), approval: true, longest: DurationText::from("1h") }
    }
}
