//! What is looked up in the database while somebody asks for figures.
//!
//! Whoever asks does not wait long for it: a look that takes longer goes on by itself, and what it finds is told the next time. One look
//! of a kind runs at a time, however many ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold::policy::{MetricsPolicy, Mode};
use enfold::{Enfold, LogStanding, Result, RingSchedule, RootDue, SealingKeys};
use enfold_jobs::database::Database;
use enfold_jobs::model::Census;
use enfold_jobs::ops::{self, Selection};
use enfold_jobs::store::JobRecord;
use jiff::Timestamp;
use tokio::sync::OnceCell;

use crate::reached;

/// How long a look is good for, if its figures are cheap.
const EVERY: Duration = Duration::from_secs(15);
/// How long whoever asks waits: less than Prometheus does.
const WAIT: Duration = Duration::from_secs(5);
/// Rows of each table that are looked at for coverage.
const SAMPLE: u64 = 10_000;

/// The last look of a kind.
pub(super) struct Look<T> {
    pub(super) what: &'static str,
    every: Duration,
    last: Mutex<Option<Arc<Seen<T>>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) failures: AtomicU64,
}

/// What was found, and when.
pub(super) struct Seen<T> {
    at: Instant,
    pub(super) at_ms: i64,
    pub(super) found: T,
}

/// What is on record of jobs.
pub(super) struct Jobs {
    pub(super) records: Vec<JobRecord>,
    pub(super) workers: usize,
}

/// Keys, and when they are due.
pub(super) struct Keys {
    pub(super) sealing: Vec<SealingKeys>,
    pub(super) data_keys: Vec<RingSchedule>,
    pub(super) root_keys: Vec<RootDue>,
}

/// A column and a sample of it.
pub(super) struct Covered {
    pub(super) column: String,
    pub(super) mode: Mode,
    pub(super) census: Census,
}

/// All that is looked at.
pub(super) struct Looks {
    enfold: Enfold,
    database: Arc<OnceCell<Arc<dyn Database>>>,
    pub(super) jobs: Arc<Look<Jobs>>,
    pub(super) keys: Arc<Look<Keys>>,
    pub(super) coverage: Arc<Look<Vec<Covered>>>,
    pub(super) log: Arc<Look<Option<LogStanding>>>,
}

/// What was found of each kind, where a look came to something.
pub(super) struct Found {
    pub(super) jobs: Option<Arc<Seen<Jobs>>>,
    pub(super) keys: Option<Arc<Seen<Keys>>>,
    pub(super) coverage: Option<Arc<Seen<Vec<Covered>>>>,
    pub(super) log: Option<Arc<Seen<Option<LogStanding>>>>,
}

impl Looks {
    pub(super) fn new(enfold: Enfold, database: Arc<OnceCell<Arc<dyn Database>>>, policy: &MetricsPolicy) -> Self {
        Self {
            enfold,
            database,
            jobs: Look::new("jobs", EVERY),
            keys: Look::new("keys", EVERY),
            coverage: Look::new("coverage", policy.coverage_every),
            log: Look::new("log", EVERY),
        }
    }

    pub(super) async fn look(&self) -> Found {
        let with = || (self.enfold.clone(), Arc::clone(&self.database));
        let ((a, b), (c, d), enfold, same) = (with(), with(), self.enfold.clone(), self.enfold.clone());
        let (jobs, keys, coverage, log) = futures_util::join!(
            self.jobs.look(|| async move { jobs(&*reached(&a, &b).await?).await }),
            self.keys.look(|| async move { keys(&enfold).await }),
            self.coverage.look(|| async move { coverage(&c, &*reached(&c, &d).await?).await }),
            self.log.look(|| async move { same.log_standing().await }),
        );
        Found { jobs, keys, coverage, log }
    }
}

impl<T: Send + Sync + 'static> Look<T> {
    fn new(what: &'static str, every: Duration) -> Arc<Self> {
        Arc::new(Self { what, every, last: Mutex::default(), turn: Arc::default(), failures: AtomicU64::new(0) })
    }

    /// What was found last; looked up anew where that was longer ago than it is good for, and nobody else looks.
    async fn look<F>(self: &Arc<Self>, find: impl FnOnce() -> F) -> Option<Arc<Seen<T>>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        if !self.is_good()
            && let Ok(turn) = Arc::clone(&self.turn).try_lock_owned()
        {
            let (look, find) = (Arc::clone(self), find());
            let looking = tokio::spawn(async move {
                look.take(find.await);
                drop(turn);
            });
            tokio::time::timeout(WAIT, looking).await.ok();
        }
        self.last()
    }

    fn take(&self, found: Result<T>) {
        match found {
            Ok(found) => {
                let seen = Seen { at: Instant::now(), at_ms: Timestamp::now().as_millisecond(), found };
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(seen));
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(target: "enfold_server", what = self.what, code = error.code().word(), "cannot look up figures: {error}");
            }
        }
    }

    fn last(&self) -> Option<Arc<Seen<T>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_good(&self) -> bool {
        self.last().is_some_and(|seen| seen.at.elapsed() < self.every)
    }
}

async fn jobs(database: &dyn Database) -> Result<Jobs> {
    let store = database.store();
    Ok(Jobs { records: store.jobs().await?, workers: store.workers(ops::ALIVE).await?.len() })
}

async fn keys(enfold: &Enfold) -> Result<Keys> {
    let (sealing, data_keys) = (enfold.sealing_keys().await?, enfold.schedule().await?);
    Ok(Keys { sealing, data_keys, root_keys: enfold.root_schedule().await? })
}

async fn coverage(enfold: &Enfold, database: &dyn Database) -> Result<Vec<Covered>> {
    let audit = ops::audit(database, enfold.policy(), &Selection::All, Some(SAMPLE)).await?;
    let mut columns = Vec::with_capacity(audit.columns.len());
    for audited in audit.columns.into_iter().filter(|audited| audited.reason.is_none()) {
        let mode = enfold.column(&audited.column)?.mode().await?;
        columns.push(Covered { column: audited.column, mode, census: audited.census });
    }
    Ok(columns)
}
