//! The Postgres store against a real server: each rule of `enfold_jobs::store`, with the case that would break it.
#![cfg(feature = "postgres")]
mod codec;
mod dropped;
mod leases;
mod paired;
mod pooling;
mod races;
mod refusals;
mod steps;
mod types;
mod world;
