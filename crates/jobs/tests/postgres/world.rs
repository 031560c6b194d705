//! A database of its own for a test, the store on it, and a second session that plays the application.

use std::time::Duration;

use enfold::db::postgres::Endpoint;
use enfold::policy::BackOff;
use enfold_jobs::codec::{Codec, Verdict};
use enfold_jobs::model::{Goal, Storage, TableName, Target, TargetColumn};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_jobs::store::{Batch, Change, Checkpoint, JobSpec, Lease, Order, Outcome, Row, Store};
use enfold_jobs::sweep::{SweepOptions, SweepReport, Unwatched, sweep};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

use crate::codec::OneKey;

pub(crate) const LEASE: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) store: Postgres,
    /// The application's session.
    pub(crate) app: Client,
    pub(crate) codec: OneKey,
}

/// Other tests on the server drop their databases, each with a checkpoint that somebody requested: a job would wait until five
/// minutes without many of them are over.
fn limits() -> Limits {
    Limits { back_off: BackOff { max_requested_checkpoints: 10_000, ..BackOff::default() }, ..Limits::default() }
}

impl World {
    pub(crate) async fn with(sql: &str) -> Self {
        let database = Database::create().await;
        let app = database.connect().await;
        app.batch_execute(sql).await.expect("set the tables up");
        let endpoint = Endpoint::parse_text(&database.url()).expect("a URL");
        let store = Postgres::at(endpoint, limits());
        Self { database, store, app, codec: OneKey::new([7; 32]) }
    }

    pub(crate) async fn lease(&self, target: &Target) -> Lease {
        let job = self.store.create_job(&spec(target)).await.expect("a job");
        self.store.lease(job, "worker", LEASE).await.expect("leases").expect("a range")
    }

    pub(crate) async fn read(&self, lease: &Lease, target: &Target) -> Batch {
        self.store.read(lease, target, lease.cursor, 10_000).await.expect("reads")
    }

    pub(crate) async fn seal(&self, target: &Target, rows: &[Row]) -> Vec<Change> {
        let verdicts = self.codec.judge(Goal::Protect, target, rows).await.expect("judges");
        verdicts
            .into_iter()
            .filter_map(|verdict| match verdict {
                Verdict::Convert(change) => Some(change),
                Verdict::Satisfied | Verdict::Failed(_) => None,
            })
            .collect()
    }

    pub(crate) async fn write(&self, lease: &Lease, target: &Target, changes: &[Change]) -> Vec<Outcome> {
        let checkpoint = Checkpoint { cursor: Some(lease.cursor), ..Checkpoint::default() };
        self.store.write(lease, target, changes, &checkpoint).await.expect("writes")
    }

    /// Reads everything, lets `meanwhile` happen, and writes what was sealed of it.
    pub(crate) async fn race(&self, target: &Target, meanwhile: impl AsyncFnOnce(&Client)) -> Vec<Outcome> {
        let lease = self.lease(target).await;
        let batch = self.read(&lease, target).await;
        let changes = self.seal(target, &batch.rows).await;
        meanwhile(&self.app).await;
        self.write(&lease, target, &changes).await
    }

    pub(crate) async fn sweep(&self, goal: Goal, target: &Target) -> SweepReport {
        let job = self.store.create_job(&JobSpec { goal, ..spec(target) }).await.expect("a job");
        sweep(&self.store, &self.codec, job, &SweepOptions::new("worker"), &Unwatched).await.expect("sweeps")
    }

    /// A role of its own, given `grants` (in which `{role}` and `{database}` stand for the names), and the store as that
    /// role sees it. Whoever made it ends it with [`Self::end_role`].
    pub(crate) async fn role(&self, grants: &str) -> (String, Postgres) {
        let database = self.texts("SELECT current_database()::text").await.remove(0).expect("a name");
        let role = format!("{database}_worker");
        let grants = grants.replace("{role}", &role).replace("{database}", &database);
        self.run(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; {grants}")).await;
        let url = self.database.url().replacen("postgres@", &format!("{role}@"), 1);
        let endpoint = Endpoint::parse_text(&url).expect("a URL");
        (role, Postgres::at(endpoint, limits()))
    }

    pub(crate) async fn end_role(&self, role: &str) {
        self.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    }

    /// One column of one query, as text.
    pub(crate) async fn texts(&self, sql: &str) -> Vec<Option<String>> {
        let rows = self.app.query(sql, &[]).await.expect("the application reads");
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.app.query_one(sql, &[]).await.expect("the application counts").get(0)
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.app.batch_execute(sql).await.expect("the application writes");
    }
}

pub(crate) fn spec(target: &Target) -> JobSpec {
    JobSpec {
        goal: Goal::Protect,
        target: target.clone(),
        batch_rows: 500,
        rate: None,
        lease: LEASE,
        order: Order::default(),
    }
}

/// A target in schema `public` with key `id`.
pub(crate) fn target(table: &str, columns: &[(&str, Storage)]) -> Target {
    Target {
        table: TableName { schema: "public".to_owned(), table: table.to_owned() },
        policy_table: format!("public.{table}"),
        columns: columns
            .iter()
            .map(|(name, storage)| TargetColumn {
                name: (*name).to_owned(),
                id: format!("id-of-{name}"),
                storage: *storage,
                shadow: None,
                member: None,
                companions: Default::default(),
                writes: None,
            })
            .collect(),
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: vec!["id".to_owned()],
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}
