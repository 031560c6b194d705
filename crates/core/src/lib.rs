//! The envelope: format, binding, seal and open, blind index. Sync, no I/O, no unsafe.
#![forbid(unsafe_code)]
pub mod binding;
pub mod index;
