//! Copies of values, looked for by opening some of them.

use super::super::run::Run;
use super::super::{ApplyOptions, Pace, Probes, ResidueReport, Selection, Silent, apply, probes, residue};
use super::Fixture;
use crate::model::Goal;

impl Fixture {
    async fn protect(&self) {
        apply(&self.session, &self.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    }

    /// The sweep of an apply and no rewrite after it.
    async fn seal_only(&self) {
        let table = &self.session.policy.tables["users"];
        let facts = self.session.db.inspect(table, crate::database::Counts::LeftOut).await.unwrap();
        let mut target = super::super::target("users", table, &facts, &["email", "note"]).unwrap();
        target.indexes.clear();
        let pace = Pace::default();
        let run = Run { session: &self.session, observer: &Silent, pace: &pace, target: &target, stop_after: None };
        run.sweep_to_zero(Goal::Protect).await.unwrap();
        assert_eq!(self.count("note NOT LIKE 'enf1:%' OR email NOT LIKE 'enf1:%'"), 0);
    }

    async fn residue(&self, probes: &Probes) -> ResidueReport {
        residue(self.session.db.as_ref(), &self.session.policy, &Selection::All, probes).await.unwrap()
    }

    async fn probes(&self, rows: u32) -> Probes {
        probes(&self.session, &Selection::All, rows).await.unwrap()
    }
}

#[tokio::test]
async fn probes_are_opened_values_of_rows_all_over_the_table() {
    let fixture = Fixture::new(2000);
    assert!(fixture.probes(50).await["users"].is_empty(), "nothing is sealed");
    fixture.app.execute("UPDATE users SET note = 'short' WHERE id = 1", []).unwrap();
    fixture.protect().await;
    fixture.app.execute("UPDATE users SET note = 'plain again' WHERE id = 2000", []).unwrap();
    let before = fixture.rows();
    let found = fixture.probes(50).await;
    assert_eq!(fixture.rows(), before, "nothing is written");
    let values: Vec<&str> = found["users"].iter().map(|p| std::str::from_utf8(&p.value).unwrap()).collect();
    let notes = values.iter().filter(|value| value.starts_with("note of person ")).count();
    let emails = values.iter().filter(|value| value.ends_with("@example.org")).count();
    assert_eq!(notes + emails, values.len(), "no envelope, nothing short, nothing plain");
    assert!((48..=50).contains(&notes) && emails > 35, "{notes} notes, {emails} addresses");
    assert!(values.iter().any(|value| value.starts_with("note of person 1") && value.len() > 22), "far behind");
    // As many as there are, where more are asked for.
    assert!(fixture.probes(10_000).await["users"].len() > 3600);
}

#[tokio::test]
async fn copies_of_opened_values_are_seen_until_the_rewrite() {
    let fixture = Fixture::new(400);
    // The application may turn this off; what it changes then stays in the file.
    fixture.app.execute_batch("PRAGMA secure_delete = OFF").unwrap();
    fixture
        .app
        .execute_batch("UPDATE users SET note = note || '!' WHERE id % 2 = 0; DELETE FROM users WHERE id > 300")
        .unwrap();
    fixture.app.execute_batch("CREATE TABLE gone AS SELECT note FROM users; DROP TABLE gone").unwrap();
    fixture.seal_only().await;
    let found = fixture.probes(100).await;
    assert!(fixture.residue(&found).await.seen(), "dropped pages hold what was in them");
    let table = crate::model::TableName { schema: String::new(), table: "users".to_owned() };
    fixture.session.db.run(&crate::database::SchemaStep::Rewrite { table }).await.unwrap();
    let report = fixture.residue(&fixture.probes(100).await).await;
    assert!(!report.seen(), "{report:?}");
}

#[tokio::test]
async fn a_plaintext_copy_in_another_column_is_found() {
    let fixture = Fixture::new(100);
    fixture.app.execute_batch("CREATE TABLE letters (id INTEGER PRIMARY KEY, body TEXT)").unwrap();
    fixture
        .app
        .execute_batch("INSERT INTO letters (body) SELECT 'Dear ' || email || '!' FROM users WHERE id = 8")
        .unwrap();
    fixture.protect().await;
    assert!(!fixture.residue(&Probes::new()).await.seen(), "without values nobody knows what to look for");
    let report = fixture.residue(&fixture.probes(100).await).await;
    let seen = report.tables[0].found.iter().find(|r| r.place == "letters.body").expect("found");
    assert_eq!((seen.column.as_deref(), seen.found), (Some("email"), Some(1)));
    assert!(report.seen() && !format!("{report:?}").contains('@'), "no value in a report");
}
