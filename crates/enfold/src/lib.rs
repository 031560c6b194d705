//! Enfold: sensitive columns under keys that a KMS keeps.
pub mod db;
pub mod error;
pub mod kms;
pub mod policy;

pub use error::{Code, Error, Result};
