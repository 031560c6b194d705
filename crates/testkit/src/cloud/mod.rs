//! Fakes of cloud key services. They are ours, made from the published descriptions of the real ones, and prove that
//! Enfold does what it means to; that the real services do what is expected of them only those prove (`make test-cloud`).
//!
//! They are strict: a field that is not documented, bytes that are not base64, a checksum that does not fit, a call
//! without a token are refused as documented. The cryptography inside is real.

pub mod azure;
pub mod google;
mod identity;
mod script;
mod server;

pub use identity::{Assertion, SigningKey};
pub use server::{Reply, Request, Server};
