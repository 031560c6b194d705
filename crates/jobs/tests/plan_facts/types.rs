use enfold_jobs::database::Counts;
use enfold_jobs::model::Storage;

use crate::{Fixture, policy, refuses, silent, warns, words};

#[tokio::test]
async fn text_bytes_json_and_domains_over_them_convert() {
    let f = Fixture::new(
        "CREATE EXTENSION citext;
         CREATE DOMAIN full_name AS text;
         CREATE DOMAIN short_name AS varchar(40);
         CREATE DOMAIN upper_name AS text CHECK (VALUE = upper(VALUE));
         CREATE DOMAIN nested AS upper_name;
         CREATE TABLE t (id bigint PRIMARY KEY, a text, b varchar, c varchar(80), d citext, e bytea, f json, g jsonb,
                         h full_name, i short_name, j upper_name, k nested);
         INSERT INTO t VALUES (1, 'ä', '', 'c', 'd', '\\x00', '{}', '[1]', 'h', 'i', 'J', 'K')",
    )
    .await;
    let facts = f.facts(&policy("t", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"])).await;
    assert_eq!(facts.refusals, []);
    let seen: Vec<_> = facts.columns.iter().map(|c| (c.name.as_str(), c.storage.unwrap(), c.widen)).collect();
    assert_eq!(
        seen,
        [
            ("a", Storage::Text, false),
            ("b", Storage::Text, false),
            ("c", Storage::Text, true),
            ("d", Storage::Text, false),
            ("e", Storage::Bytes, false),
            ("f", Storage::Json, false),
            ("g", Storage::Json, false),
            ("h", Storage::Text, false),
            ("i", Storage::Text, true),
            ("j", Storage::Text, true),
            ("k", Storage::Text, true),
        ]
    );
    assert_eq!(facts.columns[0].average_bytes, 2, "bytes, not characters");
    assert!(facts.columns.iter().all(|c| (c.census.rows, c.census.plaintext + c.census.nulls) == (1, 1)));
    assert_eq!(warns(&facts, "widened").column.as_deref(), Some("c"));
    assert_eq!(words(&facts.warnings).iter().filter(|w| **w == "domain-widened").count(), 3);
    warns(&facts, "cached-plans");
}

#[tokio::test]
async fn types_that_cannot_hold_an_envelope_are_refused_with_the_way_out() {
    let f = Fixture::new(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TYPE pair AS (a text, b text);
         CREATE EXTENSION citext;
         CREATE DOMAIN email AS citext CHECK (VALUE ~ '@');
         CREATE TABLE t (id bigint PRIMARY KEY, a char(8), b text[], c mood, d date, e numeric, f inet, g uuid,
                         h timestamptz, i boolean, j pair, k int4range, l interval, m email,
                         n bigint GENERATED ALWAYS AS IDENTITY)",
    )
    .await;
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];
    let facts = f.facts(&policy("t", &all)).await;
    let found: Vec<_> = facts.refusals.iter().map(|f| (f.column.as_deref().unwrap(), f.word.as_str())).collect();
    assert_eq!(
        found,
        [
            ("a", "char-n"),
            ("b", "array"),
            ("c", "enum"),
            ("d", "typed-value"),
            ("e", "typed-value"),
            ("f", "typed-value"),
            ("g", "typed-value"),
            ("h", "typed-value"),
            ("i", "typed-value"),
            ("j", "other-type"),
            ("k", "typed-value"),
            ("l", "typed-value"),
            ("m", "domain-check"),
            ("n", "generated-itself"),
            ("n", "typed-value"),
        ]
    );
    assert!(facts.refusals.iter().all(|f| f.way_out.as_deref().is_some_and(|w| !w.is_empty())));
    assert!(facts.columns.iter().filter(|c| c.name != "m").all(|c| c.storage.is_none()));
    // The way out of char(n) is a statement that runs, and after it the column converts.
    let out = refuses(&facts, "char-n").way_out.clone().unwrap();
    f.sql(out.split(';').next().unwrap()).await;
    silent(&f.facts(&policy("t", &["a"])).await, "char-n");
}

#[tokio::test]
async fn a_path_inside_json_is_refused_and_a_column_that_is_gone_is_an_error() {
    let f = Fixture::new("CREATE TABLE t (id bigint PRIMARY KEY, profile jsonb, name text)").await;
    for path in ["profile.email", "profile->>'email'", "profile[0]"] {
        let facts = f.facts(&policy("t", &[path])).await;
        assert!(refuses(&facts, "json-path").says.contains("`profile`"));
    }
    let error =
        f.postgres.inspect_table(&policy("t", &["name", "gone", "name.first"]), Counts::Taken).await.err().unwrap();
    assert_eq!(error.code().word(), "table-missing");
    assert_eq!(error.causes().count(), 2, "both are named: {error}");
    assert!(error.hints().any(|h| h.contains("`profile`")), "what is there is listed");
    let error = f.postgres.inspect_table(&policy("T", &["name"]), Counts::Taken).await.err().unwrap();
    assert_eq!(error.code().word(), "table-missing");
    assert!(error.hints().any(|h| h.contains("public.t")));
}

#[tokio::test]
async fn keys_of_every_kind_are_told() {
    let f = Fixture::new(
        "CREATE TABLE a (b text, a uuid, x text, PRIMARY KEY (a, b));
         CREATE TABLE b (id text PRIMARY KEY, x text);
         CREATE TABLE c (x text);
         CREATE UNLOGGED TABLE d (x text PRIMARY KEY)",
    )
    .await;
    assert_eq!(f.facts(&policy("a", &["x"])).await.key, ["a", "b"]);
    assert_eq!(f.facts(&policy("b", &["x"])).await.key, ["id"]);
    let facts = f.facts(&policy("c", &["x"])).await;
    assert!(facts.key.is_empty());
    warns(&facts, "no-primary-key");
    let facts = f.facts(&policy("d", &["x"])).await;
    refuses(&facts, "primary-key");
    warns(&facts, "unlogged");
}

#[tokio::test]
async fn a_collation_of_the_columns_own_is_told() {
    let f = Fixture::new("CREATE TABLE t (id int PRIMARY KEY, a text COLLATE \"C\", b text)").await;
    let facts = f.facts(&policy("t", &["a", "b"])).await;
    assert_eq!(warns(&facts, "collation").column.as_deref(), Some("a"));
    assert_eq!(words(&facts.warnings).iter().filter(|w| **w == "collation").count(), 1);
}
