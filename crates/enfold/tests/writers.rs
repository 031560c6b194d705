//! Columns that are written in mode `legacy` as the application wrote them before, for those of its processes that read no envelopes.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::events::EventKind;
use enfold::policy::Mode;
use enfold::{Code, Column, Enfold, Form, PayloadType, Place, Result, SealRequest, Source};

/// 32 bytes in URL-safe base64, of tests alone.
const KEYS: [&str; 2] =
    ["dGhpcnR5LXR3byBieXRlcyBvZiBhbiBvbGQga2V5ISE=", "dGhpcnR5LXR3byBieXRlcyBvZiBhbm90aGVyIG9uZSE="];

const COLUMN: &str = r#"
[tables.people.columns.email]
id = "people.email"
ring = "wide"
reads = ["tokens", "layout"]
writes = "tokens"
[tables.people.columns.email.indexes.eq]
[readers.tokens]
format = "fernet"
key_files = ["tokens.key"]
[readers.layout]
format = "aes-256-gcm"
key_encoding = "base64"
key_files = ["layout.key"]
"#;

fn world() -> World {
    let world = World::new();
    key_file(&world, "tokens.key", KEYS[0]);
    key_file(&world, "layout.key", KEYS[0]);
    world
}

fn key_file(world: &World, name: &str, key: &str) {
    let path = world.dir.path().join(name);
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn process(world: &World, column: &str) -> Result<Enfold> {
    world.builder_for(world.policy(&format!("{POLICY}{column}"))).prepare().build().await
}

async fn email(world: &World, mode: Mode) -> (Enfold, Column) {
    let enfold = process(world, COLUMN).await.unwrap();
    set_mode(&enfold, "people.email", mode).await;
    let column = enfold.column("people.email").unwrap();
    (enfold, column)
}

#[tokio::test]
async fn in_legacy_a_value_is_written_as_its_reader_reads_it_and_in_hybrid_sealed() {
    let world = world();
    let (enfold, column) = email(&world, Mode::Legacy).await;
    let written = seal(&column, Place::none(), "ann@example.com").await.unwrap();
    assert!(written.starts_with(b"gAAAAA"));
    let opened = column.open(&who(), &Place::none(), Form::Text, &written).await.unwrap();
    assert_eq!(&opened.value[..], b"ann@example.com");
    assert_eq!(opened.source, Source::Format { reader: "tokens".into() });
    for mode in [Mode::Hybrid, Mode::Kms] {
        set_mode(&enfold, "people.email", mode).await;
        assert!(seal(&column, Place::none(), "ann").await.unwrap().starts_with(b"enf1:"), "{mode:?}");
    }
    for mode in [Mode::Hybrid, Mode::Legacy] {
        set_mode(&enfold, "people.email", mode).await;
        assert_eq!(open(&column, Place::none(), &written).await.unwrap(), "ann@example.com", "{mode:?}");
    }
    assert!(seal(&column, Place::none(), "bob").await.unwrap().starts_with(b"gAAAAA"));
}

/// What somebody typed is a value, whatever it looks like.
#[tokio::test]
async fn a_value_that_looks_sealed_or_encrypted_is_written_like_any_other() {
    let world = world();
    let (_, column) = email(&world, Mode::Legacy).await;
    let sealed = seal(&column.for_conversion(), Place::none(), "carl").await.unwrap();
    let token = seal(&column, Place::none(), "ann").await.unwrap();
    for typed in [&sealed, &token, &b"enf1:AAAA"[..].to_vec(), &b"gAAAAA"[..].to_vec(), &Vec::new()] {
        let typed = std::str::from_utf8(typed).unwrap();
        let written = seal(&column, Place::none(), typed).await.unwrap();
        assert_eq!(open(&column, Place::none(), &written).await.unwrap(), typed);
    }
}

#[tokio::test]
async fn what_could_not_be_read_again_is_not_written() {
    let world = world();
    let (_, column) = email(&world, Mode::Legacy).await;
    let write = async |form, value: &[u8]| column.seal(&who(), &Place::none(), form, PayloadType::Bytes, value).await;
    for (form, value) in [(Form::Text, &b"\xff"[..]), (Form::Text, b"a\0b"), (Form::Json, b"ann")] {
        assert_eq!(code(write(form, value).await), Code::ValueInvalid, "{form:?}");
    }
    assert!(write(Form::Bytes, b"\xff\0").await.is_ok());
    let cell = write(Form::Json, b"{\"a\": 1}").await.unwrap();
    assert!(cell.starts_with(b"\"gAAAAA") && cell.ends_with(b"\""));
    let opened = column.open(&who(), &Place::none(), Form::Json, &cell).await.unwrap();
    assert_eq!(&opened.value[..], b"{\"a\": 1}");
}

/// Nothing is stored in the clear by a process whose policy was left behind: it reads, or does nothing at all.
#[tokio::test]
async fn a_process_whose_policy_lacks_the_writer_or_the_reader_writes_nothing() {
    let world = world();
    email(&world, Mode::Legacy).await;
    let no_writer = process(&world, &COLUMN.replace("writes = \"tokens\"", "")).await.unwrap();
    let column = no_writer.column("people.email").unwrap();
    let error = seal(&column, Place::none(), "ann").await.unwrap_err();
    assert_eq!(error.code(), Code::PlaintextRefused);
    assert!(error.hints().any(|hint| hint.contains("`writes`")), "{error}");
    let no_reader = COLUMN.replace("[\"tokens\", \"layout\"]", "[\"tokens\"]");
    assert_eq!(process(&world, &no_reader).await.err().unwrap().code(), Code::ReaderMissing);
    let nothing = COLUMN.replace("reads = [\"tokens\", \"layout\"]\nwrites = \"tokens\"", "");
    assert_eq!(process(&world, &nothing).await.err().unwrap().code(), Code::ReaderMissing);
    // In another of the column's formats it may write: every reader of the column opens it.
    let other = process(&world, &COLUMN.replace("writes = \"tokens\"", "writes = \"layout\"")).await.unwrap();
    let written = seal(&other.column("people.email").unwrap(), Place::none(), "ann").await.unwrap();
    assert_eq!(open(&column, Place::none(), &written).await.unwrap(), "ann");
}

#[tokio::test]
async fn the_first_key_writes_and_a_key_that_is_missing_is_said() {
    let world = world();
    key_file(&world, "tokens.key", &format!("{},{}", KEYS[1], KEYS[0]));
    let (_, column) = email(&world, Mode::Legacy).await;
    let written = seal(&column, Place::none(), "ann").await.unwrap();
    key_file(&world, "tokens.key", KEYS[1]);
    let (enfold, column) = email(&world, Mode::Legacy).await;
    assert_eq!(open(&column, Place::none(), &written).await.unwrap(), "ann");
    std::fs::remove_file(world.dir.path().join("tokens.key")).unwrap();
    let late = process(&world, COLUMN).await.unwrap();
    assert_eq!(code(seal(&late.column("people.email").unwrap(), Place::none(), "ann").await), Code::KeyFileInvalid);
    assert!(late.reader_health().await.unwrap()[1].ready.is_err());
    assert!(enfold.reader_health().await.unwrap().iter().all(|found| found.ready.is_ok()));
}

#[tokio::test]
async fn what_is_written_is_counted_and_is_found_by_its_blind_index() {
    let world = world();
    let (enfold, column) = email(&world, Mode::Legacy).await;
    let requests = ["ann", "bob", "carl"].map(|value| SealRequest {
        place: Place::none(),
        form: Form::Text,
        payload: PayloadType::Text,
        value: value.as_bytes(),
    });
    assert!(column.seal_many(&who(), &requests).await.iter().all(std::result::Result::is_ok));
    let stored = column.index_to_store(&who(), "eq", &Place::none(), "ann").await.unwrap();
    set_mode(&enfold, "people.email", Mode::Kms).await;
    assert_eq!(column.lookup(&who(), "eq", &Place::none(), "ann").await.unwrap(), [stored]);
    enfold.flush().await.unwrap();
    let events = world.sink.0.lock().unwrap();
    let written = events.iter().filter(|event| event.kind == EventKind::Seal && event.key.is_none());
    assert_eq!(written.map(|event| event.count).sum::<u64>(), 3);
}

/// As a job takes values back: in the policy's format and no other.
#[tokio::test]
async fn values_are_written_back_whatever_the_mode_is_and_in_no_other_format() {
    let world = world();
    let (_, column) = email(&world, Mode::Kms).await;
    let request = SealRequest { place: Place::none(), form: Form::Text, payload: PayloadType::Text, value: b"ann" };
    let written = column.write_back_many(&who(), "tokens", &[request]).await.remove(0).unwrap();
    assert_eq!(open(&column.for_conversion(), Place::none(), &written).await.unwrap(), "ann");
    let refused = column.write_back_many(&who(), "layout", &[request]).await.remove(0);
    assert_eq!(code(refused), Code::ReaderMissing);
}
