//! What a column's name, its table's name and its comment claim.

use crate::classes::Class;
use crate::{ColumnInput, TableInput};

/// The claims made about one column, strongest first in meaning: its own name, then its comment.
pub(crate) struct Claim {
    tokens: Vec<String>,
    joined: String,
    comment: Vec<String>,
    /// The table is about people (customers, users, patients, …).
    pub(crate) about_people: Option<String>,
}

/// How firmly a name claims a class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Strength {
    Weak,
    Strong,
}

impl Claim {
    pub(crate) fn of(table: &TableInput, column: &ColumnInput) -> Self {
        Self::new(table, &column.name, column.comment.as_deref())
    }

    pub(crate) fn of_leaf(table: &TableInput, key: &str) -> Self {
        Self::new(table, key, None)
    }

    fn new(table: &TableInput, name: &str, comment: Option<&str>) -> Self {
        let tokens: Vec<String> = tokens(name).into_iter().flat_map(split_role).collect();
        let joined = tokens.concat();
        let about_people = self::tokens(&table.name).into_iter().find(|t| PEOPLE.contains(&singular(t)));
        Self { tokens, joined, comment: comment.map(self::tokens).unwrap_or_default(), about_people }
    }

    /// The word that claims `class`, and how firmly.
    pub(crate) fn claims(&self, class: Class) -> Option<(String, Strength)> {
        let hints = hints(class);
        if self.denied(hints) {
            return None;
        }
        if let Some(word) = hints.strong.iter().find(|w| self.says(w)) {
            return Some(((*word).to_owned(), Strength::Strong));
        }
        if class == Class::PersonName && self.tokens == ["name"] && self.about_people.is_some() {
            return self.about_people.clone().map(|t| (format!("name of {t}"), Strength::Weak));
        }
        if let Some(word) = hints.weak.iter().find(|w| self.says(w)) {
            return Some(((*word).to_owned(), Strength::Weak));
        }
        let in_comment = hints.strong.iter().find(|w| {
            let parts: Vec<&str> = w.split('_').collect();
            self.comment.windows(parts.len()).any(|window| window == parts)
        });
        in_comment.map(|w| (format!("comment: {w}"), Strength::Weak))
    }

    /// `first_name` is said by `first_name`, `firstName`, `FIRSTNAME` and `customer_first_name`.
    fn says(&self, word: &str) -> bool {
        let parts: Vec<&str> = word.split('_').collect();
        self.tokens.windows(parts.len()).any(|window| window == parts)
            || (parts.len() > 1 && self.joined == parts.concat())
            || (parts.len() > 1 && self.tokens.iter().any(|t| *t == parts.concat()))
    }

    fn denied(&self, hints: &Hints) -> bool {
        self.tokens.iter().any(|t| hints.never.contains(&t.as_str()))
    }
}

/// Lower-case words of a name: `billingAddress_2` is billing, address, 2.
pub(crate) fn tokens(name: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut previous_lower = false;
    for c in name.chars() {
        let boundary = !c.is_alphanumeric() || (c.is_uppercase() && previous_lower);
        if boundary && !word.is_empty() {
            out.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        previous_lower = c.is_lowercase() || c.is_numeric();
    }
    if !word.is_empty() {
        out.push(word);
    }
    out
}

/// Roles that people write together with what they qualify.
const ROLES: &[&str] =
    &["billing", "shipping", "delivery", "mailing", "contact", "customer", "patient", "client", "user"];

/// `billingcity` is billing, city.
fn split_role(token: String) -> Vec<String> {
    let rest =
        ROLES.iter().find_map(|role| token.strip_prefix(role).filter(|rest| rest.len() >= 3).map(|r| (*role, r)));
    match rest {
        Some((role, rest)) => vec![role.to_owned(), rest.to_owned()],
        None => vec![token],
    }
}

fn singular(word: &str) -> &str {
    match word {
        "people" => "person",
        _ => word.strip_suffix('s').unwrap_or(word),
    }
}

const PEOPLE: &[&str] = &[
    "account",
    "applicant",
    "borrower",
    "candidate",
    "client",
    "contact",
    "customer",
    "donor",
    "driver",
    "employee",
    "guest",
    "holder",
    "lead",
    "member",
    "patient",
    "payee",
    "payer",
    "person",
    "profile",
    "recipient",
    "resident",
    "signer",
    "staff",
    "student",
    "subscriber",
    "tenant",
    "traveller",
    "user",
    "visitor",
    "worker",
];

struct Hints {
    strong: &'static [&'static str],
    weak: &'static [&'static str],
    /// Words that make the claim void: `email_verified` is a flag, `phone_type` a kind.
    never: &'static [&'static str],
}

const FLAGS: &[&str] = &[
    "verified",
    "confirmed",
    "enabled",
    "count",
    "type",
    "status",
    "at",
    "template",
    "templates",
    "id",
    "format",
    "length",
    "opt",
    "optin",
    "optout",
    "provider",
    "expires",
    "expiry",
    "limit",
    "policy",
    "version",
];

