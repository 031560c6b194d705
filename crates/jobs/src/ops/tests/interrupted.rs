//! Ctrl-C, a canary, and running again.

use enfold::Code;
use enfold::policy::Mode;

use super::super::{Applied, ApplyOptions, Pace, Selection, Silent, apply, rollback};
use super::{Fixture, Witness};

#[tokio::test]
async fn an_apply_that_is_interrupted_anywhere_is_finished_by_running_it_again() {
    let mut interrupted = 0;
    for questions in (0..).step_by(3) {
        let fixture = Fixture::new(120);
        let plan = fixture.plan().await;
        let witness = Witness::stopping_after(questions);
        match apply(&fixture.session, &plan, &ApplyOptions::default(), &witness).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.code(), Code::Interrupted, "after {questions} questions"),
        }
        interrupted += 1;
        apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap();
        assert_eq!(fixture.count("note NOT LIKE 'enf1:%' OR email NOT LIKE 'enf1:%'"), 0);
        assert!(!fixture.file_holds("Person8@example.org"));
    }
    assert!(interrupted > 5, "only {interrupted} places to stop");
}

#[tokio::test]
async fn an_apply_that_is_interrupted_anywhere_is_finished_by_a_new_plan_too() {
    let mut interrupted = 0;
    for questions in (0..).step_by(3) {
        let fixture = Fixture::new(120);
        let witness = Witness::stopping_after(questions);
        if apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &witness).await.is_ok() {
            break;
        }
        interrupted += 1;
        apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
        assert_eq!(fixture.count("note NOT LIKE 'enf1:%' OR email NOT LIKE 'enf1:%'"), 0);
        assert!(!fixture.file_holds("Person8@example.org"), "after {questions} questions");
        assert!(!fixture.plan().await.has_changes());
    }
    assert!(interrupted > 5, "only {interrupted} places to stop");
}

#[tokio::test]
async fn a_rollback_that_is_interrupted_anywhere_is_finished_by_running_it_again() {
    let mut interrupted = 0;
    for questions in (0..).step_by(2) {
        let fixture = Fixture::new(60);
        let before = fixture.rows();
        apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
        let witness = Witness::stopping_after(questions);
        if rollback(&fixture.session, &Selection::All, &Pace::default(), &witness).await.is_ok() {
            break;
        }
        interrupted += 1;
        rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
        assert_eq!(fixture.rows(), before);
        assert_eq!(fixture.mode("users.note"), Mode::Legacy);
    }
    assert!(interrupted > 3, "only {interrupted} places to stop");
}

#[tokio::test]
async fn a_canary_converts_what_was_asked_for_and_an_apply_goes_on_from_there() {
    let fixture = Fixture::new(300);
    let plan = fixture.plan().await;
    let canary = ApplyOptions { canary: Some(100), ..ApplyOptions::default() };
    let report = apply(&fixture.session, &plan, &canary, &Silent).await.unwrap();
    assert_eq!(report.tables[0].outcome, Applied::Canary);
    assert_eq!(fixture.count("note LIKE 'enf1:%'"), 100);
    assert_eq!(fixture.mode("users.note"), Mode::Hybrid);
    apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn a_canary_can_be_taken_back() {
    let fixture = Fixture::new(300);
    let before = fixture.rows();
    let canary = ApplyOptions { canary: Some(100), ..ApplyOptions::default() };
    apply(&fixture.session, &fixture.plan().await, &canary, &Silent).await.unwrap();
    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.rows(), before);
    assert_eq!(fixture.mode("users.note"), Mode::Legacy);
    // The canary's paused job does not come back to life.
    let again = fixture.plan().await;
    apply(&fixture.session, &again, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn progress_is_told_and_several_workers_share_a_job() {
    let fixture = Fixture::new(500);
    let witness = Witness::new();
    let pace = Pace { workers: 3, batch_rows: Some(20), rate: None };
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions { pace, canary: None }, &witness).await.unwrap();
    assert!(!witness.progress.lock().unwrap().is_empty());
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}
