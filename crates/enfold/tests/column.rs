//! The column handle: modes, bindings, scopes, lookalikes, results per item.

mod common;

use common::{World, code, open, seal, set_mode, who};
use enfold::events::EventKind;
use enfold::policy::Mode;
use enfold::{Code, Form, IndexRequest, OpenRequest, Part, PayloadType, Place, SealRequest, Source};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const OTHER: Place<'static> = Place::tenant(Part::Text("other"));

#[tokio::test]
async fn legacy_writes_plaintext_and_reads_both() {
    let world = World::new();
    let enfold = world.operators().await;
    let email = enfold.column("users.email").unwrap();
    assert_eq!(email.mode().await.unwrap(), Mode::Legacy);
    assert_eq!(seal(&email, ACME, "ann").await.unwrap(), b"ann");
    let sealed = seal(&email.for_conversion(), ACME, "ann").await.unwrap();
    assert!(sealed.starts_with(b"enf1:"));
    assert_eq!(open(&email, ACME, &sealed).await.unwrap(), "ann");
    assert_eq!(open(&email, ACME, b"bob").await.unwrap(), "bob");
}

#[tokio::test]
async fn hybrid_writes_envelopes_and_reads_both() {
    let world = World::new();
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Hybrid).await;
    let email = enfold.column("users.email").unwrap();
    let sealed = seal(&email, ACME, "ann").await.unwrap();
    assert!(sealed.starts_with(b"enf1:"));
    let opened = email.open(&who(), &ACME, Form::Text, &sealed).await.unwrap();
    assert!(matches!(opened.source, Source::Envelope { .. }));
    let plain = email.open(&who(), &ACME, Form::Text, b"bob").await.unwrap();
    assert_eq!(plain.source, Source::Plaintext);
}

#[tokio::test]
async fn kms_reads_and_writes_envelopes_only() {
    let world = World::new();
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Kms).await;
    let email = enfold.column("users.email").unwrap();
    let sealed = seal(&email, ACME, "ann").await.unwrap();
    assert_eq!(open(&email, ACME, &sealed).await.unwrap(), "ann");
    assert_eq!(code(open(&email, ACME, b"bob").await), Code::PlaintextRefused);
    assert_eq!(open(&email.for_conversion(), ACME, b"bob").await.unwrap(), "bob");
}

#[tokio::test]
async fn every_scope_seals_and_opens_in_every_form() {
    let world = World::new();
    let enfold = world.operators().await;
    for name in ["notes.text", "notes.title", "notes.secret", "notes.locked"] {
        set_mode(&enfold, name, Mode::Kms).await;
        let column = enfold.column(name).unwrap();
        for form in [Form::Text, Form::Bytes, Form::Json] {
            let place = Place::none();
            let stored = column.seal(&who(), &place, form, PayloadType::Text, "grüße".as_bytes()).await.unwrap();
            let opened = column.open(&who(), &place, form, &stored).await.unwrap();
            assert_eq!(&opened.value[..], "grüße".as_bytes(), "{name} {form:?}");
        }
    }
    let token = enfold.value("token").unwrap();
    let sealed = seal(&token, ACME, "t0ken").await.unwrap();
    assert_eq!(open(&token, ACME, &sealed).await.unwrap(), "t0ken");
    assert_eq!(code(open(&token, ACME, b"plain").await), Code::PlaintextRefused);
}

#[tokio::test]
async fn a_value_copied_to_another_tenant_column_or_row_does_not_open() {
    let world = World::new();
    let enfold = world.operators().await;
    for name in ["users.email", "users.name"] {
        set_mode(&enfold, name, Mode::Hybrid).await;
    }
    let (email, name) = (enfold.column("users.email").unwrap(), enfold.column("users.name").unwrap());
    let (row7, row8) = ([Part::Int(7)], [Part::Int(8)]);
    let at = |row| Place { tenant: Some(Part::Text("acme")), row };
    let sealed = seal(&name, at(&row7), "Ann").await.unwrap();
    assert_eq!(open(&name, at(&row7), &sealed).await.unwrap(), "Ann");
    assert_eq!(code(open(&name, at(&row8), &sealed).await), Code::OpenFailed);
    assert_eq!(code(open(&email, at(&row7), &sealed).await), Code::OpenFailed);
    let theirs = Place { tenant: Some(Part::Text("other")), row: &row7 };
    assert_eq!(code(open(&name, theirs, &sealed).await), Code::OpenFailed);
    assert_eq!(code(seal(&name, ACME, "Ann").await), Code::BindingIncomplete);
    assert_eq!(code(seal(&email, Place::none(), "Ann").await), Code::BindingIncomplete);
    assert!(world.refusals(&enfold).await.iter().any(|c| c == "open-failed"));
}

#[tokio::test]
async fn text_that_a_user_typed_is_sealed_whatever_it_begins_with() {
    let world = World::new();
    let enfold = world.operators().await;
    for (column, mode) in [("users.email", Mode::Hybrid), ("users.email", Mode::Kms)] {
        set_mode(&enfold, column, mode).await;
        let email = enfold.column(column).unwrap();
        let envelope = seal(&email, ACME, "x").await.unwrap();
        for typed in ["enf1:", "enf1:hello", std::str::from_utf8(&envelope).unwrap()] {
            let stored = seal(&email, ACME, typed).await.unwrap();
            assert_ne!(stored, typed.as_bytes());
            assert_eq!(open(&email, ACME, &stored).await.unwrap(), typed);
        }
    }
}

