//! The policy file `enfold.toml`.
mod model;

pub use model::*;
