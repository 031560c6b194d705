//! The small languages of the policy file: durations, normalisers, the operators' key, names that are nearly right.
//!
//! What each refuses it says in one line that never quotes the text: the text may have come out of a variable.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use enfold_core::index::Normaliser;

/// Units of a duration, longest spelling first where one is a prefix of another, each with its milliseconds.
const UNITS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
    ("y", 31_557_600_000),
];

/// Milliseconds of a year, as it is written where nothing is left over.
const YEAR: u128 = 31_557_600_000;

/// The prefix of an operators' public key in the policy.
const OPERATOR_KEY_PREFIX: &str = "ed25519:";

/// Reads `500ms`, `30s`, `5m`, `1h30m`, `90d`, `7y`; a year has 365 days and a quarter.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a duration such as `500ms`, `30s`, `5m`, `1h30m` or `90d`";
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(EXPECTED);
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| EXPECTED)?;
        rest = &rest[digits..];
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or(EXPECTED)?;
        rest = &rest[unit.len()..];
        millis = number
            .checked_mul(*factor)
            .and_then(|part| millis.checked_add(part))
            .ok_or("the duration is longer than this program can count")?;
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration as the policy file spells it; what is below a millisecond is left off.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = duration.as_millis();
    if millis == 0 {
        return "0s".into();
    }
    if millis.is_multiple_of(YEAR) {
        return format!("{}y", millis / YEAR);
    }
    let mut out = String::new();
    // Weeks are read and never written: nobody reads `12w6d` at a glance.
    for (unit, factor) in UNITS.iter().rev().filter(|(unit, _)| !["w", "y"].contains(unit)) {
        let count = millis / u128::from(*factor);
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
            millis %= u128::from(*factor);
        }
    }
    out
}

/// Reads the path of a member of a JSON document, `$.contact.email`, into the names on it. A name of other characters than
/// letters, digits, `_` and `-` is a JSON string.
pub(super) fn parse_member_path(text: &str) -> Result<Vec<String>, String> {
    let expected = || "expected a path of members, as `$.contact.email`".to_owned();
    let mut rest = text.strip_prefix('$').ok_or_else(expected)?;
    let mut path = Vec::new();
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').ok_or_else(expected)?;
        if rest.starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            path.push(strings.next().and_then(Result::ok).ok_or_else(expected)?);
            rest = &rest[strings.byte_offset()..];
        } else {
            let named = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
            let end = rest.find(|c| !named(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(expected());
            }
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    if path.is_empty() || path.iter().any(|name| name.contains('\0')) { Err(expected()) } else { Ok(path) }
}

/// Reads one step of a blind index: `trim`, `lower`, `nfkc`, `digits`, `email`, `last:4`, `word-prefix:3`.
pub fn parse_normaliser(text: &str) -> Result<Normaliser, String> {
    let (word, count) = match text.split_once(':') {
        Some((word, count)) => (word, Some(count)),
        None => (text, None),
    };
    let plain = |normaliser| match count {
        None => Ok(normaliser),
        Some(_) => Err(format!("`{word}` takes no number")),
    };
    let counted = |make: fn(u16) -> Normaliser| match count.map(str::parse::<u16>) {
        Some(Ok(count @ 1..=255)) => Ok(make(count)),
        _ => Err(format!("`{word}` takes a number from 1 to 255, as `{word}:4`")),
    };
    match word {
        "trim" => plain(Normaliser::Trim),
        "lower" => plain(Normaliser::Lower),
        "nfkc" => plain(Normaliser::Nfkc),
        "digits" => plain(Normaliser::Digits),
        "email" => plain(Normaliser::Email),
        "last" => counted(Normaliser::LastN),
        "word-prefix" => counted(Normaliser::WordPrefix),
        _ => {
            let words = ["trim", "lower", "nfkc", "digits", "email", "last", "word-prefix"];
            Err(format!("unknown normaliser{}", did_you_mean(word, words)))
        }
    }
}

/// Writes a step as the policy file spells it.
pub fn format_normaliser(normaliser: Normaliser) -> String {
    match normaliser {
        Normaliser::Trim => "trim".into(),
        Normaliser::Lower => "lower".into(),
        Normaliser::Nfkc => "nfkc".into(),
        Normaliser::Digits => "digits".into(),
        Normaliser::Email => "email".into(),
        Normaliser::LastN(count) => format!("last:{count}"),
        Normaliser::WordPrefix(count) => format!("word-prefix:{count}"),
    }
}

/// Reads `ed25519:` and 32 bytes in unpadded base64url.
pub fn parse_operator_key(text: &str) -> Result<[u8; 32], &'static str> {
    let encoded = text.strip_prefix(OPERATOR_KEY_PREFIX).ok_or("expected `ed25519:` and a public key")?;
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "the key after `ed25519:` is not unpadded base64url")?;
    bytes.try_into().map_err(|_| "the key after `ed25519:` is not 32 bytes long")
}

