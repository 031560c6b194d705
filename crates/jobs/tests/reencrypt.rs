//! Rotation and re-encryption on a real Postgres server, with the policy's own keys: asked for, done by workers, steered, while
//! an application keeps reading and writing. Nobody ever fails to read.
#![cfg(feature = "postgres")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold::clock::Clock;
use enfold::{CallContext, Code, Column, Enfold, Form, KeyId, Leaving, Part, PayloadType, Place, Whose};
use enfold_jobs::model::{JobId, JobState};
use enfold_jobs::ops::{
    ALIVE, ApplyOptions, Observer, PlanOptions, Reencryption, Selection, Session, Silent, WorkOptions, apply, audit,
    keep_schedule, plan, plan_reencryption, request_reencryption, retry, work,
};
use enfold_jobs::store::{EMERGENCY, Order, Store};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

use common::InDays;

const TENANTS: i64 = 4;
const ROWS: i64 = 1_200;

const SCHEMA: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, org int NOT NULL, email text, photo bytea, profile jsonb);
    INSERT INTO users SELECT n, n % 4, 'person' || n || '@example.org', decode(md5(n::text), 'hex'), jsonb_build_object('n', n)
    FROM generate_series(1, 1200) n;
    CREATE TABLE notes (id bigint PRIMARY KEY, org int NOT NULL, body text);
    INSERT INTO notes SELECT n, n % 4, 'note ' || n FROM generate_series(1, 900) n;
    ANALYZE users; ANALYZE notes;";

const POLICY: &str = r#"
environment = "development"
[database]
url = "DATABASE"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "tenant"
[rings.main.rotation]
cadence = "90d"
reencrypt_batch_size = 50
[tables."public.users"]
tenant = "org"
[tables."public.users".columns.email]
id = "u.email"
ring = "main"
class = "contact"
[tables."public.users".columns.email.indexes.eq]
column = "email_eq"
normalise = ["lower"]
[tables."public.users".columns.photo]
id = "u.photo"
ring = "main"
[tables."public.users".columns.profile]
id = "u.profile"
ring = "main"
[tables."public.notes"]
tenant = "org"
[tables."public.notes".columns.body]
id = "n.body"
ring = "main"
[jobs]
batch_rows = 50
# Other tests on the server drop their databases, each with a checkpoint.
max_requested_checkpoints = 10000
"#;

struct Fixture {
    database: Database,
    app: Client,
    _folder: tempfile::TempDir,
    enfold: Enfold,
    session: Session,
}

impl Fixture {
    /// Both tables, protected.
    async fn new() -> Self {
        let database = Database::create().await;
        let app = database.connect().await;
        app.batch_execute(SCHEMA).await.expect("set the tables up");
        let folder = tempfile::tempdir().unwrap();
        let text = POLICY.replace("DATABASE", &database.url());
        let (enfold, session) = common::open(&text, folder.path(), &context()).await.unwrap();
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
        Self { database, app, _folder: folder, enfold, session }
    }

    async fn rotate(&self) {
        let rotated = self.enfold.operator().unwrap().rotate_many("main", Whose::Everybody, &context()).await.unwrap();
        assert_eq!(rotated.len(), usize::try_from(TENANTS).unwrap());
    }

    async fn request(&self, wanted: &Reencryption) -> Vec<JobId> {
        let plan = plan_reencryption(&self.session, wanted).await.unwrap();
        let requested = request_reencryption(&self.session, wanted, &plan).await.unwrap();
        requested.iter().map(|requested| requested.job).collect()
    }

    /// Does the jobs that there are, and leaves the schedule alone.
    async fn work(&self) {
        let jobs = self.store().open_jobs().await.unwrap().iter().map(|job| job.id).collect();
        let options = WorkOptions { only: Some(jobs), ..worker("only", true) };
        let report = work(&self.session, &options, &Silent).await.unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
    }

    async fn state(&self, job: JobId) -> JobState {
        self.session.db.store().job(job).await.unwrap().state
    }

