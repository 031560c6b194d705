//! A policy with rules, over a database of either kind.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use enfold::events::{Entry, Event, EventKind, Sink};
use enfold::policy::{self, Variables};
use enfold::{CallContext, Enfold, Result};
use enfold_jobs::ops::{Pace, PruneReport, RulePlan, Session, Silent, plan_prune, prune};

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[jobs]
batch_rows = 20
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

pub(crate) struct Fixture {
    pub(crate) session: Session,
    log: Arc<Log>,
    _folder: tempfile::TempDir,
}

/// Remembers the events of prunings.
#[derive(Default)]
struct Log(Mutex<Vec<Event>>);

#[async_trait]
impl Sink for Log {
    async fn write(&self, batch: &[Entry]) -> Result<()> {
        let pruned = batch.iter().map(|entry| &entry.event).filter(|event| event.kind == EventKind::RowsPruned);
        self.0.lock().unwrap().extend(pruned.cloned());
        Ok(())
    }
}

/// A rule of the policy, with lines of its own.
pub(crate) fn rule(name: &str, table: &str, column: &str, lines: &str) -> String {
    format!("[prune.{name}]\ntable = \"{table}\"\ncolumn = \"{column}\"\n{lines}\n")
}

impl Fixture {
    pub(crate) async fn new(url: &str, rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("{POLICY}{rules}").replace("DATABASE", url);
        let policy = policy::parse(&text, &folder.path().join("enfold.toml"), &Variables::new()).unwrap();
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log) as Arc<dyn Sink>;
        let enfold = Enfold::builder(policy).memory_catalog().sink(sink).prepare().build().await.unwrap();
        let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.unwrap();
        let session = Session::over(enfold.clone(), db, &CallContext::new("ada", "retention")).unwrap();
        Self { session, log, _folder: folder }
    }

    pub(crate) async fn plan(&self) -> Vec<RulePlan> {
        plan_prune(&self.session, &[]).await.unwrap()
    }

    pub(crate) async fn prune(&self) -> PruneReport {
        prune(&self.session, &self.plan().await, &Pace::default(), &Silent).await.unwrap()
    }

    /// What the log of events says was deleted, by the first words of its lines.
    pub(crate) async fn logged(&self, begins: &str) -> u64 {
        // The background task writes what is waiting within its linger; flushing is the handle's, which the session has.
        let waited = async {
            loop {
                let found: Vec<u64> = self.events(begins);
                if !found.is_empty() {
                    return found.iter().sum();
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), waited).await.expect("an event comes")
    }

    fn events(&self, begins: &str) -> Vec<u64> {
        let log = self.log.0.lock().unwrap();
        let ours = |event: &&Event| event.detail.as_deref().is_some_and(|detail| detail.starts_with(begins));
        let told = |event: &Event| {
            assert_eq!(event.actor.as_deref(), Some("ada"));
            event.count
        };
        log.iter().filter(ours).map(told).collect()
    }
}
