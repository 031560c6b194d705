//! Values that are not a column of text, bytes or JSON, on a real server with the policy's own keys: those of a type that
//! cannot hold an envelope, sealed into a shadow, and members of JSON documents. Enforced, and taken back to the exact
//! values that they had, while applications write.
#![cfg(feature = "postgres")]
#[path = "../common/mod.rs"]
mod common;
mod coverage;
mod fixture;
mod lifecycle;
mod logs;
mod members;
mod refusals;
mod types;
mod writers;
