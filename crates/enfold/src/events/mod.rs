//! Events: what was done with keys and values, by whom, and what was refused.
//!
//! An [`Event`] never holds a value, a key or a tenant: names, ids, keyed hashes and counts only. Callers hand events to [`Events`],
//! which keeps a bounded number and writes them to the [`Sink`]s in batches (`queue.rs`). When more come than can be written, callers
//! wait for a moment; the surplus is counted, and the count is itself written as an event: nothing is lost without a trace. Where the policy
//! says so, a caller waits until its event is on a disk. Values that come one at a time are counted (`tally.rs`), so that a
//! caller pays for an event once a second and not for each; what the policy wants summed by the minute is kept until the minute is over
//! (`summed.rs`).
//!
//! What one process writes is a chain of [`Entry`]s (`chain.rs`), whose heads a [`Checkpoint`] signs (`checkpoint.rs`). Together they
//! show whoever holds the public key what was changed, removed, moved or added since (`verify.rs`).

mod catalog;
mod chain;
mod checkpoint;
mod cut;
mod event;
mod jsonl;
mod kind;
mod lines;
mod queue;
#[cfg(feature = "sinks")]
mod remote;
mod spill;
mod summed;
mod tally;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;

use crate::Result;
use crate::policy::SinkPolicy;

pub use catalog::CatalogSink;
#[cfg(test)]
pub(crate) use chain::chained;
pub use chain::{Entry, Hash, WriterId};
pub use checkpoint::{Checkpoint, Head, LogKey, SignedCheckpoint, Signer};
pub use cut::{Archive, Cut, Last};
pub(crate) use cut::{Beginning, further};
pub use event::{CallContext, Event, RestoreTest, SubjectTag};
pub use jsonl::JsonLinesSink;
pub use kind::{EventKind, Outcome};
pub(crate) use lines::failed as lines_failed;
pub use queue::{CAPACITY, Events};
pub use spill::SpillingSink;
pub(crate) use tally::{Counter, Origin};
pub use verify::{Finding, Lines, Report, Verifier, What};

/// Where events end up.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Writes a batch of one writer, whole or not at all: after an error the same batch comes again.
    async fn write(&self, batch: &[Entry]) -> Result<()>;

    /// Keeps a checkpoint beside the entries that it vouches for. A sink that cannot does nothing.
    async fn note(&self, _checkpoint: &SignedCheckpoint) -> Result<()> {
        Ok(())
    }

    /// Of a sink that hands on later what it was given: how that goes.
    fn standing(&self) -> Option<SinkStanding> {
        None
    }

    /// Hands on what it was given, for so long at most. What is left then is lost.
    async fn settle(&self, _within: Duration) {}
}

/// How a receiver of events outside of the process does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SinkStanding {
    /// The policy's name of it.
    pub sink: String,
    /// How it is spoken to: `webhook`, `syslog` or `otlp`.
    pub kind: &'static str,
    /// Lines of the log that wait for it.
    pub waiting: u64,
    /// Whether one more could.
    #[serde(skip)]
    pub has_room: bool,
    /// Lines that it was given.
    pub delivered: u64,
    /// When it last took any, in milliseconds since 1970.
    #[serde(skip)]
    pub delivered_ms: Option<i64>,
    /// Lines that it was not given and will not be: no more could wait, or it refused them.
    pub lost: u64,
    /// Tries in vain.
    pub missed: u64,
    /// Whether the last try was one; it is 1 then, and 0 otherwise.
    #[schemars(with = "u8")]
    #[serde(serialize_with = "one_or_none")]
    pub failing: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn one_or_none<S: serde::Serializer>(is: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(u8::from(*is))
}

/// The sink of the policy's `events.sinks` of this name.
#[cfg(feature = "sinks")]
pub(crate) fn outside(name: &str, policy: &SinkPolicy) -> Result<Arc<dyn Sink>> {
    remote::open(name, policy).map_err(|error| error.while_doing(format!("cannot send events to `{name}`")))
}

#[cfg(not(feature = "sinks"))]
pub(crate) fn outside(name: &str, _: &SinkPolicy) -> Result<Arc<dyn Sink>> {
    Err(crate::Error::new(crate::Code::PolicyInvalid, format!("cannot send events to `{name}`"))
        .cause("this program was built without sinks outside of it")
        .hint("build it with the feature `sinks`, or take `events.sinks` out of the policy"))
}
