//! What `discover` is given of a real database.
#![cfg(feature = "postgres")]

use enfold::db::postgres::Endpoint;
use enfold_jobs::model::TableName;
use enfold_jobs::postgres::{Limits, Postgres};
use enfold_testkit::postgres::Database;

fn at(url: &str) -> Postgres {
    Postgres::at(Endpoint::parse_text(url).expect("a URL"), Limits::default())
}

fn name(schema: &str, table: &str) -> TableName {
    TableName { schema: schema.into(), table: table.into() }
}

async fn database(schema: &str) -> (Database, tokio_postgres::Client, Postgres) {
    let db = Database::create().await;
    let owner = db.connect().await;
    owner.batch_execute(schema).await.expect("the test's schema");
    let postgres = at(&db.url());
    (db, owner, postgres)
}

#[tokio::test]
async fn every_table_of_a_user_is_listed_with_keys_and_comments() {
    let (_db, _owner, postgres) = database(
        "CREATE SCHEMA shop; CREATE SCHEMA enfold; CREATE TABLE enfold.own (id int); CREATE EXTENSION pg_stat_statements;
         CREATE TABLE shop.orgs (id uuid PRIMARY KEY, code text UNIQUE); COMMENT ON TABLE shop.orgs IS 'who pays';
         CREATE TABLE shop.\"Weird Table\" (a int, b varchar(20) NOT NULL, org uuid REFERENCES shop.orgs, PRIMARY KEY (a, b));
         COMMENT ON COLUMN shop.\"Weird Table\".b IS 'a name';
         CREATE TABLE p (id int, x text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
         INSERT INTO p SELECT n, 'x' FROM generate_series(0, 49) n; ANALYZE;
         CREATE VIEW v AS SELECT * FROM p; CREATE TEMPORARY TABLE mine (x text)",
    )
    .await;
    let survey = postgres.survey_tables().await.unwrap();
    let names: Vec<_> = survey.iter().map(|t| format!("{}.{}", t.table.schema, t.table.table)).collect();
    assert_eq!(names, ["public.p", "shop.Weird Table", "shop.orgs"]);
    assert_eq!((survey[0].rows, survey[2].comment.as_deref()), (50, Some("who pays")));
    let weird = &survey[1].columns;
    assert_eq!(
        weird.iter().map(|c| c.sql_type.as_str()).collect::<Vec<_>>(),
        ["integer", "character varying(20)", "uuid"]
    );
    assert_eq!(weird[1].comment.as_deref(), Some("a name"));
    assert_eq!(weird[2].references.as_deref(), Some("shop.orgs.id"));
    assert_eq!(
        weird.iter().map(|c| (c.primary_key, c.unique, c.nullable)).collect::<Vec<_>>(),
        [(true, false, false), (true, false, false), (false, false, true)]
    );
    assert!(survey[2].columns.iter().all(|c| c.unique));
}

#[tokio::test]
async fn a_sample_is_bounded_spread_and_the_same_each_time() {
    let (_db, _owner, postgres) = database(
        "CREATE TABLE t (id int PRIMARY KEY, a text, filler text);
         INSERT INTO t SELECT n, 'value ' || n, repeat('x', 900) FROM generate_series(1, 20000) n",
    )
    .await;
    let columns = ["id".to_owned(), "a".to_owned()];
    let first = postgres.sample_values(&name("public", "t"), &columns, 100).await.unwrap();
    assert_eq!(first.len(), 100);
    let ids: Vec<i32> = first.iter().map(|row| row[0].as_deref().unwrap().parse().unwrap()).collect();
    for tenth in 0..10 {
        let within = ids.iter().filter(|id| (**id - 1) / 2000 == tenth).count();
        assert!(within > 0, "nothing from tenth {tenth}: {ids:?}");
    }
    assert!(first.iter().all(|row| row[1].as_deref() == Some(&format!("value {}", row[0].as_deref().unwrap()))));
    assert!(postgres.sample_values(&name("public", "t"), &columns, 100).await.unwrap() == first);
}

#[tokio::test]
async fn a_table_that_is_nearly_empty_is_still_sampled() {
    let (_db, _owner, postgres) = database(
        "CREATE TABLE t (id int PRIMARY KEY, filler text);
         INSERT INTO t SELECT n, repeat('x', 900) FROM generate_series(1, 20000) n; DELETE FROM t WHERE id % 1000 <> 0",
    )
    .await;
    assert_eq!(postgres.sample_values(&name("public", "t"), &["id".to_owned()], 100).await.unwrap().len(), 20);
}

#[tokio::test]
async fn values_of_every_type_come_as_bounded_text() {
    let (_db, _owner, postgres) = database(
        "CREATE DOMAIN doc AS jsonb;
         CREATE TABLE t (a text, b bytea, c jsonb, d date, e inet, f text[], g doc);
         INSERT INTO t VALUES (repeat('ä', 10000), 'token=x' || '\\x00ff'::bytea, '{\"k\": 1}', '2020-02-29', '10.0.0.1', '{x,y}',
                               (SELECT jsonb_object_agg(n, n) FROM generate_series(1, 20000) n)), (NULL, '', 'null', NULL, NULL, '{}', '[]')",
    )
    .await;
    let columns: Vec<String> = "abcdefg".chars().map(String::from).collect();
    let mut rows = postgres.sample_values(&name("public", "t"), &columns, 10).await.unwrap();
    rows.sort_by_key(|row| row[0].is_none());
    let row = &rows[0];
    assert_eq!(row[0].as_deref().map(|a| a.chars().count()), Some(4096));
    assert_eq!(row[1].as_deref(), Some("token=x\\000\\377"));
    assert_eq!((row[2].as_deref(), row[3].as_deref()), (Some("{\"k\": 1}"), Some("2020-02-29")));
    assert_eq!((row[4].as_deref(), row[5].as_deref()), (Some("10.0.0.1"), Some("{x,y}")));
    assert_eq!(row[6], None, "a part of a document is none");
    assert_eq!((rows[1][0].as_deref(), rows[1][2].as_deref()), (None, Some("null")));
}

#[tokio::test]
async fn sampling_stops_where_rows_are_hidden() {
    let (db, owner, _postgres) =
        database("CREATE TABLE t (a text); INSERT INTO t VALUES ('x'); ALTER TABLE t ENABLE ROW LEVEL SECURITY").await;
    let role = format!("enfold_reader_{}", std::process::id());
    owner
        .batch_execute(&format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}"))
        .await
        .unwrap();
    let other = at(&db.url().replace("postgres@", &format!("{role}@")));
    let error = other.sample_values(&name("public", "t"), &["a".to_owned()], 5).await.unwrap_err();
    assert_eq!(error.code().word(), "database-denied");
    assert!(error.hints().any(|hint| hint.contains("BYPASSRLS")));
    owner.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
