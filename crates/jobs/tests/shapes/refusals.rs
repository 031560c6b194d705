//! What a plan refuses of shadows, each with a way out.

use enfold_jobs::database::TableFacts;

use crate::fixture::{Fixture, column, shadowed};

/// Words and columns of the refusals.
fn refused(facts: &TableFacts) -> Vec<(&str, &str)> {
    assert!(facts.refusals.iter().all(|f| f.way_out.as_ref().is_some_and(|way| !way.is_empty())));
    facts.refusals.iter().map(|f| (f.column.as_deref().unwrap_or_default(), f.word.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_out_is_refused() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i"].map(shadowed).concat();
    let fixture = Fixture::new(
        "CREATE TYPE pair AS (x text, y text);
         CREATE TABLE people (id int PRIMARY KEY, a text, b money, c pair, d int GENERATED ALWAYS AS (id * 2) STORED,
                              e int GENERATED ALWAYS AS IDENTITY, f date, f_enf json, g date, g_enf text DEFAULT 'x',
                              h date, h_enf text NOT NULL DEFAULT '', i xml[])",
        &all,
    )
    .await;
    let facts = fixture.facts().await;
    let wanted = [
        ("a", "shadow-needless"),
        ("b", "other-type"),
        ("c", "other-type"),
        ("d", "generated-itself"),
        ("e", "generated-itself"),
        ("f", "shadow-type"),
        ("g", "shadow-type"),
        ("h", "shadow-type"),
        ("i", "other-type"),
    ];
    assert_eq!(refused(&facts), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_constraints_that_would_lose_their_value_are_refused() {
    let unique =
        |name: &str| format!("{}[tables.\"public.people\".columns.{name}.indexes.eq]\nunique = true\n", shadowed(name));
    let columns = [
        unique("id"),
        unique("code"),
        unique("amount"),
        unique("price"),
        shadowed("born"),
        shadowed("parent"),
        shadowed("adult"),
        unique("during"),
        shadowed("bare"),
    ]
    .concat();
    let fixture = Fixture::new(
        "CREATE TABLE parents (id int PRIMARY KEY);
         CREATE TABLE people (id int PRIMARY KEY, code uuid UNIQUE, amount numeric UNIQUE, price numeric(9,2) UNIQUE,
                              born date CHECK (born IS NOT NULL), parent int REFERENCES parents,
                              adult date CHECK (adult > '1900-01-01'), year int GENERATED ALWAYS AS (extract(year FROM adult)::int) STORED NOT NULL,
                              during daterange, EXCLUDE USING gist (during WITH &&), bare int UNIQUE);
         CREATE TABLE children (id int, code uuid REFERENCES people (code))",
        &columns,
    )
    .await;
    let facts = fixture.facts().await;
    let mut found = refused(&facts);
    found.sort_unstable();
    let wanted = [
        ("adult", "generated-column"),
        ("amount", "unique-without-blind-index"),
        ("bare", "unique-without-blind-index"),
        ("born", "check-constraint"),
        ("code", "referenced-key"),
        ("during", "exclusion-constraint"),
        ("id", "primary-key"),
        ("parent", "foreign-key"),
    ];
    assert_eq!(found, wanted);
    let amount = facts.refusals.iter().find(|f| f.column.as_deref() == Some("amount")).unwrap();
    assert!(amount.says.contains("printed differently"), "{}", amount.says);
    let warned = |word: &str| facts.warnings.iter().any(|f| f.word == word && f.column.as_deref() == Some("adult"));
    assert!(warned("check-blind") && warned("shadow"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_without_a_shadow_are_refused_with_that_as_the_way_out() {
    let columns = ["a", "b", "c", "d"].map(|name| column(name, "")).concat();
    let fixture = Fixture::new(
        "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE people (id int PRIMARY KEY, a char(8), b text[], c mood, d date)",
        &columns,
    )
    .await;
    let facts = fixture.facts().await;
    assert_eq!(refused(&facts), [("a", "char-n"), ("b", "array"), ("c", "enum"), ("d", "typed-value")]);
    for finding in &facts.refusals {
        let line = format!("`shadow = \"{}_enf\"`", finding.column.as_deref().unwrap());
        assert!(finding.way_out.as_ref().unwrap().contains(&line), "{finding:?}");
    }
}
