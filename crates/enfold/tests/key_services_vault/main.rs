//! The conformance suite over a transit engine, against a real OpenBao, and what belongs to Vault and OpenBao alone.
//!
//! Nothing here was run on HashiCorp Vault. Throttling by the server and a sealed server are real; the suite's throttling
//! and time-outs are answers of a listener. `docs/concepts/key-services.md` has the table that the suite prints.
#![cfg(feature = "vault")]

#[path = "../conformance_table/mod.rs"]
mod conformance_table;

mod binding;
mod engine;
mod key;
#[path = "../key_service/mod.rs"]
mod key_service;
mod rights;
mod server;
mod session;
mod sign_in;
mod suite;
mod tls;
mod tls_faults;