#[tokio::test]
async fn a_lookalike_is_refused_unless_the_policy_says_it_is_plaintext() {
    let world = World::new();
    let enfold = world.operators().await;
    let (email, title) = (enfold.column("users.email").unwrap(), enfold.column("notes.title").unwrap());
    assert_eq!(code(open(&email, ACME, b"enf1:hello").await), Code::EnvelopeMalformed);
    assert_eq!(open(&title, Place::none(), b"enf1:hello").await.unwrap(), "enf1:hello");
    // A real envelope that does not open here is never taken for text: it may be stolen, or its key may be gone.
    let stolen = seal(&email.for_conversion(), ACME, "ann").await.unwrap();
    assert!(title.open(&who(), &Place::none(), Form::Text, &stolen).await.is_err());
    set_mode(&enfold, "notes.title", Mode::Kms).await;
    assert_eq!(code(open(&title, Place::none(), b"enf1:hello").await), Code::EnvelopeMalformed);
}

#[tokio::test]
async fn one_bad_value_does_not_hide_the_rest() {
    let world = World::new();
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Hybrid).await;
    let email = enfold.column("users.email").unwrap();
    let values: Vec<SealRequest<'_>> = [ACME, Place::none(), OTHER, ACME]
        .into_iter()
        .map(|place| SealRequest { place, form: Form::Text, payload: PayloadType::Text, value: b"v" })
        .collect();
    let sealed = email.seal_many(&who(), &values).await;
    assert_eq!(sealed.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    let stored: Vec<&[u8]> = vec![sealed[0].as_ref().unwrap(), b"enf1:x", b"plain", sealed[2].as_ref().unwrap()];
    let places = [ACME, ACME, ACME, ACME];
    let wanted: Vec<_> = stored
        .iter()
        .zip(places)
        .map(|(stored, place)| OpenRequest { place, form: Form::Text, stored, beside: &[] })
        .collect();
    let opened = email.open_many(&who(), &wanted).await;
    assert_eq!(opened.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
}

#[tokio::test]
async fn an_index_finds_what_is_equal_within_a_tenant_and_survives_rotation() {
    let world = World::new();
    let enfold = world.operators().await;
    let email = enfold.column("users.email").unwrap();
    let index = async |place, value| email.index_to_store(&who(), "eq", &place, value).await.unwrap();
    let ann = index(ACME, " Ann@Example.com").await;
    assert_eq!(ann, index(ACME, "ann@example.com").await);
    assert_ne!(ann, index(ACME, "bob@example.com").await);
    assert_ne!(ann, index(OTHER, "ann@example.com").await);
    let values = ["ann@example.com"];
    let eq = enfold.index("users.email", "eq").unwrap();
    let many = eq.to_store_many(&who(), &[IndexRequest { place: ACME, values: &values }]).await;
    assert_eq!(many[0].as_ref().unwrap(), &ann);
    assert_eq!(eq.to_store(&who(), &ACME, &values).await.unwrap(), ann);
    assert_eq!(email.lookup(&who(), "eq", &ACME, "ann@example.com").await.unwrap(), [ann]);
    let scopes = world.catalog.keys("ring-main", None, 100).await.unwrap();
    let tenant = scopes.iter().find(|k| k.scope.starts_with("index:")).unwrap().scope.clone();
    assert!(!tenant.contains("acme"), "a tenant is in the catalog as a keyed hash only");
    assert_eq!(code(email.index_to_store(&who(), "none", &ACME, "x").await), Code::UnknownColumn);
}

#[tokio::test]
async fn a_context_that_the_policy_requires_is_required() {
    let world = World::new();
    let policy = format!("{}\n[context]\nrequire_actor = true\nrequire_reason = true\n", common::POLICY);
    let enfold = world.builder_for(world.policy(&policy)).prepare().build().await.unwrap();
    let email = enfold.column("users.email").unwrap();
    let mut context = who();
    context.reason = Some(" ".into());
    let refused = email.seal(&context, &ACME, Form::Text, PayloadType::Text, b"x").await;
    assert_eq!(code(refused), Code::ContextRequired);
    assert_eq!(code(email.index_to_store(&context, "eq", &ACME, "x").await), Code::ContextRequired);
    assert!(seal(&email, ACME, "x").await.is_ok());
    assert_eq!(world.refusals(&enfold).await, ["context-required", "context-required"]);
}

#[tokio::test]
async fn events_say_what_was_done_and_never_a_value() {
    let world = World::new();
    let enfold = world.operators().await;
    set_mode(&enfold, "users.email", Mode::Hybrid).await;
    let email = enfold.column("users.email").unwrap();
    let sealed = seal(&email, ACME, "s3cret-value").await.unwrap();
    open(&email, ACME, &sealed).await.unwrap();
    enfold.flush().await.unwrap();
    let events = world.sink.0.lock().unwrap().clone();
    let kinds = events.iter().map(|e| e.kind).collect::<Vec<_>>();
    for kind in [EventKind::KeyMade, EventKind::Seal, EventKind::Open] {
        assert!(kinds.contains(&kind), "{kind:?} in {kinds:?}");
    }
    let text = events.iter().map(enfold::events::Event::to_json).collect::<String>();
    assert!(text.contains("\"actor\":\"test\"") && text.contains("users.email"));
    assert!(!text.contains("s3cret") && !text.contains("acme"));
}
