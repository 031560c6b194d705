//! What operators sign about root keys: which of them are active, and that processes are to look again.

use std::sync::Arc;

use super::Operator;
use crate::events::{CallContext, Event, EventKind};
use crate::keyring::roots::Provider;
use crate::keyring::{KeyRing, View};
use crate::kms::KeyUri;
use crate::state::{RingState, RootState};
use crate::{Code, Error, Result};

impl Operator {
    /// Says what every ring that names this root key does with it, in every process within a second. Gives the names of the
    /// rings whose state changed.
    ///
    /// A retired one unwraps and wraps no new data key; a disabled one is not called, so that what it alone has wrapped does
    /// not open. Both can be taken back. Nothing is done to the key in its service.
    ///
    /// # Errors
    /// `Usage` where a ring would be left with fewer active root keys than `min_wraps`, or could not be opened any more,
    /// not even to take this back.
    pub async fn set_root_state(&self, root: &str, state: RootState, context: &CallContext) -> Result<Vec<String>> {
        let root = root.parse::<KeyUri>()?.to_string();
        let mut concerned: Vec<&Arc<KeyRing>> = Vec::new();
        for ring in self.enfold.0.rings.values() {
            ring.look().await?;
            let named = ring.roots.all().iter().any(|provider| provider.uri() == root);
            if named || ring.view().await?.state.roots.contains_key(&root) {
                concerned.push(ring);
            }
        }
        if concerned.is_empty() {
            return Err(Error::new(Code::KmsUriInvalid, format!("`{root}` is not a root key of the policy"))
                .hint("`enfold keys list --roots` shows those that are"));
        }
        // All are looked at before the first is changed.
        for ring in &concerned {
            can_do_without(ring, &*ring.view().await?, &root, state).await?;
        }
        let mut changed = Vec::new();
        for ring in concerned {
            if ring.view().await?.state.root(&root) == state {
                continue;
            }
            self.change(ring, |view| Ok(with_root(&view.state, &root, state))).await?;
            let says = format!("{root}: {}", state.as_str());
            ring.events.emit(Event::new(EventKind::RootKey, 1).ring(ring.id()).detail(says).context(context));
            changed.push(ring.name.clone());
        }
        Ok(changed)
    }

    /// Publishes the ring's state once more, so that every process takes in again, within a second, what the catalog says of
    /// keys.
    pub async fn refresh(&self, ring: &str) -> Result<()> {
        let ring = self.enfold.ring(ring)?;
        self.publish(ring, &[], |view, _| Ok(Some((view.state.clone(), Vec::new())))).await.map(drop)
    }
}

fn with_root(state: &RingState, root: &str, is: RootState) -> RingState {
    let mut state = state.clone();
    match is {
        RootState::Active => state.roots.remove(root),
        RootState::Retired | RootState::Disabled => state.roots.insert(root.to_owned(), is),
    };
    state
}

async fn can_do_without(ring: &KeyRing, view: &View, root: &str, state: RootState) -> Result<()> {
    let refused = |why: String| {
        Error::new(Code::Usage, format!("cannot make `{root}` {} in ring `{}`", state.as_str(), ring.name))
            .cause(why)
            .hint("nothing was changed")
    };
    if state == RootState::Active {
        return Ok(());
    }
    let signed = with_root(&view.state, root, state);
    let others = || ring.roots.all().iter().map(Provider::uri).filter(|uri| *uri != root);
    let active = others().filter(|uri| signed.root(uri) == RootState::Active).count();
    if active < ring.policy.min_wraps.max(1) {
        let needed = ring.policy.min_wraps.max(1);
        return Err(refused(format!("{active} active root keys would be left, and a new data key needs {needed}"))
            .hint("add another root key to the ring's `roots` in enfold.toml, everywhere"));
    }
    let callable = |uri: &str| others().any(|other| other == uri) && signed.root(uri) != RootState::Disabled;
    let rows = ring.catalog.key(ring.id(), view.state.rows.key.0).await?;
    if state == RootState::Disabled && !rows.is_some_and(|row| row.wraps.iter().any(|wrap| callable(&wrap.root))) {
        return Err(refused("no other root key has wrapped the key that authenticates the ring's rows".to_owned())
            .hint(format!("run `enfold keys rewrap {}` first", ring.name)));
    }
    Ok(())
}
