//! Enfold: sensitive columns under keys that a KMS keeps.
//!
//! An application opens its policy once ([`Enfold::open`]), asks for a handle of each protected column
//! ([`Enfold::column`]), and seals and opens values through it. Every call says who asks and why ([`CallContext`]) and
//! where the value lives ([`Place`]). Which mode a column is in, whether values are sealed or still written as before, is
//! the operators' signed word, so an application needs no second deploy when a job converts the column.
//!
//! Tried out without a database or a key service (in a real policy, roots name a key service's keys):
//!
//! ```
//! use enfold::{CallContext, Enfold, Form, Part, PayloadType, Place, policy::{Mode, Variables}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> enfold::Result<()> {
//! # let folder = std::env::temp_dir().join(format!("enfold-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder).unwrap();
//! let policy = enfold::policy::parse(
//!     r#"
//!     environment = "development"
//!     [database]
//!     url = "sqlite:app.db"
//!     [rings.customers]
//!     id = "customers"
//!     roots = ["local:dev.key"]
//!     scope = "tenant"
//!     [tables.users]
//!     tenant = "org"
//!     [tables.users.columns.email]
//!     id = "users.email"
//!     ring = "customers"
//!     "#,
//!     &folder.join("enfold.toml"),
//!     &Variables::default(),
//! )?;
//! let enfold = Enfold::builder(policy).memory_catalog().build().await?;
//! // What `enfold apply` does before it converts the rows:
//! enfold.operator()?.set_mode("users.email", Mode::Hybrid).await?;
//!
//! let email = enfold.column("users.email")?;
//! let who = CallContext::new("support", "ticket 4711");
//! let acme = Place::tenant(Part::Text("acme"));
//! let stored = email.seal(&who, &acme, Form::Text, PayloadType::Text, b"ann@example.com").await?;
//! assert!(stored.starts_with(b"enf1:"));
//! assert_eq!(&email.open(&who, &acme, Form::Text, &stored).await?.value[..], b"ann@example.com");
//!
//! // In another tenant's row it does not open, and plaintext is still read until the column is enforced.
//! let other = Place::tenant(Part::Text("other"));
//! assert!(email.open(&who, &other, Form::Text, &stored).await.is_err());
//! assert_eq!(&email.open(&who, &other, Form::Text, b"bob@example.com").await?.value[..], b"bob@example.com");
//! # std::fs::remove_dir_all(&folder).ok();
//! # Ok(())
//! # }
//! ```
//!
//! Not here: the bytes of an envelope (`enfold-core`), moving rows (`enfold-jobs`).

pub mod access;
mod cache;
pub mod catalog;
pub mod certificate;
pub mod clock;
mod column;
mod data_keys;
pub mod db;
pub mod error;
pub mod events;
pub mod evidence;
mod forkmark;
mod handle;
pub mod harden;
mod hex;
mod indexes;
mod keyring;
pub mod kms;
mod log;
pub mod metrics;
mod operator;
mod oversight;
pub mod policy;
pub mod private_file;
mod readers;
mod registry;
mod restored;
mod root_keys;
mod root_schedule;
mod rotation;
mod schedule;
mod shared_cache;
mod signing_key;
pub mod state;
#[cfg(any(feature = "postgres", feature = "http", feature = "redis"))]
pub mod tls;
pub mod traces;
mod watch;

pub use column::{Column, Index, IndexRequest, OpenRequest, OpenedValue, Place, SealRequest, Source};
pub use data_keys::{DataKeyRecord, WrapRecord};
pub use enfold_core::readers::{Beside, Companion};
pub use enfold_core::{Form, KeyId, OwnedPart, Part, PayloadType};
pub use error::{Code, Error, Result};
pub use events::CallContext;
pub use handle::{Builder, Enfold};
pub use indexes::IndexStanding;
pub use keyring::{
    Concern, ConcernAbout, CustomerWraps, Leaving, Repaired, RewrapOptions, RewrapPlan, Rewrapped, RingWraps,
    RootCalls, RootHealth, RootWraps, ScopeId, SelfTest, Tried,
};
pub use log::{LogDue, LogExport, LogStanding};
pub use metrics::Metrics;
pub use operator::{Operator, SignedCustomers};
pub use oversight::{Behind, ReadColumn, ReaderHealth, RingEpoch};
pub use root_keys::{RootProof, RootRecord};
pub use root_schedule::{RootDue, RootRotated};
pub use rotation::{Rotated, RotationPlan, Whose};
pub use schedule::{Due, FormerKey, RingGrace, RingSchedule, SealingKeys};
pub use shared_cache::{OnDisk, SharedCacheFigures, SharedCacheHealth};

/// An error of the envelope as one of ours. `doing`: what was being done to what.
pub(crate) fn core_error(error: enfold_core::Error, doing: impl Into<String>) -> Error {
    use enfold_core::Error as Core;
    let (code, hint) = match error {
        Core::Malformed(_) => (Code::EnvelopeMalformed, Some("`enfold inspect` shows what is wrong with it")),
        Core::NewerVersion { .. } | Core::UnknownSuite { .. } => {
            (Code::EnvelopeNewer, Some("upgrade this program: a newer one sealed the value"))
        }
        Core::OpenFailed | Core::UnwrapFailed | Core::KeyMismatch => {
            (Code::OpenFailed, Some("it was changed, or belongs to another column, tenant or row"))
        }
        Core::ValueTooLarge { .. } => (Code::ValueTooLarge, None),
        Core::IndexColumns { .. } => (Code::ValueInvalid, None),
        Core::IndexTenant => (Code::BindingIncomplete, None),
        Core::PaddingBlock(_) | Core::IndexBits(_) | Core::IndexUniqueTruncated(_) => (Code::PolicyInvalid, None),
        Core::WrappedLength(_) | Core::KeyLength(_) => (Code::KmsProtocol, None),
        Core::KeyIdSyntax => (Code::Usage, None),
        Core::ProcessChanged | Core::Random | Core::Library => (Code::Internal, None),
    };
    let made = Error::new(code, doing).cause(error.to_string());
    match hint {
        Some(hint) => made.hint(hint),
        None => made,
    }
}
