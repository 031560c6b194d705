//! Connections to databases, shared by the catalog and the jobs. What is done over them belongs to those.
#[cfg(feature = "postgres")]
pub mod postgres;
