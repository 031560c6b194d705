//! Everything through a real PgBouncer in transaction mode, catalog and all: a table is protected by two workers,
//! verified, enforced, audited and taken back, while an application on the same sessions sees none of our settings.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::CallContext;
use enfold_jobs::ops::{
    Applied, ApplyOptions, Pace, PlanOptions, Selection, Silent, apply, audit, enforce, plan, rollback, verify,
};
use enfold_testkit::pgbouncer::PgBouncer;
use enfold_testkit::postgres::{self, Database};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

/// Sessions that PgBouncer keeps: fewer than its clients, so that transactions of both take turns on each.
const SESSIONS: usize = 4;

const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, org int NOT NULL, email text, name varchar(60) NOT NULL, photo bytea);
    INSERT INTO users SELECT n, n % 3, 'Person' || n || '@example.org', 'Name ' || n, decode(md5(n::text), 'hex')
    FROM generate_series(1, 3000) n;
    CREATE INDEX by_name ON users (name);
    ANALYZE users;";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
[tables."public.users"]
tenant = "org"
[tables."public.users".columns.email]
id = "u.email"
ring = "main"
mode = "kms"
[tables."public.users".columns.email.indexes.eq]
column = "email_eq"
normalise = ["lower"]
unique = true
[tables."public.users".columns.name]
id = "u.name"
ring = "main"
mode = "kms"
[tables."public.users".columns.photo]
id = "u.photo"
ring = "main"
mode = "kms"
[jobs]
batch_rows = 50
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

/// What is in a session that should not be: PgBouncer itself sets the first names for each client.
const LEFT: &str = "SELECT 'statement ' || statement FROM pg_prepared_statements \
    UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE source = 'session' AND name NOT IN \
       ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings') \
    UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r' \
    UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
    UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE name <> ''";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_goes_in_and_out_through_a_pooler_in_transaction_mode() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(SCHEMA).await.expect("sets the table up");
    let config = database.config();
    let bouncer = PgBouncer::before(config.get_ports()[0], SESSIONS);
    let name = config.get_dbname().expect("a database");
    let url = format!("postgres://postgres@127.0.0.1:{}/{name}", bouncer.port());
    let pooled: Config = url.parse().expect("a URL");

    let stop = Arc::new(AtomicBool::new(false));
    let watching = tokio::spawn(watch(pooled.clone(), Arc::clone(&stop)));
    let folder = tempfile::tempdir().expect("a folder");
    let text = POLICY.replace("DATABASE", &url);
    let who = CallContext::new("test", "conversion");
    let (_, session) = common::open(&text, folder.path(), &who).await.expect("opens through the pooler");

    let before = rows(&app).await;
    let pace = Pace { workers: 2, ..Pace::default() };
    let shown = plan(&session, &PlanOptions { rewrite: true, ..PlanOptions::default() }).await.expect("plans");
    assert!(!shown.is_refused(), "{:?}", shown.tables[0].refusals);
    let options = ApplyOptions { pace: pace.clone(), ..ApplyOptions::default() };
    let report = apply(&session, &shown, &options, &Silent).await.expect("applies");
    assert_eq!((report.tables[0].outcome, report.tables[0].rows_changed), (Applied::Protected, 3000));
    let verified = verify(&session, &Selection::All, &pace, &Silent).await.expect("verifies");
    assert!(verified.is_clean() && verified.tables[0].rows == 3000);
    enforce(&session, &Selection::All, &pace, &Silent).await.expect("enforces");
    assert!(app.execute("UPDATE users SET name = 'plain' WHERE id = 1", &[]).await.is_err());
    let audited = audit(session.db.as_ref(), &session.policy, &Selection::All, None).await.expect("audits");
    assert!(!audited.leaks());
    rollback(&session, &Selection::All, &pace, &Silent).await.expect("goes back");
    assert_eq!(rows(&app).await, before);

    stop.store(true, Ordering::Relaxed);
    let sessions = watching.await.expect("watches to the end");
    assert!(sessions.len() >= 2, "the application met {} sessions", sessions.len());
    nothing_is_left(&pooled).await;
}

/// An application that shares the sessions, and finds them as a new session is, at every moment.
async fn watch(pooled: Config, stop: Arc<AtomicBool>) -> BTreeSet<String> {
    let client = postgres::connect(&pooled).await;
    let mut met = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let answers = simple(&client, &format!("SELECT 'session ' || pg_backend_pid() UNION ALL {LEFT}")).await;
        let (sessions, left): (Vec<String>, Vec<String>) = answers.into_iter().partition(|a| a.starts_with("session "));
        assert_eq!(left, Vec::<String>::new());
        met.extend(sessions);
        tokio::task::yield_now().await;
    }
    met
}

/// In every session, each held by an open transaction while the next one is looked at.
async fn nothing_is_left(pooled: &Config) {
    let mut held = Vec::new();
    for _ in 0..SESSIONS {
        let client = postgres::connect(pooled).await;
        client.batch_execute("BEGIN").await.expect("a session of its own");
        assert_eq!(simple(&client, LEFT).await, Vec::<String>::new());
        held.push(client);
    }
}

/// One column of a query, in the simple protocol: nothing is prepared.
async fn simple(client: &Client, sql: &str) -> Vec<String> {
    let answer = client.simple_query(sql).await.expect("answers");
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    answer.iter().filter_map(text).collect()
}

/// Every row as text, values as they are stored.
async fn rows(app: &Client) -> Vec<String> {
    let sql = "SELECT ROW(id, org, email, name, photo)::text FROM users ORDER BY id";
    app.query(sql, &[]).await.expect("reads").iter().map(|row| row.get(0)).collect()
}
