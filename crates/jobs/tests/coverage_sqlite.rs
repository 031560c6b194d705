//! `enfold_coverage` in a SQLite file: what was counted and verified of each column, and when; and what its table refuses now.
#![cfg(feature = "sqlite")]

mod common;

use enfold::{CallContext, Enfold};
use enfold_jobs::ops::{
    ApplyOptions, Pace, PlanOptions, Selection, Session, Silent, apply, audit, enforce, plan, rollback, verify,
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
    assert_eq!((read[0].table.as_str(), read[0].column.as_str(), read[0].enforced), ("People", "email", true));
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
