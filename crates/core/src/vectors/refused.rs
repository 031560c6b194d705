//! Envelopes that must not open, and why.

use serde_json::Value;

use super::{OTHER_KEY, OTHER_KEY_ID, Place, Subject, drawn, hex, id, key};
use crate::cipher::{Cipher, Nonces};
use crate::derive::{Purpose, derive};
use crate::envelope::header_start;
use crate::layout::{FIXED_LEN, KEY_PREFIX_LEN, NONCE_LEN, SALT_LEN};
use crate::seal::Associated;
use crate::{Kind, OwnedPart, Padding, text};

/// Where the parts of a by-reference envelope begin.
const SALT: usize = FIXED_LEN;
const COMMITMENT: usize = SALT + 16;
const NONCE: usize = COMMITMENT + 32;
const CIPHERTEXT: usize = NONCE + 12;

pub(super) fn cases() -> Vec<(&'static str, Value)> {
    let mut cases = contexts();
    cases.extend(changes());
    cases.extend(headers());
    cases.extend(spellings());
    cases.extend(forgeries());
    cases
}

fn subject() -> Subject {
    Subject::text("anna@example.org")
}

fn refused(subject: &Subject, says: &str, form: &str, stored: String, error: &str) -> Value {
    let mut case = subject.case(says);
    case["form"] = form.into();
    case["stored"] = stored.into();
    case["result"] = "refused".into();
    case["error"] = error.into();
    case
}

fn refused_bytes(subject: &Subject, says: &str, bytes: &[u8], error: &str) -> Value {
    refused(subject, says, "binary", hex(bytes), error)
}

/// Sealed in one place, opened in another.
fn contexts() -> Vec<(&'static str, Value)> {
    let home = Place {
        tenant: Some(OwnedPart::Int(7)),
        row_key: vec![OwnedPart::Int(1), OwnedPart::Int(2)],
        ..Place::plain()
    };
    let row = home.row_key.clone();
    let elsewhere: [(&str, &str, Place); 11] = [
        ("context_swapped_column", "copied to another column", Place { column: "users.phone", ..home.clone() }),
        ("context_swapped_ring", "copied to another ring", Place { ring: "other", ..home.clone() }),
        (
            "context_swapped_tenant",
            "copied to another tenant",
            Place { tenant: Some(OwnedPart::Int(8)), ..home.clone() },
        ),
        ("context_without_tenant", "the tenant was left out", Place { tenant: None, ..home.clone() }),
        (
            "context_tenant_of_another_type",
            "the text 7 is not the integer 7",
            Place { tenant: Some(OwnedPart::Text("7".into())), ..home.clone() },
        ),
        (
            "context_swapped_row",
            "copied to another row",
            Place { row_key: vec![row[0].clone(), OwnedPart::Int(3)], ..home.clone() },
        ),
        ("context_without_row", "the row key was left out", Place { row_key: vec![], ..home.clone() }),
        (
            "context_row_cut_short",
            "a component of the row key was left out",
            Place { row_key: vec![row[0].clone()], ..home.clone() },
        ),
        (
            "context_row_reordered",
            "the row key's components in another order",
            Place { row_key: vec![row[1].clone(), row[0].clone()], ..home.clone() },
        ),
        (
            "context_tenant_as_row",
            "the tenant moved into the row key",
            Place { tenant: None, row_key: vec![OwnedPart::Int(7), row[0].clone(), row[1].clone()], ..home.clone() },
        ),
        (
            "context_boundary_moved",
            "the same characters, divided elsewhere",
            Place { ring: "mainu", column: "sers.email", ..home.clone() },
        ),
    ];
    let sealed = Subject { place: home, ..subject() };
    let case = |(name, says, place): (&'static str, &str, Place)| {
        let bytes = sealed.seal(name);
        (name, refused_bytes(&Subject { place, ..subject() }, says, &bytes, "open-failed"))
    };
    elsewhere.into_iter().map(case).collect()
}

