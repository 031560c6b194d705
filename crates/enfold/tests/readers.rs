//! Columns that are read as other products encrypted them, until they are converted.

mod common;

use std::os::unix::fs::PermissionsExt;

use common::{POLICY, World, code, open, seal, set_mode, who};
use enfold::events::EventKind;
use enfold::policy::Mode;
use enfold::{Code, Column, Enfold, Form, OpenRequest, Place, Result, Source};
use serde_json::Value as Json;

const READERS: &str = r#"
[tables.people.columns.email]
id = "people.email"
ring = "wide"
reads = ["fernet", "lockbox", "gcm"]
[tables.people.columns.email.indexes.eq]
[tables.people.columns.photo]
id = "people.photo"
ring = "wide"
reads = ["passphrase"]
[tables.people.columns.name]
id = "people.name"
ring = "wide"
reads = ["passphrase"]

[readers.fernet]
format = "fernet"
key_files = ["fernet.key"]
[readers.lockbox]
format = "lockbox"
key_files = ["lockbox.key"]
[readers.gcm]
format = "aes-256-gcm"
key_encoding = "hex"
key_files = ["gcm.key"]
[readers.passphrase]
format = "pgcrypto"
key_files = ["passphrase"]
"#;

/// A stored value and what it is, of a file of `vectors/foreign`.
struct Vector {
    stored: Vec<u8>,
    plaintext: String,
}

