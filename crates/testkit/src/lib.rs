#![allow(clippy::print_stderr, clippy::print_stdout, reason = "fixtures talk to whoever runs the tests")]
//! Fixtures for the tests of the whole workspace: databases, key services, vectors. Not published.
//!
//! A missing server is a failure, never a skip: every fixture panics with the command that starts what it needs.
pub mod age;
pub mod aws;
pub mod browser;
pub mod certificates;
pub mod chinook;
pub mod cloud;
pub mod faultproxy;
pub mod issuer;
pub mod kubernetes;
pub mod oidc;
pub mod openbao;
pub mod own_main;
pub mod people;
pub mod pgbouncer;
pub mod pkcs11;
pub mod postgres;
pub mod postgres_private;
pub mod redis;
pub mod rng;
pub mod rsyslog;
pub mod small_disk;
pub mod tls_front;
