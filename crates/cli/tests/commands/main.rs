//! Whole commands over the built binary: arguments, exit code, standard output and standard error in one snapshot.
#![cfg(feature = "sqlite")]

mod bad_policy;
mod bad_value;
mod canary;
mod harness;
mod interrupt;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(feature = "postgres")]
mod postgres;
mod way;
