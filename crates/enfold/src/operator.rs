//! What operators do with a ring: publish its state, change modes, rotate, disable.
//!
//! Every change is a new state: the one that is there is verified first, changed, given the next epoch, signed and
//! published together with the rows that it concerns. If somebody else published meanwhile, it is done again on theirs.

mod customers;
mod destroy;
mod indexes;
mod minimum;
mod roots;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use enfold_core::KeyId;

use crate::catalog::{DataKeyRow, Inserted, KeyStatus, Purpose, Swap};
use crate::events::{CallContext, Event, EventKind, Signer};
use crate::handle::Enfold;
use crate::keyring::{KeyRing, RowKey, ScopeId, View};
use crate::policy::Mode;
use crate::state::{ColumnState, KeyRef, OperatorKey, RingState};
use crate::{Code, Error, Result};

/// How often a publication that lost against another is tried again.
const TRIES: u32 = 5;

pub use customers::SignedCustomers;

/// See the module's head.
pub struct Operator {
    pub(crate) enfold: Enfold,
    key: Arc<OperatorKey>,
}

/// A change of a state, with the rows that change with it.
type Changed = (RingState, Vec<Swap>);

/// For documents that the operators vouch for and that change nothing: evidence.
#[async_trait]
impl Signer for Operator {
    fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    async fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(self.sign_bytes(bytes))
    }
}

impl Operator {
    pub(crate) fn new(enfold: Enfold, key: Arc<OperatorKey>) -> Self {
        Self { enfold, key }
    }

    /// What applications pin in `trust.operator_key`.
    pub fn public_key(&self) -> [u8; 32] {
        self.key.public_key()
    }

