//! Numbers with a checksum or a grammar: accounts, cards, identity numbers, addresses on the Internet.

use std::net::IpAddr;

use card_validate::Validate;
use iban::Iban;

/// ISO 13616, with its country's length and the modulus-97 check digits.
pub(super) fn iban(value: &str, _claimed: bool) -> bool {
    let compact: String = value.chars().filter(|c| !c.is_whitespace()).collect();
    compact.len() >= 15 && compact.parse::<Iban>().is_ok()
}

/// ISO/IEC 7812: an issuer's prefix and length, and the Luhn digit.
pub(super) fn card(value: &str, _claimed: bool) -> bool {
    if !value.bytes().all(|b| b.is_ascii_digit() || b == b' ' || b == b'-') {
        return false;
    }
    let digits: String = value.chars().filter(char::is_ascii_digit).collect();
    (13..=19).contains(&digits.len()) && Validate::from(&digits).is_ok()
}

pub(super) fn ip(value: &str, _claimed: bool) -> bool {
    let host = value.split_once('/').map_or(value, |(host, _)| host);
    // `::` and `1::` parse, and are seldom what somebody stored as an address.
    host.len() >= 7 && host.parse::<IpAddr>().is_ok()
}

/// Numbers whose form alone is telling enough to look at without a claim: letters in fixed places, or a checksum over
/// eleven digits or more.
const TELLING: &[&str] = &[
    "be/nn",
    "br/cpf",
    "ch/ssn",
    "cn/ric",
    "de/idnr",
    "es/dni",
    "es/nie",
    "fi/hetu",
    "fr/nir",
    "gb/nino",
    "in/aadhaar",
    "it/codicefiscale",
    "kr/rrn",
    "mx/curp",
    "pl/pesel",
    "ro/cnp",
    "se/personnummer",
    "us/ssn",
];

/// An identity number of a person somewhere. Without a claim only telling forms count, and a United States number only
/// with its hyphens.
pub(super) fn national_id(value: &str, claimed: bool) -> bool {
    let alphanumeric = value.bytes().filter(u8::is_ascii_alphanumeric).count();
    if !(7..=21).contains(&alphanumeric)
        || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-. /+".contains(&b))
        || !value.bytes().any(|b| b.is_ascii_digit())
    {
        return false;
    }
    stdnum::person_validators().keys().any(|country| {
        let result = stdnum::validate_person(country, value);
        result.matched.iter().any(|key| {
            let hyphens_where_needed = *key != "us/ssn" || value.bytes().filter(|b| *b == b'-').count() == 2;
            claimed || (TELLING.contains(key) && hyphens_where_needed)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_decide() {
        assert!(iban("DE89 3704 0044 0532 0130 00", false));
        assert!(!iban("DE88 3704 0044 0532 0130 00", false));
        assert!(card("4111-1111-1111-1111", false));
        assert!(!card("4111-1111-1111-1112", false));
        assert!(!card("1234567890123", false));
    }

    #[test]
    fn identity_numbers_of_several_countries() {
        for good in ["536-90-4399", "44051401359", "36574261809", "86095742719"] {
            assert!(national_id(good, false), "{good}");
        }
        assert!(!national_id("536904399", false), "nine digits are anything");
        assert!(!national_id("hello world", true));
    }

    #[test]
    fn internet_addresses_of_both_families() {
        assert!(ip("192.0.2.7", false));
        assert!(ip("2001:db8::1", false));
        assert!(ip("192.0.2.0/24", false));
        assert!(!ip("1.2.3", false));
        assert!(!ip("::1", false));
    }
}
