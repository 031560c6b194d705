//! The background look at the rings' states, twice a second; the application's sign of life, missing wraps, and what the log says of
//! caches.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::events::{Event, EventKind};
use crate::handle::{Enfold, Inner};

/// Half of what a state may be old, so that a use seldom finds it too old and looks itself.
const EVERY: Duration = Duration::from_millis(500);
/// How often an application says that it still runs, in looks.
const SIGN_OF_LIFE: u32 = 60;
/// How often wraps that are missing are tried again, and the ids of root keys read, in looks.
const REPAIR: u32 = 60;
/// How often the log is told how the caches of data keys did, in looks: each minute.
const CACHES: u32 = 120;

/// What the log was told of a ring's cache of data keys: look-ups that found something, and that did not.
type Told = BTreeMap<String, [u64; 2]>;

/// Begins to look where a tokio runtime is current; without one, each use looks when it must. Ends with the last handle.
pub(crate) fn start(enfold: &Enfold) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(look_until_gone(Arc::downgrade(&enfold.0)));
    }
}

async fn look_until_gone(inner: Weak<Inner>) {
    let (mut looks, mut told): (u32, Told) = (0, Told::new());
    loop {
        let Some(inner) = inner.upgrade() else { return };
        for ring in inner.rings.values() {
            if let Err(error) = ring.look().await {
                tracing::debug!(target: "enfold::keyring", ring = ring.name, "cannot look at the ring's state: {error}");
            }
            if looks.is_multiple_of(REPAIR)
                && let Err(error) = ring.repair_if_due().await
            {
                tracing::warn!(target: "enfold::keyring", ring = ring.name, "cannot complete the wraps of data keys: {error}");
            }
            if looks.is_multiple_of(REPAIR)
                && let Err(error) = ring.refresh_names().await
            {
                tracing::debug!(target: "enfold::keyring", ring = ring.name, "cannot read the ids of root keys: {error}");
            }
        }
        let enfold = Enfold(inner);
        if looks.is_multiple_of(SIGN_OF_LIFE) || enfold.0.registered.has_news() {
            enfold.say_hello().await;
        }
        // Not at once: a program that ends before a minute is over has nothing written behind its back.
        if looks > 0 && looks.is_multiple_of(CACHES) {
            tell_of_caches(&enfold, &mut told);
        }
        drop(enfold);
        looks = looks.wrapping_add(1);
        tokio::time::sleep(EVERY).await;
    }
}

/// Says how often data keys were found in memory, and how often not, since the log was told before.
fn tell_of_caches(enfold: &Enfold, told: &mut Told) {
    for ring in enfold.0.rings.values() {
        let found = ring.metrics().data_keys;
        let now = [found.hits + found.stale, found.misses];
        let before = told.insert(ring.name.clone(), now).unwrap_or_default();
        for (kind, at) in [(EventKind::CacheHit, 0), (EventKind::CacheMiss, 1)] {
            let more = now[at].saturating_sub(before[at]);
            if more > 0 {
                enfold.0.events.emit(Event::new(kind, more).ring(ring.id()));
            }
        }
    }
}
