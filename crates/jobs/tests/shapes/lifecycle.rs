//! One table through all operations.

use enfold::policy::Mode;
use enfold_jobs::ops::{Pace, Selection, Silent, audit, probes, residue, verify};

use crate::fixture::{Fixture, column, shadowed};

const SCHEMA: &str = "
    CREATE TABLE people (
        id int PRIMARY KEY, org int NOT NULL, name text,
        born date NOT NULL, salary numeric(12, 2), passport uuid, address inet,
        UNIQUE (org, passport)
    ) WITH (autovacuum_enabled = off);
    CREATE INDEX people_born ON people (born);
    INSERT INTO people SELECT n, 1, 'Name ' || n, date '1950-01-01' + n, n * 1.5, md5(n::text)::uuid, inet '10.0.0.1' + n
    FROM generate_series(1, 500) n;
    UPDATE people SET salary = NULL, passport = NULL WHERE id % 7 = 0;
    ANALYZE people;";

fn columns() -> String {
    let unique = "[tables.\"public.people\".columns.passport.indexes.eq]\ncolumn = \"passport_eq\"\nunique = true\n";
    [
        column("name", ""),
        shadowed("born"),
        shadowed("salary"),
        shadowed("passport"),
        unique.to_owned(),
        shadowed("address"),
    ]
    .concat()
}

async fn fixture() -> Fixture {
    Fixture::with(SCHEMA, "tenant = \"org\"", &columns()).await
}

