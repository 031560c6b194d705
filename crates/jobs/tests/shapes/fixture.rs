//! A database of its own, with a policy over it.

use std::sync::Arc;

use enfold::{CallContext, Enfold, Form, Part, Place};
use enfold_jobs::database::{Counts, Database as _, TableFacts};
use enfold_jobs::ops::{
    Applied, ApplyOptions, Pace, Plan, PlanOptions, Selection, Session, Silent, apply, enforce, plan, rollback,
};
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

use crate::common;

const HEAD: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[jobs]
batch_rows = 100
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

pub(crate) struct Fixture {
    pub(crate) database: Database,
    pub(crate) app: Client,
    folder: tempfile::TempDir,
    pub(crate) enfold: Enfold,
    pub(crate) session: Session,
}

/// A column of `public.people` as the policy has it.
pub(crate) fn column(name: &str, lines: &str) -> String {
    format!("[tables.\"public.people\".columns.{name}]\nid = \"p.{name}\"\nring = \"main\"\n{lines}\n")
}

/// The same, with its shadow.
pub(crate) fn shadowed(name: &str) -> String {
    column(name, &format!("shadow = \"{name}_enf\""))
}

/// A policy over `DATABASE`. `table`: lines of `public.people`.
pub(crate) fn policy_text(table: &str, columns: &str) -> String {
    format!("{HEAD}[tables.\"public.people\"]\n{table}\n{columns}")
}

impl Fixture {
    pub(crate) async fn new(schema: &str, columns: &str) -> Self {
        Self::with(schema, "", columns).await
    }

    /// `table`: lines of the policy's table.
    pub(crate) async fn with(schema: &str, table: &str, columns: &str) -> Self {
        let database = Database::create().await;
        let app = database.connect().await;
        app.batch_execute(schema).await.expect("set the table up");
        let folder = tempfile::tempdir().unwrap();
        let text = policy_text(table, columns).replace("DATABASE", &database.url());
        let who = CallContext::new("test", "conversion");
        let (enfold, session) = common::open(&text, folder.path(), &who).await.unwrap();
        Self { database, app, folder, enfold, session }
    }

    pub(crate) async fn plan(&self) -> Plan {
        assert!(self.folder.path().exists());
        plan(&self.session, &PlanOptions::default()).await.unwrap()
    }

    pub(crate) async fn apply(&self) {
        let shown = self.plan().await;
        assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
        let report = apply(&self.session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        assert_eq!(report.tables[0].outcome, Applied::Protected);
    }

    pub(crate) async fn enforce(&self) {
        enforce(&self.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    }

    pub(crate) async fn rollback(&self) {
        rollback(&self.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    }

    pub(crate) async fn facts(&self) -> TableFacts {
        let postgres = Postgres::open(&self.session.policy.database, Limits::default()).unwrap();
        postgres.inspect(&self.session.policy.tables["public.people"], Counts::Taken).await.unwrap()
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.app.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// Whether the database refuses a statement, and the row stays as it is.
    pub(crate) async fn refuses(&self, sql: &str) -> bool {
        let error = self.app.batch_execute(sql).await.err();
        error.and_then(|error| error.code().cloned()) == Some(tokio_postgres::error::SqlState::CHECK_VIOLATION)
    }

    pub(crate) async fn count(&self, condition: &str) -> i64 {
        self.app.query_one(&format!("SELECT count(*) FROM people WHERE {condition}"), &[]).await.unwrap().get(0)
    }

    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        self.app.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// What an application reads: the shadow through the library, the column itself where the shadow is empty.
    pub(crate) async fn read(&self, column: &str, id: i32) -> Option<String> {
        let sql = format!("SELECT {column}_enf, {column}::text FROM people WHERE id = $1");
        let row = self.app.query_one(&sql, &[&id]).await.unwrap();
        let (sealed, plain): (Option<String>, Option<String>) = (row.get(0), row.get(1));
        let Some(sealed) = sealed else { return plain };
        assert_eq!(plain, None, "of the two one at most holds a value");
        let handle = self.enfold.column(&format!("public.people.{column}")).unwrap();
        let context = CallContext::new("test", "reading");
        let opened = handle.open(&context, &self.place(), Form::Text, sealed.as_bytes()).await.unwrap();
        Some(String::from_utf8(opened.value.to_vec()).unwrap())
    }

    pub(crate) fn place(&self) -> Place<'static> {
        match &self.session.policy.tables["public.people"].tenant {
            Some(_) => Place::tenant(Part::Int(1)),
            None => Place::none(),
        }
    }

    /// What is left of Enfold in the table's definition.
    pub(crate) async fn traces(&self) -> Vec<String> {
        self.texts(
            "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'people'::regclass AND NOT tgisinternal UNION ALL \
             SELECT conname::text FROM pg_constraint WHERE conrelid = 'people'::regclass AND conname LIKE 'enfold%' UNION ALL \
             SELECT attname::text FROM pg_attribute WHERE attrelid = 'people'::regclass AND attname LIKE '%\\_enf' UNION ALL \
             SELECT proname::text FROM pg_proc WHERE pronamespace = 'enfold'::regnamespace AND proname LIKE 'shadow%'",
        )
        .await
    }

    pub(crate) fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}
