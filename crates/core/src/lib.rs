//! The envelope: format, binding, seal and open, blind index. Sync, no I/O, no unsafe.
//!
//! What is stored is an *envelope* (`docs/format.md` is its published description). A [`Sealer`] makes envelopes under
//! a data key, an [`Opener`] opens them, and both want the [`Binding`] of the place the value lives in, so that a value
//! copied elsewhere does not open. A data key itself is used for nothing but HKDF: [`wrap`], [`mac`] and [`index`] each
//! derive a key of their own for a purpose of their own.
//!
//! Not here: where data keys come from, how long they live, who may use them, and any database.
#![forbid(unsafe_code)]

pub mod binding;
mod cipher;
mod derive;
pub mod envelope;
mod error;
pub mod index;
mod key;
pub mod layout;
pub mod mac;
pub mod normalise;
mod open;
mod padding;
pub mod process;
pub mod readers;
pub mod record;
mod seal;
pub mod stored;
mod subkey;
#[cfg(test)]
mod tests;
pub mod text;
// Makes the published vectors, under nonces that are given: the FIPS module only reads them (`tests/vectors.rs`).
#[cfg(all(test, not(feature = "fips")))]
mod vectors;
pub mod wrap;
#[cfg(test)]
mod wycheproof_tests;

pub use binding::{Binding, OwnedPart, Part};
pub use envelope::{Envelope, Kind, PayloadType, binary_key_prefix, sealed_len};
pub use error::{Error, Malformed, Result};
pub use key::{DataKey, KeyId, danger};
pub use open::{DEFAULT_SUBKEYS, OpenItem, Opened, Opener};
pub use padding::Padding;
pub use record::RecordSealer;
pub use seal::{Salt, SealItem, Sealer};
pub use stored::Form;
