//! `enfold.coverage`: what was counted and verified of each column, and when; and what its table refuses now.

use enfold_jobs::ops::{Pace, Selection, Silent, audit, drop_source, verify};

use crate::fixture::{Fixture, column, shadowed};

const SCHEMA: &str = r#"
    CREATE TABLE people (id int PRIMARY KEY, email text, born date, profile jsonb);
    INSERT INTO people SELECT n, 'p' || n || '@example.org', CASE WHEN n % 3 > 0 THEN date '1990-01-01' + n END,
        jsonb_build_object('phone', 'n' || n, 'n', n) FROM generate_series(1, 90) n"#;

impl Fixture {
    /// A line for each column of the view, in the order of their names.
    async fn coverage(&self) -> Vec<String> {
        self.texts(
            "SELECT pg_catalog.format('%s.%s %s %s%s', table_name, column_name, ring, coalesce(mode, 'unknown'), \
                                      CASE WHEN enforced THEN ' enforced' END) \
                    || coalesce(pg_catalog.format(', counted %s: %s sealed, %s plain, %s null', rows, envelopes, plaintext, nulls), '') \
                    || CASE WHEN verified_at IS NULL THEN '' ELSE pg_catalog.format(', verified %s less %s', verified_rows, verified_failed) END \
             FROM enfold.coverage ORDER BY column_name",
        )
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coverage_says_what_was_counted_and_verified_and_what_is_enforced_at_this_moment() {
    let columns = [column("email", ""), shadowed("born"), column("phone", "within = \"profile\"\npath = \"$.phone\"")];
    let fixture = Fixture::new(SCHEMA, &columns.concat()).await;
    fixture.apply().await;
    let never = "SELECT column_name FROM enfold.coverage WHERE rows IS NULL AND counted_at IS NULL";
    assert_eq!(fixture.texts(never).await.len(), 3, "nobody has counted, and nothing is counted for the view");
    let verified = "SELECT pg_catalog.format('%s %s %s %s', column_name, mode, verified_rows, verified_failed) FROM enfold.coverage \
                    WHERE NOT enforced ORDER BY column_name";
    assert_eq!(fixture.texts(verified).await, ["born hybrid 90 0", "email hybrid 90 0", "phone hybrid 90 0"]);

    // An audit that has no keys knows no newer mode; a sample is no count of the column.
    fixture.run("INSERT INTO people VALUES (91, 'late@example.org', NULL, NULL)").await;
    let all = &Selection::All;
    let sampled = audit(fixture.session.db.as_ref(), &fixture.session.policy, all, Some(10)).await.unwrap();
    assert!(!sampled.noted && fixture.texts(never).await.len() == 3);
    let audited = audit(fixture.session.db.as_ref(), &fixture.session.policy, all, None).await.unwrap();
    assert!(audited.noted && audited.leaks());
    assert_eq!(
        fixture.coverage().await,
        [
            "people.born main hybrid, counted 91: 60 sealed, 0 plain, 31 null, verified 90 less 0",
            "people.email main hybrid, counted 91: 90 sealed, 1 plain, 0 null, verified 90 less 0",
            "people.phone main hybrid, counted 91: 90 sealed, 0 plain, 1 null, verified 90 less 0",
        ]
    );
    let times = "SELECT column_name FROM enfold.coverage WHERE mode_seen_at < counted_at AND verified_at < counted_at";
    assert_eq!(fixture.texts(times).await.len(), 3);
    verify(&fixture.session, all, &Pace::default(), &Silent).await.unwrap();
    let failed = "SELECT column_name || ' ' || verified_failed FROM enfold.coverage ORDER BY column_name";
    assert_eq!(fixture.texts(failed).await, ["born 0", "email 1", "phone 0"]);

    fixture.enforce().await;
    let enforced = "SELECT column_name FROM enfold.coverage WHERE enforced AND mode = 'kms' ORDER BY column_name";
    assert_eq!(fixture.texts(enforced).await, ["born", "email", "phone"]);
    assert_eq!(
        fixture.coverage().await[1],
        "people.email main kms enforced, counted 91: 90 sealed, 1 plain, 0 null, verified 91 less 0"
    );
    let read = fixture.session.db.noted_columns().await.unwrap();
    let email = read.iter().find(|noted| noted.column == "email").unwrap();
    assert_eq!((email.schema.as_str(), email.table.as_str(), email.enforced), ("public", "people", true));
    let (counted, verified) = (email.counted.unwrap(), email.verified.unwrap());
    assert_eq!((counted.rows, counted.envelopes, counted.plaintext, counted.nulls), (91, 90, 1, 0));
    assert_eq!((verified.rows, verified.failed), (91, 0));
    assert!(counted.at_ms < verified.at_ms, "{email:?}");
    // Taken off behind our back, and nobody looked in between.
    fixture.run("ALTER TABLE people DROP CONSTRAINT enfold_form_email").await;
    fixture.run("ALTER TABLE people DROP CONSTRAINT enfold_empty_born").await;
    assert_eq!(fixture.texts(enforced).await, ["phone"]);

    fixture.enforce().await;
    drop_source(&fixture.session, "public.people.born", &Silent).await.unwrap();
    assert_eq!(fixture.texts(enforced).await, ["born", "email", "phone"]);

    // The source is there again, and the way back is open.
    fixture.run("ALTER TABLE people ADD COLUMN born date").await;
    fixture.rollback().await;
    let back = "SELECT column_name FROM enfold.coverage WHERE mode = 'legacy' AND NOT enforced AND verified_at IS NULL";
    assert_eq!(fixture.texts(back).await.len(), 3, "what was verified is not there any more");
}
