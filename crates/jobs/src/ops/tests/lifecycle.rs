//! In, enforced, and out again.

use enfold::Code;
use enfold::events::EventKind;
use enfold::policy::Mode;

use super::super::{Applied, ApplyOptions, Pace, PlanOptions, Selection, Silent, StepState, apply, enforce, plan};
use super::super::{audit, rollback, verify};
use super::{Fixture, POLICY, Witness};
use crate::ops::keys::Reader;

#[tokio::test]
async fn an_applied_plan_leaves_no_plaintext_in_the_file_and_a_rollback_brings_every_value_back() {
    let fixture = Fixture::new(300);
    let before = fixture.rows();
    assert!(fixture.file_holds("Person8@example.org"));
    let plan = fixture.plan().await;
    assert!(!plan.is_refused() && plan.has_changes());
    let report = apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!((report.tables[0].outcome, report.tables[0].rows_changed > 0), (Applied::Protected, true));
    let logged = fixture.logged();
    let of = |kind| logged.iter().filter(move |event| event.kind == kind).map(|event| event.job.clone().unwrap());
    let begun: Vec<_> = of(EventKind::JobStarted).collect();
    assert_eq!(begun, of(EventKind::JobCompleted).collect::<Vec<_>>());
    assert!(logged.iter().any(|event| event.detail.as_deref() == Some("protect `users`") && event.count == 300));
    assert_eq!(fixture.count("email NOT LIKE 'enf1:%' OR note NOT LIKE 'enf1:%'"), 0);
    assert_eq!(fixture.count("email IS NOT NULL AND email_eq IS NULL"), 0);
    assert_eq!(fixture.count("email IS NULL"), 300 / 7);
    assert_eq!(fixture.mode("users.email"), Mode::Hybrid);
    for text in ["Person8@example.org", "note of person"] {
        assert!(!fixture.file_holds(text), "`{text}` is still in the file");
    }
    let audited = audit(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, None).await.unwrap();
    assert!(!audited.leaks());
    let verified = verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(verified.is_clean());
    assert_eq!(verified.tables[0].rows, 300);

    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.rows(), before);
    assert_eq!(fixture.mode("users.email"), Mode::Legacy);
    let columns: u32 =
        fixture.app.query_row("SELECT count(*) FROM pragma_table_info('users')", [], |r| r.get(0)).unwrap();
    assert_eq!(columns, 4, "what Enfold added is gone");
    // And in again.
    let again = fixture.plan().await;
    apply(&fixture.session, &again, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn a_plan_changes_nothing_says_what_it_costs_and_survives_being_saved() {
    let fixture = Fixture::new(60);
    let before = fixture.rows();
    let plan = fixture.plan().await;
    assert_eq!(fixture.rows(), before);
    let table = &plan.tables[0];
    assert_eq!((table.rows, table.columns.len()), (60, 2));
    assert!(table.columns.iter().all(|column| column.converts && column.mode == Mode::Legacy));
    // A data key for the ring, and an index key for each of the three tenants.
    assert_eq!(table.estimate.kms.keys, 1 + 3);
    assert!(table.estimate.kms.exact && table.estimate.grows > 60 * 100 && table.estimate.rows_per_second > 0);
    assert!(table.steps.iter().all(|step| !step.says.is_empty() && !step.locks.is_empty()));
    let saved = super::super::Plan::from_json(&plan.to_json().unwrap()).unwrap();
    assert_eq!(saved.to_json().unwrap(), plan.to_json().unwrap());
    apply(&fixture.session, &saved, &ApplyOptions::default(), &Silent).await.unwrap();
    let nothing = fixture.plan().await;
    assert!(!nothing.has_changes());
}

#[tokio::test]
async fn a_plan_goes_stale_when_the_table_or_the_policy_changes() {
    let fixture = Fixture::new(20);
    let plan = fixture.plan().await;
    let mut for_another_policy = plan.clone();
    for_another_policy.policy_fingerprint = "0".repeat(32);
    let error = apply(&fixture.session, &for_another_policy, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanStale);
    fixture.app.execute_batch("ALTER TABLE users ADD COLUMN nickname TEXT").unwrap();
    let error = apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanStale);
    assert_eq!(fixture.count("note LIKE 'enf1:%'"), 0);
    assert_eq!(fixture.mode("users.email"), Mode::Legacy);
}

