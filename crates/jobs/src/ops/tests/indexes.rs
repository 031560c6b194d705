//! Indexes over plaintext go when it does, and come back with it.

use super::super::{ApplyOptions, Pace, Selection, Silent, apply, rollback};
use super::{Fixture, Witness};

const INDEXES: &str = "
    CREATE INDEX by_note ON users (note);
    CREATE INDEX by_email ON users (lower(email)) WHERE email IS NOT NULL;
    CREATE UNIQUE INDEX by_both ON users (id, email, note DESC);
    CREATE INDEX by_org ON users (org);";

fn indexed(users: u32) -> Fixture {
    // The unique blind index takes over from the unique index that goes.
    let unique = |column: &str| {
        format!(
            "[tables.users.columns.{column}.indexes.one]\ncolumn = \"{column}_one\"\nunique = true\ncross_tenant = true\n"
        )
    };
    let policy = format!("{}{}{}", super::POLICY, unique("email"), unique("note"));
    let fixture = Fixture::with(users, &policy);
    fixture.app.execute_batch(INDEXES).unwrap();
    fixture
}

impl Fixture {
    /// The definitions of the application's own indexes.
    fn indexes(&self) -> Vec<String> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'users' \
                   AND name NOT LIKE 'enfold%' ORDER BY name";
        let mut statement = self.app.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

#[tokio::test]
async fn a_rollback_makes_the_indexes_again_that_protecting_dropped() {
    let fixture = indexed(80);
    let before = fixture.indexes();
    assert_eq!(before.len(), 4);
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!(fixture.indexes().len(), 1, "the one over `org` holds nothing that is sealed");
    let steps = super::super::plan_rollback(&fixture.session, &Selection::All).await.unwrap();
    let last = steps[0].1.last().unwrap();
    assert!(last.says.contains("indexes again") && !last.sql.is_empty(), "{}", last.says);
    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.indexes(), before);
    // In and out once more: the record of the first time is no burden to the second.
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.indexes(), before);
}

#[tokio::test]
async fn an_index_over_two_columns_waits_until_both_are_plaintext() {
    let fixture = indexed(40);
    let before = fixture.indexes();
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    for (column, there) in [("users.note", 2), ("users.email", 4)] {
        let one = Selection::columns(&fixture.session.policy, &[column.to_owned()]).unwrap();
        rollback(&fixture.session, &one, &Pace::default(), &Silent).await.unwrap();
        assert_eq!(fixture.indexes().len(), there, "after `{column}`");
    }
    assert_eq!(fixture.indexes(), before);
}

#[tokio::test]
async fn wherever_apply_and_rollback_are_interrupted_every_index_comes_back() {
    let mut interrupted = 0;
    for questions in (0..).step_by(2) {
        let fixture = indexed(30);
        let before = fixture.indexes();
        let witness = Witness::stopping_after(questions);
        let applied = apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &witness).await;
        let witness = Witness::stopping_after(questions);
        let rolled_back = rollback(&fixture.session, &Selection::All, &Pace::default(), &witness).await;
        rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        assert_eq!(fixture.indexes(), before, "after {questions} questions");
        if applied.is_ok() && rolled_back.is_ok() {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 5, "only {interrupted} places to stop");
}