fn hints(class: Class) -> &'static Hints {
    match class {
        Class::Email => &Hints { strong: &["email", "mail_address", "e_mail"], weak: &["mail", "login"], never: FLAGS },
        Class::Phone => &Hints {
            strong: &["phone", "telephone", "mobile", "cell_phone", "fax", "msisdn", "phone_number"],
            weak: &["tel", "cell", "contact_number"],
            never: FLAGS,
        },
        Class::PersonName => &Hints {
            strong: &[
                "first_name",
                "last_name",
                "given_name",
                "family_name",
                "full_name",
                "middle_name",
                "maiden_name",
                "surname",
                "forename",
                "patient_name",
                "customer_name",
                "contact_name",
                "person_name",
                "holder_name",
                "card_holder",
                "cardholder",
                "recipient_name",
                "billing_name",
                "shipping_name",
                "display_name",
                "nickname",
                "mother_name",
                "father_name",
                "next_of_kin",
                "emergency_contact",
            ],
            weak: &["holder", "recipient", "author_name", "signed_by", "employee_name"],
            never: FLAGS,
        },
        Class::Street => &Hints {
            strong: &[
                "street",
                "address_line",
                "billing_address",
                "shipping_address",
                "home_address",
                "postal_address",
                "delivery_address",
                "mailing_address",
                "street_address",
            ],
            weak: &["address", "address1", "address2", "addr"],
            never: &["ip", "mac", "email", "mail", "type", "id", "status", "verified", "web", "url", "remote"],
        },
        Class::Locality => &Hints {
            strong: &["postal_code", "postcode", "zip", "zip_code", "zipcode"],
            weak: &["city", "town", "state", "county", "country", "region", "province"],
            never: &["type", "id", "status", "machine", "verified", "at"],
        },
        Class::BirthDate => &Hints {
            strong: &["birth_date", "date_of_birth", "dob", "birthday", "born_on", "birthdate", "born"],
            weak: &["birth_year", "year_of_birth"],
            never: &["verified", "place", "country"],
        },
        Class::NationalId => &Hints {
            strong: &[
                "ssn",
                "social_security",
                "national_id",
                "nino",
                "nhs_number",
                "passport",
                "passport_number",
                "tax_id",
                "taxid",
                "driver_license",
                "drivers_license",
                "licence_number",
                "license_number",
                "pesel",
                "cpf",
                "bsn",
                "aadhaar",
                "personnummer",
                "codice_fiscale",
                "steuer_id",
                "dni",
                "nie",
                "curp",
                "sin",
                "social_insurance",
            ],
            weak: &["tin", "nir", "id_number", "identity_number"],
            never: &["verified", "type", "country", "status", "at"],
        },
        Class::Iban => &Hints { strong: &["iban"], weak: &["bank_account", "account_number"], never: FLAGS },
        Class::CardNumber => &Hints {
            strong: &["card_number", "credit_card", "cc_number", "pan", "debit_card"],
            weak: &["card"],
            never: FLAGS,
        },
        Class::IpAddress => &Hints {
            strong: &["ip", "ip_address", "ipaddr", "remote_addr", "client_ip", "last_ip", "remote_ip"],
            weak: &[],
            never: &["type", "version", "count", "range"],
        },
        Class::Credential => &Hints {
            strong: &[
                "password",
                "passwd",
                "secret",
                "api_key",
                "apikey",
                "access_token",
                "refresh_token",
                "auth_token",
                "session_token",
                "private_key",
                "password_hash",
                "client_secret",
                "token",
                "otp_secret",
                "totp_secret",
                "recovery_code",
                "webhook_secret",
                "credentials",
                "bearer",
                "access_key",
            ],
            weak: &["pin", "passcode", "session_key", "key_value", "credential"],
            never: &[
                "type", "expires", "expiry", "at", "count", "length", "policy", "id", "status", "public", "kind",
                "scope", "scopes", "name", "changed", "reset",
            ],
        },
        Class::MedicalCode => &Hints {
            strong: &["icd", "icd10", "icd9", "diagnosis", "diagnosis_code", "dx", "dx_code", "condition_code"],
            weak: &["medical_code", "procedure_code", "cpt", "snomed", "loinc"],
            never: &["at", "date", "id", "version"],
        },
        Class::FreeText => &Hints {
            strong: &[
                "note",
                "notes",
                "comment",
                "comments",
                "message",
                "remark",
                "remarks",
                "feedback",
                "bio",
                "biography",
                "memo",
                "transcript",
                "complaint",
                "about_me",
                "reply",
                "anamnesis",
            ],
            weak: &["body", "text", "description", "details", "content", "subject", "summary", "reason"],
            never: &["id", "type", "count", "at", "status", "version", "template"],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_underscores_and_at_capitals() {
        assert_eq!(tokens("billingAddress_2"), ["billing", "address", "2"]);
        assert_eq!(tokens("CustomerID"), ["customer", "id"]);
        assert_eq!(tokens("EMAIL"), ["email"]);
    }

    #[test]
    fn a_role_is_cut_off_what_it_qualifies() {
        let table = TableInput { name: "invoice".into(), comment: None, columns: vec![] };
        assert!(Claim::of_leaf(&table, "billingpostalcode").claims(Class::Locality).is_some());
        assert!(Claim::of_leaf(&table, "customers").claims(Class::Locality).is_none());
    }

    #[test]
    fn a_flag_about_an_email_is_not_an_email() {
        let table = TableInput { name: "users".into(), comment: None, columns: vec![] };
        assert!(Claim::of_leaf(&table, "email").claims(Class::Email).is_some());
        assert!(Claim::of_leaf(&table, "email_verified").claims(Class::Email).is_none());
        assert!(Claim::of_leaf(&table, "ip_address").claims(Class::Street).is_none());
    }

    #[test]
    fn a_bare_name_claims_a_person_only_in_a_table_about_people() {
        let artists = TableInput { name: "artist".into(), comment: None, columns: vec![] };
        let patients = TableInput { name: "Patients".into(), comment: None, columns: vec![] };
        assert!(Claim::of_leaf(&artists, "name").claims(Class::PersonName).is_none());
        assert!(Claim::of_leaf(&patients, "name").claims(Class::PersonName).is_some());
    }
}
