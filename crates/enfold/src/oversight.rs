//! What is asked of an [`Enfold`] by whoever watches over it: `doctor`, and services that show how it does.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::catalog::Acknowledgement;
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::{KeyRing, RingWraps, RootHealth, SelfTest};
use crate::metrics::Metrics;
use crate::policy::Mode;
use crate::shared_cache::{SharedCacheFigures, SharedCacheHealth};
use crate::state::ColumnState;
use crate::{Enfold, Error, Result};

/// How far a ring's state has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingEpoch {
    /// The policy's name of the ring.
    pub ring: String,
    pub epoch: u64,
    /// The least epoch that the policy accepts; zero where it pins none.
    pub pinned: u64,
}

/// How a reader of another product's format stands.
#[derive(Debug)]
pub struct ReaderHealth {
    /// The policy's name of the reader.
    pub reader: String,
    /// Columns of the policy that name it, and of those the ones in which a value may still need it
    /// ([`ReadColumn::may_need_it`]).
    pub columns: usize,
    pub needed_by: usize,
    /// The root keys that open for it.
    pub roots: Vec<String>,
    /// The table of the application's that says by which keys values open. It is not read for this.
    pub table: Option<String>,
    /// Whether its keys are there and have its format's form, or the key services answer and let this process decrypt.
    pub ready: Result<()>,
}

/// A column of the policy that names a reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadColumn {
    /// `table.column`, as the policy names both.
    pub column: String,
    pub mode: Mode,
    /// The operators signed that values may need the reader.
    pub signed: bool,
}

impl ReadColumn {
    /// Before anything is sealed nobody has signed which readers are needed, and the policy alone says it.
    pub fn may_need_it(&self) -> bool {
        self.mode == Mode::Legacy || self.signed
    }
}

impl Enfold {
    /// The columns of the policy that name a reader, and how they stand to it.
    pub async fn columns_read_with(&self, reader: &str) -> Result<Vec<ReadColumn>> {
        let mut columns = Vec::new();
        for (table, policy) in &self.policy().tables {
            for (name, policy) in policy.columns.iter().filter(|(_, column)| column.reads.iter().any(|r| r == reader)) {
                let column = format!("{table}.{name}");
                let view = self.ring(&policy.ring)?.view().await?;
                let signed = view.state.reads(&column).any(|signed| signed == reader);
                columns.push(ReadColumn { mode: self.column(&column)?.mode().await?, column, signed });
            }
        }
        Ok(columns)
    }

    /// Columns that the operators signed to be read with a reader of this name, and that this policy does not name.
    pub async fn read_elsewhere(&self, reader: &str) -> Result<Vec<String>> {
        let mut columns = Vec::new();
        for ring in self.0.rings.values() {
            columns.extend(self.elsewhere(ring, |column| column.reads.contains(reader)).await?);
        }
        Ok(columns)
    }

    /// Looks at the keys of each reader of the policy, or asks its root key's service: for `doctor`. No value is read.
    pub async fn reader_health(&self) -> Result<Vec<ReaderHealth>> {
        let mut health = Vec::with_capacity(self.0.readers.len());
        for (name, reader) in &self.0.readers {
            let read = self.columns_read_with(name).await?;
            let (columns, needed_by) = (read.len(), read.iter().filter(|column| column.may_need_it()).count());
            let policy = self.policy().readers.get(name);
            let uris = policy.and_then(|policy| policy.roots.as_ref()).into_iter().flat_map(|roots| &roots.uris);
            let roots = uris.map(ToString::to_string).collect();
            let table = policy.and_then(|policy| policy.table.as_ref()).map(|table| table.table.clone());
            let ready = reader.check().await;
            health.push(ReaderHealth { reader: name.clone(), columns, needed_by, roots, table, ready });
        }
        Ok(health)
    }
}

/// A process that goes by an earlier state of a ring, by its own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Behind {
    /// Name and version, where the process gave them.
    pub application: Option<String>,
    pub epoch: u64,
    /// After so many seconds without another word it has stopped using its keys.
    pub lapses_in_s: u64,
}

impl Enfold {
    /// The epoch of a ring's state, looked at now.
    pub async fn epoch(&self, ring: &str) -> Result<u64> {
        let ring = self.ring(ring)?;
        ring.look().await?;
        Ok(ring.view().await?.state.epoch)
    }

    /// Processes that go by an earlier state of a ring than that of `epoch`. A process that cannot write to the catalog gives no
    /// word and is none of them; it goes by an earlier state for no longer than `cache.max_unseen`.
    pub async fn behind(&self, ring: &str, epoch: u64) -> Result<Vec<Behind>> {
        let words = self.ring(ring)?.behind(epoch).await?;
        let behind = |word: Acknowledgement| Behind {
            application: word.application,
            epoch: word.epoch,
            lapses_in_s: word.holds.as_secs() + 1,
        };
        Ok(words.into_iter().map(behind).collect())
    }

    /// Columns that the operators signed to hold values of a ring, and that this policy does not name: another one does, or they
    /// were left out of it.
    pub async fn columns_elsewhere(&self, ring: &str) -> Result<Vec<String>> {
        self.elsewhere(self.ring(ring)?, |column| column.mode != Mode::Legacy).await
    }

