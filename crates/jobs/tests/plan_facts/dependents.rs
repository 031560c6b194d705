use crate::{Fixture, blind, policy, refuses, silent, warns, words};

#[tokio::test]
async fn indexes_are_told_with_what_drops_them() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text, gone boolean, c text UNIQUE);
         CREATE INDEX t_plain ON t (a); CREATE INDEX t_expr ON t (lower(a)); CREATE INDEX t_partial ON t (id) WHERE a <> '';
         CREATE INDEX t_covering ON t (id) INCLUDE (a); CREATE INDEX t_other ON t (b) WHERE gone; CREATE INDEX t_number ON t ((a::int));
         CREATE INDEX t_hash ON t USING hash (a)",
    )
    .await;
    let facts = f.facts(&policy("t", &["a"])).await;
    let names: Vec<_> = facts.indexes.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "public.t_covering",
            "public.t_expr",
            "public.t_hash",
            "public.t_number",
            "public.t_partial",
            "public.t_plain"
        ]
    );
    assert_eq!((facts.index_count, facts.indexes.iter().any(|i| i.drop_first)), (9, false));
    assert!(refuses(&facts, "index-refuses").says.contains("t_number"), "{:?}", facts.refusals);
    assert_eq!(words(&facts.warnings).iter().filter(|w| **w == "index-useless").count(), 6);
    for index in &facts.indexes {
        f.sql(&index.drop).await;
    }
    let facts = f.facts(&policy("t", &["a", "c"])).await;
    assert_eq!(facts.indexes.len(), 1);
    assert!(facts.indexes[0].unique);
    f.sql(&facts.indexes[0].drop).await;
    assert_eq!(f.facts(&policy("t", &["a", "c"])).await.indexes, []);
}

#[tokio::test]
async fn an_index_that_long_envelopes_do_not_fit_into_goes_first() {
    // 1,900 bytes fit as they are, and are 2,670 characters as an envelope; 2,000 are 2,804, over what an entry may have.
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, b text); CREATE INDEX t_a ON t (a); CREATE INDEX t_b ON t (b); CREATE INDEX t_h ON t USING hash (b);
         INSERT INTO t SELECT 1, string_agg(md5(n::text), ''), string_agg(md5(n::text), '') || repeat('x', 120) FROM generate_series(1, 58) n",
    )
    .await;
    let facts = f.facts(&policy("t", &["a", "b"])).await;
    let first: Vec<_> = facts.indexes.iter().filter(|i| i.drop_first).map(|i| i.name.as_str()).collect();
    assert_eq!(first, ["public.t_b"]);
    assert!(warns(&facts, "index-too-long").says.contains("t_b"));
    // What was foretold is what Postgres does.
    let sealed = |bytes: usize| {
        use std::fmt::Write as _;
        let mut noise = String::from("enf1:");
        let mut n: u64 = 88_172_645_463_325_252;
        while noise.len() < 5 + (bytes + 99) * 4 / 3 {
            n ^= n << 13;
            n ^= n >> 7;
            n ^= n << 17;
            write!(noise, "{n:016x}").unwrap();
        }
        noise.truncate(5 + (bytes + 99) * 4 / 3);
        noise
    };
    f.owner.execute("UPDATE t SET a = $1", &[&sealed(1856)]).await.expect("fits");
    let error = f.owner.execute("UPDATE t SET b = $1", &[&sealed(1976)]).await.expect_err("does not fit");
    assert_eq!(error.code().unwrap().code(), "54000");
}

#[tokio::test]
async fn blind_index_columns_are_left_alone_and_their_type_is_checked() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text, a_index bytea); CREATE UNIQUE INDEX t_blind ON t (a_index)",
    )
    .await;
    let mut p = policy("t", &["a"]);
    p.columns.get_mut("a").unwrap().indexes.insert("eq".into(), blind("a"));
    let facts = f.facts(&p).await;
    assert_eq!((facts.refusals.len(), facts.indexes.len()), (0, 0));
    silent(&facts, "cached-plans");
    f.sql("ALTER TABLE t DROP COLUMN a_index").await;
    warns(&f.facts(&p).await, "cached-plans");
    f.sql("ALTER TABLE t ADD COLUMN a_index text").await;
    refuses(&f.facts(&p).await, "index-column-type");
}

