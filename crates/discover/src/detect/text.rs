//! Forms that any text could have, so that a claim must come with them: names, dates, places, prose, codes.

/// `1984-02-29`, `29.02.1984`, `02/29/1984`, with or without a time, of a person who may be alive.
pub(super) fn date(value: &str, _claimed: bool) -> bool {
    let day = value.split([' ', 'T']).next().unwrap_or(value);
    let parts: Vec<&str> = day.split(['-', '/', '.']).collect();
    if day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit()) {
        return plausible(&day[..4], &day[4..6], &day[6..]);
    }
    match parts.as_slice() {
        [y, m, d] if y.len() == 4 => plausible(y, m, d),
        [a, b, y] if y.len() == 4 => plausible(y, a, b) || plausible(y, b, a),
        _ => false,
    }
}

fn plausible(year: &str, month: &str, day: &str) -> bool {
    let number = |s: &str| s.parse::<u32>().ok();
    matches!((number(year), number(month), number(day)), (Some(y), Some(m), Some(d))
        if (1880..=2100).contains(&y) && (1..=12).contains(&m) && (1..=31).contains(&d))
}

/// One to five words of letters, of which the first begins with a capital.
pub(super) fn person_name(value: &str, _claimed: bool) -> bool {
    let words: Vec<&str> = value.split_whitespace().collect();
    (1..=5).contains(&words.len())
        && value.chars().count() <= 60
        && words
            .iter()
            .all(|w| w.chars().all(|c| c.is_alphabetic() || matches!(c, '\'' | '-' | '.' | '’' | '‘' | '`' | ',')))
        && words.iter().any(|w| w.chars().next().is_some_and(|c| c.is_uppercase() || is_uncased(c)))
}

/// Scripts without capitals (Han, Arabic, Hebrew, …).
fn is_uncased(c: char) -> bool {
    c.is_alphabetic() && !c.is_uppercase() && !c.is_lowercase()
}

/// Three words or more of which most are letters.
pub(super) fn prose(value: &str, _claimed: bool) -> bool {
    let words = value.split_whitespace().count();
    let letters = value.chars().filter(|c| c.is_alphabetic() || c.is_whitespace()).count();
    words >= 3 && letters * 10 >= value.chars().count() * 6
}

/// A town, a region, a country, a postcode: short, without sentences.
pub(super) fn place(value: &str, _claimed: bool) -> bool {
    value.chars().count() <= 60 && value.split_whitespace().count() <= 6 && !value.contains(['@', '{', ':', '='])
}

/// The form of an ICD-10 code: a letter but U, two characters, and a part after the point. Without a claim the part
/// after the point must be there, for `A12` is anything.
pub(super) fn medical_code(value: &str, claimed: bool) -> bool {
    let bytes = value.as_bytes();
    let head = bytes.len() >= 3
        && bytes[0].is_ascii_uppercase()
        && bytes[1].is_ascii_digit()
        && bytes[2].is_ascii_alphanumeric();
    match value.split_once('.') {
        Some((category, rest)) => {
            head && category.len() == 3
                && (1..=4).contains(&rest.len())
                && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        }
        None => claimed && head && bytes.len() == 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_the_usual_spellings() {
        for good in ["1984-02-29", "29.02.1984", "02/29/1984", "1984-02-29 00:00:00", "19840229"] {
            assert!(date(good, true), "{good}");
        }
        for bad in ["1984-13-40", "12345", "3.14", "2.0.1984.1"] {
            assert!(!date(bad, true), "{bad}");
        }
    }

    #[test]
    fn names_have_letters_and_a_capital() {
        for good in ["Ada", "Grace Brewster Hopper", "O'Hara", "李小龙", "François", "Luís"] {
            assert!(person_name(good, true), "{good}");
        }
        for bad in ["ada", "user42", "a sentence with quite a lot of words", "AC/DC"] {
            assert!(!person_name(bad, true), "{bad}");
        }
    }

    #[test]
    fn a_diagnosis_has_its_point() {
        assert!(medical_code("E11.9", false));
        assert!(medical_code("S72.001A", false));
        assert!(!medical_code("A12", false));
        assert!(medical_code("A12", true));
    }
}
