//! `enfold_coverage` in a SQLite file: what was counted and verified of each column, and when; and what its table refuses now.
#![cfg(feature = "sqlite")]

mod common;

use enfold::{CallContext, Enfold};
use enfold_jobs::model::{ByVersion, CountsSought, KeptCount};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Selection, Session, Silent, apply, audit, enforce, full_audit, plan, rollback,
    verify,
};
use rusqlite::Connection;

const POLICY: &str = r#"
environment = "development"
[database]
url = "sqlite:app.db"
[rings.main]
id = "r1"
roots = ["local:dev.key"]
scope = "ring"
[tables.people.columns.email]
id = "p.email"
ring = "main"
[tables.people.columns.phone]
id = "p.phone"
ring = "main"
"#;

struct Fixture {
    folder: tempfile::TempDir,
    app: Connection,
    _enfold: Enfold,
    session: Session,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let app = Connection::open(folder.path().join("app.db")).unwrap();
        app.execute_batch(
            "CREATE TABLE People (id INTEGER PRIMARY KEY, email TEXT, phone TEXT);
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 90)
             INSERT INTO people SELECT n, 'p' || n || '@example.org', iif(n % 3 > 0, 'n' || n, NULL) FROM n",
        )
        .unwrap();
        let who = CallContext::new("test", "coverage");
        let (enfold, session) = common::open(POLICY, folder.path(), &who).await.unwrap();
        Self { folder, app, _enfold: enfold, session }
    }

    async fn apply(&self) {
        let shown = plan(&self.session, &PlanOptions::default()).await.unwrap();
        apply(&self.session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    }

    /// Whether it could be noted.
    async fn audit(&self, sample: Option<u64>) -> bool {
        let all = &Selection::All;
        audit(self.session.db.as_ref(), &self.session.policy, all, sample).await.unwrap().noted
    }

    /// Counts every row, asking the catalog for the versions of data keys.
    async fn count(&self) {
        let catalog = self.session.keys.enfold().map(|enfold| enfold.catalog().as_ref());
        let counted = full_audit(self.session.db.as_ref(), catalog, &self.session.policy, &Selection::All).await;
        assert!(counted.unwrap().noted);
    }

    /// The counts of a column that were kept, newest first.
    async fn kept(&self, column: &str) -> Vec<KeptCount> {
        let sought = CountsSought { column: None, since_ms: None, until_ms: None, after: None, limit: 1_000 };
        let kept = self.session.db.kept_counts(&sought).await.unwrap();
        kept.into_iter().filter(|kept| kept.column == column).collect()
    }

    async fn enforce(&self) {
        enforce(&self.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    }

    /// A line for each column of the view, in the order of their names.
    fn coverage(&self) -> Vec<String> {
        let sql = "SELECT format('%s %s%s', column_name, mode, iif(enforced, ' enforced', ''))
                || iif(counted_at IS NULL, '',
                       format(', counted %d: %d sealed, %d plain, %d null', rows, envelopes, plaintext, nulls))
                || iif(verified_at IS NULL, '', format(', verified %d less %d', verified_rows, verified_failed))
             FROM enfold_coverage ORDER BY column_name";
        let mut statement = self.app.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

#[tokio::test]
async fn coverage_says_what_was_counted_and_verified_and_what_is_enforced_at_this_moment() {
    let fixture = Fixture::new().await;
    fixture.apply().await;
    assert_eq!(fixture.coverage(), ["email hybrid, verified 90 less 0", "phone hybrid, verified 90 less 0"]);
    fixture.app.execute("INSERT INTO people VALUES (91, 'late@example.org', NULL)", []).unwrap();
    assert!(!fixture.audit(Some(10)).await, "a sample is no count of the column");
    assert!(fixture.audit(None).await);
    let counted = [
        "email hybrid, counted 91: 90 sealed, 1 plain, 0 null, verified 90 less 0",
        "phone hybrid, counted 91: 60 sealed, 0 plain, 31 null, verified 90 less 0",
    ];
    assert_eq!(fixture.coverage(), counted);
    verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(fixture.coverage()[0].ends_with("verified 91 less 1"), "{:?}", fixture.coverage());
    assert!(fixture.coverage()[1].ends_with("verified 91 less 0"), "{:?}", fixture.coverage());

    fixture.enforce().await;
    let enforced = || fixture.coverage().into_iter().map(|line| line.contains("kms enforced")).collect::<Vec<_>>();
    assert_eq!(enforced(), [true, true]);
    let read = fixture.session.db.noted_columns().await.unwrap();
    assert_eq!((read[0].table.table.as_str(), read[0].column.as_str(), read[0].enforced), ("People", "email", true));
    let (counted, verified) = (read[0].counted.unwrap(), read[0].verified.unwrap());
    assert_eq!((counted.rows, counted.envelopes, counted.plaintext, counted.nulls), (91, 90, 1, 0));
    assert_eq!((verified.rows, verified.failed), (91, 0));
    assert!(0 < counted.at_ms && counted.at_ms <= verified.at_ms, "{read:?}");
    // Taken off behind our back, and nobody looked in between.
    let trigger = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'enfold_form_%phone_update'";
    let trigger: String = fixture.app.query_row(trigger, [], |row| row.get(0)).unwrap();
    fixture.app.execute_batch(&format!("DROP TRIGGER \"{trigger}\"")).unwrap();
    assert_eq!(enforced(), [true, false]);

    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    let back = fixture.coverage();
    assert!(back.iter().all(|line| line.contains(" legacy, counted 91") && !line.contains("verified")), "{back:?}");
}

/// Somebody who writes for long keeps nobody from looking.
#[tokio::test]
async fn an_audit_beside_a_long_transaction_counts_and_notes_nothing() {
    let fixture = Fixture::new().await;
    fixture.apply().await;
    let other = Connection::open(fixture.folder.path().join("app.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(!fixture.audit(None).await);
    other.execute_batch("COMMIT").unwrap();
    assert!(fixture.audit(None).await);
}

#[tokio::test]
async fn counts_are_kept_beside_those_of_before_with_the_versions_of_data_keys_and_what_was_known_then() {
    let fixture = Fixture::new().await;
    fixture.apply().await;
    fixture.count().await;
    fixture.enforce().await;
    fixture.app.execute("DELETE FROM people WHERE id > 80", []).unwrap();
    fixture.count().await;
    let kept = fixture.kept("email").await;
    let [now, before] = kept.as_slice() else { panic!("{kept:?}") };
    let seen =
        |kept: &KeptCount| (kept.mode.clone().unwrap(), kept.enforced, kept.counts.rows, kept.by_version.clone());
    let under = |all| Some(ByVersion { versions: [(1, all)].into(), current: all });
    assert_eq!(seen(before), ("hybrid".to_owned(), false, 90, under(90)));
    assert_eq!(seen(now), ("kms".to_owned(), true, 80, under(80)));
    assert!(now.place > before.place && now.counts.at_ms > before.counts.at_ms, "{kept:?}");

    let of = Some((now.table.clone(), "email".to_owned()));
    let since = Some(now.counts.at_ms);
    let sought = CountsSought { column: of, since_ms: since, until_ms: None, after: None, limit: 10 };
    assert_eq!(fixture.session.db.kept_counts(&sought).await.unwrap(), std::slice::from_ref(now));
    let until = CountsSought { since_ms: None, until_ms: since, ..sought };
    assert_eq!(fixture.session.db.kept_counts(&until).await.unwrap(), std::slice::from_ref(before));
    let page = CountsSought { until_ms: None, after: Some(before.place), ..until };
    assert_eq!(fixture.session.db.kept_counts(&page).await.unwrap(), []);
}

#[tokio::test]
async fn of_counts_of_long_ago_the_last_of_each_week_stays_and_every_one_that_found_more_than_later_ones() {
    let fixture = Fixture::new().await;
    fixture.apply().await;
    // From Monday on; of each day how many values were in the clear.
    let before = "INSERT INTO enfold_column_counts (table_name, column_name, counted_at, enforced, rows, envelopes, plaintext, lookalikes, nulls)
         SELECT 'people', 'email', datetime('2020-01-06 12:00', '+' || n.key || ' days'), false, 90, 0, n.value, 0, 0
         FROM json_each('[90, 3, 5, 0, 0, 0, 0, 7, 7]') n";
    fixture.app.execute(before, []).unwrap();
    fixture.count().await;
    let kept: Vec<u64> = fixture.kept("email").await.iter().map(|kept| kept.counts.plaintext).collect();
    assert_eq!(kept, [0, 7, 0, 5, 90], "newest first: now, the second week, the first");
}

#[tokio::test]
async fn where_there_is_no_place_for_counts_yet_they_are_noted_as_before() {
    let fixture = Fixture::new().await;
    fixture.apply().await;
    fixture.app.execute_batch("DROP TABLE enfold_column_counts; UPDATE enfold_jobs_schema SET version = 5").unwrap();
    fixture.count().await;
    assert!(fixture.kept("email").await.is_empty());
}
