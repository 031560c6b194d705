//! Names of what Enfold makes in an application's schema. All begin with `enfold_`, by which a plan knows them again.

use crate::generations::fit;
use crate::model::TableName;

pub(super) const GUARD: &str = "enfold_guard";
pub(super) const GUARD_AFTER: &str = "enfold_guard_after";

/// The triggers that refuse values under data keys that go out of use.
pub(super) const REFUSE_INSERT: &str = "enfold_refuse_insert";
pub(super) const REFUSE_UPDATE: &str = "enfold_refuse_update";

pub(in crate::postgres) fn check(column: &str) -> String {
    fit(&format!("enfold_form_{column}"))
}

pub(super) fn index(table: &str, column: &str) -> String {
    fit(&format!("enfold_{table}_{column}"))
}

/// The guard's function, in schema `enfold`: one for each table.
pub(super) fn guard_function(table: &TableName) -> String {
    fit(&format!("guard_{}_{}", table.schema, table.table))
}

/// The function behind [`REFUSE_INSERT`] and [`REFUSE_UPDATE`], in schema `enfold`: one for each table.
pub(super) fn refuse_function(table: &TableName) -> String {
    fit(&format!("refuse_{}_{}", table.schema, table.table))
}

/// The trigger that keeps a source and its shadow apart.
pub(super) fn shadow(source: &str) -> String {
    fit(&format!("enfold_shadow_{source}"))
}

/// Its function, in schema `enfold`: one for each source.
pub(super) fn shadow_function(table: &TableName, source: &str) -> String {
    fit(&format!("shadow_{}_{}_{source}", table.schema, table.table))
}

/// The trigger that takes apart what writers store in the column of a blind index.
pub(super) fn route(column: &str) -> String {
    fit(&format!("enfold_route_{column}"))
}

/// Its function, in schema `enfold`: one for each column.
pub(super) fn route_function(table: &TableName, column: &str) -> String {
    fit(&format!("route_{}_{}_{column}", table.schema, table.table))
}

/// What finds rows that lack the next generation of a blind index.
pub(super) fn unfilled(table: &str, column: &str) -> String {
    fit(&format!("enfold_unfilled_{table}_{column}"))
}

/// The check that one of a source and its shadow holds a value, or one at most.
pub(in crate::postgres) fn one(source: &str) -> String {
    fit(&format!("enfold_one_{source}"))
}

/// The check that a column holds nothing.
pub(in crate::postgres) fn empty(column: &str) -> String {
    fit(&format!("enfold_empty_{column}"))
}

/// The check that a column always holds something.
pub(super) fn full(column: &str) -> String {
    fit(&format!("enfold_full_{column}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_stay_apart_and_within_what_postgres_keeps() {
        let (a, b) = (index(&"ä".repeat(40), "email_eq"), index(&"ä".repeat(40), "phone_eq"));
        assert_ne!(a, b);
        assert!(a.len() <= 63 && b.len() <= 63);
        assert_eq!(index("users", "email_eq"), "enfold_users_email_eq");
    }
}