/// One bit of each part.
fn changes() -> Vec<(&'static str, Value)> {
    let parts: [(&str, &str, usize, &str); 9] = [
        ("changed_key_id", "the key id, so it names a key that the reader does not have", 5, "key-mismatch"),
        ("changed_payload_type", "text became JSON", KEY_PREFIX_LEN, "open-failed"),
        ("changed_padding", "not padded became padded", KEY_PREFIX_LEN + 1, "open-failed"),
        ("changed_salt", "one bit of the salt", SALT, "open-failed"),
        ("changed_commitment", "one bit of the commitment", COMMITMENT, "open-failed"),
        ("changed_nonce", "one bit of the nonce", NONCE, "open-failed"),
        ("changed_ciphertext", "one bit of the ciphertext", CIPHERTEXT, "open-failed"),
        ("changed_tag", "the last bit", CIPHERTEXT + 16 + 15, "open-failed"),
        ("changed_wrapped_key", "one bit of an inline key", 0, "open-failed"),
    ];
    let case = |(name, says, at, error): (&'static str, &str, usize, &str)| {
        let inline = at == 0;
        let subject = Subject { kind: if inline { Kind::InlineRing } else { Kind::ByReference }, ..subject() };
        let mut bytes = subject.seal(name);
        bytes[if inline { FIXED_LEN + 2 + 70 } else { at }] ^= 1;
        (name, refused_bytes(&subject, says, &bytes, error))
    };
    parts.into_iter().map(case).collect()
}

/// Headers that no version 1 reader may accept.
fn headers() -> Vec<(&'static str, Value)> {
    let set = |name: &'static str, says: &str, at: usize, byte: u8, error: &str| {
        let mut bytes = subject().seal(name);
        bytes[at] = byte;
        (name, refused_bytes(&subject(), says, &bytes, error))
    };
    let cut = |name: &'static str, says: &str, len: usize| {
        let bytes = subject().seal(name);
        (name, refused_bytes(&subject(), says, &bytes[..len], "malformed"))
    };
    let inline = |name: &'static str, says: &str, len: [u8; 2]| {
        let subject = Subject { kind: Kind::InlineRing, ..subject() };
        let mut bytes = subject.seal(name);
        bytes[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&len);
        (name, refused_bytes(&subject, says, &bytes, "malformed"))
    };
    let mut longer = subject().seal("longer_by_a_byte");
    longer.push(0);
    vec![
        set("header_wrong_magic", "other first bytes", 0, 0xf8, "malformed"),
        set("header_version_0", "there never was a version 0", 3, 0, "malformed"),
        set("header_version_2", "a newer version has its own error", 3, 2, "newer-version"),
        set("header_suite_2", "an unknown suite has its own error", 4, 0x21, "unknown-suite"),
        set("header_kind_0", "an unknown kind", 4, 0x10, "malformed"),
        set("header_kind_4", "an unknown kind", 4, 0x14, "malformed"),
        set("header_payload_0", "an unknown payload type", KEY_PREFIX_LEN, 0, "malformed"),
        set("header_payload_4", "an unknown payload type", KEY_PREFIX_LEN, 4, "malformed"),
        set("header_padding_2", "an unknown padding", KEY_PREFIX_LEN + 1, 2, "malformed"),
        cut("cut_to_nothing", "no bytes at all", 0),
        cut("cut_in_the_magic", "two bytes", 2),
        cut("cut_in_the_key_id", "twenty bytes", 20),
        cut("cut_in_the_commitment", "sixty bytes", 60),
        cut("cut_in_the_tag_of_the_empty_value", "98 bytes: no value is that short", 98),
        inline("wrapped_key_of_no_bytes", "an inline kind without a wrapped key", [0, 0]),
        inline("wrapped_key_longer_than_the_rest", "a length that runs past the end", [0xff, 0xff]),
        ("longer_by_a_byte", refused_bytes(&subject(), "a byte after the tag", &longer, "open-failed")),
    ]
}

/// Text and JSON that are not the one spelling.
fn spellings() -> Vec<(&'static str, Value)> {
    let spelt = |name: &'static str, says: &str, plaintext: &str, change: &dyn Fn(String) -> String| {
        let subject = Subject::text(plaintext);
        let spelling = change(text::encode(&subject.seal(name)));
        (name, refused(&subject, says, "text", spelling, "malformed"))
    };
    // 100 bytes leave four bits over; of 101, two.
    let bump = |text: String, by: u8| {
        let (rest, last) = text.split_at(text.len() - 1);
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let at = alphabet.iter().position(|letter| *letter == last.as_bytes()[0]).unwrap();
        format!("{rest}{}", char::from(alphabet[at + usize::from(by)]))
    };
    let json = Subject::text("a");
    let twice = {
        let text = text::encode(&json.seal("json_form_with_two_members"));
        format!("{{\"enf\":\"{text}\",\"enf\":\"{text}\"}}")
    };
    vec![
        spelt("text_form_with_padding", "padding characters", "a", &|text| text + "=="),
        spelt("text_form_with_one_bit_left_over", "a bit that is left over is set", "a", &|text| bump(text, 1)),
        spelt("text_form_with_two_bits_left_over", "bits that are left over are set", "ab", &|text| bump(text, 3)),
        spelt("text_form_in_the_standard_alphabet", "`+` for `-`", "", &|text| text.replacen('-', "+", 1)),
        spelt("text_form_with_a_line_break", "a line break at the end", "", &|text| text + "\n"),
        spelt("text_form_with_a_space", "a space after the prefix", "", &|text| text.replace(':', ": ")),
        spelt("text_form_with_another_prefix", "the prefix in upper case", "", &|text| text.replace("enf1:", "ENF1:")),
        spelt("text_form_cut_by_a_character", "a number of characters that no bytes give", "", &|text| {
            text[..text.len() - 3].into()
        }),
        (
            "json_form_with_two_members",
            refused(&json, "readers differ in which of two equal names they take", "json", twice, "malformed"),
        ),
    ]
}

