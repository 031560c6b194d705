//! Names of what Enfold makes in an application's schema. All begin with `enfold_`, by which a plan knows them again.

use crate::model::TableName;

/// Postgres cuts names at 63 bytes; two long names must not become one.
const LONGEST: usize = 63;

pub(super) const GUARD: &str = "enfold_guard";
pub(super) const GUARD_AFTER: &str = "enfold_guard_after";

pub(super) fn check(column: &str) -> String {
    fit(&format!("enfold_form_{column}"))
}

pub(super) fn index(table: &str, column: &str) -> String {
    fit(&format!("enfold_{table}_{column}"))
}

/// The guard's function, in schema `enfold`: one for each table.
pub(super) fn guard_function(table: &TableName) -> String {
    fit(&format!("guard_{}_{}", table.schema, table.table))
}

/// The trigger that keeps a source and its shadow apart.
pub(super) fn shadow(source: &str) -> String {
    fit(&format!("enfold_shadow_{source}"))
}

/// Its function, in schema `enfold`: one for each source.
pub(super) fn shadow_function(table: &TableName, source: &str) -> String {
    fit(&format!("shadow_{}_{}_{source}", table.schema, table.table))
}

/// The check that one of a source and its shadow holds a value, or one at most.
pub(in crate::postgres) fn one(source: &str) -> String {
    fit(&format!("enfold_one_{source}"))
}

/// The check that a column holds nothing.
pub(super) fn empty(column: &str) -> String {
    fit(&format!("enfold_empty_{column}"))
}

/// The check that a column always holds something.
pub(super) fn full(column: &str) -> String {
    fit(&format!("enfold_full_{column}"))
}

/// As it is, or cut with a checksum of the whole.
fn fit(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let mark = format!("_{:08x}", fnv(name));
    let mut end = LONGEST - mark.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &name[..end])
}

/// FNV-1a, 32 bits: only to tell names apart, so nothing stronger is needed, and it is the same for ever.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_within_what_postgres_keeps() {
        let (a, b) = (index(&"ä".repeat(40), "email_eq"), index(&"ä".repeat(40), "phone_eq"));
        assert_ne!(a, b);
        assert!(a.len() <= LONGEST && b.len() <= LONGEST);
        assert_eq!(index("users", "email_eq"), "enfold_users_email_eq");
    }
}
