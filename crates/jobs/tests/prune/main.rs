//! Pruning on real databases: what goes by a rule, what stays, what goes along, and that a row which an application gave a
//! longer life meanwhile keeps it.
mod fixture;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod references;
#[cfg(feature = "sqlite")]
mod sqlite;
