//! Crypto-shredding: announced, taken back, done.
//!
//! From the announcement on nothing is sealed or opened under the data keys that are meant, and until the grace period is over
//! it can be taken back. Then it is signed that it is done, wraps are deleted, and what a shared cache holds with them. Whoever
//! is stopped in between begins again: what is signed is found signed, and the wraps that are left are deleted.

use std::sync::Arc;
use std::time::Duration;

use super::{Operator, with_status};
use crate::catalog::{DataKeyRow, KeyStatus, Purpose, Swap};
use crate::certificate::DestroyedKey;
use crate::events::{CallContext, Event, EventKind};
use crate::handle::Enfold;
use crate::keyring::{KeyRing, tenant_tag};
use crate::state::{Destruction, Subject};
use crate::{Code, Error, Part, Result};

/// How often rows that somebody else changes meanwhile are tried again.
const TRIES: u32 = 5;

impl Enfold {
    /// Whose data keys are meant: a tenant's, in a ring of scope `tenant`, or the whole ring's.
    ///
    /// # Errors
    /// `Usage` where the ring has no data key that could be destroyed for it.
    pub async fn subject(&self, ring: &str, tenant: Option<Part<'_>>) -> Result<Subject> {
        let named = self.ring(ring)?;
        if named.has_key_in_every_record() {
            return Err(Error::new(Code::Usage, format!("ring `{ring}` has no data key that could be destroyed"))
                .cause("every record has its own beside its value, in every backup, and the root key itself wraps it")
                .hint("only destroying the root key in its key service makes them unreadable, and with them whatever else it wraps"));
        }
        let Some(tenant) = tenant else { return Ok(Subject::ring()) };
        let scope = self.tenant_scope(ring, tenant).await?;
        let tag = tenant_tag(scope.as_str()).ok_or_else(|| Error::new(Code::Internal, "a tenant has no tag"))?;
        Ok(Subject::tenant(tag))
    }

    /// Destructions that were announced or done, ring by ring (the policy's names).
    pub async fn destructions(&self) -> Result<Vec<(String, Subject, Destruction)>> {
        let mut all = Vec::new();
        for (name, ring) in &self.0.rings {
            ring.look().await?;
            let view = ring.view().await?;
            let destructions = view.state.destructions.iter();
            all.extend(destructions.map(|(subject, d)| (name.clone(), subject.clone(), d.clone())));
        }
        Ok(all)
    }

    /// The data keys that a destruction means.
    pub async fn data_keys_of(&self, ring: &str, subject: &Subject) -> Result<Vec<DestroyedKey>> {
        Ok(self.ring(ring)?.rows_of(subject).await?.iter().map(DestroyedKey::of).collect())
    }
}

impl Operator {
    /// Announces that these data keys will be destroyed when `grace` is over; from now on nothing opens or seals under them, in
    /// every process within a second. What was announced already stays as it is. `backups`: for how long backups of the catalog
    /// are kept, for the certificate.
    ///
    /// # Errors
    /// `KeyNotFound` for a tenant that has no data key.
    pub async fn destroy(
        &self,
        ring: &str,
        subject: &Subject,
        grace: Duration,
        backups: Option<Duration>,
        context: &CallContext,
    ) -> Result<Destruction> {
        let ring = self.enfold.ring(ring)?;
        ring.look().await?;
        if ring.rows_of(subject).await?.is_empty() {
            return Err(Error::new(Code::KeyNotFound, format!("ring `{}` has no data key that is meant", ring.name))
                .hint("a number is spelled `int:7`, a UUID `uuid:…`")
                .hint("nothing was changed"));
        }
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let asked_ms = ring.unix_ms();
        let announced = Destruction {
            asked_ms,
            due_ms: asked_ms.saturating_add(ms(grace)),
            done_ms: None,
            by: context.actor.clone(),
            reason: context.reason.clone(),
            backups_ms: backups.map(ms),
        };
        self.change_destruction(ring, subject, |held| Ok(Some(held.unwrap_or_else(|| announced.clone())))).await?;
        self.tell(ring, subject, EventKind::DestructionAnnounced, context);
        let view = ring.view().await?;
        view.state
            .destructions
            .get(subject)
            .cloned()
            .ok_or_else(|| Error::new(Code::Busy, "it was taken back meanwhile"))
    }

    /// Takes an announcement back: everything opens and seals as before.
    ///
    /// # Errors
    /// `Usage` where nothing was announced, `KeyDestroyed` where it was done.
    pub async fn cancel_destruction(&self, ring: &str, subject: &Subject, context: &CallContext) -> Result<()> {
        let ring = self.enfold.ring(ring)?;
        self.change_destruction(ring, subject, |held| match held {
            None => Err(Error::new(
                Code::Usage,
                format!("no destruction was announced for {subject} of ring `{}`", ring.name),
            )
            .hint("nothing was changed")),
            Some(Destruction { done_ms: Some(_), .. }) => Err(Error::new(
                Code::KeyDestroyed,
                format!("the data keys of {subject} of ring `{}` were destroyed", ring.name),
            )),
            Some(_) => Ok(None),
        })
        .await?;
        self.tell(ring, subject, EventKind::DestructionCancelled, context);
        Ok(())
    }