const ROWS: &str = "SELECT ROW(id, org, name, born, salary, passport, address)::text FROM people ORDER BY id";
const DEFINITION: &str = "SELECT attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull FROM pg_attribute \
    WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped UNION ALL \
    SELECT indexdef FROM pg_indexes WHERE tablename = 'people' UNION ALL \
    SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'people'::regclass ORDER BY 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_go_into_the_shadow_are_enforced_there_and_come_back() {
    let fixture = fixture().await;
    let (rows, definition) = (fixture.texts(ROWS).await, fixture.texts(DEFINITION).await);
    let shown = fixture.plan().await;
    let warned: Vec<&str> = shown.tables[0].warnings.iter().map(|finding| finding.word.as_str()).collect();
    assert!(warned.contains(&"shadow") && warned.contains(&"shadow-not-null"), "{warned:?}");
    let born = shown.tables[0].columns.iter().find(|column| column.name == "born").unwrap();
    assert_eq!((born.census.plaintext, born.census.rows, born.converts), (500, 500, true));

    fixture.apply().await;
    assert_eq!(fixture.count("num_nonnulls(born, salary, passport, address) > 0").await, 0);
    assert_eq!(fixture.count("born_enf !~ '^enf1:' OR born_enf IS NULL").await, 0);
    assert_eq!(fixture.count("(salary_enf IS NULL) <> (id % 7 = 0)").await, 0);
    assert_eq!(fixture.count("(passport_enf IS NULL) <> (passport_eq IS NULL)").await, 0);
    assert_eq!(fixture.read("born", 3).await.as_deref(), Some("1950-01-04"));
    assert_eq!(fixture.read("salary", 3).await.as_deref(), Some("4.50"));
    assert_eq!(fixture.read("address", 3).await.as_deref(), Some("10.0.0.4"));
    let verified = verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(verified.is_clean() && verified.tables[0].rows == 500);
    let audited = audit(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, None).await.unwrap();
    assert!(!audited.leaks(), "{audited:?}");
    assert!(!fixture.plan().await.has_changes(), "nothing is left to do");
    // What the planner remembers of the column is told, until it is analysed again.
    let known = probes(&fixture.session, &Selection::All, 100).await.unwrap();
    assert!(known["public.people"].iter().any(|probe| probe.column == "born" && probe.value.starts_with(b"195")));
    let left = residue(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, &known).await.unwrap();
    let statistics = left.tables[0].found.iter().find(|r| r.column.as_deref() == Some("born")).expect("the statistics");
    assert!(statistics.clear.contains("ANALYZE") && statistics.found.is_some_and(|n| n > 0), "{statistics:?}");
    // What NOT NULL refused is refused still.
    assert!(fixture.refuses("INSERT INTO people (id, org) VALUES (1000, 1)").await);
    assert!(fixture.refuses("UPDATE people SET born_enf = NULL WHERE id = 3").await);

    fixture.enforce().await;
    assert!(fixture.refuses("UPDATE people SET born = '2000-01-01' WHERE id = 3").await);
    assert!(fixture.refuses("UPDATE people SET salary_enf = 'plain' WHERE id = 3").await);
    assert!(fixture.refuses("INSERT INTO people (id, org, born) VALUES (1000, 1, '2000-01-01')").await);
    fixture.run("UPDATE people SET org = org WHERE id = 3").await;
    assert_eq!(fixture.enfold.column("public.people.born").unwrap().mode().await.unwrap(), Mode::Kms);
    assert_eq!(fixture.read("born", 3).await.as_deref(), Some("1950-01-04"));

    fixture.rollback().await;
    assert_eq!(fixture.texts(ROWS).await, rows);
    assert_eq!(fixture.texts(DEFINITION).await, definition);
    assert_eq!(fixture.traces().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_in_the_middle_and_of_some_columns_gives_back_what_was_there() {
    let fixture = fixture().await;
    let (rows, definition) = (fixture.texts(ROWS).await, fixture.texts(DEFINITION).await);
    let shown = fixture.plan().await;
    let canary = enfold_jobs::ops::ApplyOptions { canary: Some(100), ..Default::default() };
    enfold_jobs::ops::apply(&fixture.session, &shown, &canary, &Silent).await.unwrap();
    assert_eq!(fixture.count("born IS NULL AND born_enf IS NOT NULL").await, 100);
    fixture.rollback().await;
    assert_eq!((fixture.texts(ROWS).await, fixture.texts(DEFINITION).await), (rows.clone(), definition.clone()));

    fixture.apply().await;
    let some = Selection::columns(&fixture.session.policy, &["public.people.born".to_owned()]).unwrap();
    enfold_jobs::ops::rollback(&fixture.session, &some, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("born IS NULL").await, 0);
    assert_eq!(fixture.count("address IS NOT NULL OR address_enf !~ '^enf1:'").await, 0);
    assert_eq!(fixture.read("address", 3).await.as_deref(), Some("10.0.0.4"));
    fixture.rollback().await;
    assert_eq!((fixture.texts(ROWS).await, fixture.texts(DEFINITION).await), (rows, definition));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_was_dropped_leaves_the_shadow_working_under_its_name() {
    let fixture = Fixture::new(
        "CREATE TABLE people (id int PRIMARY KEY, born date NOT NULL);
         INSERT INTO people SELECT n, date '1950-01-01' + n FROM generate_series(1, 50) n",
        &shadowed("born"),
    )
    .await;
    fixture.apply().await;
    let drop = enfold_jobs::ops::drop_source(&fixture.session, "public.people.born", &Silent).await.unwrap_err();
    assert_eq!(drop.code(), enfold::Code::PlanRefused, "not before it is enforced");
    fixture.enforce().await;
    enfold_jobs::ops::drop_source(&fixture.session, "public.people.born", &Silent).await.unwrap();
    let columns = "SELECT attname || ' ' || attnotnull FROM pg_attribute \
                   WHERE attrelid = 'people'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    assert_eq!(fixture.texts(columns).await, ["id true", "born_enf true"]);
    assert!(fixture.refuses("UPDATE people SET born_enf = 'plain' WHERE id = 3").await);

    assert_eq!(fixture.enfold.column("public.people.born").unwrap().mode().await.unwrap(), Mode::Kms);
    assert!(verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    let audited = audit(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, None).await.unwrap();
    assert_eq!((audited.leaks(), audited.columns[0].census.envelopes), (false, 50));
    let shown = fixture.plan().await;
    assert!(!shown.is_refused() && !shown.has_changes(), "{:?}", shown.tables[0]);

    let error =
        enfold_jobs::ops::rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), enfold::Code::PlanRefused);
    fixture.run("ALTER TABLE people ADD COLUMN born date").await;
    fixture.rollback().await;
    assert_eq!(fixture.count("born = date '1950-01-01' + id").await, 50);
    assert_eq!(fixture.traces().await, Vec::<String>::new());
}
