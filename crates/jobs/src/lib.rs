//! Plans, sweeps and reports over a running database.
pub mod codec;
pub mod database;
pub mod model;
pub mod store;
pub mod words;