fn vectors(name: &str) -> (Vec<String>, Vec<Vector>) {
    let path = format!("{}/../../vectors/foreign/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let case: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let keys = case["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    let value = |value: &Json| {
        let stored = match value["stored"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => unhex(value["stored_hex"].as_str().unwrap()),
        };
        Some(Vector { stored, plaintext: value["plaintext"].as_str()?.to_owned() })
    };
    (keys, case["values"].as_array().unwrap().iter().filter_map(value).collect())
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn world() -> World {
    let world = World::new();
    for (file, vector) in [("fernet.key", "fernet"), ("gcm.key", "aes_gcm_base64"), ("passphrase", "pgcrypto")] {
        key_file(&world, file, &vectors(vector).0[0]);
    }
    key_file(&world, "lockbox.key", &"0b".repeat(32));
    world
}

fn key_file(world: &World, name: &str, key: &str) {
    let path = world.dir.path().join(name);
    std::fs::write(&path, format!("{key}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

async fn operators(world: &World) -> Enfold {
    operators_of(world, &format!("{POLICY}{READERS}")).await.unwrap()
}

async fn operators_of(world: &World, policy: &str) -> Result<Enfold> {
    world.builder_for(world.policy(policy)).prepare().build().await
}

async fn email(world: &World, mode: Mode) -> Column {
    let enfold = operators(world).await;
    set_mode(&enfold, "people.email", mode).await;
    enfold.column("people.email").unwrap()
}

#[tokio::test]
async fn legacy_and_hybrid_read_what_was_encrypted_beside_envelopes_and_plaintext() {
    let world = world();
    let (_, values) = vectors("fernet");
    for mode in [Mode::Legacy, Mode::Hybrid] {
        let column = email(&world, mode).await;
        let sealed = seal(&column.for_conversion(), Place::none(), "carl").await.unwrap();
        let requests = [&values[2].stored[..], b"bob@example.com", &sealed, &values[3].stored];
        let requests =
            requests.map(|stored| OpenRequest { place: Place::none(), form: Form::Text, stored, beside: &[] });
        let opened = column.open_many(&who(), &requests).await;
        let opened: Vec<_> = opened.into_iter().map(std::result::Result::unwrap).collect();
        let texts: Vec<_> = opened.iter().map(|o| std::str::from_utf8(&o.value).unwrap()).collect();
        assert_eq!(texts, [&values[2].plaintext, "bob@example.com", "carl", &values[3].plaintext]);
        assert_eq!(opened[0].source, Source::Format { reader: "fernet".into() });
        assert_eq!(opened[1].source, Source::Plaintext);
        assert!(matches!(opened[2].source, Source::Envelope { .. }));
    }
}

/// A damaged value, and one of another key, are errors: never handed out as they are stored.
#[tokio::test]
async fn what_a_reader_recognises_and_does_not_open_is_never_plaintext() {
    let world = world();
    let column = email(&world, Mode::Hybrid).await;
    let (_, values) = vectors("fernet");
    let mut damaged = values[2].stored.clone();
    damaged[40] ^= 1;
    let error = open(&column, Place::none(), &damaged).await.unwrap_err();
    assert_eq!(error.code(), Code::OpenFailed);
    assert!(error.to_string().contains("reader `fernet` recognises it"), "{error}");
    let cut = &values[2].stored[..50];
    assert_eq!(code(open(&column, Place::none(), cut).await), Code::OpenFailed);
    let (_, others) = vectors("sqlalchemy_utils_fernet");
    assert_eq!(code(open(&column, Place::none(), &others[2].stored).await), Code::OpenFailed);
}

/// Lockbox and AES-GCM in base64 look the same: the second is tried where the first does not open.
#[tokio::test]
async fn readers_are_tried_in_the_order_of_the_policy() {
    let world = world();
    let column = email(&world, Mode::Hybrid).await;
    let (_, values) = vectors("aes_gcm_base64");
    assert_eq!(column.reader_of(Form::Text, &values[2].stored, &[]), Some("lockbox"));
    let opened = column.open(&who(), &Place::none(), Form::Text, &values[2].stored).await.unwrap();
    assert_eq!(&opened.value[..], values[2].plaintext.as_bytes());
    assert_eq!(opened.source, Source::Format { reader: "gcm".into() });
    assert_eq!(column.reader_of(Form::Text, b"ann@example.com", &[]), None);
    let sealed = seal(&column, Place::none(), "ann").await.unwrap();
    assert_eq!(column.reader_of(Form::Text, &sealed, &[]), None);
}

#[tokio::test]
async fn kms_reads_envelopes_only_whatever_readers_there_are() {
    let world = world();
    let column = email(&world, Mode::Kms).await;
    let (_, values) = vectors("fernet");
    assert_eq!(code(open(&column, Place::none(), &values[2].stored).await), Code::PlaintextRefused);
    let converting = column.for_conversion();
    assert_eq!(open(&converting, Place::none(), &values[2].stored).await.unwrap(), values[2].plaintext);
}

/// Plaintext where there was ciphertext would be a step back.
#[tokio::test]
async fn legacy_does_not_write_plaintext_beside_ciphertext() {
    let world = world();
    let column = email(&world, Mode::Legacy).await;
    assert_eq!(code(seal(&column, Place::none(), "ann").await), Code::PlaintextRefused);
    let column = email(&world, Mode::Hybrid).await;
    assert!(seal(&column, Place::none(), "ann").await.unwrap().starts_with(b"enf1:"));
}

#[tokio::test]
async fn a_reader_stays_in_the_policy_until_the_column_is_enforced() {
    let world = world();
    let without = format!("{POLICY}{}", READERS.replace("\"fernet\", ", ""));
    email(&world, Mode::Legacy).await;
    assert!(operators_of(&world, &without).await.is_ok(), "nothing is converted in mode legacy");
    email(&world, Mode::Hybrid).await;
    let error = operators_of(&world, &without).await.err().unwrap();
    assert_eq!(error.code(), Code::ReaderMissing);
    assert!(error.hints().any(|hint| hint.contains("put `fernet` back")), "{error}");
    // Another order, or one more, is no loss.
    let turned =
        format!("{POLICY}{}", READERS.replace("\"fernet\", \"lockbox\"", "\"lockbox\", \"passphrase\", \"fernet\""));
    assert!(operators_of(&world, &turned).await.is_ok());
    email(&world, Mode::Kms).await;
    assert!(operators_of(&world, &without).await.is_ok());
    let none = format!("{POLICY}{}", READERS.replace("reads = [\"fernet\", \"lockbox\", \"gcm\"]", ""));
    assert!(operators_of(&world, &none).await.is_ok());
}

/// After enforcing, the old key is proved unnecessary by starting without it; before, only its own values miss it.
#[tokio::test]
async fn a_key_that_is_gone_is_missed_by_the_values_that_need_it_alone() {
    let world = world();
    std::fs::remove_file(world.dir.path().join("fernet.key")).unwrap();
    let (_, values) = vectors("fernet");
    let column = email(&world, Mode::Hybrid).await;
    let sealed = seal(&column, Place::none(), "ann").await.unwrap();
    assert_eq!(open(&column, Place::none(), &sealed).await.unwrap(), "ann");
    assert_eq!(open(&column, Place::none(), b"bob").await.unwrap(), "bob");
    assert_eq!(code(open(&column, Place::none(), &values[2].stored).await), Code::KeyFileInvalid);
    key_file(&world, "fernet.key", "no key at all");
    assert_eq!(code(open(&column, Place::none(), &values[2].stored).await), Code::ReaderKeyInvalid);
    // It is looked for again: whoever puts it there needs no restart.
    key_file(&world, "fernet.key", &vectors("fernet").0[0]);
    assert_eq!(open(&column, Place::none(), &values[2].stored).await.unwrap(), values[2].plaintext);
    std::fs::remove_file(world.dir.path().join("fernet.key")).unwrap();
    let column = email(&world, Mode::Kms).await;
    assert_eq!(open(&column, Place::none(), &sealed).await.unwrap(), "ann");
}

#[tokio::test]
async fn bytes_are_read_in_a_column_of_bytes_and_refused_as_text() {
    let world = world();
    let enfold = operators(&world).await;
    let photo = enfold.column("people.photo").unwrap();
    let (_, values) = vectors("pgcrypto");
    let opened = photo.open(&who(), &Place::none(), Form::Bytes, &values[3].stored).await.unwrap();
    assert_eq!(&opened.value[..], values[3].plaintext.as_bytes());
    // The message of a value of bytes, as the vectors have one, taken for text.
    let path = format!("{}/../../vectors/foreign/pgcrypto.json", env!("CARGO_MANIFEST_DIR"));
    let case: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let binary = case["values"].as_array().unwrap().iter().find(|v| v["plaintext_hex"] == "00ff").unwrap();
    let stored = unhex(binary["stored_hex"].as_str().unwrap());
    let opened = photo.open(&who(), &Place::none(), Form::Bytes, &stored).await.unwrap();
    assert_eq!(&opened.value[..], [0, 255]);
    let name = enfold.column("people.name").unwrap();
    let error = name.open(&who(), &Place::none(), Form::Text, &stored).await.err().unwrap();
    assert_eq!(error.code(), Code::ValueInvalid);
}

#[tokio::test]
async fn a_json_cell_opens_to_json_or_not_at_all() {
    let world = world();
    let column = email(&world, Mode::Hybrid).await;
    let (_, values) = vectors("fernet");
    let cell = serde_json::to_vec(std::str::from_utf8(&values[2].stored).unwrap()).unwrap();
    let error = column.open(&who(), &Place::none(), Form::Json, &cell).await.err().unwrap();
    assert_eq!(error.code(), Code::ValueInvalid, "an address is no JSON");
}

#[tokio::test]
async fn what_was_opened_is_counted_in_the_log() {
    let world = world();
    let enfold = operators(&world).await;
    let column = enfold.column("people.email").unwrap();
    let (_, values) = vectors("fernet");
    let requests: Vec<OpenRequest<'_>> = values[..5]
        .iter()
        .map(|v| OpenRequest { place: Place::none(), form: Form::Text, stored: &v.stored, beside: &[] })
        .collect();
    assert!(column.open_many(&who(), &requests).await.iter().all(std::result::Result::is_ok));
    enfold.flush().await.unwrap();
    let events = world.sink.0.lock().unwrap();
    let opened = events.iter().filter(|event| event.kind == EventKind::Open && event.key.is_none());
    assert_eq!(opened.map(|event| event.count).sum::<u64>(), 5);
}

#[tokio::test]
async fn whether_the_keys_of_readers_are_there_is_told_without_a_value_and_whether_they_are_needed() {
    let world = world();
    let health = async |enfold: &Enfold| {
        let found = enfold.reader_health().await.unwrap();
        let ready = |ready: &Result<()>| ready.as_ref().map_or_else(|error| error.code().word(), |()| "ready");
        found
            .iter()
            .map(|f| format!("{} {} {} {}", f.reader, f.columns, f.needed_by, ready(&f.ready)))
            .collect::<Vec<_>>()
    };
    let enfold = operators(&world).await;
    assert_eq!(
        health(&enfold).await,
        ["fernet 1 1 ready", "gcm 1 1 ready", "lockbox 1 1 ready", "passphrase 2 2 ready"]
    );
    // A process that starts afresh, with what somebody did to the files.
    key_file(&world, "fernet.key", "hunter2hunter2");
    std::fs::remove_file(world.dir.path().join("gcm.key")).unwrap();
    std::fs::set_permissions(world.dir.path().join("passphrase"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let enfold = operators(&world).await;
    assert_eq!(
        health(&enfold).await,
        [
            "fernet 1 1 reader-key-invalid",
            "gcm 1 1 key-file-invalid",
            "lockbox 1 1 ready",
            "passphrase 2 2 key-file-permissions"
        ]
    );
    for found in enfold.reader_health().await.unwrap() {
        assert!(!format!("{found:?}").contains("hunter2"), "a key is never told");
    }
    set_mode(&enfold, "people.email", Mode::Kms).await;
    set_mode(&enfold, "people.photo", Mode::Kms).await;
    let needed: Vec<_> = enfold.reader_health().await.unwrap().iter().map(|found| found.needed_by).collect();
    assert_eq!(needed, [0, 0, 0, 1], "the passphrase is of two columns");
}

/// One column, one process, one batch: what seven products made, envelopes and plaintext between them.
#[tokio::test]
async fn one_column_holds_values_of_seven_formats_beside_envelopes_and_plaintext() {
    const FORMATS: [&str; 7] = [
        "fernet",
        "cloak",
        "laravel_aes_256_gcm",
        "rails_sha256",
        "pgcrypto_armor",
        "aes_gcm_base64url_prefix_and_context",
        "aes_gcm_json_scrypt",
    ];
    let world = World::new();
    let mut policy = format!(
        "{POLICY}\n[tables.people.columns.email]\nid = \"people.email\"\nring = \"wide\"\nreads = {FORMATS:?}\n"
    );
    let mut stored = Vec::new();
    for format in FORMATS {
        let path = format!("{}/../../vectors/foreign/{format}.json", env!("CARGO_MANIFEST_DIR"));
        let case: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (keys, values) = vectors(format);
        let files: Vec<String> = (0..keys.len()).map(|n| format!("{format}-{n}.key")).collect();
        files.iter().zip(&keys).for_each(|(file, key)| key_file(&world, file, key));
        policy.push_str(&format!("[readers.{format}]\nkey_files = {files:?}\n"));
        for (name, value) in case["reader"].as_object().unwrap() {
            match value.as_object() {
                None => policy.push_str(&format!("{name} = {value}\n")),
                Some(parts) => {
                    let parts: Vec<String> = parts.iter().map(|(part, name)| format!("{part} = {name}")).collect();
                    policy.push_str(&format!("{name} = {{ {} }}\n", parts.join(", ")));
                }
            }
        }
        let source = Source::Format { reader: format.to_owned() };
        stored.extend(values.into_iter().take(3).map(|value| (value.stored, value.plaintext, Some(source.clone()))));
    }
    let enfold = operators_of(&world, &policy).await.unwrap();
    set_mode(&enfold, "people.email", Mode::Hybrid).await;
    let column = enfold.column("people.email").unwrap();
    for n in 0..4 {
        let value = format!("number {n}");
        let sealed = seal(&column, Place::none(), &value).await.unwrap();
        stored.insert(n * 5, (sealed, value.clone(), None));
        stored.insert(n * 5, (value.clone().into_bytes(), value, Some(Source::Plaintext)));
    }
    let request = |(stored, _, _): &'_ (Vec<u8>, String, Option<Source>)| stored.clone();
    let bytes: Vec<Vec<u8>> = stored.iter().map(request).collect();
    let requests: Vec<OpenRequest<'_>> = bytes
        .iter()
        .map(|stored| OpenRequest { place: Place::none(), form: Form::Text, stored, beside: &[] })
        .collect();
    for (opened, (_, is, source)) in column.open_many(&who(), &requests).await.into_iter().zip(&stored) {
        let opened = opened.unwrap();
        assert_eq!(std::str::from_utf8(&opened.value).unwrap(), is);
        match source {
            Some(source) => assert_eq!(opened.source, *source),
            None => assert!(matches!(opened.source, Source::Envelope { .. })),
        }
    }
}
