//! `enfold prune`: what is said before, what is asked, and what a kill leaves behind.

use crate::harness::Sandbox;

const TOKENS: &str = "
    CREATE TABLE tokens (id INTEGER PRIMARY KEY, user_id INTEGER NOT NULL, expires_at TEXT NOT NULL, kind TEXT NOT NULL);
    CREATE TABLE token_uses (id INTEGER PRIMARY KEY, token INTEGER REFERENCES tokens ON DELETE CASCADE);
    CREATE TABLE receipts (id INTEGER PRIMARY KEY, token INTEGER NOT NULL REFERENCES tokens);
    INSERT INTO tokens VALUES (1, 1, '2020-01-01 00:00:00', 'invitation'), (2, 1, '2020-01-01T00:00:00Z', 'session'),
        (3, 2, '2999-01-01 00:00:00', 'invitation'), (4, 3, '2020-01-01', 'invitation');
    INSERT INTO token_uses (token) VALUES (1), (1), (3);
    INSERT INTO receipts (token) VALUES (4);";

const RULE: &str = "[prune.invitations]\ntable = \"tokens\"\ncolumn = \"expires_at\"\nolder_than = \"30d\"\nonly.kind = [\"invitation\"]\n";

/// The shop with tokens and a rule for them.
fn shop() -> Sandbox {
    let shop = Sandbox::ready();
    shop.sql(TOKENS);
    shop.extend_policy(RULE);
    shop
}

fn tokens(shop: &Sandbox) -> Vec<i64> {
    let database = shop.database();
    let mut rows = database.prepare("SELECT id FROM tokens ORDER BY id").expect("a query");
    rows.query_map([], |row| row.get(0)).and_then(Iterator::collect).expect("tokens")
}

#[test]
fn what_goes_is_counted_and_what_goes_along_must_be_meant() {
    let shop = shop();
    shop.run(&["prune", "--dry-run"]).snapshot("prune_dry_run");
    shop.run(&["prune", "--dry-run", "--json"]).snapshot("prune_dry_run_json");
    shop.run(&["prune", "--yes"]).snapshot("prune_refused");
    shop.run(&["prune", "invitation"]).snapshot("prune_unknown_rule");
    assert_eq!(tokens(&shop), [1, 2, 3, 4]);
    shop.extend_policy("takes_along = [\"token_uses\"]\n");
    shop.run(&["prune"]).snapshot("prune_unconfirmed");
    let (code, said, _) = shop.in_a_terminal(&["prune"], &[("Type `delete` to go on: ", "yes")]);
    assert_eq!((code, tokens(&shop).len()), (1, 4), "{said}");
    // A receipt keeps one: what can go does, and the exit code says that it is not all.
    shop.run(&["prune", "invitations", "--yes"]).snapshot("prune_kept_by_a_receipt");
    assert_eq!(tokens(&shop), [2, 3, 4]);
    shop.sql("DELETE FROM receipts");
    let (code, said, out) = shop.in_a_terminal(&["prune"], &[("Type `delete` to go on: ", "delete")]);
    assert_eq!((code, out.as_str()), (0, "invitations: 1 row of tokens deleted\n"), "{said}");
    assert_eq!(tokens(&shop), [2, 3]);
    shop.run(&["prune", "--yes"]).snapshot("prune_nothing");
    // The log of events has them, by whom and by which rule.
    let catalog = shop.database();
    let sql = "SELECT sum(event ->> 'count'), min(event ->> 'actor') FROM enfold_events WHERE event ->> 'kind' = 'rows-pruned' \
               AND event ->> 'detail' LIKE 'rule `invitations`: rows of `tokens` with `expires_at` before 20%'";
    let logged: (i64, String) = catalog.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("events");
    assert_eq!(logged, (2, "ada".to_owned()));
}

#[test]
fn a_policy_without_a_rule_deletes_nothing() {
    Sandbox::ready().run(&["prune", "--yes"]).snapshot("prune_no_rule");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn a_pruning_that_is_killed_is_gone_on_with_and_no_row_goes_that_should_stay() {
    use std::time::Duration;

    let database = enfold_testkit::postgres::Database::create().await;
    let app = database.connect().await;
    app.batch_execute(
        "CREATE TABLE tokens (id int PRIMARY KEY, expires_at timestamptz NOT NULL);
         CREATE TABLE uses (token int NOT NULL REFERENCES tokens ON DELETE CASCADE);
         CREATE INDEX ON uses (token);
         INSERT INTO tokens SELECT n, now() + CASE WHEN n % 4 > 0 THEN interval '-40 days' ELSE interval '1 day' END
           FROM generate_series(1, 20000) n;
         INSERT INTO uses SELECT id FROM tokens",
    )
    .await
    .expect("tables");
    let shop = Sandbox::empty();
    let rule = "[prune.expired]\ntable = \"public.tokens\"\ncolumn = \"expires_at\"\nolder_than = \"30d\"\ntakes_along = [\"public.uses\"]\n\
                [jobs]\nlease = \"5s\"\nmax_requested_checkpoints = 10000\n";
    shop.write("enfold.toml", crate::harness::policy(&database.url()) + rule);
    let counted = async |sql: &str| -> i64 { app.query_one(sql, &[]).await.expect("counted").get(0) };
    let left = async || counted("SELECT count(*) FROM tokens").await;
    let mut before = 20_000;
    for _ in 0..3 {
        let mut child = shop.start(&["prune", "--yes", "--rate", "4000"]);
        while left().await == before {
            assert!(child.try_wait().expect("asked").is_none(), "it ended before it was killed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        child.kill().expect("killed");
        child.wait().expect("it is gone");
        // What it had sent may be committed yet.
        let ended =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        while counted(ended).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        before = left().await;
        assert!((5_000..20_000).contains(&before), "{before} left when it was killed");
        let orphans = "SELECT count(*) FROM uses WHERE NOT EXISTS (SELECT FROM tokens WHERE id = token)";
        assert_eq!((counted(orphans).await, counted("SELECT count(*) FROM uses").await), (0, before));
        // One job keeps count of what is gone, to the row.
        let of_job = "SELECT sum(rows_changed)::int8 FROM enfold.job_chunks";
        assert_eq!(counted(of_job).await, 20_000 - before);
    }
    let ran = shop.ok(&["prune", "--yes", "--rate", "1000000"]);
    assert_eq!(ran.stdout(), "expired: 15,000 rows of public.tokens deleted\n");
    assert_eq!((left().await, counted("SELECT count(*) FROM tokens WHERE id % 4 = 0").await), (5_000, 5_000));
    assert_eq!(counted("SELECT count(*) FROM enfold.jobs").await, 1);
}
