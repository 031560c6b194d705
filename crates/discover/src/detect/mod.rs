//! Tests of single values: has this text the form of the class? Each is a pure predicate; how many of a sample pass is
//! for [`crate::score`] to weigh.

mod contact;
mod numbers;
mod secrets;
mod text;

use crate::classes::Class;

/// How a class is told from values.
pub(crate) struct Detector {
    pub(crate) class: Class,
    /// Has this one value the form of the class? `claimed` says that the column's name claims it, which lets a test
    /// take forms that anything could have (eight digits as a telephone number).
    pub(crate) matches: fn(value: &str, claimed: bool) -> bool,
    /// The share of values that must match for the values alone to decide; `None` where values alone never do.
    pub(crate) alone: Option<f32>,
    /// Values needed before they may decide alone: one in eleven random numbers passes a modulus-11 checksum.
    pub(crate) at_least: usize,
}

/// In order of precedence: where two classes fit equally well, the earlier is the more specific.
pub(crate) const DETECTORS: &[Detector] = &[
    Detector { class: Class::Email, matches: contact::email, alone: Some(0.6), at_least: 1 },
    Detector { class: Class::Iban, matches: numbers::iban, alone: Some(0.5), at_least: 1 },
    Detector { class: Class::CardNumber, matches: numbers::card, alone: Some(0.8), at_least: 5 },
    Detector { class: Class::Credential, matches: secrets::credential, alone: Some(0.5), at_least: 1 },
    Detector { class: Class::IpAddress, matches: numbers::ip, alone: Some(0.8), at_least: 2 },
    Detector { class: Class::NationalId, matches: numbers::national_id, alone: Some(0.95), at_least: 20 },
    Detector { class: Class::Phone, matches: contact::phone, alone: Some(0.7), at_least: 3 },
    Detector { class: Class::MedicalCode, matches: text::medical_code, alone: Some(0.95), at_least: 10 },
    Detector { class: Class::BirthDate, matches: text::date, alone: None, at_least: 1 },
    Detector { class: Class::Street, matches: contact::street, alone: Some(0.7), at_least: 5 },
    Detector { class: Class::PersonName, matches: text::person_name, alone: None, at_least: 1 },
    Detector { class: Class::FreeText, matches: text::prose, alone: None, at_least: 1 },
    Detector { class: Class::Locality, matches: text::place, alone: None, at_least: 1 },
];

/// Whether an e-mail address, telephone number, IBAN or secret stands somewhere inside a longer text.
pub(crate) fn contains_personal(value: &str) -> bool {
    value
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | '<' | '>' | '"'))
        .map(|word| word.trim_matches(|c: char| matches!(c, '.' | ':' | '!' | '?' | '\'')))
        .filter(|word| word.len() >= 6)
        .any(|word| {
            contact::email(word, false)
                || numbers::iban(word, false)
                || secrets::credential(word, false)
                || (word.starts_with('+') && contact::phone(word, false))
        })
}
