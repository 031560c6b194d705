//! Numbers in a person's words.

use std::fmt::Write as _;

use enfold_jobs::recognise::Recognised;
pub(crate) use enfold_jobs::shown::{count, time};

/// A line of what a column's readers of other products' formats recognise; none where there is nothing to say.
pub(crate) fn readers(column: &str, found: Option<&Recognised>, out: &mut String) {
    let Some(found) = found.filter(|found| found.looked_at() > 0) else { return };
    let by_reader = found.by_reader.iter().map(|(reader, n)| format!("{} of reader `{reader}`", count(*n)));
    let plain = format!("{} plaintext", count(found.plaintext));
    let parts: Vec<String> = by_reader.chain([plain]).collect();
    let all = count(found.looked_at());
    // Writing to a String cannot fail.
    let _ = writeln!(out, "`{column}`: of {all} values looked at that are no envelopes, {}", parts.join(", "));
}

/// `1 row`, `2 rows`, for nouns with a plural in `s`.
pub(crate) fn some(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// `1 row`, `1,234 rows`.
pub(crate) fn rows(n: u64) -> String {
    many(n, "row")
}

/// `1 writer`, `1,234 writers`.
pub(crate) fn many(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(n)) }
}

/// `1.4 MB`, in powers of ten as disks are sold.
pub(crate) fn bytes(n: u64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} bytes") } else { format!("{value:.1} {}", units[unit]) }
}

/// An estimate: `about 2 h 5 min`, `about 40 s`, `under 1 s`.
pub(crate) fn about(seconds: u64) -> String {
    match seconds {
        0 => "under 1 s".to_owned(),
        1..60 => format!("about {seconds} s"),
        60..3600 => format!("about {} min {} s", seconds / 60, seconds % 60),
        _ => format!("about {} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_told_with_their_share() {
        let mut out = String::new();
        readers("users.email", None, &mut out);
        readers("users.email", Some(&Recognised::default()), &mut out);
        assert_eq!(out, "");
        let by_reader = [("fernet".to_owned(), 1_200), ("rails".to_owned(), 5)].into();
        readers("users.email", Some(&Recognised { by_reader, plaintext: 1 }), &mut out);
        let line = "`users.email`: of 1,206 values looked at that are no envelopes, 1,200 of reader `fernet`, 5 of reader \
                    `rails`, 1 plaintext\n";
        assert_eq!(out, line);
    }

    #[test]
    fn numbers_are_grouped_and_given_their_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1000].map(rows), ["0 rows", "1 row", "1,000 rows"]);
        assert_eq!([some(1, "ring"), some(2, "ring")], ["1 ring", "2 rings"]);
        assert_eq!([0, 999, 1000, 1_400_000].map(bytes), ["0 bytes", "999 bytes", "1.0 kB", "1.4 MB"]);
        assert_eq!([0, 59, 61, 7500].map(about), ["under 1 s", "about 59 s", "about 1 min 1 s", "about 2 h 5 min"]);
    }
}
