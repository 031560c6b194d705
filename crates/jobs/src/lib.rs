//! Plans, sweeps and reports over a running database.
pub mod codec;
pub mod columns;
mod connect;
pub mod database;
pub mod disabling;
pub mod evidence;
pub mod generations;
mod hex;
pub mod model;
pub mod ops;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod prune;
pub mod recognise;
pub mod shown;
#[cfg(test)]
mod sim;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod store;
pub mod sweep;
pub mod words;

pub use connect::connect;
