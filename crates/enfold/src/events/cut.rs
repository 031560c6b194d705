//! What was taken out of the log when its time was over: said in a checkpoint, so that it is signed as the log itself is.
//!
//! A cut ends at a checkpoint: what that one and those before it vouch for goes, entries and checkpoints, and nothing else. It names the last
//! entry that went of each chain, by which what stays hangs on: as the first entry of a chain names the hash of none, the first that
//! stays names the hash that stands here. So does the first checkpoint. An export of before and one of after fit together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chain::{Hash, WriterId};
use super::checkpoint::{Checkpoint, Head};

/// A checkpoint by its number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    pub number: u64,
    pub hash: Hash,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The last checkpoint that went.
    pub checkpoint: Last,
    /// Milliseconds since 1970: when that one was signed. What went is as old at least.
    pub until_ms: i64,
    /// Of each chain of which anything went by now: the last entry that did.
    pub chains: BTreeMap<WriterId, Head>,
    /// How many entries went this time.
    pub entries: u64,
    /// Seconds that the policy wants entries kept.
    pub keep_s: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
}

/// Where what went lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    pub file: String,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
}

/// Where what is left of a log begins: what the cuts of its checkpoints come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beginning {
    /// The last checkpoint that may be missing.
    pub(crate) checkpoint: Option<Last>,
    pub(crate) chains: BTreeMap<WriterId, Head>,
    pub(crate) last_cut: Option<Cut>,
}

impl Beginning {
    /// Takes in what a checkpoint says that went. They come in order.
    pub(crate) fn take(&mut self, checkpoint: &Checkpoint) {
        let Some(cut) = &checkpoint.cut else { return };
        self.checkpoint = Some(cut.checkpoint);
        further(&mut self.chains, &cut.chains);
        self.last_cut = Some(cut.clone());
    }

    /// Whether the checkpoint may be the first that is there.
    pub(crate) fn may_begin(&self, number: u64, previous: Hash) -> bool {
        match self.checkpoint {
            Some(last) if number == last.number + 1 => previous == last.hash,
            Some(last) if number > 1 => number <= last.number,
            _ => number == 1 && previous == Hash::NONE,
        }
    }

    /// Whether a checkpoint is the one that went last, or follows it, as that was signed.
    pub(crate) fn agrees_with(&self, number: u64, hash: Hash, previous: Hash) -> bool {
        let Some(last) = self.checkpoint else { return true };
        (number != last.number || hash == last.hash) && (number != last.number + 1 || previous == last.hash)
    }

    /// Whether a checkpoint may be missing.
    pub(crate) fn may_lack(&self, number: u64) -> bool {
        self.checkpoint.is_some_and(|last| number <= last.number)
    }

    /// The last entry of a chain that may be missing.
    pub(crate) fn of(&self, writer: WriterId) -> Option<Head> {
        self.chains.get(&writer).copied()
    }
}

/// Moves heads on to those that have come further.
pub(crate) fn further(heads: &mut BTreeMap<WriterId, Head>, by: &BTreeMap<WriterId, Head>) {
    for (writer, head) in by {
        heads
            .entry(*writer)
            .and_modify(|known| *known = if head.seq > known.seq { *head } else { *known })
            .or_insert(*head);
    }
}