    pub(crate) fn sign_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        self.key.sign_bytes(bytes)
    }

    /// Brings one column to a mode. Nothing is published if it is there already.
    pub async fn set_mode(&self, column: &str, mode: Mode) -> Result<()> {
        self.set_modes(&[(column, mode)]).await
    }

    /// Brings columns to modes: one new state for each ring that they are in.
    pub async fn set_modes(&self, changes: &[(&str, Mode)]) -> Result<()> {
        let policy = self.enfold.policy();
        let mut resolved = Vec::with_capacity(changes.len());
        for (name, mode) in changes {
            let (table, column) = policy
                .column(name)
                .ok_or_else(|| Error::new(Code::UnknownColumn, format!("the policy has no `{name}`")))?;
            resolved.push((self.enfold.seat(name, table, column)?, *mode));
        }
        for ring in self.enfold.0.rings.values() {
            let ours: Vec<_> = resolved.iter().filter(|(seat, _)| seat.ring.name == ring.name).collect();
            if ours.is_empty() {
                continue;
            }
            self.change(ring, |view| {
                let mut state = view.state.clone();
                for (seat, mode) in &ours {
                    // A column that was given another id, or lacks a reader, is refused here as it is everywhere.
                    seat.mode(&state)?;
                    let column = ColumnState { id: seat.id.clone(), mode: *mode, reads: seat.may_need(*mode) };
                    state.columns.insert(seat.name.clone(), column);
                }
                Ok(state)
            })
            .await?;
        }
        Ok(())
    }

    /// Signs that no value of the policy's columns needs a reader any more: a policy without it is accepted from then on. Whoever
    /// calls this has counted.
    pub async fn drop_reader(&self, reader: &str) -> Result<()> {
        let ours: BTreeSet<String> =
            self.enfold.columns_read_with(reader).await?.into_iter().map(|column| column.column).collect();
        for ring in self.enfold.0.rings.values() {
            self.change(ring, |view| {
                let mut state = view.state.clone();
                let read = state.columns.iter_mut().filter(|(name, _)| ours.contains(*name));
                read.for_each(|(_, column)| {
                    column.reads.remove(reader);
                });
                Ok(state)
            })
            .await?;
        }
        Ok(())
    }

    /// Disables a data key: it neither seals nor opens, in every process within a second, and can come back.
    pub async fn disable(&self, ring: &str, id: KeyId, context: &CallContext) -> Result<()> {
        self.disable_many(ring, &[id], context).await
    }

    /// As [`Self::disable`], many in one new state.
    pub async fn disable_many(&self, ring: &str, ids: &[KeyId], context: &CallContext) -> Result<()> {
        self.set_disabled(ring, ids, true, context).await
    }

    /// Takes a disable back.
    pub async fn enable(&self, ring: &str, id: KeyId, context: &CallContext) -> Result<()> {
        self.enable_many(ring, &[id], context).await
    }

    /// As [`Self::enable`], many in one new state.
    pub async fn enable_many(&self, ring: &str, ids: &[KeyId], context: &CallContext) -> Result<()> {
        self.set_disabled(ring, ids, false, context).await
    }

    async fn set_disabled(&self, ring: &str, ids: &[KeyId], disabled: bool, context: &CallContext) -> Result<()> {
        let ring = self.enfold.ring(ring)?;
        let changed = self.change_keys(ring, ids, |view, rows| {
            let mut state = view.state.clone();
            for id in ids {
                if disabled {
                    state.disabled.insert(KeyRef(*id));
                } else {
                    state.disabled.remove(&KeyRef(*id));
                }
            }
            let changed = rows.iter().map(|row| with_status(view, row, state.status(row)?));
            let changed = changed.collect::<Result<_>>()?;
            Ok((state, changed))
        });
        let kind = if disabled { EventKind::KeyDisabled } else { EventKind::KeyEnabled };
        for row in changed.await? {
            ring.events.emit(Event::new(kind, 1).ring(ring.id()).data_key(&row).context(context));
        }
        Ok(())
    }

    /// Publishes a ring's first state, with the key that authenticates its rows.
    pub(crate) async fn make_ring(&self, ring: &Arc<KeyRing>) -> Result<()> {
        let (mut row, key) = ring.wrapped(Purpose::Rows, &ScopeId::rows(), 1, None).await?;
        let rows = RowKey::new(&key, row.id)?;
        rows.tag(&mut row);
        let rows = match ring.catalog.insert_key(&row, None).await? {
            Inserted::Made => rows,
            // A process that was interrupted before it published, or one that is about to: its key is as good.
            Inserted::Exists(theirs) => {
                let key = ring.roots.unwrap(&theirs.wraps, &ring.context(&theirs)?).await?;
                let rows = RowKey::new(&key, theirs.id)?;
                rows.verify(&theirs)?;
                rows
            }
        };
        let state = RingState::new(ring.id(), rows.authority());
        // Lost against another process that made the same first state: theirs holds.
        ring.catalog.publish(&self.key.sign(&state)?, None, &[]).await?;
        ring.look().await
    }

    pub(crate) async fn change(&self, ring: &Arc<KeyRing>, change: impl Fn(&View) -> Result<RingState>) -> Result<()> {
        self.change_keys(ring, &[], |view, _| Ok((change(view)?, Vec::new()))).await.map(drop)
    }

    /// As [`Self::change`], with the rows of data keys, which are read again whenever somebody else was quicker. They come back
    /// as they were before.
    pub(crate) async fn change_keys(
        &self,
        ring: &Arc<KeyRing>,
        ids: &[KeyId],
        change: impl Fn(&View, &[DataKeyRow]) -> Result<Changed>,
    ) -> Result<Vec<DataKeyRow>> {
        let next =
            |view: &View, rows: &[DataKeyRow]| Ok(Some(change(view, rows)?).filter(|(state, _)| *state != view.state));
        self.publish(ring, ids, next).await
    }

    /// Nothing is published where there is no state to publish.
    async fn publish(
        &self,
        ring: &Arc<KeyRing>,
        ids: &[KeyId],
        next: impl Fn(&View, &[DataKeyRow]) -> Result<Option<Changed>>,
    ) -> Result<Vec<DataKeyRow>> {
        for _ in 0..TRIES {
            ring.look().await?;
            let view = ring.view().await?;
            let mut rows = Vec::with_capacity(ids.len());
            for some in ids.chunks(1_000) {
                rows.extend(ring.catalog.keys_named(ring.id(), some).await?);
            }
            if let Some(id) = missing(ids, &rows) {
                return Err(Error::new(
                    Code::KeyNotFound,
                    format!("there is no data key `{id}` in ring `{}`", ring.name),
                ));
            }
            let Some((mut state, swaps)) = next(&view, &rows)? else { return Ok(rows) };
            state.epoch = view.state.epoch + 1;
            let signed = self.key.sign(&state)?;
            if ring.catalog.publish(&signed, Some(view.state.epoch), &swaps).await? {
                return ring.look().await.map(|()| rows);
            }
        }
        Err(Error::new(Code::Busy, format!("others keep publishing states of ring `{}`", ring.name))
            .hint("run the command again"))
    }
}

/// The first of `ids` that has no row.
fn missing<'a>(ids: &'a [KeyId], rows: &[DataKeyRow]) -> Option<&'a KeyId> {
    let there: BTreeSet<KeyId> = rows.iter().map(|row| row.id).collect();
    ids.iter().find(|id| !there.contains(*id))
}

/// A row with another status, authenticated anew. What is stored must be right first.
pub(crate) fn with_status(view: &View, row: &DataKeyRow, status: KeyStatus) -> Result<Swap> {
    view.rows.verify(row)?;
    let mut key = row.clone();
    key.status = status;
    view.rows.tag(&mut key);
    Ok(Swap { key, expected: row.mac.clone() })
}