    /// How many values of each column are under each data key.
    async fn by_key(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let audited = audit(self.session.db.as_ref(), &self.session.policy, &Selection::All, None).await.unwrap();
        assert!(!audited.leaks());
        audited.columns.into_iter().map(|column| (column.column, column.census.by_key)).collect()
    }

    fn store(&self) -> &dyn Store {
        self.session.db.store()
    }
}

fn context() -> CallContext {
    CallContext::new("test", "re-encryption")
}

fn worker(name: &str, until_idle: bool) -> WorkOptions {
    WorkOptions { name: name.to_owned(), version: "test".to_owned(), until_idle, only: None }
}

fn ids(keys: &BTreeMap<String, u64>) -> Vec<KeyId> {
    keys.keys().map(|id| id.parse().unwrap()).collect()
}

/// Reads and writes rows all the while. Every value that it reads opens, and is the one that was written last.
async fn application(client: Client, email: Column, stop: Arc<AtomicBool>) -> (u64, BTreeMap<i64, String>) {
    let mut last: BTreeMap<i64, String> = (1..=ROWS).map(|n| (n, format!("person{n}@example.org"))).collect();
    let mut read = 0;
    for n in (1..).map_while(|n: i64| (!stop.load(Ordering::Relaxed)).then_some(n)) {
        let id = n * 7 % ROWS + 1;
        let place = Place::tenant(Part::Int(id % TENANTS));
        let row = client.query_one("SELECT email FROM users WHERE id = $1", &[&id]).await.unwrap();
        let opened = email.open(&context(), &place, Form::Text, row.get::<_, String>(0).as_bytes()).await.unwrap();
        assert!(opened.value[..] == *last[&id].as_bytes(), "row {id} is not as it was written");
        read += 1;
        if n % 2 == 0 {
            let value = format!("written{n}@example.org");
            let sealed = email.seal(&context(), &place, Form::Text, PayloadType::Text, value.as_bytes()).await.unwrap();
            let sealed = String::from_utf8(sealed).unwrap();
            client.execute("UPDATE users SET email = $2 WHERE id = $1", &[&id, &sealed]).await.unwrap();
            last.insert(id, value);
        }
    }
    (read, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_is_followed_by_every_value_while_the_application_goes_on() {
    let fixture = Fixture::new().await;
    let before = fixture.by_key().await;
    let stop = Arc::new(AtomicBool::new(false));
    let client = fixture.database.connect().await;
    let email = fixture.enfold.column("public.users.email").unwrap();
    let application = tokio::spawn(application(client, email.clone(), Arc::clone(&stop)));

    fixture.rotate().await;
    let wanted = Reencryption { ring: Some("main".to_owned()), ..Reencryption::default() };
    let plan = plan_reencryption(&fixture.session, &wanted).await.unwrap();
    let of = |table: &str| plan.iter().find(|t| t.table == table).unwrap();
    assert_eq!(of("public.notes").rows_under_former_keys, 900);
    assert_eq!(of("public.users").former_keys, u64::try_from(TENANTS).unwrap());
    let jobs = fixture.request(&wanted).await;
    assert_eq!(jobs.len(), 2);
    for job in &jobs {
        assert_eq!(fixture.state(*job).await, JobState::Pending);
    }
    // Two workers, as on two machines.
    let (names, stay) = ([worker("one", true), worker("two", true)], Silent);
    let (one, two) = tokio::join!(work(&fixture.session, &names[0], &stay), work(&fixture.session, &names[1], &stay));
    let ended: BTreeSet<JobId> =
        [one.unwrap(), two.unwrap()].iter().flat_map(|r| &r.ended).map(|(job, _)| *job).collect();
    assert!(ended.into_iter().eq(jobs.iter().copied()));
    for job in &jobs {
        assert_eq!(fixture.state(*job).await, JobState::Completed);
    }
    stop.store(true, Ordering::Relaxed);
    let (read, last) = application.await.unwrap();
    assert!(read > 10);

    let after = fixture.by_key().await;
    for (column, keys) in &after {
        assert!(keys.keys().all(|key| !before[column].contains_key(key)), "{column} holds a value under a former key");
    }
    for (id, value) in last {
        let row = fixture.app.query_one("SELECT email FROM users WHERE id = $1", &[&id]).await.unwrap();
        let place = Place::tenant(Part::Int(id % TENANTS));
        let opened = email.open(&context(), &place, Form::Text, row.get::<_, String>(0).as_bytes()).await.unwrap();
        assert!(opened.value[..] == *value.as_bytes());
    }
    // What nothing needs any more can be switched off, and everything opens.
    for key in ids(&before["public.users.email"]) {
        fixture.enfold.operator().unwrap().disable("main", key, &context()).await.unwrap();
    }
    let names = fixture.enfold.column("public.notes.body").unwrap();
    let row = fixture.app.query_one("SELECT body FROM notes WHERE id = 5", &[]).await.unwrap();
    let opened =
        names.open(&context(), &Place::tenant(Part::Int(1)), Form::Text, row.get::<_, String>(0).as_bytes()).await;
    assert_eq!(&opened.unwrap().value[..], b"note 5");
    assert!(fixture.request(&wanted).await.is_empty(), "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_named_is_re_encrypted() {
    let fixture = Fixture::new().await;
    let before = fixture.by_key().await;
    fixture.rotate().await;
    let scope = fixture.enfold.tenant_scope("main", Part::Int(1)).await.unwrap();
    let tag = scope.as_str().rsplit_once('@').unwrap().1.to_owned();
    let tenant = Leaving { tenants: [tag].into(), ..Leaving::default() };
    let wanted = Reencryption { class: Some("contact".to_owned()), leaving: tenant.clone(), ..Reencryption::default() };
    assert_eq!(fixture.request(&wanted).await.len(), 1);
    fixture.work().await;
    let after = fixture.by_key().await;
    let kept = |column: &str| after[column].iter().filter(|(key, _)| before[column].contains_key(*key)).count();
    assert_eq!(kept("public.users.email"), 3, "one tenant's e-mails are under a new key");
    assert_eq!(kept("public.users.photo") + kept("public.notes.body"), 8, "and nothing else is");

    let nothing =
        [Leaving { version: Some(2), ..Leaving::default() }, Leaving { made_before_ms: Some(0), ..Leaving::default() }];
    for leaving in nothing {
        assert!(fixture.request(&Reencryption { leaving, ..Reencryption::default() }).await.is_empty());
    }
    let first = Leaving { version: Some(1), ..Leaving::default() };
    let jobs = fixture.request(&Reencryption { leaving: first, ..Reencryption::default() }).await;
    assert_eq!(jobs.len(), 2);
    fixture.work().await;
    for (column, keys) in fixture.by_key().await {
        assert!(keys.keys().all(|key| !before[&column].contains_key(key)), "{column}");
    }
    let unknown = Reencryption { class: Some("medical".to_owned()), ..Reencryption::default() };
    assert_eq!(plan_reencryption(&fixture.session, &unknown).await.unwrap_err().code(), Code::UnknownColumn);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_does_not_open_is_told_and_is_tried_again_when_it_was_settled() {
    let fixture = Fixture::new().await;
    fixture.rotate().await;
    // A value that was copied into a row of another tenant.
    let swap = "UPDATE notes SET body = (SELECT body FROM notes WHERE id = 2) WHERE id = 1";
    let good: String = fixture.app.query_one("SELECT body FROM notes WHERE id = 1", &[]).await.unwrap().get(0);
    fixture.app.execute(swap, &[]).await.unwrap();
    let wanted =
        Reencryption { selection: Selection::Tables(["public.notes".to_owned()].into()), ..Reencryption::default() };
    let job = fixture.request(&wanted).await[0];
    fixture.work().await;
    let record = fixture.store().job(job).await.unwrap();
    assert_eq!((record.state, record.progress.rows_failed), (JobState::CompletedWithErrors, 1));
    let errors = fixture.store().row_errors(job, 10).await.unwrap();
    assert_eq!((errors[0].row.as_str(), errors[0].code.as_str()), ("id=1", "open-failed"));

    let sql =
        "SELECT table_name, columns, state, rows_failed, ended_at IS NOT NULL FROM enfold.encryption_rotation_jobs";
    let seen = fixture.app.query_one(sql, &[]).await.unwrap();
    assert_eq!((seen.get::<_, &str>(0), seen.get::<_, Vec<&str>>(1)), ("public.notes", vec!["body"]));
    assert_eq!(
        (seen.get::<_, &str>(2), seen.get::<_, i64>(3), seen.get::<_, bool>(4)),
        ("completed_with_errors", 1, true)
    );

    fixture.app.execute("UPDATE notes SET body = $1 WHERE id = 1", &[&good]).await.unwrap();
    retry(&fixture.session, job).await.unwrap();
    fixture.work().await;
    assert_eq!(fixture.state(job).await, JobState::Completed);
    assert!(fixture.store().row_errors(job, 10).await.unwrap().is_empty());
    assert_eq!(retry(&fixture.session, job).await.unwrap_err().code(), Code::Usage);
}

/// Asks to stop when the store says that enough rows were changed, and remembers which tables it saw being worked on.
#[derive(Default)]
struct Until {
    stop: AtomicBool,
    tables: std::sync::Mutex<Vec<String>>,
}

impl Observer for Until {
    fn progress(&self, event: &enfold_jobs::ops::SweepEvent) {
        self.tables.lock().unwrap().push(event.table.clone());
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Waits for a condition of the store.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_wait_for_workers_and_heed_orders_while_they_run() {
    let fixture = Fixture::new().await;
    fixture.rotate().await;
    let store = fixture.store();
    assert!(store.workers(ALIVE).await.unwrap().is_empty());
    // Slow enough that it does not end by itself.
    let wanted = Reencryption { rate: Some(50), ..Reencryption::default() };
    let jobs = fixture.request(&wanted).await;
    assert_eq!(fixture.request(&wanted).await, jobs, "the same is not asked for twice");

    let watch = Until::default();
    let options = worker("patient", false);
    let working = work(&fixture.session, &options, &watch);
    let steering = async {
        until(async || store.job(jobs[0]).await.unwrap().progress.rows_changed > 0).await;
        let there = store.workers(ALIVE).await.unwrap();
        assert_eq!((there.len(), there[0].name.as_str()), (1, "patient"));
        assert_eq!(store.job(jobs[0]).await.unwrap().state, JobState::Running);

        // Paused, nothing moves, and the worker turns to the other job.
        store.transition(jobs[0], &[JobState::Running], JobState::Paused, None).await.unwrap();
        until(async || store.job(jobs[1]).await.unwrap().progress.rows_changed > 0).await;
        let paused = store.job(jobs[0]).await.unwrap();
        assert_eq!((paused.state, paused.workers), (JobState::Paused, 0));
        store.transition(jobs[1], &[JobState::Running], JobState::Cancelled, None).await.unwrap();

        // Resumed, and let loose.
        store.set_control(jobs[0], Some(500), Some(None)).await.unwrap();
        store.transition(jobs[0], &[JobState::Paused], JobState::Pending, None).await.unwrap();
        until(async || store.job(jobs[0]).await.unwrap().state == JobState::Completed).await;
        assert_eq!(store.job(jobs[1]).await.unwrap().state, JobState::Cancelled);
        watch.stop.store(true, Ordering::Relaxed);
    };
    let (worked, ()) = tokio::join!(working, steering);
    assert_eq!(worked.unwrap().ended, [(jobs[0], JobState::Completed)]);
    assert!(store.workers(ALIVE).await.unwrap().is_empty(), "it signed off");
}

fn in_days(days: i64) -> i64 {
    InDays::new(days).unix_ms()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_is_rotated_once_however_many_look_and_values_follow() {
    let fixture = Fixture::new().await;
    let before = fixture.by_key().await;
    assert!(keep_schedule(&fixture.session, in_days(89), false).await.unwrap().is_empty(), "nothing is due yet");
    let due = fixture.enfold.schedule().await.unwrap().remove(0);
    assert_eq!((due.keys.len(), due.due(in_days(89)).len(), due.due(in_days(91)).len()), (4, 0, 4));
    // Ninety-one days later, four processes look at once, each with keys of its own.
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let clock = Arc::new(InDays::new(91));
        let enfold = Enfold::builder(fixture.enfold.policy().clone()).clock(clock).build().await.unwrap();
        sessions.push(Session::over(enfold, Arc::clone(&fixture.session.db), &context()).unwrap());
    }
    let looks = sessions.iter().map(|session| keep_schedule(session, in_days(91), false));
    let acted = futures_util::future::join_all(looks).await;
    let acted: usize = acted.into_iter().map(|rings| rings.unwrap().len()).sum();
    assert_eq!(acted, 1, "one of them rotated");
    // Seen by everybody within a second.
    let versions = async || fixture.enfold.schedule().await.unwrap().remove(0).keys.into_iter().map(|key| key.version);
    until(async || versions().await.all(|version| version > 1)).await;
    assert!(versions().await.all(|version| version == 2), "each data key once");
    assert_eq!(fixture.store().open_jobs().await.unwrap().len(), 2, "and what follows was asked for");
    fixture.work().await;
    for (column, keys) in fixture.by_key().await {
        assert!(keys.keys().all(|key| !before[&column].contains_key(key)), "{column}");
    }
    assert!(keep_schedule(&sessions[0], in_days(91), true).await.unwrap().is_empty());
    assert!(fixture.store().open_jobs().await.unwrap().is_empty(), "nothing is left to ask for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_whose_clocks_differ_rotate_once_by_the_database_s_clock() {
    let fixture = Fixture::new().await;
    let mut sessions = Vec::new();
    // By the database it is day 91. One machine's clock was put back to the first day, another's is a year ahead.
    for day in [0, 456] {
        let clock = Arc::new(InDays::new(day));
        let enfold = Enfold::builder(fixture.enfold.policy().clone()).clock(clock).build().await.unwrap();
        sessions.push(Session::over(enfold, Arc::clone(&fixture.session.db), &context()).unwrap());
    }
    let (mut acted, moment) = (0, in_days(91));
    for session in [&sessions[0], &sessions[1], &sessions[0], &sessions[1]] {
        acted += keep_schedule(session, moment, false).await.unwrap().len();
    }
    assert_eq!(acted, 1, "what the one behind has rotated is not due again at its next look");
    // Seen by everybody within a second.
    let keys = async || fixture.enfold.schedule().await.unwrap().remove(0).keys;
    until(async || keys().await.iter().all(|key| key.version > 1)).await;
    assert!(keys().await.iter().all(|key| key.version == 2 && key.due_ms == moment + 90 * 86_400_000));

    let server = async || {
        let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8";
        fixture.app.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let before = server().await;
    let said = fixture.session.db.now_ms().await.unwrap();
    assert!((before..=server().await).contains(&said), "a worker asks the server for the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emergency_comes_first() {
    let fixture = Fixture::new().await;
    fixture.rotate().await;
    let of = |table: &str, priority| Reencryption {
        selection: Selection::Tables([table.to_owned()].into()),
        order: Order { priority, ..Order::default() },
        ..Reencryption::default()
    };
    let later = fixture.request(&of("public.users", 0)).await[0];
    let first = fixture.request(&of("public.notes", EMERGENCY)).await[0];
    assert!(later < first, "asked for later");
    let report = work(&fixture.session, &worker("only", true), &Silent).await.unwrap();
    let order: Vec<JobId> = report.ended.iter().map(|(job, _)| *job).collect();
    assert_eq!(order, [first, later]);
}
