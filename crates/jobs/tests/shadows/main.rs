//! Columns whose own type cannot hold an envelope, on a real server with the policy's own keys: sealed into a shadow,
//! enforced, and taken back to the exact values that they had, while applications write the one, the other or both.
#![cfg(feature = "postgres")]
mod fixture;
mod lifecycle;
mod refusals;
mod types;
mod writers;
