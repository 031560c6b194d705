//! Numbers and moments as commands and pages show them.

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// RFC 3339, in UTC, to the second; none where an earlier version did not say.
pub fn time(ms: i64) -> Option<String> {
    let at = (ms > 0).then(|| jiff::Timestamp::from_millisecond(ms).ok())??;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The moment that is spelled so, in milliseconds since 1970: `2026-03-01T12:00:00Z`, or a day, which is its beginning in UTC.
pub fn moment(text: &str) -> Option<i64> {
    // By its form, because a date can be parsed from a moment without an offset too, whose time would be dropped.
    let day = || jiff::civil::Date::strptime("%Y-%m-%d", text).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| day().map(|day| day.timestamp()));
    moment.map(jiff::Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_shown_and_a_day_is_its_beginning() {
        assert_eq!(moment("2026-03-01T12:00:00Z").and_then(time).as_deref(), Some("2026-03-01T12:00:00Z"));
        assert_eq!(moment("2026-03-01"), moment("2026-03-01T00:00:00Z"));
        assert_eq!(moment("2026-03-01T13:00:00+01:00"), moment("2026-03-01T12:00:00Z"));
        for wrong in ["", "yesterday", "2026-13-01", "2026-03-01T12:00:00"] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
    }
}
