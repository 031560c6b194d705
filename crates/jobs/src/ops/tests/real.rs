//! The same way in and out with the policy's own keys: local root key, catalog in the database, signed states.

use enfold::policy::{self, Mode, Variables};
use enfold::{CallContext, Enfold, Form, Part, PayloadType, Place};
use rusqlite::Connection;

use super::super::{
    ApplyOptions, Pace, PlanOptions, Selection, Session, Silent, apply, enforce, plan, rollback, verify,
};
use super::{POLICY, SCHEMA};

async fn open(folder: &std::path::Path) -> (Enfold, Session) {
    let policy = policy::parse(POLICY, &folder.join("enfold.toml"), &Variables::new()).unwrap();
    let enfold = Enfold::open(policy).await.unwrap();
    let db = crate::connect(&enfold.policy().database, None).await.unwrap();
    let session = Session::over(enfold.clone(), db, &CallContext::new("test", "conversion")).unwrap();
    (enfold, session)
}

fn notes(app: &Connection) -> Vec<String> {
    let mut statement = app.prepare("SELECT note FROM users ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn the_library_reads_what_a_job_sealed_and_a_job_takes_back_what_the_library_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let app = Connection::open(folder.path().join("app.db")).unwrap();
    app.execute_batch(SCHEMA).unwrap();
    app.execute_batch(
        "INSERT INTO users (id, org, email, note) VALUES (1, 1, 'Ann@Example.org', 'first'), (2, 2, NULL, 'second')",
    )
    .unwrap();
    let (enfold, session) = open(folder.path()).await;
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();

    let context = CallContext::new("test", "reading");
    let email = enfold.column("users.email").unwrap();
    assert_eq!(email.mode().await.unwrap(), Mode::Hybrid);
    let place = Place::tenant(Part::Int(1));
    let (stored, index): (String, Vec<u8>) =
        app.query_row("SELECT email, email_eq FROM users WHERE id = 1", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    let opened = email.open(&context, &place, Form::Text, stored.as_bytes()).await.unwrap();
    assert_eq!(&opened.value[..], b"Ann@Example.org");
    assert_eq!(email.index_to_store(&context, "eq", &place, " ann@example.ORG").await.unwrap(), index);

    // The application writes on, in envelopes of its own.
    let note = enfold.column("users.note").unwrap();
    let sealed = note.seal(&context, &place, Form::Text, PayloadType::Text, "third".as_bytes()).await.unwrap();
    app.execute("INSERT INTO users (id, org, note) VALUES (3, 1, ?)", [String::from_utf8(sealed).unwrap()]).unwrap();
    assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    enforce(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(note.mode().await.unwrap(), Mode::Kms);

    rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(notes(&app), ["first", "second", "third"]);
    assert_eq!(note.mode().await.unwrap(), Mode::Legacy);
}

#[tokio::test]
async fn a_second_process_goes_on_with_the_keys_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let app = Connection::open(folder.path().join("app.db")).unwrap();
    app.execute_batch(SCHEMA).unwrap();
    for n in 0..300 {
        app.execute("INSERT INTO users (org, note) VALUES (?, ?)", rusqlite::params![n % 3, format!("note {n}")])
            .unwrap();
    }
    {
        let (_, session) = open(folder.path()).await;
        let shown = plan(&session, &PlanOptions::default()).await.unwrap();
        let canary = ApplyOptions { canary: Some(100), ..ApplyOptions::default() };
        apply(&session, &shown, &canary, &Silent).await.unwrap();
    }
    let (_, session) = open(folder.path()).await;
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();
    assert!(notes(&app).iter().all(|note| note.starts_with("enf1:")));
    assert!(verify(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
}