/// Writes the operators' public key as the policy file spells it.
pub fn format_operator_key(key: &[u8; 32]) -> String {
    format!("{OPERATOR_KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(key))
}

/// ` (did you mean …?)` with the nearest of the known names, or nothing where none is near.
pub(super) fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(given, known) {
        Some(name) => format!(" (did you mean `{name}`?)"),
        None => String::new(),
    }
}

/// The nearest known name: at most a third of its letters wrong (two at least), the fewest first.
pub(super) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&given, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(2) && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A key as TOML spells it: bare where it may be, quoted otherwise.
pub(super) fn key_text(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) }
}

/// A path of keys as TOML spells it: `tables."public.users".columns.email`.
pub(super) fn path_text(path: &[String]) -> String {
    path.iter().map(|key| key_text(key)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for text in ["0s", "1ms", "30s", "5m", "1h30m", "90d", "1d1h1m1s1ms", "7y"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("2w").unwrap(), Duration::from_secs(14 * 86_400));
        for text in ["", "5", "m", "5 m", "5q", "-5m", "1.5h", "99999999999999999999s", "18446744073709551615w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn normalisers_are_read_and_written_alike() {
        for text in ["trim", "lower", "nfkc", "digits", "email", "last:4", "word-prefix:3"] {
            assert_eq!(format_normaliser(parse_normaliser(text).unwrap()), text);
        }
        assert_eq!(parse_normaliser("lowr").unwrap_err(), "unknown normaliser (did you mean `lower`?)");
        assert_eq!(parse_normaliser("last").unwrap_err(), "`last` takes a number from 1 to 255, as `last:4`");
        assert_eq!(parse_normaliser("last:0").unwrap_err(), "`last` takes a number from 1 to 255, as `last:4`");
        assert_eq!(parse_normaliser("trim:1").unwrap_err(), "`trim` takes no number");
    }

    #[test]
    fn a_path_leads_through_members_alone() {
        for (text, names) in [
            ("$.email", vec!["email"]),
            ("$.contact.e-mail_2", vec!["contact", "e-mail_2"]),
            (r#"$."a.b \" c".d."""#, vec!["a.b \" c", "d", ""]),
            ("$.straße", vec!["straße"]),
        ] {
            assert_eq!(parse_member_path(text).unwrap(), names);
        }
        for text in
            ["", "$", "email", "$email", "$.", "$..a", "$.a.", "$.a[0]", "$.*", "$.a b", r#"$."a"#, r#"$."a\u0000""#]
        {
            assert!(parse_member_path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_operator_key_is_32_bytes_of_base64url() {
        let key = [7u8; 32];
        assert_eq!(parse_operator_key(&format_operator_key(&key)), Ok(key));
        assert!(parse_operator_key("ed25519:AAAA").is_err());
        assert!(parse_operator_key("rsa:AAAA").is_err());
        assert!(parse_operator_key("ed25519:!").is_err());
    }

    #[test]
    fn a_name_is_suggested_only_where_it_is_near() {
        assert_eq!(nearest("rng", ["ring", "id", "mode"]), Some("ring"));
        assert_eq!(nearest("normalize", ["normalise", "bits"]), Some("normalise"));
        assert_eq!(nearest("xy", ["id", "mode"]), None);
        assert_eq!(nearest("colour", ["ring", "id"]), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in any::<String>()) {
            let _ = parse_duration(&text);
            let _ = parse_normaliser(&text);
            let _ = parse_operator_key(&text);
            let _ = key_text(&text);
        }
    }
}
