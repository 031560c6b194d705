//! What is signed of the rotation of a root key by schedule: when it had its last version, and who sees to the next one.
//!
//! Both in the state, and not in the root key's record, because they decide something: whoever can write to the database must
//! not be able to have a root key rotated, nor keep it from being rotated by a date that nobody signed.

use serde::{Deserialize, Serialize};

/// The rotation of a root key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRotation {
    /// When it had its last version, as far as somebody with the operators' key saw to it, in milliseconds since 1970.
    pub at_ms: i64,
    /// Its service gives it versions by itself: then it is only seen to that the data keys follow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_service: bool,
    /// A process that sees to the next version at this moment, or died over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<RootClaim>,
}

/// The right of one process to see to a rotation. It has no end of its own: clocks differ. Another process takes it over that
/// has seen the very same claim for long enough by its own clock, which only goes forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootClaim {
    /// Drawn for each claim.
    pub by: String,
    /// The newest version before it, where the service tells: so that whoever takes over knows whether there is a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The new version is there; the data keys are still to follow.
    pub made: bool,
}
