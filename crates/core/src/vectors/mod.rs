//! Makes the files of `vectors/`, one a case, and checks that they are current.
//!
//! Salts and nonces are fixed from the case's name, so the files are the same on every machine; nothing outside tests
//! can fix them. `tests/vectors.rs` and `tests/reader/` read the files without this module.
//!
//! To write them anew: `ENFOLD_BLESS=1 cargo test -p enfold-core vectors`

mod keys;
mod refused;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::cipher::Nonces;
use crate::derive::Purpose;
use crate::envelope::header_start;
use crate::layout::{NONCE_LEN, SALT_LEN};
use crate::seal::{Associated, SealItem, seal_under};
use crate::subkey::Subkey;
use crate::wrap::{WrapContext, record_context, wrap_under};
use crate::{Binding, DataKey, Kind, OwnedPart, Padding, PayloadType};

const DATA_KEY: [u8; 32] = sequence(0x00);
const OTHER_KEY: [u8; 32] = sequence(0x60);
const RECORD_KEY: [u8; 32] = sequence(0x40);
const KEY_ID: [u8; 16] = sequence(0xa0);
const OTHER_KEY_ID: [u8; 16] = sequence(0xb0);

/// A place that prints itself into a vector and makes a binding.
#[derive(Clone)]
struct Place {
    ring: &'static str,
    column: &'static str,
    tenant: Option<OwnedPart>,
    row_key: Vec<OwnedPart>,
}

/// A value to seal, and under what.
#[derive(Clone)]
struct Subject {
    place: Place,
    kind: Kind,
    payload: PayloadType,
    padding: Padding,
    plaintext: Vec<u8>,
}

#[test]
fn the_vectors_are_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let cases: BTreeMap<String, String> = values::cases()
        .into_iter()
        .chain(refused::cases())
        .chain(keys::cases())
        .map(|(name, case)| (format!("{name}.json"), serde_json::to_string_pretty(&case).unwrap() + "\n"))
        .collect();
    if std::env::var_os("ENFOLD_BLESS").is_some() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                std::fs::remove_file(path).unwrap();
            }
        }
        cases.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
    }
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found.insert(
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                std::fs::read_to_string(&path).unwrap(),
            );
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), cases.keys().collect::<Vec<_>>());
    for (name, text) in &cases {
        assert_eq!(&found[name], text, "{name} is stale: ENFOLD_BLESS=1 cargo test -p enfold-core vectors");
    }
}

const fn sequence<const N: usize>(from: u8) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        #[allow(clippy::cast_possible_truncation, reason = "N is at most 32")]
        let step = at as u8;
        bytes[at] = from + step;
        at += 1;
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(bytes: [u8; 32]) -> DataKey {
    DataKey::from_bytes(&mut { bytes })
}

fn id(bytes: [u8; 16]) -> crate::KeyId {
    crate::KeyId::from_bytes(bytes)
}

/// Bytes that look random and follow from a name.
fn drawn<const N: usize>(name: &str, what: &str) -> [u8; N] {
    let digest = digest::digest(&digest::SHA256, format!("{name} {what}").as_bytes());
    *digest.as_ref().first_chunk().unwrap()
}

impl Place {
    fn plain() -> Self {
        Self { ring: "main", column: "users.email", tenant: Some(OwnedPart::Int(7)), row_key: Vec::new() }
    }

    fn binding(&self) -> Binding {
        let row_key: Vec<_> = self.row_key.iter().map(OwnedPart::as_part).collect();
        Binding::new(self.ring, self.column).tenant(self.tenant.as_ref().map(OwnedPart::as_part)).row_key(&row_key)
    }

    fn json(&self) -> Value {
        let mut place = json!({ "ring": self.ring, "column": self.column });
        if let Some(tenant) = &self.tenant {
            place["tenant"] = part(tenant);
        }
        if !self.row_key.is_empty() {
            place["row_key"] = self.row_key.iter().map(part).collect();
        }
        place
    }
}

/// Integers are decimal strings: not every JSON reader holds 64 bits.
fn part(part: &OwnedPart) -> Value {
    match part {
        OwnedPart::Text(text) => json!({ "text": text }),
        OwnedPart::Int(int) => json!({ "int": int.to_string() }),
        OwnedPart::Uuid(uuid) => json!({ "uuid": hex(uuid) }),
        OwnedPart::Bytes(bytes) => json!({ "bytes": hex(bytes) }),
    }
}

impl Subject {
    fn text(plaintext: &str) -> Self {
        Self {
            place: Place::plain(),
            kind: Kind::ByReference,
            payload: PayloadType::Text,
            padding: Padding::None,
            plaintext: plaintext.as_bytes().to_vec(),
        }
    }

    fn subkey(&self, name: &str) -> Subkey {
        let sealing = if self.kind == Kind::ByReference { DATA_KEY } else { RECORD_KEY };
        Subkey::derive(&key(sealing), id(KEY_ID), Purpose::Value, &drawn::<SALT_LEN>(name, "salt")).unwrap()
    }

    fn wrapped(&self, name: &str) -> Option<Vec<u8>> {
        match self.kind {
            Kind::ByReference => None,
            Kind::InlineRing => Some(wrapped(name, &record_context(&self.place.binding()))),
            Kind::InlineRoot => Some(b"what the key service made of the record key".to_vec()),
        }
    }

    /// Seals with the salt and the nonce that follow from the case's name.
    fn seal(&self, name: &str) -> Vec<u8> {
        let binding = self.place.binding();
        let start = header_start(self.kind, id(KEY_ID), self.wrapped(name).as_deref()).unwrap();
        let item =
            SealItem { binding: &binding, payload: self.payload, padding: self.padding, plaintext: &self.plaintext };
        let nonce = drawn::<NONCE_LEN>(name, "nonce");
        seal_under(&self.subkey(name), &start, &item, &mut Nonces::fixed(&nonce), &mut Associated::new()).unwrap()
    }

    /// What a case says whatever its outcome: the key that its reader has, and the place.
    fn case(&self, says: &str) -> Value {
        let mut case = json!({ "says": says, "does": "open" });
        match self.kind {
            Kind::InlineRoot => case["record_key"] = hex(&RECORD_KEY).into(),
            _ => case["data_key"] = hex(&DATA_KEY).into(),
        }
        case["key_id"] = hex(&KEY_ID).into();
        case["binding"] = self.place.json();
        case
    }
}

/// The record key under the data key, for a place.
fn wrapped(name: &str, context: &WrapContext) -> Vec<u8> {
    let salt = drawn::<SALT_LEN>(name, "wrap salt");
    let subkey = Subkey::derive(&key(DATA_KEY), id(KEY_ID), Purpose::Wrap, &salt).unwrap();
    let nonce = drawn::<NONCE_LEN>(name, "wrap nonce");
    wrap_under(&subkey, &key(RECORD_KEY), context, &mut Nonces::fixed(&nonce)).unwrap()
}

fn payload_name(payload: PayloadType) -> &'static str {
    match payload {
        PayloadType::Bytes => "bytes",
        PayloadType::Text => "text",
        PayloadType::Json => "json",
    }
}