/// Made by somebody who has a key, so every tag is right.
fn forgeries() -> Vec<(&'static str, Value)> {
    let mut cases = Vec::new();

    // Whoever holds two data keys must not be able to pass one off as the other.
    let name = "forged_commitment";
    let bytes = forge(name, super::DATA_KEY, Some([0xee; 32]), b"anna@example.org", false);
    let says = "sealed under the right subkey with another commitment in the header";
    cases.push((name, refused_bytes(&subject(), says, &bytes, "open-failed")));

    let name = "sealed_under_another_key";
    let bytes = forge(name, OTHER_KEY, None, b"anna@example.org", false);
    cases.push((name, refused_bytes(&subject(), "another data key with this key's id", &bytes, "open-failed")));

    for (name, says, body) in [
        ("padding_without_mark", "padded, and the last byte that is not zero is no mark", &b"abc\0\0\0\0\0"[..]),
        ("padding_of_zeros", "padded, and there is no mark at all", &[0; 16]),
    ] {
        let bytes = forge(name, super::DATA_KEY, None, body, true);
        cases.push((name, refused_bytes(&subject(), says, &bytes, "open-failed")));
    }
    let name = "padding_of_no_bytes";
    let bytes = forge(name, super::DATA_KEY, None, b"", true);
    cases.push((name, refused_bytes(&subject(), "padded, and empty: no room for the mark", &bytes, "malformed")));

    // A record key that belongs to another place.
    let name = "inline_key_of_another_place";
    let elsewhere = Place { column: "users.phone", ..Place::plain() };
    let wrapped = super::wrapped(name, &crate::wrap::record_context(&elsewhere.binding()));
    let sealed = Subject { kind: Kind::InlineRing, ..subject() };
    let mut bytes = sealed.seal(name);
    bytes[FIXED_LEN + 2..FIXED_LEN + 2 + wrapped.len()].copy_from_slice(&wrapped);
    cases.push((name, refused_bytes(&sealed, "the wrapped key was taken from another column", &bytes, "open-failed")));

    let name = "inline_root_under_another_record_key";
    let sealed = Subject { kind: Kind::InlineRoot, ..subject() };
    let mut case = refused_bytes(&sealed, "the key service answered another key", &sealed.seal(name), "open-failed");
    case["record_key"] = hex(&OTHER_KEY).into();
    cases.push((name, case));

    let name = "names_another_key";
    let mut case =
        refused_bytes(&subject(), "the reader has a key of another id", &subject().seal(name), "key-mismatch");
    case["key_id"] = hex(&OTHER_KEY_ID).into();
    cases.push((name, case));
    cases
}

/// A by-reference envelope, made by hand.
fn forge(name: &str, sealing: [u8; 32], commitment: Option<[u8; 32]>, body: &[u8], padded: bool) -> Vec<u8> {
    let salt = drawn::<SALT_LEN>(name, "salt");
    let derived = derive(&key(sealing), id(super::KEY_ID), Purpose::Value, &salt, &[]).unwrap();
    let mut out = header_start(Kind::ByReference, id(super::KEY_ID), None).unwrap();
    out[KEY_PREFIX_LEN] = 2;
    out[KEY_PREFIX_LEN + 1] = u8::from(padded);
    out.extend_from_slice(&salt);
    out.extend_from_slice(&commitment.unwrap_or(derived.commitment));
    let data = Associated::new().of(&out, &Place::plain().binding()).to_vec();
    let nonce = drawn::<NONCE_LEN>(name, "nonce");
    let cipher = Cipher::new(&derived.key).unwrap();
    cipher.seal(&mut Nonces::fixed(&nonce), &data, &mut out, body, Padding::None).unwrap();
    out
}
