//! Envelopes that open.

use serde_json::{Value, json};

use super::{Place, Subject, hex, payload_name};
use crate::derive::{Purpose, derive};
use crate::envelope::Envelope;
use crate::seal::Associated;
use crate::{Kind, OwnedPart, Padding, PayloadType, stored, text};

pub(super) fn cases() -> Vec<(&'static str, Value)> {
    let mut cases = Vec::new();
    for (name, says, subject) in subjects() {
        cases.push((name, binary(name, says, &subject)));
    }
    cases.extend(forms());
    cases
}

fn subjects() -> Vec<(&'static str, &'static str, Subject)> {
    let text = Subject::text("anna@example.org");
    let placed = |tenant: Option<OwnedPart>, row_key: Vec<OwnedPart>| Subject {
        place: Place { tenant, row_key, ..Place::plain() },
        ..text.clone()
    };
    let padded = |plaintext: &[u8], block: u32| Subject {
        plaintext: plaintext.to_vec(),
        padding: Padding::Block(block),
        ..text.clone()
    };
    let typed =
        |payload: PayloadType, plaintext: &[u8]| Subject { payload, plaintext: plaintext.to_vec(), ..text.clone() };
    let uuid = OwnedPart::Uuid(*b"\x01\x8f\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x2a");
    vec![
        ("value_of_text", "a text value, by reference, bound to an integer tenant", text.clone()),
        ("value_of_bytes", "a value of arbitrary bytes", typed(PayloadType::Bytes, &[0, 1, 0xff, 0xfe, 0x80, 0])),
        ("value_of_json", "a JSON document", typed(PayloadType::Json, br#"{"a": [1, "zwei"]}"#)),
        ("value_empty", "the empty value is a value", Subject::text("")),
        ("value_not_ascii", "text is UTF-8 as it was given, not normalised", Subject::text("Zoë e\u{301} 汉字 🦀")),
        ("value_like_an_envelope", "a user may type the prefix; it is a value", Subject::text("enf1:-enf")),
        ("value_of_a_thousand_bytes", "more than one block", typed(PayloadType::Bytes, &[0x5a; 1000])),
        ("binding_without_tenant", "no tenant is a place of its own", placed(None, vec![])),
        ("binding_tenant_of_text", "a tenant named by text", placed(Some(OwnedPart::Text("acme".into())), vec![])),
        (
            "binding_tenant_of_empty_text",
            "the empty text is a tenant",
            placed(Some(OwnedPart::Text(String::new())), vec![]),
        ),
        ("binding_tenant_of_uuid", "a tenant named by a uuid", placed(Some(uuid.clone()), vec![])),
        ("binding_tenant_of_bytes", "a tenant named by bytes", placed(Some(OwnedPart::Bytes(vec![0, 255])), vec![])),
        ("binding_tenant_negative", "the smallest integer", placed(Some(OwnedPart::Int(i64::MIN)), vec![])),
        ("binding_row_of_uuid", "bound to its row", placed(Some(OwnedPart::Int(7)), vec![uuid.clone()])),
        (
            "binding_row_of_three_components",
            "a row key of several types, in order",
            placed(Some(OwnedPart::Int(7)), vec![OwnedPart::Text("de".into()), OwnedPart::Int(42), uuid]),
        ),
        ("padded_to_64", "17 bytes and the mark fill one block of 64", padded(b"anna@example.org!", 64)),
        ("padded_empty_value", "even the empty value fills a block", padded(b"", 16)),
        ("padded_full_block", "16 bytes and the mark need a second block of 16", padded(b"sixteen bytes ok", 16)),
        ("padded_value_ending_like_padding", "only the last mark is the padding's", padded(b"a\x80\0\0", 16)),
        ("padded_to_1", "a block of 1 adds the mark alone", padded(b"abc", 1)),
        (
            "inline_ring",
            "a data key for this value, wrapped by the data key that the header names",
            Subject { kind: Kind::InlineRing, ..text.clone() },
        ),
        (
            "inline_ring_padded_and_bound_to_its_row",
            "an inline key with everything else",
            Subject {
                kind: Kind::InlineRing,
                padding: Padding::Block(32),
                ..placed(Some(OwnedPart::Int(7)), vec![OwnedPart::Int(1)])
            },
        ),
        (
            "inline_root",
            "a data key for this value, wrapped by a root key; `record_key` is what the key service answers",
            Subject { kind: Kind::InlineRoot, ..text },
        ),
    ]
}

fn binary(name: &str, says: &str, subject: &Subject) -> Value {
    let bytes = subject.seal(name);
    let mut case = opens(subject.case(says), subject, "binary", hex(&bytes));
    let envelope = Envelope::parse(&bytes).unwrap();
    let (sealing, key_id) = if subject.kind == Kind::ByReference {
        (super::key(super::DATA_KEY), envelope.key_id())
    } else {
        (super::key(super::RECORD_KEY), envelope.key_id())
    };
    let derived = derive(&sealing, key_id, Purpose::Value, envelope.salt(), &[]).unwrap();
    case["subkey"] = hex(&*derived.key).into();
    case["associated_data"] = hex(Associated::new().of(envelope.header(), &subject.place.binding())).into();
    case
}

fn forms() -> Vec<(&'static str, Value)> {
    let mut cases = Vec::new();
    for (name, says, plaintext) in [
        ("text_form_of_99_bytes", "no bits are left over in the last character", ""),
        ("text_form_of_100_bytes", "four bits are left over, and are zero", "a"),
        ("text_form_of_101_bytes", "two bits are left over, and are zero", "ab"),
    ] {
        let subject = Subject::text(plaintext);
        cases.push((name, opens(subject.case(says), &subject, "text", text::encode(&subject.seal(name)))));
    }
    let subject = Subject { payload: PayloadType::Json, ..Subject::text("{\"a\":1}") };
    let name = "json_form_string";
    let string = String::from_utf8(stored::encode(crate::Form::Json, subject.seal(name))).unwrap();
    cases.push((name, opens(subject.case("the text form as a JSON string"), &subject, "json", string)));
    let name = "json_form_object_with_sidecar";
    let sidecar = [("class", json!("contact")), ("since", json!(2026))];
    let object = stored::encode_object(&subject.seal(name), &sidecar).to_string();
    let says = "an object whose member `enf` is the text form; other members are not authenticated";
    cases.push((name, opens(subject.case(says), &subject, "json", object)));
    cases
}

fn opens(mut case: Value, subject: &Subject, form: &str, stored: String) -> Value {
    case["form"] = form.into();
    case["stored"] = stored.into();
    case["result"] = "opens".into();
    case["payload"] = payload_name(subject.payload).into();
    case["plaintext"] = hex(&subject.plaintext).into();
    case
}