#[tokio::test]
async fn a_reader_that_is_not_ready_stops_an_apply_before_anything_changes() {
    let fixture = Fixture::new(20);
    fixture.keys.readers.lock().unwrap().push(Reader {
        name: "billing".into(),
        version: "1.2".into(),
        columns: vec!["users.email".into()],
        ready: Mode::Legacy,
    });
    let plan = fixture.plan().await;
    assert_eq!(plan.tables[0].readers.behind.len(), 1);
    let error = apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::ReadersNotReady);
    assert!(error.causes().any(|cause| cause.contains("billing")));
    assert_eq!(fixture.count("note LIKE 'enf1:%'"), 0);
    fixture.keys.readers.lock().unwrap()[0].ready = Mode::Hybrid;
    apply(&fixture.session, &plan, &ApplyOptions::default(), &Silent).await.unwrap();
}

#[tokio::test]
async fn modes_are_signed_before_the_first_value_is_sealed_and_indexes_are_there_before_that() {
    let fixture = Fixture::new(20);
    let witness = Witness::new();
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &witness).await.unwrap();
    let done = witness.done();
    let at =
        |text: &str| done.iter().position(|says| says.contains(text)).unwrap_or_else(|| panic!("{text}: {done:?}"));
    let order = [
        "readers are ready",
        "add `email_eq`",
        "sign mode hybrid",
        "fill the blind",
        "build the index",
        "refuse changes of `org`",
        "seal every value",
        "rewrite",
        "open every value",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{done:?}");
}

