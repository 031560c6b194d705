//! Names and positions: quoting, how a key is printed, row ids as the engine's positions.

use rusqlite::types::ValueRef;

use crate::hex::hex;

/// A name as an SQL identifier. Never used for values.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A piece of text as an SQL literal: for names inside statements that take no parameters (triggers, pragmas).
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// SQLite compares names without regard to ASCII case.
pub(super) fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Row ids are signed and the engine's positions are not: flipping the sign bit keeps their order.
pub(super) fn position(rowid: i64) -> u64 {
    rowid.cast_unsigned() ^ (1 << 63)
}

/// The inverse of [`position`].
pub(super) fn rowid(position: u64) -> i64 {
    (position ^ (1 << 63)).cast_signed()
}

/// The last row id before an exclusive end; `None` where nothing lies before it.
pub(super) fn last_before(end: u64) -> Option<i64> {
    match end {
        u64::MAX => Some(i64::MAX),
        0 => None,
        end => Some(rowid(end - 1)),
    }
}

/// A key value for people.
pub(super) fn printed(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => hex(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_keep_the_order_of_row_ids() {
        let ids = [i64::MIN, -7, -1, 0, 1, 42, i64::MAX];
        assert!(ids.windows(2).all(|w| position(w[0]) < position(w[1])));
        assert!(ids.iter().all(|id| rowid(position(*id)) == *id));
    }

    #[test]
    fn an_open_end_takes_in_the_greatest_row_id() {
        assert_eq!(last_before(u64::MAX), Some(i64::MAX));
        assert_eq!(last_before(position(10)), Some(9));
        assert_eq!(last_before(0), None);
    }

    #[test]
    fn quotes_inside_names_are_doubled() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
