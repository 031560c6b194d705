//! The word that a process gives of a ring: by which state it goes.
//!
//! It is given with the look that took the state in, so before anything is sealed under it, and again every few seconds. Whoever
//! takes a data key out of use waits until nobody goes by a state any more in which it seals. A process whose word has run
//! out has not looked for longer than it may, and so does nothing before it has looked again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::KeyRing;
use crate::Result;
use crate::catalog::Acknowledgement;

/// How often the same word is given again.
const EVERY: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Default)]
pub(super) struct Word {
    /// The name of the open policy; without one no word is given.
    name: Option<String>,
    application: Option<String>,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Default)]
enum Last {
    #[default]
    Nothing,
    Said(Said),
    /// It was taken back for good.
    SignedOff,
}

#[derive(Clone, Copy)]
struct Said {
    /// A child that was forked speaks for itself.
    process: u32,
    epoch: u64,
    at: Duration,
}

impl Word {
    pub(super) fn of(name: &str, application: Option<&(String, String)>) -> Self {
        let application = application.map(|(name, version)| format!("{name} {version}"));
        Self { name: Some(name.to_owned()), application, last: Mutex::default() }
    }
}

impl KeyRing {
    /// Says that this process goes by the state of this epoch, unless it said so a moment ago. What cannot be written down is
    /// said again with that moment's end; until then this process is one that gave no word.
    pub(super) async fn acknowledge(&self, epoch: u64) {
        let Some(name) = &self.word.name else { return };
        let said = Said { process: std::process::id(), epoch, at: self.seen.now() };
        {
            let mut last = self.word.last.lock().unwrap_or_else(PoisonError::into_inner);
            let is_same = |last: &Said| (last.process, last.epoch) == (said.process, said.epoch);
            match &*last {
                Last::SignedOff => return,
                Last::Said(last) if is_same(last) && said.at < last.at + EVERY => return,
                // Noted even if it fails: a role without the right would otherwise ask at every look.
                _ => *last = Last::Said(said),
            }
        }
        // Until it is given again, and then for as long as nobody need look.
        self.say(name, said, EVERY + self.policy.cache.max_unseen).await;
    }

    /// Takes the word back, for a process that uses its keys no more.
    pub(crate) async fn sign_off(&self) {
        let last =
            std::mem::replace(&mut *self.word.last.lock().unwrap_or_else(PoisonError::into_inner), Last::SignedOff);
        if let (Last::Said(said), Some(name)) = (last, &self.word.name) {
            self.say(name, said, Duration::ZERO).await;
        }
    }

    async fn say(&self, name: &str, said: Said, holds: Duration) {
        let word = Acknowledgement {
            ring: self.id().to_owned(),
            process: format!("{name}:{}", said.process),
            application: self.word.application.clone(),
            epoch: said.epoch,
            holds,
        };
        if let Err(error) = self.catalog.acknowledge(&word).await {
            tracing::debug!(target: "enfold::catalog", ring = self.name, "cannot acknowledge the ring's state: {error}");
        }
    }

    /// Processes that go by an earlier state than that of `epoch`, by their word.
    pub(crate) async fn behind(&self, epoch: u64) -> Result<Vec<Acknowledgement>> {
        let mut words = self.catalog.acknowledgements(self.id()).await?;
        words.retain(|word| word.epoch < epoch);
        Ok(words)
    }
}
