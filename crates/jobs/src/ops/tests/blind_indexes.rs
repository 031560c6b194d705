//! Blind indexes are filled once, before the first value is sealed, and are those of their values in the end.

use enfold::Code;

use super::super::{ApplyOptions, Pace, Selection, Silent, apply, rollback, verify};
use super::{Fixture, Witness};

/// `UPDATE` of an application that knows of envelopes and not of the blind index.
const STALE: &str = "UPDATE users SET email_eq = (SELECT email_eq FROM users WHERE id = 1) WHERE id = 2";

#[tokio::test]
async fn an_apply_that_goes_on_after_the_first_sealed_value_does_not_fill_the_indexes_again() {
    let fixture = Fixture::new(120);
    let canary = ApplyOptions { canary: Some(60), ..ApplyOptions::default() };
    let plan = fixture.plan().await;
    let first = Witness::new();
    apply(&fixture.session, &plan, &canary, &first).await.unwrap();
    let filled = |witness: &Witness| witness.done().iter().any(|says| says.contains("fill the blind"));
    assert!(filled(&first));
    // Twice: on its way, and when all is sealed.
    for _ in 0..2 {
        fixture.app.execute(STALE, []).unwrap();
        let again = Witness::new();
        apply(&fixture.session, &plan, &ApplyOptions::default(), &again).await.unwrap();
        assert!(!filled(&again));
    }
    assert!(verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
}

#[tokio::test]
async fn a_conversion_that_begins_anew_after_a_rollback_fills_the_indexes_again() {
    let fixture = Fixture::new(60);
    for _ in 0..2 {
        let witness = Witness::new();
        apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &witness).await.unwrap();
        assert!(witness.done().iter().any(|says| says.contains("fill the blind")));
        rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    }
}

#[tokio::test]
async fn an_index_value_that_verify_found_stale_is_put_right_by_the_next_apply() {
    let fixture = Fixture::new(60);
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    assert!(!fixture.plan().await.has_changes());
    fixture.app.execute(STALE, []).unwrap();
    let found = verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(found.tables[0].failed, 1);
    let plan = fixture.plan().await;
    assert!(plan.has_changes());
    apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap();
    assert!(verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    assert!(!fixture.plan().await.has_changes());
}

#[tokio::test]
async fn an_envelope_that_does_not_open_is_not_taken_for_a_stale_index() {
    let fixture = Fixture::new(60);
    let plan = fixture.plan().await;
    let canary = ApplyOptions { canary: Some(50), ..ApplyOptions::default() };
    apply(&fixture.session, &plan, &canary, &Silent).await.unwrap();
    let lost = "UPDATE users SET note = (SELECT note FROM users WHERE id = 1) WHERE id = 2";
    fixture.app.execute(lost, []).unwrap();
    let before = fixture.rows();
    let error = apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlaintextFound);
    assert!(error.to_string().contains("id=2"), "{error}");
    assert_eq!(fixture.rows()[1], before[1]);
}