    /// Signed columns like this that the policy does not name.
    async fn elsewhere(&self, ring: &KeyRing, like: impl Fn(&ColumnState) -> bool) -> Result<Vec<String>> {
        let ours: BTreeSet<&str> =
            self.0.policy.tables.values().flat_map(|t| &t.columns).map(|(_, c)| c.id.as_str()).collect();
        let view = ring.view().await?;
        let signed = view.state.columns.iter().filter(|(_, column)| like(column));
        Ok(signed.filter(|(_, column)| !ours.contains(column.id.as_str())).map(|(name, _)| name.clone()).collect())
    }

    /// Looks whether every data-key row of the catalog is as it was made, without asking a key service: for `doctor`.
    /// One error for each that is not.
    pub async fn check_catalog(&self) -> Result<Vec<Error>> {
        let mut wrong = Vec::new();
        for ring in self.0.rings.values() {
            wrong.extend(ring.check_rows().await?);
        }
        Ok(wrong)
    }

    /// The epoch of each ring's state beside what the policy pins: for `init` and `doctor`.
    pub async fn epochs(&self) -> Result<Vec<RingEpoch>> {
        let mut epochs = Vec::with_capacity(self.0.rings.len());
        for (name, ring) in &self.0.rings {
            let epoch = ring.view().await?.state.epoch;
            epochs.push(RingEpoch { ring: name.clone(), epoch, pinned: ring.policy.min_epoch });
        }
        Ok(epochs)
    }

    /// Seals and opens a throw-away value through every ring; one result for each, in the order of their names. It is done
    /// with a data key that the ring has, as an application would, or with one that is wrapped, unwrapped and forgotten. The log
    /// says how it went.
    pub async fn self_test(&self, context: &CallContext) -> Vec<(String, Result<SelfTest>)> {
        let mut tested = Vec::with_capacity(self.0.rings.len());
        for (name, ring) in &self.0.rings {
            let outcome = ring.self_test().await;
            let event = Event::new(EventKind::HealthCheck, 1).detail(format!("self-test of ring `{name}`"));
            self.say_tried(ring, event, outcome.as_ref().err(), context);
            tested.push((name.clone(), outcome));
        }
        tested
    }

    fn say_tried(&self, ring: &KeyRing, event: Event, failed: Option<&Error>, context: &CallContext) {
        let event = failed.into_iter().fold(event, Event::because);
        self.0.events.emit(event.ring(ring.id()).context(context));
    }

    /// Asks every root key of every ring what state it is in, when it is rotated and what this process may do with it, and
    /// has it wrap and unwrap a throw-away key: for `doctor`. [`RootHealth::concerns`] has what is to be settled. The log says how it
    /// went.
    pub async fn root_keys(&self, context: &CallContext) -> Result<Vec<RootHealth>> {
        let mut found = Vec::new();
        for ring in self.0.rings.values() {
            let health = ring.root_health().await?;
            for root in &health {
                let event = Event::new(EventKind::HealthCheck, 1).detail(format!("root key `{}`", root.root));
                self.say_tried(ring, event, root.tried.error(), context);
            }
            found.extend(health);
        }
        Ok(found)
    }

    /// Which root keys the data keys in the catalog depend on, ring by ring; no key service is asked. Data keys of single
    /// records (scope `record`) are not among them: they lie beside their values, under the ring's first root key.
    pub async fn wraps(&self) -> Result<Vec<RingWraps>> {
        let mut counted = Vec::with_capacity(self.0.rings.len());
        for ring in self.0.rings.values() {
            counted.push(ring.count_wraps().await?);
        }
        Ok(counted)
    }

    /// What this process did so far: calls to key services, caches, what was tried again and what was left alone. Taking it
    /// asks nobody, and costs a short look into each cache.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            latency_bounds_ms: crate::kms::LATENCY_BOUNDS_MS,
            duration_bounds_us: crate::metrics::DURATION_BOUNDS_US,
            operations: self.0.operations.read(),
            root_keys: self.0.registry.metrics(),
            rings: self.0.rings.values().map(|ring| ring.metrics()).collect(),
            shared_cache: self.0.shared.as_ref().map(|shared| shared.metrics()),
            lost_events: self.lost_events(),
            lost_events_in_all: self.0.events.lost_in_all(),
            waiting_events: self.0.events.waiting() as u64,
            sinks: self.0.events.standing(),
        }
    }

    /// What the shared cache did for this process; `None` where the policy has none.
    pub fn shared_cache_figures(&self) -> Option<SharedCacheFigures> {
        self.0.shared.as_ref().map(|shared| shared.figures())
    }

    /// Asks the shared cache whether it is there and writes to a disk, for `doctor`; `None` where the policy has none.
    pub async fn shared_cache_health(&self) -> Option<SharedCacheHealth> {
        Some(self.0.shared.as_ref()?.health().await)
    }

    /// Has the log of events say what a job did. An event's words hold no value.
    pub fn log(&self, event: Event) {
        self.0.events.emit(event);
    }

    /// As [`Self::log`], summed with the others of its minute that differ in nothing but when, why and in which words they came: for
    /// what anybody can make happen as often as they like.
    pub fn log_summed(&self, event: Event) {
        self.0.events.sum(event);
    }

    /// Events that were lost and not yet written down as lost.
    pub fn lost_events(&self) -> u64 {
        self.0.events.lost()
    }
}
