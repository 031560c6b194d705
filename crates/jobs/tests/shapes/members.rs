//! Members of JSON documents: sealed in their places, with the rest of each document as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use enfold::{CallContext, Code, Form, PayloadType, Whose};
use enfold_core::stored;
use enfold_jobs::ops::{
    Pace, Reencryption, Selection, Silent, WorkOptions, apply, audit, plan_reencryption, probes, request_reencryption,
    residue, rollback, verify, work,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::fixture::{Fixture, column};

fn member(name: &str, path: &str) -> String {
    column(name, &format!("within = \"profile\"\npath = '''{path}'''"))
}

fn contact() -> String {
    [member("email", "$.contact.email"), member("phone", "$.contact.phone"), member("odd", r#"$."it's \"odd\"""#)]
        .concat()
}

const SCHEMA: &str = r#"
    CREATE TABLE people (id int PRIMARY KEY, org int NOT NULL, profile jsonb, name text);
    CREATE INDEX people_profile ON people USING gin (profile);
    INSERT INTO people SELECT n, 1, jsonb_build_object('n', n, 'tags', '["a", 1.50, null]'::jsonb, 'contact',
        jsonb_build_object('email', 'p' || n || '@example.org', 'phone', n * 1.50, 'fax', 'f' || n)), 'Name ' || n
    FROM generate_series(1, 300) n;
    INSERT INTO people VALUES
        (1001, 1, NULL), (1002, 1, '{}'), (1003, 1, '"text"'), (1004, 1, '7'), (1005, 1, '[1, {"contact": 2}]'),
        (1006, 1, '{"contact": "text"}'), (1007, 1, '{"contact": ["email"], "it''s \"odd\"": {"a": [1, "é 漢"]}}'),
        (1008, 1, '{"contact": {"email": null, "phone": {"home": [1.0, true], "": ""}}}'), (1009, 1, '{"contact": {"phone": false}}'),
        (1010, 1, '{"contact": {"email": "", "phone": "\u0001\\ \""}}'), (1011, 1, '{"email": "elsewhere", "contact": null}');
    CREATE TABLE before AS SELECT * FROM people; ANALYZE people;"#;

/// Documents without the members.
const REST: &str = "SELECT id || ' ' || coalesce(CASE WHEN jsonb_typeof(profile -> 'contact') = 'object' \
    THEN profile #- '{contact,email}' #- '{contact,phone}' ELSE profile END::text, '-') FROM people WHERE id <> 1007 ORDER BY id";
/// Members that are there and no envelopes.
const PLAIN: &str = "profile #> '{contact,email}' IS NOT NULL AND profile #>> '{contact,email}' !~ '^enf1:' \
    OR profile #> '{contact,phone}' IS NOT NULL AND profile #>> '{contact,phone}' !~ '^enf1:' \
    OR jsonb_typeof(profile -> 'it''s \"odd\"') <> 'string'";

impl Fixture {
    /// Documents whose stored image is another than it was.
    async fn changed(&self) -> i64 {
        let sql = "SELECT count(*) FROM people p FULL JOIN before b USING (id) \
                   WHERE record_image_eq(ROW(p.profile, p.name), ROW(b.profile, b.name)) IS NOT TRUE";
        self.app.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn sealed_member(&self, name: &str, json: &str) -> String {
        let column = self.enfold.column(&format!("public.people.{name}")).unwrap();
        let context = CallContext::new("test", "writing");
        let sealed =
            column.seal(&context, &self.place(), Form::Json, PayloadType::Json, json.as_bytes()).await.unwrap();
        String::from_utf8(sealed).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_sealed_enforced_and_come_back_and_the_rest_of_the_document_stays() {
    let columns = format!("{}{}", contact(), column("name", ""));
    let fixture = Fixture::with(SCHEMA, "tenant = \"org\"", &columns).await;
    let rest = fixture.texts(REST).await;
    let shown = fixture.plan().await;
    let email = shown.tables[0].columns.iter().find(|column| column.name == "email").unwrap();
    assert_eq!((email.census.rows, email.census.plaintext, email.census.nulls), (311, 302, 9));
    fixture.apply().await;
    assert_eq!(fixture.count(PLAIN).await, 0);
    assert_eq!(fixture.texts(REST).await, rest);
    assert_eq!(fixture.count("name !~ '^enf1:'").await, 0);
    assert!(!fixture.plan().await.has_changes());
    // The index serves other members; it is not dropped.
    assert_eq!(
        fixture.texts("SELECT indexname::text FROM pg_indexes WHERE indexname = 'people_profile'").await.len(),
        1
    );

    let handle = fixture.enfold.column("public.people.phone").unwrap();
    let stored = &fixture.texts("SELECT (profile #> '{contact,phone}')::text FROM people WHERE id = 1008").await[0];
    let context = CallContext::new("test", "reading");
    let opened = handle.open(&context, &fixture.place(), Form::Json, stored.as_bytes()).await.unwrap();
    assert_eq!((&opened.value[..], opened.payload), (&br#"{"": "", "home": [1.0, true]}"#[..], PayloadType::Json));

    let verified = verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap();
    assert!(verified.is_clean());
    let audited = audit(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, None).await.unwrap();
    assert!(!audited.leaks(), "{audited:?}");
    let known = probes(&fixture.session, &Selection::All, 100).await.unwrap();
    assert!(known["public.people"].iter().any(|probe| probe.column == "email"));
    residue(fixture.session.db.as_ref(), &fixture.session.policy, &Selection::All, &known).await.unwrap();

    fixture.enforce().await;
    assert!(
        fixture
            .refuses("UPDATE people SET profile = jsonb_set(profile, '{contact,email}', '\"plain\"') WHERE id = 1")
            .await
    );
    assert!(fixture.refuses("INSERT INTO people VALUES (2000, 1, '{\"contact\": {\"phone\": 1}}', NULL)").await);
    fixture.run("UPDATE people SET profile = jsonb_set(profile, '{contact,fax}', '\"f1\"') WHERE id = 1").await;
    // An envelope is bound to its tenant.
    let moved = fixture.app.batch_execute("UPDATE people SET org = 2 WHERE id = 1008").await.unwrap_err();
    assert_eq!(moved.code(), Some(&tokio_postgres::error::SqlState::INTEGRITY_CONSTRAINT_VIOLATION));
    fixture.run("UPDATE people SET org = 1 WHERE id = 1008").await;

    // One of them alone, and then the rest.
    let some = Selection::columns(&fixture.session.policy, &["public.people.email".to_owned()]).unwrap();
    rollback(&fixture.session, &some, &Pace::default(), &Silent).await.unwrap();
    assert_eq!(fixture.count("profile #>> '{contact,email}' ~ '^enf1:'").await, 0);
    assert!(fixture.count("profile #>> '{contact,phone}' ~ '^enf1:'").await > 300);
    fixture.rollback().await;
    assert_eq!(fixture.changed().await, 0);
    let checks = "SELECT conname::text FROM pg_constraint WHERE conrelid = 'people'::regclass AND contype = 'c' UNION ALL \
                  SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'people'::regclass";
    assert_eq!(fixture.texts(checks).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_of_other_members_lose_nothing_and_old_writers_are_sealed_by_the_next_sweep() {
    let fixture = Fixture::new(SCHEMA, &contact()).await.shared();
    let stop = Arc::new(AtomicBool::new(false));
    let (client, stopped) = (fixture.database.connect().await, Arc::clone(&stop));
    let writing = tokio::spawn(async move {
        let mut n: i32 = 0;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            let id = n * 37 % 300 + 1;
            let sql = "UPDATE people SET profile = jsonb_set(profile, '{visits}', to_jsonb(coalesce((profile ->> 'visits')::int, 0) + 1)) WHERE id = $1";
            assert_eq!(client.execute(sql, &[&id]).await.expect("nothing is refused"), 1);
            tokio::task::yield_now().await;
        }
        i64::from(n)
    });
    fixture.apply().await;
    stop.store(true, Ordering::Relaxed);
    let written = writing.await.unwrap();
    assert!(written > 20, "they wrote");
    let visits = "SELECT sum((profile ->> 'visits')::int)::int8 FROM people WHERE jsonb_typeof(profile) = 'object'";
    assert_eq!(fixture.app.query_one(visits, &[]).await.unwrap().get::<_, i64>(0), written);
    assert_eq!(fixture.count(PLAIN).await, 0);

    // A program that knows nothing of it, and one that writes the form with sidecar fields.
    let sealed = fixture.sealed_member("phone", "\"+44\"").await;
    let text: String = serde_json::from_str(&sealed).unwrap();
    let object = stored::encode_object(&enfold_core::text::decode(&text).unwrap(), &[("last", "44".into())]);
    fixture
        .run(&format!(
            "UPDATE people SET profile = '{{\"contact\": {{\"email\": \"new@example.org\", \"phone\": {object}}}}}' WHERE id = 1001"
        ))
        .await;
    let shown = fixture.plan().await;
    assert!(shown.has_changes());
    apply(&fixture.session, &shown, &Default::default(), &Silent).await.unwrap();
    assert_eq!(
        fixture
            .count(
                "id = 1001 AND profile #>> '{contact,email}' ~ '^enf1:' AND profile #>> '{contact,phone,last}' = '44'"
            )
            .await,
        1
    );
    assert!(verify(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.unwrap().is_clean());
    fixture.rollback().await;
    let back = "SELECT profile::text FROM people WHERE id = 1001";
    assert_eq!(fixture.texts(back).await, [r#"{"contact": {"email": "new@example.org", "phone": "+44"}}"#]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blind_index_over_a_member_is_over_its_characters_and_keeps_it_unique() {
    let index = "[tables.\"public.people\".columns.email.indexes.eq]\ncolumn = \"email_eq\"\nnormalise = [\"lower\"]\nunique = true\n";
    let fixture = Fixture::new(
        "CREATE TABLE people (id int PRIMARY KEY, profile jsonb);
         INSERT INTO people SELECT n, jsonb_build_object('contact', jsonb_build_object('email', 'P' || n || '@Example.org')) FROM generate_series(1, 100) n;
         INSERT INTO people VALUES (101, '{\"contact\": {\"email\": 7}}');
         CREATE UNIQUE INDEX people_email ON people ((profile #>> '{contact,email}'))",
        &format!("{}{index}", member("email", "$.contact.email")),
    )
    .await;
    fixture.apply().await;
    let handle = fixture.enfold.column("public.people.email").unwrap();
    let context = CallContext::new("test", "looking up");
    for (value, wanted) in [("p42@example.org", 42), ("7", 101)] {
        let index = handle.index_to_store(&context, "eq", &fixture.place(), value).await.unwrap();
        let found = fixture.app.query("SELECT id FROM people WHERE email_eq = $1", &[&index]).await.unwrap();
        assert_eq!(found.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [wanted]);
    }
    fixture.run("INSERT INTO people VALUES (200, '{\"contact\": {\"email\": \"p42@EXAMPLE.org\"}}')").await;
    let shown = fixture.plan().await;
    let error = apply(&fixture.session, &shown, &Default::default(), &Silent).await.unwrap_err();
    assert!(matches!(error.code(), Code::RowsFailed | Code::PlanRefused), "{error}");
    assert_eq!(fixture.count("profile #>> '{contact,email}' !~ '^enf1:'").await, 1);
}

/// Documents in which each of the members may be anything, anywhere.
fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        "[ -~é漢\u{1}]{0,12}".prop_map(Into::into),
    ];
    let key = prop_oneof![Just("contact"), Just("email"), Just("phone"), Just("it's \"odd\""), Just("0"), Just("")];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            proptest::collection::hash_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_document_is_it_comes_back_bit_for_bit() {
    let mut runner = TestRunner::new(Config::default());
    let mut schema = "CREATE TABLE people (id int PRIMARY KEY, profile jsonb, name text);".to_owned();
    for id in 0..800 {
        let document = document().new_tree(&mut runner).expect("a document").current();
        // Half of them have the outer member for certain.
        let document = if id % 2 == 0 { document } else { serde_json::json!({ "contact": document, "n": id }) };
        let text = document.to_string().replace('\'', "''");
        schema.push_str(&format!("INSERT INTO people VALUES ({id}, '{text}', 'name');"));
    }
    schema.push_str("CREATE TABLE before AS SELECT * FROM people");
    let fixture = Fixture::new(&schema, &format!("{}{}", contact(), column("name", ""))).await;
    fixture.apply().await;
    assert_eq!(fixture.count(PLAIN).await, 0);
    assert!(fixture.count("profile #>> '{contact,email}' ~ '^enf1:'").await > 20);
    fixture.enforce().await;
    fixture.rollback().await;
    assert_eq!(fixture.changed().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_of_a_member_is_refused() {
    let columns = [
        member("email", "$.contact.email"),
        column("told", "within = \"old\"\npath = \"$.a\""),
        column("strict", "within = \"typed\"\npath = \"$.a\""),
        column("code", "within = \"checked\"\npath = \"$.code\""),
        column("marked", "within = \"bare\"\npath = \"$.a\"\nmarks = { version = \"v\" }"),
    ]
    .concat();
    let fixture = Fixture::new(
        "CREATE DOMAIN short AS jsonb CHECK (length(VALUE ->> 'a') < 10);
         CREATE TABLE people (id int PRIMARY KEY, profile jsonb, old json, typed short, checked jsonb CHECK (checked ->> 'code' ~ '^[0-9]+$'),
             bare jsonb CHECK (bare - 'a' = '{}'));
         INSERT INTO people VALUES (1, '{}', '{}', '{\"a\": \"b\"}', '{\"code\": \"7\"}', '{\"a\": 1}');
         CREATE UNIQUE INDEX people_email ON people ((profile #>> '{contact,email}'))",
        &columns,
    )
    .await;
    let facts = fixture.facts().await;
    let mut refused: Vec<(&str, &str)> =
        facts.refusals.iter().map(|f| (f.column.as_deref().unwrap_or_default(), f.word.as_str())).collect();
    refused.sort_unstable();
    let wanted = [
        ("code", "check-constraint"),
        ("email", "unique-without-blind-index"),
        ("marked", "check-constraint"),
        ("strict", "domain-check"),
        ("told", "json-path"),
    ];
    assert_eq!(refused, wanted, "{:?}", facts.refusals);
    assert!(facts.refusals.iter().all(|f| f.way_out.is_some()));
    let missing = Fixture::new("CREATE TABLE people (id int PRIMARY KEY)", &member("email", "$.contact.email")).await;
    let error = enfold_jobs::ops::plan(&missing.session, &Default::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::TableMissing);
}

/// Marks in documents that have them, have them not, or have them otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_beside_a_member_say_that_it_is_sealed_and_under_which_version() {
    let schema = r#"CREATE TABLE people (id int PRIMARY KEY, org int NOT NULL, profile jsonb);
        INSERT INTO people SELECT n, 1, jsonb_build_object('contact', jsonb_build_object('email', 'p' || n, 'fax', n)) ||
            CASE WHEN n % 3 = 0 THEN '{"is_encrypted": "elsewhere"}'::jsonb ELSE '{}' END FROM generate_series(1, 250) n;
        UPDATE people SET profile = jsonb_set(profile, '{contact,key_version}', '"k1"') WHERE id % 2 = 0;
        INSERT INTO people VALUES (1001, 1, NULL), (1002, 1, '{"contact": {}}'), (1003, 1, '7'), (1004, 1, '{"contact": 7}');
        ANALYZE people"#;
    let marks = "within = \"profile\"\npath = \"$.contact.email\"\nmarks = { sealed = \"is_encrypted\", version = \"key_version\" }";
    let fixture = Fixture::with(schema, "tenant = \"org\"", &column("email", marks)).await;
    let marked = async |sealed: bool, version: &str| {
        let is = format!(
            "profile -> 'contact' -> 'is_encrypted' = '{sealed}' AND profile -> 'contact' -> 'key_version' = '{version}' \
             AND (profile #>> '{{contact,email}}' ~ '^enf1:') = {sealed}"
        );
        fixture.count(&is).await
    };
    fixture.apply().await;
    assert_eq!(marked(true, "1").await, 250);
    // Nothing came to documents without the member, and what is called alike elsewhere is as it was.
    assert_eq!(fixture.count("id > 1000 AND profile::text ~ 'is_encrypted|key_version'").await, 0);
    assert_eq!(fixture.count("profile ->> 'is_encrypted' = 'elsewhere'").await, 83);

    let who = CallContext::new("test", "rotation");
    fixture.enfold.operator().unwrap().rotate_many("main", Whose::Everybody, &who).await.unwrap();
    let wanted = Reencryption::default();
    let shown = plan_reencryption(&fixture.session, &wanted).await.unwrap();
    request_reencryption(&fixture.session, &wanted, &shown).await.unwrap();
    let options = WorkOptions { name: "one".into(), version: "1".into(), until_idle: true, only: None };
    let report = work(&fixture.session, &options, &Silent).await.unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(marked(true, "2").await, 250);

    // A mark that a trigger changes makes an error of the row, as a value would.
    fixture
        .run(
            "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             IF NEW.id = 7 THEN NEW.profile := jsonb_set(NEW.profile, '{contact,key_version}', '9'); END IF; RETURN NEW; END $$; \
             CREATE TRIGGER stamp BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION stamp()",
        )
        .await;
    let error = rollback(&fixture.session, &Selection::All, &Pace::default(), &Silent).await.err().unwrap();
    assert_eq!(error.code(), Code::RowsFailed, "{error}");
    assert_eq!((marked(true, "2").await, marked(false, "null").await), (1, 249));
    fixture.run("DROP TRIGGER stamp ON people").await;
    fixture.rollback().await;
    assert_eq!(marked(false, "null").await, 250);
}
