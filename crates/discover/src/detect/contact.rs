//! E-mail addresses, telephone numbers, streets.

use phonenumber::country::Id as Country;

/// An address of the form that people use: RFC 5321's local part and domain without quoting, comments or IP literals.
pub(super) fn email(value: &str, _claimed: bool) -> bool {
    let Some((local, domain)) = value.rsplit_once('@') else { return false };
    // RFC 5321 section 4.5.3.1: 64 octets of local part, 255 of domain.
    let local_ok = (1..=64).contains(&local.len())
        && local.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b) || b >= 0x80)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..");
    let labels: Vec<&str> = domain.split('.').collect();
    local_ok
        && domain.len() <= 255
        && labels.len() >= 2
        && labels.iter().all(|l| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b >= 0x80)
                && !l.starts_with('-')
                && !l.ends_with('-')
        })
        && labels.last().is_some_and(|top| top.len() >= 2 && !top.bytes().all(|b| b.is_ascii_digit()))
}

/// Countries whose national spelling is tried when a column claims to hold telephone numbers.
const REGIONS: [Country; 6] = [Country::US, Country::GB, Country::DE, Country::FR, Country::IN, Country::BR];

/// A number that Google's metadata takes for possible: with its `+` and country, or in a national spelling where the
/// column claims it.
pub(super) fn phone(value: &str, claimed: bool) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    // ITU-T E.164: fifteen digits at most.
    if !(6..=15).contains(&digits) || !value.bytes().all(|b| b.is_ascii_digit() || b"+-. ()/x#".contains(&b)) {
        return false;
    }
    if value.starts_with('+') {
        return phonenumber::parse(None, value).is_ok_and(|n| claimed || n.is_valid());
    }
    claimed && REGIONS.iter().any(|region| phonenumber::parse(Some(*region), value).is_ok())
}

/// Words that a street is called by, in the languages that write them as a word or as an ending.
const STREET_WORDS: &[&str] = &[
    "street",
    "st",
    "avenue",
    "ave",
    "road",
    "rd",
    "lane",
    "ln",
    "drive",
    "dr",
    "boulevard",
    "blvd",
    "court",
    "ct",
    "square",
    "sq",
    "way",
    "terrace",
    "place",
    "parkway",
    "highway",
    "rue",
    "chemin",
    "allée",
    "calle",
    "avenida",
    "paseo",
    "rua",
    "praça",
    "via",
    "viale",
    "piazza",
    "strada",
    "ulica",
    "ul",
    "utca",
    "platz",
    "allee",
    "weg",
    "gasse",
    "straat",
    "laan",
    "vej",
    "gatan",
    "gata",
    "katu",
    "sok",
    "ploshchad",
];
const STREET_ENDINGS: &[&str] =
    &["straße", "strasse", "str.", "straat", "gatan", "vägen", "vej", "weg", "gasse", "laan"];

/// A house number and a word for a street; where the column claims it, a house number and words are enough.
pub(super) fn street(value: &str, claimed: bool) -> bool {
    let words: Vec<String> =
        value.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
    let number = words.iter().any(|w| w.starts_with(|c: char| c.is_ascii_digit()) && w.len() <= 6);
    let named = words.iter().any(|w| {
        STREET_WORDS.contains(&w.trim_end_matches('.'))
            || STREET_ENDINGS.iter().any(|e| w.ends_with(e) && w.len() > e.len())
    });
    let lettered = words.iter().any(|w| w.chars().filter(|c| c.is_alphabetic()).count() >= 3);
    words.len() >= 2 && words.len() <= 12 && number && (named || (claimed && lettered))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_has_a_local_part_and_a_domain_with_a_name() {
        for good in ["ada@example.com", "a.b+c@sub.example.co.uk", "müller@exämple.de", "o'hara@example.org"] {
            assert!(email(good, false), "{good}");
        }
        for bad in
            ["ada@localhost", "@example.com", "a@b@", "a..b@example.com", "x@1.2.3.4", "ada @example.com", "a@-b.com"]
        {
            assert!(!email(bad, false), "{bad}");
        }
    }

    #[test]
    fn a_phone_needs_its_country_unless_the_column_claims_it() {
        assert!(phone("+1 (416) 363-5723", false));
        assert!(phone("+49 30 901820", false));
        assert!(!phone("0049", false));
        assert!(!phone("4163635723", false), "ten digits are anything");
        assert!(phone("(416) 363-5723", true));
        assert!(!phone("not a phone", true));
    }

    #[test]
    fn a_street_has_a_house_number() {
        for good in ["1600 Amphitheatre Parkway", "Theodor-Heuss-Straße 34", "12, Rue des Fleurs", "Hauptstrasse 5"] {
            assert!(street(good, false), "{good}");
        }
        assert!(!street("Highway to Hell", false));
        assert!(street("8210 111 ST NW", false));
        assert!(street("Rilská 3174/6", true));
        assert!(!street("Rilská 3174/6", false));
    }
}
