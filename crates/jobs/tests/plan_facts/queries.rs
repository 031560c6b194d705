use enfold_jobs::database::Counts;
use enfold_jobs::postgres::{Limits, Postgres};

use crate::{Fixture, policy, silent, warns, words};

#[tokio::test]
async fn recorded_statements_that_an_envelope_breaks_are_named_without_their_text() {
    let f = Fixture::new(
        "CREATE EXTENSION pg_stat_statements; CREATE TABLE people (id int PRIMARY KEY, mail text, name text)",
    )
    .await;
    for _ in 0..3 {
        f.owner.query("SELECT id FROM people WHERE mail = $1", &[&"secret-marker"]).await.unwrap();
    }
    f.sql("SELECT mail FROM people WHERE id = 1").await;
    f.sql("SELECT a.id FROM people a JOIN people b ON a.mail = b.mail").await;
    f.sql("SELECT id FROM people WHERE mail LIKE 'secret-marker%'").await;
    f.sql("SELECT id FROM people WHERE mail LIKE 'secret-marker%' ORDER BY name").await;
    f.sql("PREPARE p AS SELECT id FROM people WHERE lower(mail) = 'secret-marker'; EXECUTE p").await;
    // A utility statement keeps its literal.
    f.sql("CREATE TABLE copy AS SELECT * FROM people WHERE mail = 'secret-marker'").await;
    let facts = f.facts(&policy("people", &["mail", "name"])).await;
    let equality = warns(&facts, "query-equality");
    assert!(equality.says.contains("4 calls"), "{}", equality.says);
    assert!(warns(&facts, "query-pattern").says.starts_with("2 recorded"));
    warns(&facts, "query-expression");
    assert_eq!(warns(&facts, "query-order").column.as_deref(), Some("name"));
    warns(&facts, "query-join");
    silent(&facts, "query-group");
    let everything = serde_json::to_string(&facts).unwrap();
    assert!(!everything.contains("secret-marker"));
    // Enfold's own statements are in the view by now, and are not what it warns of.
    assert_eq!(
        warns(&f.facts(&policy("people", &["mail", "name"])).await, "query-expression"),
        warns(&facts, "query-expression")
    );
}

#[tokio::test]
async fn without_recorded_statements_the_plan_says_that_it_does_not_know() {
    let f = Fixture::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    assert!(
        warns(&f.facts(&policy("t", &["a"])).await, "statements-unknown")
            .way_out
            .as_deref()
            .unwrap()
            .contains("CREATE EXTENSION")
    );
}

#[tokio::test]
async fn connected_applications_are_told_and_enfold_is_not_one() {
    let f = Fixture::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    f.sql("SET application_name = 'billing'").await;
    let other = f.db.connect().await;
    other.batch_execute("SET application_name = ''").await.unwrap();
    let facts = f.facts(&policy("t", &["a"])).await;
    let seen: Vec<_> = facts.connected.iter().map(|c| (c.application.as_str(), c.role.as_str(), c.sessions)).collect();
    assert_eq!(seen, [("", "postgres", 1), ("billing", "postgres", 1)]);
    assert!(warns(&facts, "connected-application").says.contains("`billing`"));
    // A role that may not look into other sessions sees that they are there.
    let role = format!("enfold_planner_{}", std::process::id());
    f.sql(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT SELECT, UPDATE ON t TO {role}")).await;
    let planner = crate::at(&f.db.url().replace("postgres@", &format!("{role}@")));
    let facts = planner.inspect_table(&policy("t", &["a"]), Counts::Taken).await.unwrap();
    assert!(facts.connected.iter().any(|c| c.application == "billing"), "{:?}", facts.connected);
    drop(planner);
    f.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test]
async fn logged_statements_are_told() {
    let f = Fixture::new("CREATE TABLE t (id int PRIMARY KEY, a text)").await;
    silent(&f.facts(&policy("t", &["a"])).await, "statement-log");
    let name = f.owner.query_one("SELECT current_database()::text", &[]).await.unwrap().get::<_, String>(0);
    f.sql(&format!(
        "ALTER DATABASE {name} SET log_statement = 'mod'; ALTER DATABASE {name} SET log_min_duration_statement = 250"
    ))
    .await;
    let fresh = crate::at(&f.db.url());
    let facts = fresh.inspect_table(&policy("t", &["a"]), Counts::Taken).await.unwrap();
    let says = &warns(&facts, "statement-log").says;
    assert!(says.contains("log_statement = mod") && says.contains("log_min_duration_statement = 250"), "{says}");
}

#[tokio::test]
async fn growth_covers_what_a_conversion_takes() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE INDEX t_a ON t (a);
         INSERT INTO t SELECT n, 'person-' || n || '@example.org' FROM generate_series(1, 20000) n; ANALYZE t; CHECKPOINT",
    )
    .await;
    let facts = f.facts(&policy("t", &["a"])).await;
    assert_eq!(facts.rows, 20_000);
    warns(&facts, "old-versions");
    warns(&facts, "growth");
    let size = "SELECT pg_total_relation_size('t'), (pg_current_wal_insert_lsn() - '0/0')::int8";
    let before = f.owner.query_one(size, &[]).await.unwrap();
    f.sql("UPDATE t SET a = 'enf1:' || repeat(md5(a), 6)").await;
    let after = f.owner.query_one(size, &[]).await.unwrap();
    let disk = u64::try_from(after.get::<_, i64>(0) - before.get::<_, i64>(0)).unwrap();
    assert!(facts.growth.disk * 2 > disk, "{} is far below the {disk} that it took", facts.growth.disk);
    assert!(facts.growth.disk < disk * 4, "{} is far beyond the {disk} that it took", facts.growth.disk);
    assert!(facts.growth.wal > facts.growth.disk);
    let _: (&Postgres, Limits) = (&f.postgres, Limits::default());
    assert!(words(&facts.refusals).is_empty());
}
