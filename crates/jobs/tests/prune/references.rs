//! What goes along by foreign keys is named, counted, and refused unless the rule says so.

use enfold::Code;
use enfold_jobs::ops::{Pace, Silent, prune};
use enfold_jobs::prune::OnDelete;
use enfold_testkit::postgres::Database;

use crate::fixture::{Fixture, rule};

const SCHEMA: &str = "
    CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL, parent int REFERENCES tokens);
    INSERT INTO tokens SELECT n, now() - CASE WHEN n <= 30 THEN interval '2 days' ELSE interval '1 hour' END FROM generate_series(1, 40) n;
    UPDATE tokens SET parent = 2 WHERE id = 40;
    CREATE TABLE uses (id int PRIMARY KEY, token int REFERENCES tokens ON DELETE CASCADE);
    CREATE INDEX ON uses (token);
    INSERT INTO uses SELECT n, n % 40 + 1 FROM generate_series(1, 120) n;
    CREATE SCHEMA audit;
    CREATE TABLE audit.lines (id int PRIMARY KEY, use_id int REFERENCES uses ON DELETE CASCADE);
    INSERT INTO audit.lines SELECT n, n % 120 + 1 FROM generate_series(1, 240) n;
    CREATE TABLE notes (id int PRIMARY KEY, token int REFERENCES tokens ON DELETE SET NULL);
    INSERT INTO notes SELECT n, n FROM generate_series(1, 40) n;
    CREATE TABLE receipts (id int PRIMARY KEY, token int NOT NULL REFERENCES tokens);
    INSERT INTO receipts VALUES (1, 5), (2, 35)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_along_is_named_and_counted_and_goes_only_where_the_rule_says_so() {
    let database = Database::create().await;
    let app = database.connect().await;
    app.batch_execute(SCHEMA).await.unwrap();
    let count =
        async |sql: &str| -> i64 { app.query_one(&format!("SELECT count(*) FROM {sql}"), &[]).await.unwrap().get(0) };
    let with = |lines: &str| rule("expired", "public.tokens", "expires_at", &format!("older_than = \"1d\"\n{lines}"));
    let refused = Fixture::new(&database.url(), &with("takes_along = [\"public.uses\"]")).await;
    let plan = refused.plan().await;
    let found: Vec<(&str, OnDelete, Option<u64>, bool)> =
        plan[0].along.iter().map(|one| (one.table.as_str(), one.on_delete, one.rows, one.unindexed)).collect();
    assert_eq!(
        found,
        [
            ("public.notes", OnDelete::SetNull, Some(30), true),
            ("public.receipts", OnDelete::Refuse, Some(1), true),
            ("public.tokens", OnDelete::Refuse, Some(1), true),
            ("public.uses", OnDelete::Cascade, Some(90), false),
            ("audit.lines", OnDelete::Cascade, Some(180), true),
        ]
    );
    assert_eq!(plan[0].refusals.len(), 2, "{:?}", plan[0].refusals);
    let error = prune(&refused.session, &plan, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanRefused);
    assert_eq!((count("tokens").await, refused.session.db.store().jobs().await.unwrap().len()), (40, 0));

    let named = "takes_along = [\"public.uses\", \"audit.lines\", \"public.notes\"]";
    let fixture = Fixture::new(&database.url(), &with(named)).await;
    let plan = fixture.plan().await;
    assert!(plan[0].refusals.is_empty());
    // A migration between the plan and the deletion.
    app.batch_execute("CREATE TABLE late (token int REFERENCES tokens ON DELETE CASCADE)").await.unwrap();
    let error = prune(&fixture.session, &plan, &Pace::default(), &Silent).await.unwrap_err();
    assert!(error.causes().any(|cause| cause.contains("`public.late`")), "{error}");
    app.batch_execute("DROP TABLE late").await.unwrap();

    let report = prune(&fixture.session, &plan, &Pace::default(), &Silent).await.unwrap();
    let rule = &report.rules[0];
    // A receipt keeps one, and a younger token another.
    assert_eq!((rule.deleted, rule.failed, rule.left), (28, 2, 2));
    assert!(rule.errors.iter().all(|error| error.reason.contains("23503")), "{:?}", rule.errors);
    assert_eq!(count("tokens WHERE id IN (2, 5)").await, 2);
    assert_eq!((count("tokens").await, count("uses").await, count("audit.lines").await), (12, 36, 72));
    assert_eq!((count("notes").await, count("notes WHERE token IS NULL").await), (40, 28));
}
