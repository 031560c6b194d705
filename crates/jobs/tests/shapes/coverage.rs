//! `enfold.coverage`: what was counted and verified of each column, and when; and what its table refuses now.

use enfold::{CallContext, Whose};
use enfold_jobs::model::{ByVersion, CountsSought, KeptCount};
use enfold_jobs::ops::{Pace, Selection, Silent, audit, drop_source, full_audit, verify};

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

    /// Counts every row, asking the catalog for the versions of data keys. Whether that could be noted.
    async fn count_all(&self) -> bool {
        let catalog = Some(self.enfold.catalog().as_ref());
        let counted = full_audit(self.session.db.as_ref(), catalog, &self.session.policy, &Selection::All).await;
        counted.unwrap().noted
    }

    /// The counts of a column that were kept, newest first.
    async fn kept(&self, column: &str) -> Vec<KeptCount> {
        let sought = CountsSought { column: None, since_ms: None, until_ms: None, after: None, limit: 1_000 };
        let kept = self.session.db.kept_counts(&sought).await.unwrap();
        kept.into_iter().filter(|kept| kept.column == column).collect()
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
    assert_eq!(
        (email.table.is_meant_by("people"), email.table.is_meant_by("public.people"), email.enforced),
        (true, true, true)
    );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_kept_beside_those_of_before_with_the_versions_of_data_keys_and_what_was_known_then() {
    let columns = [column("email", ""), shadowed("born"), column("phone", "within = \"profile\"\npath = \"$.phone\"")];
    let fixture = Fixture::new(SCHEMA, &columns.concat()).await;
    fixture.apply().await;
    assert!(fixture.count_all().await);
    let context = CallContext::new("test", "coverage");
    fixture.enfold.operator().unwrap().rotate_many("main", Whose::Everybody, &context).await.unwrap();
    fixture.enforce().await;
    let email = "INSERT INTO people (id, email) SELECT 91, email FROM people WHERE id = 1";
    fixture.run(email).await;
    assert!(fixture.count_all().await);
    let all = &Selection::All;
    audit(fixture.session.db.as_ref(), &fixture.session.policy, all, Some(10)).await.unwrap();

    let kept = fixture.kept("email").await;
    let [now, before] = kept.as_slice() else { panic!("a sample is kept, or a count is not: {kept:?}") };
    let seen = |kept: &KeptCount| (kept.mode.clone().unwrap(), kept.enforced, kept.counts.rows, kept.counts.envelopes);
    assert_eq!(seen(before), ("hybrid".to_owned(), false, 90, 90));
    assert_eq!(seen(now), ("kms".to_owned(), true, 91, 91));
    let under = |current, first| Some(ByVersion { versions: [(1, first)].into(), current });
    assert_eq!((before.by_version.clone(), now.by_version.clone()), (under(90, 90), under(0, 91)));
    assert!(now.place > before.place && now.counts.at_ms > before.counts.at_ms);
    assert_eq!(fixture.kept("born").await.len() + fixture.kept("phone").await.len(), 4);

    // A page of one column, and what was between two moments.
    let of = Some((now.table.clone(), "email".to_owned()));
    let page = CountsSought { column: of, since_ms: None, until_ms: None, after: Some(now.place), limit: 10 };
    assert_eq!(fixture.session.db.kept_counts(&page).await.unwrap(), std::slice::from_ref(before));
    let since = CountsSought { since_ms: Some(before.counts.at_ms + 1), after: None, ..page };
    assert_eq!(fixture.session.db.kept_counts(&since).await.unwrap(), std::slice::from_ref(now));
    let until = CountsSought { until_ms: since.since_ms, since_ms: None, ..since };
    assert_eq!(fixture.session.db.kept_counts(&until).await.unwrap(), std::slice::from_ref(before));

    // Without the catalog nobody knows the versions, and it is counted all the same.
    audit(fixture.session.db.as_ref(), &fixture.session.policy, all, None).await.unwrap();
    assert_eq!(fixture.kept("email").await[0].by_version, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_counts_of_long_ago_the_last_of_each_week_stays_and_every_one_that_found_more_than_later_ones() {
    let fixture = Fixture::new(SCHEMA, &column("email", "")).await;
    fixture.apply().await;
    // From Monday on; of each day how many values were in the clear.
    let before = "INSERT INTO enfold.column_counts (table_schema, table_name, column_name, counted_at, enforced, rows, envelopes, plaintext, lookalikes, nulls)
         SELECT 'public', 'people', c, timestamptz '2020-01-06 12:00+00' + make_interval(days => n::int - 1), false, 90, 0, p, 0, 0
         FROM unnest('{email, other}'::text[]) c, unnest('{90, 3, 5, 0, 0, 0, 0, 7, 7}'::int[]) WITH ORDINALITY o (p, n)";
    fixture.run(before).await;
    assert!(fixture.count_all().await);
    let kept: Vec<u64> = fixture.kept("email").await.iter().map(|kept| kept.counts.plaintext).collect();
    assert_eq!(kept, [0, 7, 0, 5, 90], "newest first: now, the second week, the first");
    assert_eq!(fixture.kept("other").await.len(), 9, "nobody counted that one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_there_is_no_place_for_counts_yet_they_are_noted_as_before() {
    let fixture = Fixture::new(SCHEMA, &column("email", "")).await;
    fixture.apply().await;
    fixture.run("DROP TABLE enfold.column_counts").await;
    assert!(fixture.count_all().await && fixture.kept("email").await.is_empty());
}
