//! The classes of sensitive data, and what a policy would do with each.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Email,
    Phone,
    PersonName,
    Street,
    /// Town, region, country or postcode beside a person.
    Locality,
    BirthDate,
    NationalId,
    Iban,
    CardNumber,
    IpAddress,
    /// Tokens, API keys, passwords and their hashes.
    Credential,
    MedicalCode,
    /// Text that people write and that other personal data ends up in.
    FreeText,
}

impl Class {
    pub const ALL: [Class; 13] = [
        Class::Email,
        Class::Phone,
        Class::PersonName,
        Class::Street,
        Class::Locality,
        Class::BirthDate,
        Class::NationalId,
        Class::Iban,
        Class::CardNumber,
        Class::IpAddress,
        Class::Credential,
        Class::MedicalCode,
        Class::FreeText,
    ];

    /// The word in a policy's `class` and on the screen.
    pub const fn word(self) -> &'static str {
        match self {
            Class::Email => "email",
            Class::Phone => "phone",
            Class::PersonName => "person-name",
            Class::Street => "street",
            Class::Locality => "locality",
            Class::BirthDate => "birth-date",
            Class::NationalId => "national-id",
            Class::Iban => "iban",
            Class::CardNumber => "card-number",
            Class::IpAddress => "ip-address",
            Class::Credential => "credential",
            Class::MedicalCode => "medical-code",
            Class::FreeText => "free-text",
        }
    }

    /// Whether a row that has it is about somebody.
    pub(crate) const fn names_a_person(self) -> bool {
        matches!(
            self,
            Class::Email | Class::Phone | Class::PersonName | Class::Street | Class::BirthDate | Class::NationalId
        )
    }

    /// Normalisers of an equality index that people look such values up by; empty where nobody does, or where an index
    /// would reveal too much (names, towns, free text repeat).
    pub const fn lookup(self) -> &'static [&'static str] {
        match self {
            Class::Email => &["trim", "lower"],
            Class::Phone | Class::CardNumber => &["digits"],
            Class::NationalId | Class::Iban => &["nfkc", "lower"],
            _ => &[],
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}
