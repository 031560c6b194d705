//! On Postgres: types, races, partitions, interruption and the schedule.

use std::sync::atomic::{AtomicBool, Ordering};

use enfold::Code;
use enfold_jobs::model::{Goal, JobState};
use enfold_jobs::ops::{Observer, Pace, Silent, SweepEvent, WorkOptions, plan_prune, prune, work};
use enfold_testkit::postgres::Database;
use tokio_postgres::Client;

use crate::fixture::{Fixture, rule};

async fn count(app: &Client, sql: &str) -> i64 {
    app.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_old_enough_go_whatever_type_says_so_and_no_others() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(
        "CREATE TABLE zoned (id int PRIMARY KEY, at timestamptz, state text);
         INSERT INTO zoned SELECT n, now() - n * interval '1 hour', CASE n % 3 WHEN 0 THEN 'used' WHEN 1 THEN 'revoked' END
           FROM generate_series(-100, 100) n;
         INSERT INTO zoned VALUES (1000, NULL, 'used'), (1001, 'infinity', 'used');
         CREATE TABLE local (at timestamp NOT NULL);
         INSERT INTO local SELECT (now() AT TIME ZONE 'UTC') - n * interval '1 hour' - interval '1 minute' FROM generate_series(-5, 5) n;
         CREATE TABLE days (at date NOT NULL);
         INSERT INTO days SELECT (now() AT TIME ZONE 'UTC')::date - n FROM generate_series(-5, 5) n;
         CREATE TABLE numbers (at bigint NOT NULL, seconds int NOT NULL);
         INSERT INTO numbers SELECT (extract(epoch FROM now()) * 1000)::bigint - n * 3600000 - 60000, extract(epoch FROM now())::int - n * 3600 - 60
           FROM generate_series(-5, 5) n;
         CREATE TABLE words (at text)",
    )
    .await
    .unwrap();
    let rules = [
        rule("zoned", "public.zoned", "at", "older_than = \"10h\"\nonly.state = [\"used\", \"it's\"]"),
        rule("local", "public.local", "at", "older_than = \"0s\""),
        rule("days", "public.days", "at", "older_than = \"1d\""),
        rule("ms", "public.numbers", "at", "older_than = \"3h\"\nunit = \"milliseconds\""),
        rule("s", "public.numbers", "seconds", "older_than = \"1h\"\nunit = \"seconds\""),
    ];
    let fixture = Fixture::new(&database.url(), &rules.concat()).await;
    let plan = fixture.plan().await;
    let doomed: Vec<(&str, u64)> = plan.iter().map(|rule| (rule.rule.as_str(), rule.doomed)).collect();
    // A day is over when the next one begins: of yesterday and before, what is older than yesterday.
    assert_eq!(doomed, [("days", 4), ("local", 6), ("ms", 3), ("s", 5), ("zoned", 30)]);
    assert_eq!(count(&app, "zoned").await, 203, "a plan deletes nothing");
    assert!(fixture.session.db.store().jobs().await.unwrap().is_empty());

    let report = fixture.prune().await;
    let deleted: Vec<u64> = report.rules.iter().map(|rule| rule.deleted).collect();
    // What went by the rule before is not there for the next.
    assert_eq!(deleted, [4, 6, 3, 2, 30]);
    assert!(report.rules.iter().all(|rule| rule.failed == 0 && rule.left == 0));
    assert_eq!(count(&app, "zoned WHERE at < now() - interval '10 hours' AND state = 'used'").await, 0);
    assert_eq!(count(&app, "zoned").await, 173);
    assert_eq!(count(&app, "zoned WHERE id >= 1000").await, 2, "never, and not known when");
    assert_eq!(fixture.logged("rule `zoned`: rows of `public.zoned` with `at` before ").await, 30);

    // Nothing is done again, and no job is made for it.
    let jobs = fixture.session.db.store().jobs().await.unwrap().len();
    assert!(fixture.prune().await.rules.is_empty());
    assert_eq!(fixture.session.db.store().jobs().await.unwrap().len(), jobs);

    for (lines, column) in [("unit = \"seconds\"", "at"), ("", "at"), ("", "missing")] {
        let rule = rule("bad", "public.words", column, &format!("older_than = \"1d\"\n{lines}"));
        let error = plan_prune(&Fixture::new(&database.url(), &rule).await.session, &[]).await.unwrap_err();
        let expected = if column == "at" { Code::TypeRefused } else { Code::TableMissing };
        assert_eq!(error.code(), expected, "{error}");
    }
    let unknown = plan_prune(&fixture.session, &["zones".to_owned()]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_gets_a_longer_life_meanwhile_keeps_it_and_one_that_is_held_waits_for_the_next_time() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(
        "CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL, touched bool NOT NULL DEFAULT false)
           PARTITION BY HASH (id);
         CREATE TABLE tokens_0 PARTITION OF tokens FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE tokens_1 PARTITION OF tokens FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO tokens SELECT n, now() - interval '2 days' FROM generate_series(1, 4000) n",
    )
    .await
    .unwrap();
    let fixture =
        Fixture::new(&database.url(), &rule("expired", "public.tokens", "expires_at", "older_than = \"1d\"")).await;
    // Held for as long as this test likes.
    let holder = database.connect().await;
    holder.batch_execute("BEGIN; SELECT FROM tokens WHERE id = 4000 FOR UPDATE").await.unwrap();

    let over = AtomicBool::new(false);
    let extending = async {
        let mut extended = Vec::new();
        let mut id = 1;
        while !over.load(Ordering::Relaxed) {
            let sql = "UPDATE tokens SET expires_at = now() + interval '1 day' WHERE id = $1 RETURNING id";
            extended.extend(app.query_opt(sql, &[&id]).await.unwrap().map(|row| row.get::<_, i32>(0)));
            // Something else of a row that goes changes too, and that does not save it.
            app.execute("UPDATE tokens SET touched = true WHERE id = $1", &[&(id + 1)]).await.unwrap();
            // Never the one that is held, nor the one before it.
            id = (id + 37) % 3998 + 1;
        }
        extended
    };
    let plan = fixture.plan().await;
    assert_eq!(plan[0].doomed, 4000);
    let pruning = async {
        let report = prune(&fixture.session, &plan, &Pace { rate: Some(4000), ..Pace::default() }, &Silent).await;
        over.store(true, Ordering::Relaxed);
        report.unwrap()
    };
    let (extended, report) = tokio::join!(extending, pruning);
    assert!(extended.len() > 5, "{}", extended.len());
    let kept = count(&app, "tokens WHERE expires_at > now()").await;
    let ids = extended.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    assert_eq!(count(&app, &format!("tokens WHERE id IN ({ids})")).await, kept, "none of them was lost");
    let rule = &report.rules[0];
    assert_eq!(
        (i64::try_from(rule.deleted).unwrap(), rule.failed),
        (4000 - kept - i64::try_from(rule.left).unwrap(), 0)
    );
    assert_eq!(count(&app, "tokens WHERE id = 4000").await, 1);
    assert!(rule.left >= 1);

    holder.batch_execute("COMMIT").await.unwrap();
    let next = fixture.prune().await;
    assert_eq!((next.rules[0].deleted, next.rules[0].left), (rule.left, 0));
}

/// Asks to stop once something is gone.
#[derive(Default)]
struct StopSoon(AtomicBool);

impl Observer for StopSoon {
    fn progress(&self, event: &SweepEvent) {
        self.0.fetch_or(event.progress.rows_changed > 0, Ordering::Relaxed);
    }

    fn stop_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_interrupted_goes_on_with_what_it_was_asked_for_and_is_logged_in_parts() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(
        "CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL);
         INSERT INTO tokens SELECT n, now() - interval '2 days' FROM generate_series(1, 3000) n",
    )
    .await
    .unwrap();
    let expired = rule("expired", "public.tokens", "expires_at", "older_than = \"1d\"");
    let fixture = Fixture::new(&database.url(), &expired).await;
    let plan = fixture.plan().await;
    let slow = Pace { rate: Some(1000), ..Pace::default() };
    let stopped = prune(&fixture.session, &plan, &slow, &StopSoon::default()).await.unwrap_err();
    assert_eq!(stopped.code(), Code::Interrupted);
    let gone = 3000 - count(&app, "tokens").await;
    assert!(gone > 0 && gone < 3000, "{gone}");
    assert_eq!(fixture.logged("rule `expired`").await, gone.unsigned_abs());

    let again = fixture.plan().await;
    assert_eq!((&again[0].before, again[0].goes_on), (&plan[0].before, again[0].goes_on));
    let job = again[0].goes_on.expect("the job that was interrupted");
    // A rule that is another by now begins anew.
    let other = rule("expired", "public.tokens", "expires_at", "older_than = \"2h\"");
    assert_eq!(Fixture::new(&database.url(), &other).await.plan().await[0].goes_on, None);
    let report =
        prune(&fixture.session, &again, &Pace { rate: Some(1_000_000), ..Pace::default() }, &Silent).await.unwrap();
    assert_eq!((report.rules[0].job, report.rules[0].deleted, count(&app, "tokens").await), (job, 3000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_keeps_a_row_is_a_row_error_and_the_others_go() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(
        "CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL);
         INSERT INTO tokens SELECT n, now() - interval '2 days' FROM generate_series(1, 50) n;
         CREATE TABLE gone (id int);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF OLD.id = 7 THEN RETURN NULL; END IF; IF OLD.id = 8 THEN RAISE 'not this one'; END IF;
           INSERT INTO gone VALUES (OLD.id); RETURN OLD; END $$;
         CREATE TRIGGER keeper BEFORE DELETE ON tokens FOR EACH ROW EXECUTE FUNCTION keep()",
    )
    .await
    .unwrap();
    let fixture =
        Fixture::new(&database.url(), &rule("expired", "public.tokens", "expires_at", "older_than = \"1d\"")).await;
    assert_eq!(fixture.plan().await[0].triggers, ["keeper"]);
    let report = fixture.prune().await;
    let rule = &report.rules[0];
    assert_eq!((rule.deleted, rule.failed, rule.left), (48, 2, 2));
    let mut rows: Vec<&str> = rule.errors.iter().map(|error| error.row.as_str()).collect();
    rows.sort_unstable();
    assert_eq!(rows, ["id=7", "id=8"]);
    assert_eq!((count(&app, "tokens").await, count(&app, "gone").await), (2, 48));
    let job = fixture.session.db.store().job(rule.job).await.unwrap();
    assert_eq!((job.goal, job.state), (Goal::Prune, JobState::CompletedWithErrors));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_do_by_themselves_what_was_confirmed_once_when_it_is_due_and_as_the_policy_has_it() {
    let database = Database::create().await;
    let app = database.connect().await;
    let fill = "INSERT INTO tokens SELECT n, now() - interval '2 days' FROM generate_series(1, 100) n";
    app.batch_execute(&format!("CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL); {fill}"))
        .await
        .unwrap();
    let rules =
        |age: &str| rule("expired", "public.tokens", "expires_at", &format!("older_than = \"{age}\"\nevery = \"1d\""));
    let fixture = Fixture::new(&database.url(), &rules("1d")).await;
    let options = WorkOptions { name: "w".to_owned(), version: "test".to_owned(), until_idle: true, only: None };
    let worked = async |fixture: &Fixture| {
        work(&fixture.session, &options, &Silent).await.unwrap();
        100 - count(&app, "tokens").await
    };
    assert_eq!(worked(&fixture).await, 0, "nobody has confirmed it");
    assert_eq!(fixture.prune().await.rules[0].deleted, 100);
    app.batch_execute(fill).await.unwrap();
    assert_eq!(worked(&fixture).await, 0, "it is not due");
    app.batch_execute("UPDATE enfold.jobs SET created_at = created_at - interval '25 hours'").await.unwrap();
    assert_eq!(worked(&Fixture::new(&database.url(), &rules("1h")).await).await, 0, "another rule was not confirmed");

    // What a migration brought is not taken along because somebody confirmed something else once.
    app.batch_execute("CREATE TABLE uses (token int REFERENCES tokens ON DELETE CASCADE)").await.unwrap();
    assert_eq!(worked(&fixture).await, 0);
    app.batch_execute("DROP TABLE uses").await.unwrap();
    assert_eq!(worked(&fixture).await, 100);
    let jobs = fixture.session.db.store().jobs().await.unwrap();
    let last = jobs.last().unwrap();
    assert_eq!((last.order.by.as_deref(), last.state), (Some("schedule"), JobState::Completed));
    assert_eq!(jobs.len(), 2);
}
