//! Data keys go out of use, on Postgres and on SQLite: former ones in order, never while something needs them, and back again; and
//! those of a tenant or a ring for ever.
#![cfg(all(feature = "postgres", feature = "sqlite"))]

#[path = "../common/mod.rs"]
mod common;
mod destroy;
mod minimum;
mod order;
mod refusal;
mod replica;
mod schedule;
mod world;
