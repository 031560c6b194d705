//! Whole commands over the built binary: arguments, exit code, standard output and standard error in one snapshot.
#![cfg(feature = "sqlite")]

#[cfg(feature = "aws")]
mod aws;
#[cfg(feature = "postgres")]
mod backup;
mod bad_policy;
mod bad_value;
mod canary;
#[cfg(all(feature = "azure", feature = "google"))]
mod cloud;
#[cfg(feature = "postgres")]
mod counting;
#[cfg(feature = "vault")]
mod customers;
mod destroy;
mod disable_killed;
mod disk_full;
mod doctor_readers;
mod drop_reader;
mod evidence;
mod guides;
mod harness;
#[cfg(feature = "postgres")]
mod index;
#[cfg(feature = "postgres")]
mod index_build;
mod interrupt;
mod keys;
#[cfg(all(feature = "vault", feature = "postgres"))]
mod keys_killed;
mod local_key;
mod log;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(feature = "postgres")]
mod postgres;
mod prune;
#[cfg(feature = "postgres")]
mod rights;
mod rotation;
#[cfg(feature = "postgres")]
mod runbook;
#[cfg(all(feature = "serve", feature = "postgres"))]
mod service;
#[cfg(feature = "vault")]
mod vault;
#[cfg(all(feature = "postgres", feature = "aws"))]
mod walks;
mod way;
mod way_back;
