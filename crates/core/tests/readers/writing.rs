//! What is written in a format is of that format: this crate's readers open it, and so do the libraries themselves.

use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use enfold_core::Form;
use enfold_core::readers::{Error, Foreign, Secret, cell, fits};
use serde_json::{Value as Json, json};

use crate::vectors::{cases, format, secret};

const NOW: u64 = 1_700_000_000;

/// A declaration with keys, as the policy has them.
struct Declared {
    settings: Json,
    keys: Vec<Secret>,
    wrong_keys: Vec<Secret>,
}

/// Every format that writes: those of the vectors, and each layout in each encoding.
fn declared() -> Vec<Declared> {
    let of_vectors = cases().into_iter().filter(|case| case.format.is_writable());
    let mut all: Vec<Declared> = of_vectors
        .map(|case| Declared { settings: case.settings, keys: case.keys, wrong_keys: case.wrong_keys })
        .collect();
    let layouts = [
        json!({}),
        json!({ "parts": ["iv", "ciphertext"] }),
        json!({ "parts": ["tag", "iv", "ciphertext"], "prefix": "enc:", "associated_data": "field" }),
        json!({ "separator": ":" }),
        json!({ "separator": ".", "parts": ["iv", "tag", "ciphertext"], "prefix": "v1." }),
        json!({ "fields": { "iv": "iv", "ciphertext": "content", "tag": "authTag" } }),
        json!({ "fields": { "ciphertext": "data" }, "associated_data": "field" }),
    ];
    for layout in &layouts {
        for encoding in ["raw", "hex", "base64", "base64url", "base64-unpadded", "base64url-unpadded"] {
            let alone = layout.get("separator").is_some() || layout.get("fields").is_some();
            for iv_bytes in if cfg!(feature = "fips") { &[12][..] } else { &[12, 16] } {
                if encoding != "raw" || !alone {
                    all.push(aes(layout, &json!({ "encoding": encoding, "iv_bytes": iv_bytes })));
                }
            }
        }
    }
    let derivations = [
        json!({ "derive": "sha256" }),
        json!({ "derive": "pbkdf2-sha1", "salt": "salt", "iterations": 1000 }),
        json!({ "derive": "hkdf-sha256" }),
        json!({ "derive": "scrypt", "salt": "salt" }),
    ];
    all.extend(derivations.iter().map(|derive| aes(derive, &json!({ "encoding": "base64" }))));
    all
}

fn aes(settings: &Json, more: &Json) -> Declared {
    let mut all = json!({ "format": "aes-256-gcm", "key_encoding": "text" });
    for (name, value) in [settings, more].iter().flat_map(|settings| settings.as_object().unwrap()) {
        all[name] = value.clone();
    }
    let keys = ["thirty-two bytes of an old key!!", "thirty-two bytes of another one!"].map(secret);
    let [key, wrong] = keys;
    Declared { settings: all, keys: vec![key], wrong_keys: vec![wrong] }
}

/// What people store, and what they do not: nothing, bytes that are no text, what looks like a value of a format already.
fn plaintexts() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> =
        ["", "a", "ann@example.com", "Zoë Müller, 東京", "gAAAAABl", "enf1:AAAA", "{\"iv\":\"x\"}"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec();
    all.extend([vec![0, 255, 128], vec![b'x'; 16], vec![b'y'; 4097]]);
    all
}

#[test]
fn what_is_written_opens_is_recognised_and_is_another_each_time() {
    for Declared { settings, keys, wrong_keys } in declared() {
        let format = format(&settings);
        let (reader, others) = (format.with_keys(&keys).unwrap(), format.with_keys(&wrong_keys).unwrap());
        let writer = format.writer(&keys).unwrap();
        for plaintext in plaintexts() {
            let [one, other] = [(); 2].map(|()| writer.write(&plaintext, NOW).unwrap());
            assert_ne!(one, other, "{settings}");
            for written in [one, other] {
                let value = Foreign::from(&written[..]);
                assert!(format.recognises(&value), "{settings}");
                assert_eq!(reader.open(&value).unwrap()[..], plaintext, "{settings}");
                assert!(others.open(&value).is_err(), "{settings}");
            }
        }
    }
}

