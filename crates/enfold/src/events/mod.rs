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
mod spill;
mod summed;
mod tally;
mod verify;

use async_trait::async_trait;

use crate::Result;

pub use catalog::CatalogSink;
#[cfg(test)]
pub(crate) use chain::chained;
pub use chain::{Entry, Hash, WriterId};
pub use checkpoint::{Checkpoint, Head, LogKey, SignedCheckpoint, Signer};
pub use cut::{Archive, Cut, Last};
pub(crate) use cut::{Beginning, further};
pub use event::{CallContext, Event, SubjectTag};
pub use jsonl::JsonLinesSink;
pub use kind::{EventKind, Outcome};
pub(crate) use lines::failed as lines_failed;
pub use queue::{CAPACITY, Events};
pub use spill::SpillingSink;
pub(crate) use tally::{Counter, Origin};
pub use verify::{Finding, Report, Verifier, What};

/// Where events end up.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Writes a batch of one writer, whole or not at all: after an error the same batch comes again.
    async fn write(&self, batch: &[Entry]) -> Result<()>;

    /// Keeps a checkpoint beside the entries that it vouches for. A sink that cannot does nothing.
    async fn note(&self, _checkpoint: &SignedCheckpoint) -> Result<()> {
        Ok(())
    }
}
