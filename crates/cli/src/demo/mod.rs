//! What the demo works on.

pub(crate) mod shop;
