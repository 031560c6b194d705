//! Reads the published vectors through the public interface alone, as an application would.

use std::path::PathBuf;

use enfold_core::index::{BlindIndex, IndexSpec, Normaliser};
use enfold_core::mac::RowMac;
use enfold_core::wrap::{KeyUnwrap, WrapContext};
use enfold_core::{
    Binding, DataKey, Envelope, Error, Form, KeyId, Kind, Malformed, Opened, Opener, OwnedPart, Part, PayloadType,
    danger, record, stored, text,
};
use serde_json::Value;

#[test]
fn every_good_vector_opens_and_every_bad_one_is_refused_for_its_reason() {
    let (mut opened, mut refused) = (0, 0);
    for (name, case) in cases("open") {
        match (open(&case), case["result"].as_str().unwrap()) {
            (Ok(value), "opens") => {
                assert_eq!(&value.plaintext[..], unhex(&case["plaintext"]), "{name}");
                let payload = match case["payload"].as_str().unwrap() {
                    "bytes" => PayloadType::Bytes,
                    "text" => PayloadType::Text,
                    "json" => PayloadType::Json,
                    other => panic!("{name}: {other}"),
                };
                assert_eq!(value.payload, payload, "{name}");
                opened += 1;
            }
            (Err(error), "refused") => {
                assert_eq!(word(error), case["error"].as_str().unwrap(), "{name}: {error}");
                refused += 1;
            }
            (Ok(_), _) => panic!("{name} was opened"),
            (Err(error), _) => panic!("{name}: {error}"),
        }
    }
    assert!(opened >= 28 && refused >= 50, "{opened} opened, {refused} refused");
}

#[test]
fn every_index_vector_comes_out_and_no_two_are_alike() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, case) in cases("index") {
        let values: Vec<&str> =
            case["values"].as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect();
        let tenant = case.get("tenant").map(part);
        let index = BlindIndex::new(&key(&case["index_key"]), key_id(&case), spec(&case)).unwrap();
        let computed = index.compute(tenant.as_ref().map(OwnedPart::as_part), &values).unwrap();
        assert_eq!(computed, unhex(&case["index"]), "{name}");
        assert_eq!(computed.len(), index.value_len(), "{name}");
        if let Some(other) = seen.insert(computed, name.clone()) {
            panic!("{name} is {other}");
        }
    }
    assert!(seen.len() >= 15);
}

#[test]
fn every_wrapped_key_vector_is_unwrapped_or_refused() {
    let cases = cases("unwrap");
    assert!(cases.len() >= 3);
    for (name, case) in cases {
        let fields: Vec<OwnedPart> = case["fields"].as_array().unwrap().iter().map(part).collect();
        let fields: Vec<Part<'_>> = fields.iter().map(OwnedPart::as_part).collect();
        let unwrapped = KeyUnwrap::new(&key(&case["data_key"]), key_id(&case))
            .unwrap(&unhex(&case["wrapped"]), &WrapContext::of(&fields));
        match case["result"].as_str().unwrap() {
            "opens" => assert_eq!(&danger::expose(&unwrapped.unwrap())[..], unhex(&case["key"]), "{name}"),
            _ => assert_eq!(unwrapped.err(), Some(Error::UnwrapFailed), "{name}"),
        }
    }
}

#[test]
fn every_row_tag_vector_comes_out() {
    let cases = cases("tag");
    assert!(!cases.is_empty());
    for (name, case) in cases {
        let fields: Vec<OwnedPart> = case["fields"].as_array().unwrap().iter().map(part).collect();
        let fields: Vec<Part<'_>> = fields.iter().map(OwnedPart::as_part).collect();
        let mac = RowMac::new(&key(&case["data_key"]), key_id(&case)).unwrap();
        assert_eq!(mac.tag(&fields).to_vec(), unhex(&case["tag"]), "{name}");
        assert_eq!(mac.check_value().to_vec(), unhex(&case["check_value"]), "{name}");
    }
}