/// A key that was rotated out opens what it sealed, and seals nothing.
#[test]
fn the_first_key_writes() {
    for Declared { settings, keys, wrong_keys } in declared() {
        let format = format(&settings);
        let all = [keys.clone(), wrong_keys].concat();
        let written = format.writer(&all).unwrap().write(b"ann", NOW).unwrap();
        assert_eq!(&format.with_keys(&keys[..1]).unwrap().open(&Foreign::from(&written[..])).unwrap()[..], b"ann");
        assert!(matches!(format.writer(&[]), Err(Error::Key(_))), "{settings}");
    }
}

// A FIPS build leaves IVs of 16 bytes out.

#[test]
fn python_opens_what_is_written() {
    let opened = opened_by(Command::new("python"), include_str!("open.py"), "-c", |_| true);
    assert!(opened > if cfg!(feature = "fips") { 500 } else { 800 }, "{opened}");
}

#[test]
fn node_opens_what_is_written() {
    let opened =
        opened_by(Command::new("node"), include_str!("open.cjs"), "-e", |settings| settings["format"] == "aes-256-gcm");
    assert!(opened > if cfg!(feature = "fips") { 480 } else { 700 }, "{opened}");
}

/// Writes every plaintext in every format that `takes` takes, and has a program open them all; how many there were.
fn opened_by(mut program: Command, script: &str, flag: &str, takes: impl Fn(&Json) -> bool) -> usize {
    let (mut asked, mut expected) = (Vec::new(), Vec::new());
    for Declared { settings, keys, .. } in declared().into_iter().filter(|declared| takes(&declared.settings)) {
        // The libraries that derive Fernet's keys are not among what the tests install.
        if !["fernet", "aes-256-gcm"].contains(&settings["format"].as_str().unwrap()) {
            continue;
        }
        let writer = format(&settings).writer(&keys).unwrap();
        let written = plaintexts().into_iter().map(|plain| STANDARD.encode(writer.write(&plain, NOW).unwrap()));
        let texts = keys.iter().map(|key| std::str::from_utf8(key).unwrap().to_owned());
        asked.push(json!({
            "reader": settings,
            "keys": texts.collect::<Vec<_>>(),
            "values": written.collect::<Vec<_>>(),
        }));
        expected.extend(plaintexts());
    }
    let mut child = program
        .args([flag, script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/deps.sh installs it");
    child.stdin.take().unwrap().write_all(Json::from(asked).to_string().as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    assert!(ran.status.success());
    let opened: Vec<String> = serde_json::from_slice(&ran.stdout).unwrap();
    let opened: Vec<Vec<u8>> = opened.iter().map(|text| STANDARD.decode(text).unwrap()).collect();
    assert!(opened == expected);
    opened.len()
}

#[test]
fn a_format_that_is_not_written_says_so() {
    let not_written = cases().into_iter().filter(|case| !case.format.is_writable());
    let mut names = Vec::new();
    for case in not_written {
        assert_eq!(case.format.writer(&case.keys).err(), Some(Error::Unsupported("writing in this format")));
        names.push(case.name);
    }
    assert!(names.iter().any(|name| name == "aes_gcm_node_beside") && names.iter().any(|name| name == "cloak"));
    let with_version = aes(&json!({ "prefix": "v{version}:" }), &json!({ "encoding": "base64" }));
    assert!(!format(&with_version.settings).is_writable());
}

/// In JSON an object is the cell, and a text a string, even one that is JSON by chance.
#[test]
fn a_cell_of_each_form_gives_back_what_went_into_it() {
    for Declared { settings, keys, .. } in declared() {
        let format = format(&settings);
        let written = format.writer(&keys).unwrap().write(b"ann", NOW).unwrap();
        for form in [Form::Text, Form::Bytes, Form::Json] {
            let Ok(stored) = cell(form, written.clone()) else {
                assert!(settings["encoding"] == "raw" && form != Form::Bytes, "{settings}");
                continue;
            };
            assert!(fits(form, &stored), "{settings}");
            let value = Foreign::new(form, &stored, &[]);
            assert_eq!(format.with_keys(&keys).unwrap().open(&value).unwrap()[..], *b"ann", "{settings} {form:?}");
        }
    }
    assert_eq!(cell(Form::Json, b"123".to_vec()).unwrap(), b"\"123\"");
    assert_eq!(cell(Form::Json, b"{\"iv\":\"x\"}".to_vec()).unwrap(), b"{\"iv\":\"x\"}");
    assert!(cell(Form::Text, b"a\0".to_vec()).is_err());
}
