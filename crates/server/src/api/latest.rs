//! What was found last, for looks that cost something: told again for a while, and looked for by one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use enfold::Result;
use tokio::sync::Mutex;

pub(crate) struct Latest<T>(Mutex<Option<(Instant, Arc<T>)>>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Latest<T> {
    /// What was found less than `good_for` ago, or what `look` finds now. The others wait for whoever looks.
    pub(super) async fn get(&self, good_for: Duration, look: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut last = self.0.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|(at, _)| at.elapsed() < good_for) {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(look.await?);
        *last = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }

    /// What was found less than `good_for` ago. None while somebody looks: nobody waits for it.
    pub(super) fn last(&self, good_for: Duration) -> Option<Arc<T>> {
        let last = self.0.try_lock().ok()?;
        last.as_ref().filter(|(at, _)| at.elapsed() < good_for).map(|(_, found)| Arc::clone(found))
    }
}
