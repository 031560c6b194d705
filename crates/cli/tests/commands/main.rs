//! Whole commands over the built binary: arguments, exit code, standard output and standard error in one snapshot.
#![cfg(feature = "sqlite")]

mod bad_policy;
mod bad_value;
mod canary;
#[cfg(all(feature = "azure", feature = "google"))]
mod cloud;
mod harness;
mod interrupt;
mod local_key;
#[cfg(feature = "postgres")]
mod postgres;
mod way;