fn open(case: &Value) -> enfold_core::Result<Opened> {
    let text = case["stored"].as_str().unwrap();
    let bytes = match case["form"].as_str().unwrap() {
        "binary" => unhex(&case["stored"]),
        "text" => text::decode(text)?,
        "json" => stored::decode(Form::Json, text.as_bytes())?,
        other => panic!("form {other}"),
    };
    let envelope = Envelope::parse(&bytes)?;
    let binding = binding(&case["binding"]);
    if envelope.kind() == Kind::InlineRoot {
        return record::open_with(&key(&case["record_key"]), &envelope, &binding);
    }
    Opener::new(&key(&case["data_key"]), key_id(case)).open(&envelope, &binding)
}

fn cases(does: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../vectors");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if case["does"] == does {
                cases.push((path.file_stem().unwrap().to_str().unwrap().to_owned(), case));
            }
        }
    }
    cases.sort_by(|(one, _), (other, _)| one.cmp(other));
    cases
}

fn binding(place: &Value) -> Binding {
    let tenant = place.get("tenant").map(part);
    let row_key: Vec<OwnedPart> =
        place.get("row_key").map_or(vec![], |key| key.as_array().unwrap().iter().map(part).collect());
    let row_key: Vec<Part<'_>> = row_key.iter().map(OwnedPart::as_part).collect();
    Binding::new(place["ring"].as_str().unwrap(), place["column"].as_str().unwrap())
        .tenant(tenant.as_ref().map(OwnedPart::as_part))
        .row_key(&row_key)
}

fn part(part: &Value) -> OwnedPart {
    let (kind, value) = part.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "text" => OwnedPart::Text(value.as_str().unwrap().into()),
        "int" => OwnedPart::Int(value.as_str().unwrap().parse().unwrap()),
        "uuid" => OwnedPart::Uuid(unhex(value).try_into().unwrap()),
        "bytes" => OwnedPart::Bytes(unhex(value)),
        other => panic!("part {other}"),
    }
}

fn spec(case: &Value) -> IndexSpec {
    let number = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
    let step = |step: &Value| match (step.as_str(), step.as_object().and_then(|step| step.iter().next())) {
        (Some("trim"), _) => Normaliser::Trim,
        (Some("lower"), _) => Normaliser::Lower,
        (Some("nfkc"), _) => Normaliser::Nfkc,
        (Some("digits"), _) => Normaliser::Digits,
        (Some("email"), _) => Normaliser::Email,
        (_, Some((name, n))) if name == "last" => Normaliser::LastN(number(n)),
        (_, Some((name, n))) if name == "word_prefix" => Normaliser::WordPrefix(number(n)),
        _ => panic!("step {step}"),
    };
    IndexSpec {
        ring_id: case["ring"].as_str().unwrap().into(),
        column_ids: case["columns"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().into()).collect(),
        name: case["name"].as_str().unwrap().into(),
        normalise: case["normalise"].as_array().unwrap().iter().map(step).collect(),
        bits: number(&case["bits"]),
        unique: false,
        cross_tenant: case["cross_tenant"].as_bool().unwrap(),
        generation: number(&case["generation"]),
    }
}

fn key(value: &Value) -> DataKey {
    DataKey::from_slice(&mut unhex(value)).unwrap()
}

fn key_id(case: &Value) -> KeyId {
    case["key_id"].as_str().unwrap().parse().unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn word(error: Error) -> &'static str {
    match error {
        Error::Malformed(
            Malformed::Magic
            | Malformed::Prefix
            | Malformed::Truncated
            | Malformed::Base64
            | Malformed::Version
            | Malformed::Kind
            | Malformed::Payload
            | Malformed::Padding
            | Malformed::Wrapped
            | Malformed::TooLarge
            | Malformed::Json,
        ) => "malformed",
        Error::NewerVersion { .. } => "newer-version",
        Error::UnknownSuite { .. } => "unknown-suite",
        Error::OpenFailed => "open-failed",
        Error::KeyMismatch => "key-mismatch",
        other => panic!("{other}"),
    }
}
