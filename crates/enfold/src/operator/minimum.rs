//! The least version that opens: a floor under which no data key of a scope is used, whatever is restored beside it.

use std::collections::{BTreeMap, BTreeSet};

use enfold_core::KeyId;

use super::{Operator, with_status};
use crate::catalog::{DataKeyRow, Purpose};
use crate::events::{CallContext, Event, EventKind};
use crate::handle::Enfold;
use crate::keyring::{KeyRing, ScopeId};
use crate::rotation::Whose;
use crate::{Code, Error, Result};

impl Enfold {
    /// The scopes of a ring that `whose` names and in which something seals, in their order.
    pub async fn scopes(&self, ring: &str, whose: Whose<'_>) -> Result<Vec<ScopeId>> {
        self.scopes_of(self.ring(ring)?, whose).await
    }

    /// The least version that opens, of each scope that has one.
    pub async fn minimums(&self, ring: &str) -> Result<BTreeMap<String, u32>> {
        Ok(self.ring(ring)?.view().await?.state.minimums.clone())
    }

    /// Data keys of these scopes below a version, that open now.
    pub async fn keys_below(&self, ring: &str, scopes: &[ScopeId], version: u32) -> Result<Vec<KeyId>> {
        let ring = self.ring(ring)?;
        let view = ring.view().await?;
        let mut below = Vec::new();
        for row in ring.rows_in(scopes).await?.into_iter().filter(|row| row.version < version) {
            let (_, status) = ring.believe_now(&view, &row).await?;
            if status == crate::catalog::KeyStatus::Retired {
                below.push(row.id);
            }
        }
        Ok(below)
    }
}

impl Operator {
    /// Has nothing open under a version below this one in these scopes, in every process within a second. A lower one takes it
    /// back; with 0 nothing is below it. What needs those versions is for the caller to have looked at.
    ///
    /// # Errors
    /// `Usage` where a version that seals would be below it.
    pub async fn set_minimum(&self, ring: &str, scopes: &[ScopeId], version: u32, context: &CallContext) -> Result<()> {
        let ring = self.enfold.ring(ring)?;
        ring.look().await?;
        let ids: Vec<KeyId> = ring.rows_in(scopes).await?.iter().map(|row| row.id).collect();
        self.change_keys(ring, &ids, |view, rows| {
            let mut state = view.state.clone();
            for scope in scopes {
                let seals = state.sealing_version(Purpose::Seal, scope.as_str());
                if seals < version {
                    return Err(Error::new(
                        Code::Usage,
                        format!("version {version} of scope `{scope}` is not made yet"),
                    )
                    .cause(format!("version {seals} seals, and would not open any more"))
                    .hint(format!("`enfold keys rotate {}` makes the next one", ring.name))
                    .hint("nothing was changed"));
                }
                match version {
                    0 | 1 => state.minimums.remove(scope.as_str()),
                    _ => state.minimums.insert(scope.as_str().to_owned(), version),
                };
            }
            let swaps = rows.iter().map(|row| with_status(view, row, state.status(row)?));
            let swaps = swaps.collect::<Result<_>>()?;
            Ok((state, swaps))
        })
        .await?;
        for scope in scopes {
            let says = format!("{scope}: {version}");
            ring.events.emit(Event::new(EventKind::MinimumSet, 1).ring(ring.id()).detail(says).context(context));
        }
        Ok(())
    }
}

impl KeyRing {
    /// Rows of sealing data keys of these scopes that were announced: one that was only stored has no status yet.
    async fn rows_in(&self, scopes: &[ScopeId]) -> Result<Vec<DataKeyRow>> {
        let view = self.view().await?;
        let scopes: BTreeSet<&str> = scopes.iter().map(ScopeId::as_str).collect();
        let (mut rows, mut after) = (Vec::new(), None);
        while let Some(page) = self.next_rows(&mut after).await? {
            rows.extend(page.into_iter().filter(|row| {
                let announced = row.version <= view.state.sealing_version(Purpose::Seal, &row.scope);
                row.purpose == Purpose::Seal && scopes.contains(row.scope.as_str()) && announced
            }));
        }
        Ok(rows)
    }
}
