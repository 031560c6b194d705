//! A blind index is rotated while an application inserts, changes and looks up rows: each lookup finds what it should, and no
//! two rows of a tenant ever have one value of a unique index.
#![cfg(all(feature = "postgres", feature = "sqlite"))]

mod application;
#[path = "../common/mod.rs"]
mod common;
mod postgres;
mod sqlite;
mod world;