    /// Destroys what was announced, when its grace period is over: signs it, deletes every wrap of the data keys from the catalog
    /// and what the shared cache holds of them, and looks that none is left. Run again, it goes on where it was stopped.
    ///
    /// # Errors
    /// `Usage` where nothing was announced or the grace period is not over; `DatabaseUnavailable` where the shared cache does not
    /// answer.
    pub async fn finish_destruction(
        &self,
        ring: &str,
        subject: &Subject,
        context: &CallContext,
    ) -> Result<Vec<DestroyedKey>> {
        let ring = self.enfold.ring(ring)?;
        let now_ms = ring.unix_ms();
        self.change_destruction(ring, subject, |held| {
            let refused = |why: &str| {
                Error::new(Code::Usage, format!("cannot destroy the data keys of {subject} of ring `{}`", ring.name))
                    .cause(why)
                    .hint("nothing was destroyed")
            };
            let held = held.ok_or_else(|| refused("it was not announced"))?;
            if held.due_ms > now_ms {
                return Err(refused("its grace period is not over"));
            }
            Ok(Some(Destruction { done_ms: held.done_ms.or(Some(now_ms)), ..held }))
        })
        .await?;
        let rows = self.delete_wraps(ring, subject).await?;
        ring.forget_shared(&rows).await?;
        self.tell(ring, subject, EventKind::KeysDestroyed, context);
        Ok(rows.iter().map(DestroyedKey::of).collect())
    }

    /// Publishes what becomes of a destruction, with the status of every row that it means.
    async fn change_destruction(
        &self,
        ring: &Arc<KeyRing>,
        subject: &Subject,
        change: impl Fn(Option<Destruction>) -> Result<Option<Destruction>>,
    ) -> Result<()> {
        ring.look().await?;
        let ids: Vec<_> = ring.rows_of(subject).await?.iter().map(|row| row.id).collect();
        self.change_keys(ring, &ids, |view, rows| {
            let mut state = view.state.clone();
            if let Some(destruction) = change(state.destructions.remove(subject))? {
                state.destructions.insert(subject.clone(), destruction);
            }
            let swaps = rows.iter().map(|row| with_status(view, row, state.status(row)?));
            let swaps = swaps.collect::<Result<_>>()?;
            Ok((state, swaps))
        })
        .await
        .map(drop)
    }

    /// The rows, without a wrap.
    async fn delete_wraps(&self, ring: &Arc<KeyRing>, subject: &Subject) -> Result<Vec<DataKeyRow>> {
        for _ in 0..TRIES {
            let view = ring.view().await?;
            let rows = ring.rows_of(subject).await?;
            let held: Vec<&DataKeyRow> =
                rows.iter().filter(|row| !row.wraps.is_empty() || row.status != KeyStatus::Destroyed).collect();
            if held.is_empty() {
                return Ok(rows);
            }
            // One that was made while this was being signed gets its status here.
            let late: Vec<_> = held.iter().filter(|row| row.status != KeyStatus::Destroyed).map(|row| row.id).collect();
            if !late.is_empty() {
                self.change_keys_again(ring, &late).await?;
                continue;
            }
            let swaps = held.iter().map(|row| {
                view.rows.verify(row)?;
                let mut bare = (*row).clone();
                bare.wraps = Vec::new();
                view.rows.tag(&mut bare);
                Ok(Swap { key: bare, expected: row.mac.clone() })
            });
            let swaps = swaps.collect::<Result<Vec<_>>>()?;
            for some in swaps.chunks(500) {
                ring.catalog.swap_wraps(ring.id(), some, None).await?;
            }
        }
        Err(Error::new(Code::Busy, format!("others keep changing data keys of ring `{}`", ring.name))
            .hint("run the command again: what was deleted stays so"))
    }

    /// Brings rows to the status that the state says.
    async fn change_keys_again(&self, ring: &Arc<KeyRing>, ids: &[enfold_core::KeyId]) -> Result<()> {
        self.publish(ring, ids, |view, rows| {
            let swaps = rows.iter().map(|row| with_status(view, row, view.state.status(row)?));
            Ok(Some((view.state.clone(), swaps.collect::<Result<_>>()?)))
        })
        .await
        .map(drop)
    }

    fn tell(&self, ring: &KeyRing, subject: &Subject, kind: EventKind, context: &CallContext) {
        ring.events.emit(Event::new(kind, 1).ring(ring.id()).detail(subject.to_string()).context(context));
    }
}

impl KeyRing {
    /// The rows that a destruction means.
    pub(crate) async fn rows_of(&self, subject: &Subject) -> Result<Vec<DataKeyRow>> {
        let (mut rows, mut after) = (Vec::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            rows.extend(page.into_iter().filter(|row| subject.holds(row.purpose, &row.scope)));
        }
        Ok(rows)
    }

    /// Deletes what the shared cache may hold of data keys, under whichever key its entries are.
    async fn forget_shared(&self, rows: &[DataKeyRow]) -> Result<()> {
        let entries = self.rows_of(&Subject::ring()).await?;
        let entries: Vec<_> = entries.iter().filter(|row| row.purpose == Purpose::Cache).map(|row| row.id).collect();
        self.remove_shared(&entries, rows).await
    }
}
