//! Which applications run, what they read, and whether they are ready for envelopes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use enfold_core::KeyId;

use crate::Result;
use crate::catalog::Application;
use crate::handle::Enfold;
use crate::policy::Mode;

/// What this process says of itself.
pub(crate) struct Registered {
    /// Name and version; an anonymous process registers nothing.
    application: Option<(String, String)>,
    instance: String,
    columns: Mutex<BTreeSet<String>>,
    news: AtomicBool,
}

impl Registered {
    pub(crate) fn new(application: Option<(String, String)>) -> Self {
        // Drawn, not the process id: two containers have the same ones.
        let instance = KeyId::random().map(|id| id.to_string()).unwrap_or_default();
        Self { application, instance, columns: Mutex::default(), news: AtomicBool::new(false) }
    }

    /// Somebody asked for a handle of this column, so it will be read or written.
    pub(crate) fn uses(&self, column: &str) {
        let mut columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        if columns.insert(column.to_owned()) {
            self.news.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn has_news(&self) -> bool {
        self.application.is_some() && self.news.load(Ordering::Relaxed)
    }

    fn now(&self) -> Option<Application> {
        let (name, version) = self.application.clone()?;
        let columns = self.columns.lock().unwrap_or_else(PoisonError::into_inner);
        self.news.store(false, Ordering::Relaxed);
        Some(Application {
            name,
            version,
            instance: self.instance.clone(),
            columns: columns.iter().cloned().collect(),
            // Whoever reads through this library reads plaintext and envelopes, and stops at plaintext in mode `kms`.
            ready: Mode::Kms,
            last_seen_ms: jiff::Timestamp::now().as_millisecond(),
        })
    }
}

impl Enfold {
    /// Says in the catalog that this application runs and which columns it has asked for. The background watch does it
    /// every half a minute, and soon after a new column; a program without a tokio runtime calls it itself.
    pub async fn register(&self) -> Result<()> {
        match self.0.registered.now() {
            Some(application) => self.0.catalog.register(&application).await,
            None => Ok(()),
        }
    }

    /// Says in the catalog that this process uses its keys no more, so that nobody who takes a data key out of use waits for it.
    /// For the end of a program; one that ends without is not waited for any more once its word has run out.
    pub async fn sign_off(&self) {
        for ring in self.0.rings.values() {
            ring.sign_off().await;
        }
    }

    /// Applications that gave a sign of life in the last `seconds`.
    pub async fn applications(&self, seconds: u32) -> Result<Vec<Application>> {
        let since = jiff::Timestamp::now().as_millisecond() - i64::from(seconds) * 1000;
        self.0.catalog.applications(since).await
    }

    pub(crate) async fn say_hello(&self) {
        if let Err(error) = self.register().await {
            tracing::warn!(target: "enfold::catalog", "cannot register this application: {error}");
        }
    }
}