#[tokio::test]
async fn views_rules_functions_and_statistics_that_read_the_column_are_told() {
    let f = Fixture::new(
        "CREATE TABLE people (id int PRIMARY KEY, mail text, nick varchar(20), other text);
         CREATE VIEW v AS SELECT id, mail FROM people; CREATE VIEW over_v AS SELECT * FROM v;
         CREATE VIEW elsewhere AS SELECT other FROM people;
         CREATE MATERIALIZED VIEW m AS SELECT mail FROM v;
         CREATE VIEW nicks AS SELECT nick FROM people;
         CREATE FUNCTION find(text) RETURNS SETOF people LANGUAGE sql AS 'SELECT * FROM people WHERE mail = $1';
         CREATE FUNCTION find_too(text) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM people WHERE mail = $1; END;
         CREATE STATISTICS both_of_them ON mail, nick FROM people;
         CREATE RULE keep AS ON UPDATE TO people DO ALSO SELECT 1",
    )
    .await;
    let facts = f.facts(&policy("people", &["mail"])).await;
    let views: Vec<_> = facts.warnings.iter().filter(|f| f.word == "view").map(|f| f.says.as_str()).collect();
    assert_eq!(views.len(), 2, "{views:?}");
    assert!(views.iter().any(|v| v.contains("over_v") && v.contains("through")));
    warns(&facts, "materialised-view");
    let functions = &warns(&facts, "function-reads").says;
    assert!(functions.contains("find(") && functions.contains("find_too("), "{functions}");
    assert!(
        warns(&facts, "extended-statistics")
            .way_out
            .as_deref()
            .unwrap()
            .starts_with("DROP STATISTICS public.both_of_them")
    );
    f.sql(refuses(&facts, "rule").way_out.as_ref().unwrap()).await;
    assert_eq!(f.facts(&policy("people", &["mail"])).await.refusals, []);

    let facts = f.facts(&policy("people", &["nick"])).await;
    assert!(refuses(&facts, "view-blocks-widening").way_out.as_deref().unwrap().contains("DROP VIEW public.nicks"));
    // What was foretold is what Postgres does.
    let error = f.owner.batch_execute("ALTER TABLE people ALTER COLUMN nick TYPE text").await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "0A000");
}

#[tokio::test]
async fn publications_slots_and_replica_identity_are_told() {
    let f = Fixture::new(
        "CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL, b text); CREATE TABLE bare (a text);
         CREATE PUBLICATION all_of_it FOR TABLE t, bare;
         CREATE PUBLICATION filtered FOR TABLE t WHERE (b = 'x')",
    )
    .await;
    let slot = format!("enfold_slot_{}", std::process::id());
    f.owner.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&slot]).await.unwrap();
    let facts = f.facts(&policy("t", &["a", "b"])).await;
    assert!(warns(&facts, "logical-slot").says.contains("nobody reads it"));
    assert!(warns(&facts, "publication").says.contains("all_of_it"));
    assert_eq!(refuses(&facts, "publication-filter").column.as_deref(), Some("b"));
    assert_eq!(facts.refusals.len(), 1);
    f.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;

    refuses(&f.facts(&policy("bare", &["a"])).await, "replica-identity-missing");
    f.sql("INSERT INTO bare VALUES ('x')").await;
    let error = f.owner.batch_execute("UPDATE bare SET a = 'y'").await.expect_err("as foretold");
    assert_eq!(error.code().unwrap().code(), "55000");

    f.sql("ALTER TABLE bare REPLICA IDENTITY FULL").await;
    let facts = f.facts(&policy("bare", &["a"])).await;
    warns(&facts, "replica-identity-full");
    silent(&facts, "replica-identity-missing");
    f.sql(
        "DROP PUBLICATION filtered; CREATE UNIQUE INDEX t_a ON t (a); ALTER TABLE t REPLICA IDENTITY USING INDEX t_a",
    )
    .await;
    assert_eq!(
        refuses(&f.facts(&policy("t", &["a", "b"])).await, "replica-identity-column").column.as_deref(),
        Some("a")
    );
}

#[tokio::test]
async fn rights_by_column_are_told_when_a_column_is_to_be_added() {
    let f = Fixture::new("CREATE TABLE t (id int PRIMARY KEY, a text); GRANT SELECT (a) ON t TO PUBLIC").await;
    let mut p = policy("t", &["a"]);
    silent(&f.facts(&p).await, "column-grants");
    p.columns.get_mut("a").unwrap().indexes.insert("eq".into(), blind("a"));
    warns(&f.facts(&p).await, "column-grants");
}
