//! What an operation tells whoever looks on, and what it asks them.

use std::sync::atomic::{AtomicU64, Ordering};

use enfold::Error;
use serde::{Deserialize, Serialize};

use super::keys::Keys;
use crate::model::{Goal, JobState, Progress};
use crate::store::JobRecord;
use crate::sweep::Watch;

/// One step of an operation, as it begins and as it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEvent {
    /// The policy's name of the table.
    pub table: String,
    /// What is done, as the plan says it.
    pub says: String,
    pub state: StepState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Started,
    Done,
    /// There was nothing left to do.
    Skipped,
}

/// How far a sweep is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepEvent {
    pub table: String,
    pub goal: Goal,
    pub progress: Progress,
}

/// Looks on while an operation runs. Called from the operation's own task: it must not block.
pub trait Observer: Send + Sync {
    fn step(&self, _event: &StepEvent) {}

    /// About twice a second.
    fn progress(&self, _event: &SweepEvent) {}

    /// Nothing moves for now, for this reason.
    fn waiting(&self, _reason: &str) {}

    /// Ctrl-C: asked between batches and between steps. What is committed stays.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Looks on and says nothing.
pub struct Silent;

impl Observer for Silent {}

/// An observer as a sweep of one table sees it.
pub(super) struct TableWatch<'a> {
    pub(super) keys: &'a dyn Keys,
    pub(super) observer: &'a dyn Observer,
    pub(super) table: &'a str,
    pub(super) goal: Goal,
    wrote: AtomicU64,
}

impl<'a> TableWatch<'a> {
    pub(super) fn new(keys: &'a dyn Keys, observer: &'a dyn Observer, table: &'a str, goal: Goal) -> Self {
        Self { keys, observer, table, goal, wrote: AtomicU64::new(0) }
    }

    /// Rows that the sweeps which it looked on wrote.
    pub(super) fn wrote(&self) -> u64 {
        self.wrote.load(Ordering::Relaxed)
    }
}

impl Watch for TableWatch<'_> {
    fn progress(&self, progress: &Progress) {
        let event = SweepEvent { table: self.table.to_owned(), goal: self.goal, progress: progress.clone() };
        self.observer.progress(&event);
    }

    fn waiting(&self, reason: &str) {
        self.observer.waiting(reason);
    }

    fn wrote(&self, rows: u64) {
        self.wrote.fetch_add(rows, Ordering::Relaxed);
    }

    fn moved(&self, job: &JobRecord, to: JobState, error: Option<&Error>) {
        super::log::moved(self.keys, job, to, error);
    }

    fn stop_requested(&self) -> bool {
        self.observer.stop_requested()
    }
}
