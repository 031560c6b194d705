//! Tokens, keys, passwords and their hashes.

/// How well-known services begin their secrets. Facts from their public documentation; each is followed by at least
/// [`LEAST_BODY`] characters of a token's alphabet.
const PREFIXES: &[&str] = &[
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "rk_test_",
    "pk_live_",
    "whsec_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xoxr-",
    "xapp-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "SG.",
    "npm_",
    "pypi-",
    "dop_v1_",
    "shpat_",
    "hvs.",
    "hvb.",
    "eyJhbGciOi",
    "sk-",
    "tok_live_",
    "key_live_",
];
const LEAST_BODY: usize = 12;

/// How password hashes begin (crypt(3) and PHC string formats).
const HASHES: &[&str] = &[
    "$2a$",
    "$2b$",
    "$2y$",
    "$argon2",
    "$pbkdf2",
    "$scrypt$",
    "$6$",
    "$5$",
    "$1$",
    "pbkdf2_sha256$",
    "{SSHA}",
    "bcrypt$",
];

/// A secret by its spelling; where the column claims it, anything that looks drawn at random.
pub(super) fn credential(value: &str, claimed: bool) -> bool {
    if value.chars().any(char::is_whitespace) {
        return value.starts_with("-----BEGIN ") && value.contains("PRIVATE KEY");
    }
    HASHES.iter().any(|h| value.starts_with(h) && value.len() >= 20)
        || PREFIXES.iter().any(|p| value.strip_prefix(p).is_some_and(body))
        || jwt(value)
        || (claimed && looks_random(value))
}

fn body(rest: &str) -> bool {
    rest.len() >= LEAST_BODY
        && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && rest.bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// RFC 7519: three base64url parts, of which the first opens a JSON object.
fn jwt(value: &str) -> bool {
    let parts: Vec<&str> = value.split('.').collect();
    parts.len() == 3
        && parts[0].starts_with("eyJ")
        && parts.iter().take(2).all(|p| p.len() >= 8)
        && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'))
}

/// Sixteen characters or more of a token's alphabet with letters and digits mixed, at three bits a character or more.
fn looks_random(value: &str) -> bool {
    if value.len() < 16 || !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+/=.:".contains(&b)) {
        return false;
    }
    let mut counts = [0_u32; 256];
    for b in value.bytes() {
        counts[usize::from(b)] += 1;
    }
    let total = value.len() as f64;
    let bits: f64 = counts.iter().filter(|c| **c > 0).map(|c| f64::from(*c) / total).map(|p| -p * p.log2()).sum();
    bits >= 3.0 && value.bytes().any(|b| b.is_ascii_digit()) && value.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_spelling() {
        for good in ["ghp_16C7e42F292c6912E7710c838347Ae178B4a", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"] {
            assert!(credential(good, false), "{good}");
        }
        assert!(credential("$2b$12$KIXQ0f1mZ0Yz1mE0s8p6UOQ1n1mE0s8p6UOQ1n1mE0s8p6UOQ1n1m", false));
    }

    #[test]
    fn a_random_string_is_a_secret_only_where_the_column_says_so() {
        let uuid = "0190f3e2-7b8a-7c1d-9e2f-3a4b5c6d7e8f";
        assert!(!credential(uuid, false));
        assert!(credential(uuid, true));
        assert!(!credential("sk-learn", false));
        assert!(!credential("aaaaaaaaaaaaaaaa1", true));
    }
}
