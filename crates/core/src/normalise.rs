//! Normalisers: what a blind index takes for equal.
//!
//! They are declared in the policy and applied in that order. Each gives a text for every text: a value that a
//! normaliser was not made for (an `email` without an `@`) is indexed as what is left of it, never refused, so that
//! a table with old rows in it can be protected.

use unicode_normalization::UnicodeNormalization;

/// Enters the derivation of every index key: a change in what any normaliser does must raise it, and makes values of
/// the two versions never compare equal instead of sometimes.
pub const VERSION: u8 = 1;

/// A declared step that makes equal what a lookup should find equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Normaliser {
    /// Without white space (Unicode `White_Space`) at both ends.
    Trim,
    /// Lower case (Unicode, independent of locale).
    Lower,
    /// Unicode normalisation form KC.
    Nfkc,
    /// ASCII digits only: `+49 (30) 1` is `49301`.
    Digits,
    /// As nearly every mail system compares addresses: NFKC, trimmed, all in lower case.
    Email,
    /// The last so many characters (Unicode scalar values), all of a shorter text.
    LastN(u16),
    /// The first so many characters of every word, words split at white space and joined by one space.
    WordPrefix(u16),
}

impl Normaliser {
    pub fn apply(self, text: &str) -> String {
        match self {
            Normaliser::Trim => text.trim().to_owned(),
            Normaliser::Lower => text.to_lowercase(),
            Normaliser::Nfkc => text.nfkc().collect(),
            Normaliser::Digits => text.chars().filter(char::is_ascii_digit).collect(),
            Normaliser::Email => text.nfkc().collect::<String>().trim().to_lowercase(),
            Normaliser::LastN(n) => last(text, usize::from(n)).to_owned(),
            Normaliser::WordPrefix(n) => {
                let words = text.split_whitespace().map(|word| word.chars().take(usize::from(n)).collect::<String>());
                words.collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Step and parameter, as they enter the derivation of an index key.
    pub(crate) fn code(self) -> [u8; 3] {
        let (step, n) = match self {
            Normaliser::Trim => (1, 0),
            Normaliser::Lower => (2, 0),
            Normaliser::Nfkc => (3, 0),
            Normaliser::Digits => (4, 0),
            Normaliser::Email => (5, 0),
            Normaliser::LastN(n) => (6, n),
            Normaliser::WordPrefix(n) => (7, n),
        };
        let [high, low] = n.to_be_bytes();
        [step, high, low]
    }
}

fn last(text: &str, n: usize) -> &str {
    let start = match n {
        0 => text.len(),
        n => text.char_indices().rev().nth(n - 1).map_or(0, |(at, _)| at),
    };
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_normaliser_makes_equal_what_it_promises() {
        let cases = [
            (Normaliser::Trim, "\u{a0} a b\t\n", "a b"),
            (Normaliser::Lower, "ÀÉ Straße İ", "àé straße i\u{307}"),
            (Normaliser::Nfkc, "ﬁ Ⅷ ｅ", "fi VIII e"),
            (Normaliser::Digits, "+49 (30) 12-3x٣", "4930123"),
            (Normaliser::Email, "  Ａnna.Müller@Example.ORG ", "anna.müller@example.org"),
            (Normaliser::LastN(4), "DE89 3704 0044 05é2", "05é2"),
            (Normaliser::LastN(0), "abc", ""),
            (Normaliser::LastN(9), "abc", "abc"),
            (Normaliser::WordPrefix(2), "  Anna  Maria\tØrsted x", "An Ma Ør x"),
        ];
        for (normaliser, from, to) in cases {
            assert_eq!(normaliser.apply(from), to, "{normaliser:?}");
        }
    }

    #[test]
    fn every_normaliser_takes_the_empty_text() {
        for normaliser in [Normaliser::Email, Normaliser::Digits, Normaliser::LastN(3), Normaliser::WordPrefix(1)] {
            assert_eq!(normaliser.apply(""), "");
        }
    }
}
