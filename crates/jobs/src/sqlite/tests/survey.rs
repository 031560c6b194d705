use super::*;

const SHOP: &str = "
    CREATE TABLE orgs(id INTEGER PRIMARY KEY);
    CREATE TABLE t(id INTEGER PRIMARY KEY, org INTEGER NOT NULL REFERENCES orgs(id), email VARCHAR(120) UNIQUE, note, raw BLOB);
    CREATE VIRTUAL TABLE words USING fts5(note);
    CREATE VIEW v AS SELECT * FROM t;
    CREATE TABLE enfold_events(x);";

#[tokio::test]
async fn a_survey_shows_the_users_tables_and_nothing_else() {
    let f = fixture(SHOP);
    f.app
        .execute_batch("ANALYZE; INSERT INTO orgs VALUES (1); INSERT INTO t VALUES (1, 1, 'a', 'b', x'00ff');")
        .unwrap();
    let found = f.db.survey().await.unwrap();
    let names: Vec<_> = found.iter().map(|t| t.table.table.as_str()).collect();
    assert_eq!(names, ["orgs", "t", "words"]);
    let t = &found[1];
    assert_eq!(t.rows, 1);
    let [id, org, email, note, _] = t.columns.as_slice() else { panic!() };
    assert!(id.primary_key && id.unique && !id.nullable);
    assert_eq!((org.references.as_deref(), org.nullable), (Some("orgs.id"), false));
    assert_eq!((email.sql_type.as_str(), email.unique), ("VARCHAR(120)", true));
    assert!(!note.unique && note.nullable);
}

#[tokio::test]
async fn a_sample_is_spread_over_the_table_and_written_as_text() {
    let f = fixture(SHOP);
    f.app.execute_batch("INSERT INTO orgs VALUES (1); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
        INSERT INTO t SELECT i * 10, 1, 'mail' || i, i, x'00ff' FROM n;").unwrap();
    let columns = ["id", "email", "note", "raw"].map(str::to_owned);
    let rows = f.db.sample(&table(), &columns, 10).await.unwrap();
    assert_eq!(rows.len(), 10);
    let ids: Vec<i64> = rows.iter().map(|r| r[0].as_deref().unwrap().parse().unwrap()).collect();
    assert!(ids[0] <= 1000 && ids[9] > 8000, "{ids:?}");
    assert_eq!(rows[0][3].as_deref(), Some("00ff"));
    assert_eq!(f.db.sample(&table(), &columns, 5000).await.unwrap().len(), 1000);
    let missing = f.db.sample(&table(), &["nobody".to_owned()], 5).await.unwrap_err();
    assert_eq!(missing.code(), enfold::Code::TableMissing);
}

#[tokio::test]
async fn a_census_counts_by_form_and_key() {
    let f = fixture("CREATE TABLE t(id INTEGER PRIMARY KEY, email TEXT);");
    for (id, value) in [
        (1, Some("a@example.com".to_owned())),
        (2, None),
        (3, Some(envelope(1))),
        (4, Some(envelope(2))),
        (5, Some("enf1:mine".to_owned())),
        (6, Some(String::new())),
    ] {
        f.app.execute("INSERT INTO t VALUES (?1, ?2)", (id, value)).unwrap();
    }
    let census = f.db.census(&target(&["email"]), None).await.unwrap().pop().unwrap();
    assert_eq!((census.rows, census.nulls, census.plaintext, census.envelopes, census.lookalikes), (6, 1, 2, 2, 1));
    assert_eq!(census.by_key, BTreeMap::from([("07".repeat(16), 2)]));
    assert_eq!(census.examples, ["rowid=1", "rowid=6"]);
    let sampled = f.db.census(&target(&["email"]), Some(3)).await.unwrap().pop().unwrap();
    assert_eq!(sampled.rows, 3);
}
