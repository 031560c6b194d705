//! What operators sign about blind indexes: their rules, and which generation is to take over.

use super::Operator;
use crate::Result;
use crate::events::{CallContext, Event, EventKind};
use crate::indexes::IndexStanding;
use crate::state::IndexState;

impl Operator {
    /// Signs the rules of an index as the policy has them, if none were signed: what a policy says of them later holds from
    /// the next rotation on, so that it can be changed and deployed before.
    pub async fn sign_index(&self, owner: &str, name: &str, context: &CallContext) -> Result<IndexStanding> {
        self.change_index(owner, name, "its rules are signed", context, |_| Ok(())).await
    }

    /// Has a new generation of an index live beside the one there is, by the policy's rules: from within a second on, in every
    /// process, both are stored and looked for. One that is on its way already is left as it is.
    pub async fn begin_index(&self, owner: &str, name: &str, context: &CallContext) -> Result<IndexStanding> {
        let index = self.enfold.index(owner, name)?;
        let begin = |state: &mut IndexState| state.begin(index.policy_spec());
        self.change_index(owner, name, "a new generation lives beside the one there was", context, begin).await
    }

    /// Has a generation be the only one, which lived beside another until now. Done already, it is not done again.
    pub async fn cut_index(
        &self,
        owner: &str,
        name: &str,
        generation: u16,
        context: &CallContext,
    ) -> Result<IndexStanding> {
        let cut = |state: &mut IndexState| {
            state.cut(generation);
            Ok(())
        };
        self.change_index(owner, name, &format!("generation {generation} has taken over"), context, cut).await
    }

    /// Gives a generation up that was to take over.
    pub async fn give_up_index(
        &self,
        owner: &str,
        name: &str,
        generation: u16,
        context: &CallContext,
    ) -> Result<IndexStanding> {
        let give_up = |state: &mut IndexState| {
            state.give_up(generation);
            Ok(())
        };
        self.change_index(owner, name, &format!("generation {generation} was given up"), context, give_up).await
    }

    async fn change_index(
        &self,
        owner: &str,
        name: &str,
        what: &str,
        context: &CallContext,
        change: impl Fn(&mut IndexState) -> Result<()>,
    ) -> Result<IndexStanding> {
        let index = self.enfold.index(owner, name)?;
        let ring = &index.seat().ring;
        ring.look().await?;
        let before = ring.view().await?.state.epoch;
        self.change(ring, |view| {
            let mut state = view.state.clone();
            change(state.indexes.entry(index.id()).or_insert_with(|| IndexState::first(index.policy_spec())))?;
            Ok(state)
        })
        .await?;
        if ring.view().await?.state.epoch != before {
            let detail = format!("{owner}.{name}: {what}");
            ring.events.emit(Event::new(EventKind::Index, 1).ring(ring.id()).detail(detail).context(context));
        }
        self.enfold.index_standing(owner, name).await
    }

    /// Disables the keys of an index's former generations: nothing is stored or looked for under them any more. Returns how
    /// many that were.
    pub async fn disable_former_indexes(&self, owner: &str, name: &str, context: &CallContext) -> Result<usize> {
        let index = self.enfold.index(owner, name)?;
        let ring = &index.seat().ring;
        let keys = ring.former_index_keys(&index.id()).await?;
        self.disable_many(&ring.name, &keys, context).await?;
        Ok(keys.len())
    }
}
