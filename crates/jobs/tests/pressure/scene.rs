//! A table of a thousand rows on a server of its own, a slow sweep over it, and somebody who listens to what it says.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::db::postgres::Endpoint;
use enfold::policy::BackOff;
use enfold_jobs::model::{Goal, JobId, JobState, Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{JobSpec, Order, Store};
use enfold_jobs::sweep::{SweepOptions, Watch, sweep};
use enfold_testkit::postgres::connect;
use enfold_testkit::postgres_private::Server;
use futures_util::future::join;
use tokio::sync::Notify;
use tokio_postgres::Client;

use crate::codec::OneKey;

const ROWS: i64 = 1_000;

/// Slow enough that no sweep is through before its trouble has come; taken off when the trouble is over.
const RATE: u32 = 20;

pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) store: Postgres,
    /// The application's session.
    pub(crate) app: Client,
    /// What the job said while it waited.
    said: Mutex<Vec<String>>,
    word: Notify,
}

impl Scene {
    pub(crate) async fn with(settings: &[(&str, &str)], back_off: BackOff) -> Self {
        let server = Server::start(settings);
        let app = connect(&server.config()).await;
        app.batch_execute(&format!(
            "CREATE TABLE people (id int PRIMARY KEY, email text); \
             INSERT INTO people SELECT n, 'p' || n || '@example.com' FROM generate_series(1, {ROWS}) n"
        ))
        .await
        .expect("set the table up");
        let endpoint = Endpoint::parse_text(&server.url()).expect("a URL");
        let store = Postgres::at(endpoint, Limits { back_off, ..Limits::default() });
        Self { server, store, app, said: Mutex::default(), word: Notify::new() }
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.app.batch_execute(sql).await.expect("the application's statement");
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.app.query_one(sql, &[]).await.expect("the application counts").get(0)
    }

    pub(crate) async fn job(&self) -> JobId {
        let target = Target {
            table: TableName { schema: "public".to_owned(), table: "people".to_owned() },
            policy_table: "public.people".to_owned(),
            columns: vec![TargetColumn {
                name: "email".to_owned(),
                id: "email".to_owned(),
                storage: Storage::Text,
                shadow: None,
                member: None,
                companions: Default::default(),
                writes: None,
            }],
            indexes: Vec::new(),
            tenant: None,
            row_key: Vec::new(),
            key: vec!["id".to_owned()],
            leaving: enfold::Leaving::default(),
            prune: None,
        };
        let lease = Duration::from_secs(30);
        let spec =
            JobSpec { goal: Goal::Protect, target, batch_rows: 100, rate: Some(RATE), lease, order: Order::default() };
        self.store.create_job(&spec).await.expect("a job")
    }

    /// Sweeps, makes trouble, and sees that the job waits for `reason`; makes the trouble end, and sees that the job then
    /// comes to its end.
    pub(crate) async fn waits(&self, reason: &str, trouble: impl AsyncFnOnce(JobId), relief: impl AsyncFnOnce(JobId)) {
        let job = self.job().await;
        self.said.lock().unwrap().clear();
        let codec = OneKey::new([7; 32]);
        let options = SweepOptions::new("worker");
        let relieved = AtomicBool::new(false);
        let meanwhile = async {
            self.sealed_something().await;
            trouble(job).await;
            self.heard(reason).await;
            // The batch that was being written when it was said is done when it is said again.
            self.said.lock().unwrap().clear();
            self.heard(reason).await;
            let then = self.sealed().await;
            self.said.lock().unwrap().clear();
            self.heard(reason).await;
            assert_eq!(self.sealed().await, then, "the job went on while {reason}");
            assert!(then < ROWS, "the job was through before it waited");
            relieved.store(true, Ordering::Relaxed);
            relief(job).await;
            self.store.set_control(job, None, Some(None)).await.expect("the rate is taken off");
        };
        let swept = async {
            let report = sweep(&self.store, &codec, job, &options, self).await.expect("sweeps");
            assert!(relieved.load(Ordering::Relaxed), "the job was through before it waited for: {reason}");
            report
        };
        let (report, ()) = join(swept, meanwhile).await;
        assert_eq!(report.state, JobState::Completed);
        assert_eq!(self.sealed().await, ROWS);
    }

    async fn sealed(&self) -> i64 {
        self.number("SELECT count(*) FROM people WHERE email LIKE 'enf1:%'").await
    }

    /// The job has looked at the load at least once, for it looks before it writes.
    async fn sealed_something(&self) {
        while self.sealed().await == 0 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn has_heard(&self, reason: &str) -> bool {
        self.said.lock().unwrap().iter().any(|said| said.contains(reason))
    }

    /// Waits until the job says that it waits for `reason`.
    async fn heard(&self, reason: &str) {
        loop {
            let word = self.word.notified();
            if self.has_heard(reason) {
                return;
            }
            word.await;
        }
    }
}

impl Watch for Scene {
    fn waiting(&self, reason: &str) {
        self.said.lock().unwrap().push(reason.to_owned());
        self.word.notify_waiters();
    }
}