#[tokio::test]
async fn a_value_that_cannot_be_sealed_is_reported_and_all_others_are_sealed() {
    let fixture = Fixture::new(50);
    fixture.app.execute("UPDATE users SET note = 'enf1:typed by hand' WHERE id = 8", []).unwrap();
    let error = apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::RowsFailed);
    let said = error.to_string();
    assert!(said.contains("id=8") && !said.contains("typed by hand"), "{said}");
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%' OR note LIKE 'enf1:typed%'"), 1);
    assert_eq!(fixture.count("email NOT LIKE 'enf1:%'"), 0, "the row's other column is none the worse for it");
    // Settled, and run again.
    fixture.app.execute("UPDATE users SET note = 'settled' WHERE id = 8", []).unwrap();
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn an_enforced_column_refuses_plaintext_in_the_database_itself() {
    let fixture = Fixture::new(40);
    let early = enforce(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(early.code(), Code::PlanRefused, "nothing is protected yet");
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    let report = enforce(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(report.tables[0].taken_off, 0);
    assert_eq!(fixture.mode("users.note"), Mode::Kms);
    for statement in
        ["INSERT INTO users VALUES (999, 1, NULL, 'plain')", "UPDATE users SET note = 'plain' WHERE id = 3"]
    {
        assert!(fixture.app.execute(statement, []).is_err(), "{statement}");
    }
    fixture.app.execute("UPDATE users SET org = org WHERE id = 3", []).unwrap();
    // The way back takes the refusal off first.
    rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    fixture.app.execute("UPDATE users SET note = 'plain' WHERE id = 3", []).unwrap();
}

#[tokio::test]
async fn plaintext_found_under_the_check_takes_it_off_sweeps_and_puts_it_back() {
    let fixture = Fixture::new(40);
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    // An older writer, after the apply.
    fixture.app.execute("INSERT INTO users (id, org, note) VALUES (999, 1, 'late and plain')", []).unwrap();
    let witness = Witness::new();
    let report = enforce(&fixture.session, &Selection::All, &Pace::default(), &witness).await.unwrap();
    assert_eq!(report.tables[0].taken_off, 1);
    assert!(witness.done().iter().any(|says| says.contains("allow plaintext")));
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn an_envelope_that_does_not_open_stops_enforcing_and_leaves_no_check_behind() {
    let fixture = Fixture::new(40);
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    fixture.app.execute_batch("UPDATE users SET note = (SELECT note FROM users WHERE id = 2) WHERE id = 3").unwrap();
    let error = enforce(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlaintextFound);
    assert!(error.to_string().contains("id=3"));
    assert_eq!(fixture.mode("users.note"), Mode::Hybrid);
    fixture.app.execute("UPDATE users SET note = 'plain' WHERE id = 5", []).unwrap();
}

#[tokio::test]
async fn a_pinned_mode_keeps_a_column_from_being_taken_back() {
    let fixture = Fixture::with(10, &POLICY.replace("id = \"c2\"", "id = \"c2\"\nmin_mode = \"hybrid\""));
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    let error = rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::PlanRefused);
    assert_eq!(fixture.count("note NOT LIKE 'enf1:%'"), 0);
}

#[tokio::test]
async fn one_column_goes_back_while_the_other_stays_sealed() {
    let fixture = Fixture::new(30);
    apply(&fixture.session, &fixture.plan().await, &ApplyOptions::default(), &Silent).await.unwrap();
    let note = Selection::columns(&fixture.session.policy, &["users.note".to_owned()]).unwrap();
    rollback(&fixture.session, &note, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("note LIKE 'enf1:%'"), 0);
    assert_eq!(fixture.count("email NOT LIKE 'enf1:%'"), 0);
    assert!(fixture.app.execute("UPDATE users SET org = org + 1 WHERE id = 1", []).is_err(), "still guarded");
}

#[tokio::test]
async fn a_column_that_the_policy_leaves_in_legacy_is_not_touched() {
    let fixture = Fixture::with(10, &POLICY.replace("id = \"c2\"", "id = \"c2\"\nmode = \"legacy\""));
    fixture.app.execute_batch("CREATE INDEX by_note ON users (note); CREATE INDEX by_email ON users (email)").unwrap();
    let witness = Witness::new();
    let plan = plan(&fixture.session, &PlanOptions::default()).await.unwrap();
    apply(&fixture.session, &plan, &ApplyOptions::default(), &witness).await.unwrap();
    assert_eq!(fixture.count("note LIKE 'enf1:%'"), 0);
    assert_eq!(fixture.count("email NOT LIKE 'enf1:%'"), 0);
    assert!(witness.steps.lock().unwrap().iter().any(|step| step.state == StepState::Started));
    let index = "SELECT count(*) FROM sqlite_schema WHERE name = ?";
    let there = |name: &str| fixture.app.query_row(index, [name], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!((there("by_note"), there("by_email")), (1, 0), "the index over plaintext that stays is needed");
}

#[tokio::test]
async fn a_ring_with_one_root_key_is_warned_of_in_production() {
    let warned = async |policy: &str| {
        let plan = Fixture::with(10, policy).plan().await;
        plan.tables[0].warnings.iter().filter(|finding| finding.word == "single-root").count()
    };
    let one = "roots = [\"local:dev.key\"]\nallow_local_in_production = true";
    let production = POLICY.replace("development", "production").replace("roots = [\"local:dev.key\"]", one);
    assert_eq!(warned(&production).await, 1, "once for all columns of the ring");
    assert_eq!(warned(&production.replace("[\"local:dev.key\"]", "[\"local:dev.key\", \"local:b.key\"]")).await, 0);
    assert_eq!(warned(POLICY).await, 0, "a developer's machine");
}

#[tokio::test]
async fn a_plan_names_the_customers_root_keys_and_the_indexes_that_they_do_not_reach() {
    let held = "scope = \"tenant\"\n[rings.main.tenants.7]\ncustomer_key = \"local:theirs.key\"";
    let policy = POLICY.replace("scope = \"ring\"", held);
    let named = async |policy: &str| {
        let plan = Fixture::with(10, policy).plan().await;
        let about = ["customer-key", "index-crosses"];
        let warned = plan.tables[0].warnings.iter().filter(|finding| about.contains(&finding.word.as_str()));
        warned.map(|finding| (finding.word.clone(), finding.column.clone(), finding.says.clone())).collect::<Vec<_>>()
    };
    let found = named(&policy).await;
    assert_eq!((found.len(), found[0].0.as_str()), (1, "customer-key"));
    assert!(found[0].2.contains("tenant `7`") && found[0].2.contains("`local:theirs.key`"), "{found:?}");
    let found = named(&policy.replace("normalise =", "cross_tenant = true\nnormalise =")).await;
    assert_eq!(found.len(), 2);
    assert_eq!((found[1].0.as_str(), found[1].1.as_deref()), ("index-crosses", Some("email")));
    assert!(named(POLICY).await.is_empty());
}
