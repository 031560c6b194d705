//! What operations ask of the keys: modes that the operators signed, readers that registered, and a codec. The
//! operations know no key service and no catalog; [`super::session`] puts the real ones behind this.

use async_trait::async_trait;
use enfold::events::Event;
use enfold::policy::Mode;
use enfold::{Enfold, Result};
use serde::{Deserialize, Serialize};

use crate::codec::Codec;

/// An application that said which columns it reads, and what it can work with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    pub name: String,
    pub version: String,
    /// `table.column`, as the policy names both.
    pub columns: Vec<String>,
    /// The strongest mode that it is ready for.
    pub ready: Mode,
}

/// The keys and the signed states of a policy's rings.
#[async_trait]
pub trait Keys: Send + Sync {
    /// The mode that the operators signed for each `table.column`, in order; `Legacy` where they signed none.
    async fn modes(&self, columns: &[String]) -> Result<Vec<Mode>>;

    /// Signs and publishes modes, for each ring all or nothing. A mode that is signed already is no change.
    async fn set_modes(&self, columns: &[(String, Mode)]) -> Result<()>;

    /// Applications seen lately.
    async fn readers(&self) -> Result<Vec<Reader>>;

    /// Rotates what is due at this moment (milliseconds since 1970) by the policy's schedule, where the operators' key is at
    /// hand, and says in which rings something was. Any number of processes may try.
    async fn rotate_due(&self, now_ms: i64) -> Result<Vec<String>>;

    /// Says in the log of events what was done, in words that hold no value.
    fn log(&self, event: Event);

    /// The open policy itself, for what is done to keys and not with them; none where keys are of another making.
    fn enfold(&self) -> Option<&Enfold> {
        None
    }

    /// As [`Self::rotate_due`], for root keys, and has data keys follow. Which root keys were seen to here. `go_on` is asked
    /// while data keys are wrapped.
    async fn rotate_due_roots(&self, now_ms: i64, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Vec<String>>;

    /// Seals and opens the policy's columns.
    fn codec(&self) -> &dyn Codec;
}
