//! What a server writes into its log of a conversion, where it writes all that it can.

use enfold::policy::{self, Variables};
use enfold::{CallContext, Code, Enfold, Form, PayloadType, Place};
use enfold_jobs::ops::{ApplyOptions, Pace, PlanOptions, Selection, Session, Silent, apply, plan, rollback};
use enfold_testkit::postgres;
use enfold_testkit::postgres_private::Server;

use crate::fixture::{column, policy_text, shadowed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_text_that_is_no_value_of_the_type_is_a_row_error_and_in_no_log() {
    let server = Server::start(&[
        ("log_statement", "'all'"),
        ("log_min_duration_statement", "0"),
        ("log_error_verbosity", "verbose"),
    ]);
    let app = postgres::connect(&server.config()).await;
    let schema = "CREATE TABLE people (id int PRIMARY KEY, born date, profile jsonb); \
                  INSERT INTO people SELECT n, date '1950-01-01' + n, jsonb_build_object('email', 'Mail' || n) FROM generate_series(1, 40) n";
    app.batch_execute(schema).await.unwrap();
    let columns = format!("{}{}", shadowed("born"), column("email", "within = \"profile\"\npath = \"$.email\""));
    let folder = tempfile::tempdir().unwrap();
    let text = policy_text("", &columns).replace("DATABASE", &server.url());
    let policy = policy::parse(&text, &folder.path().join("enfold.toml"), &Variables::new()).unwrap();
    let enfold = Enfold::open(policy).await.unwrap();
    let db = enfold_jobs::connect(&enfold.policy().database, Some(&enfold.policy().jobs)).await.unwrap();
    let context = CallContext::new("test", "conversion");
    let session = Session::over(enfold.clone(), db, &context).unwrap();
    let told = server.log().len();
    let shown = plan(&session, &PlanOptions::default()).await.unwrap();
    apply(&session, &shown, &ApplyOptions::default(), &Silent).await.unwrap();

    let seal = async |name: &str, form, payload, value: &str| {
        let column = enfold.column(&format!("public.people.{name}")).unwrap();
        let sealed = column.seal(&context, &Place::none(), form, payload, value.as_bytes()).await.unwrap();
        String::from_utf8(sealed).unwrap()
    };
    let born = seal("born", Form::Text, PayloadType::Text, "the-29th-of-Sometember").await;
    app.execute("UPDATE people SET born_enf = $1 WHERE id = 7", &[&born]).await.unwrap();
    let email = seal("email", Form::Json, PayloadType::Json, "Unquoted@example.org").await;
    app.execute("UPDATE people SET profile = jsonb_set(profile, '{email}', $1::text::jsonb) WHERE id = 8", &[&email])
        .await
        .unwrap();

    let error = rollback(&session, &Selection::All, &Pace::default(), &Silent).await.unwrap_err();
    assert_eq!(error.code(), Code::RowsFailed);
    assert!(
        error.causes().any(|cause| cause.contains("id=7")) && error.causes().any(|cause| cause.contains("id=8")),
        "{error}"
    );
    let left = "SELECT count(*) FROM people WHERE born IS NULL OR profile ->> 'email' ~ '^enf1:'";
    assert_eq!(app.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 2);
    let log = server.log().split_off(told);
    assert!(log.contains("UPDATE ONLY"), "statements are logged");
    for value in ["Sometember", "Unquoted", "Mail12", "1950-01-13"] {
        assert!(!log.contains(value), "{value} is in the log");
    }
}
