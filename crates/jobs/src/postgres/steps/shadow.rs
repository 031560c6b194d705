//! A source and its shadow: of the two one at most holds a value, so that neither can be stale.
//!
//! A trigger sees to it where a writer knows only one of them: what a statement changes is what counts, and empties the
//! other. Where it does not fire (a replica's session, another trigger behind it) a check refuses the row. A check also
//! takes over from NOT NULL on the source, and says by its comment that there was one.

use enfold::{Code, Error, Result};

use super::{names, refuse, text};
use crate::database::ShadowChange;
use crate::model::{Storage, TableName};
use crate::postgres::store::schema;
use crate::postgres::{Postgres, ident, literal, qualified};

/// Comment of the check that says that one of the two holds a value, and not only at most one.
pub(in crate::postgres) const REQUIRED: &str = "Enfold: either the column or its shadow has a value; it was NOT NULL";
const OPTIONAL: &str = "Enfold: the column or its shadow has a value, or neither";

/// The statements of a change, in the parts that are transactions of their own.
pub(super) fn parts(table: &TableName, column: &str, shadow: &str, change: &ShadowChange) -> Vec<Vec<String>> {
    let alter = |what: String| format!("ALTER TABLE {} {what}", qualified(table));
    let check = |name: &str, condition: String| alter(format!("ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID"));
    let drop_check = |name: &str| alter(format!("DROP CONSTRAINT IF EXISTS {name}"));
    let validate = |name: &str| alter(format!("VALIDATE CONSTRAINT {name}"));
    let empty = ident(&names::empty(column));
    match change {
        ShadowChange::Add { storage, required } => vec![add(table, column, shadow, *storage, *required)],
        ShadowChange::Refuse => vec![vec![drop_check(&empty), check(&empty, format!("{} IS NULL", ident(column)))]],
        ShadowChange::Validate => vec![vec![validate(&empty)]],
        // The shadow is NOT NULL where the source was dropped, and added again since.
        ShadowChange::Allow => {
            vec![vec![drop_check(&empty), alter(format!("ALTER COLUMN {} DROP NOT NULL", ident(shadow)))]]
        }
        ShadowChange::Drop { required } | ShadowChange::DropSource { required } => {
            // The one that goes, and the one that stays.
            let drops_source = matches!(change, ShadowChange::DropSource { .. });
            let (gone, stays) = if drops_source { (column, shadow) } else { (shadow, column) };
            let (empty, full) = (ident(&names::empty(gone)), ident(&names::full(stays)));
            // The source has its check already, or was not enforced, and then validating fails.
            let mut checks = Vec::new();
            if !drops_source {
                // It looks into the shadow, which could not go while it is there.
                checks.extend(refuse::drop(table));
                checks.extend([drop_check(&empty), check(&empty, format!("{} IS NULL", ident(gone)))]);
            }
            let mut validates = vec![validate(&empty)];
            let mut last = Vec::new();
            if *required {
                checks.extend([drop_check(&full), check(&full, format!("{} IS NOT NULL", ident(stays)))]);
                validates.push(validate(&full));
                // The validated check spares it the look at every row.
                last.push(alter(format!("ALTER COLUMN {} SET NOT NULL", ident(stays))));
                last.push(drop_check(&full));
            }
            last.push(format!("DROP TRIGGER IF EXISTS {} ON {}", ident(&names::shadow(column)), qualified(table)));
            last.push(format!("DROP FUNCTION IF EXISTS {}()", function(table, column)));
            last.push(drop_check(&ident(&names::one(column))));
            // Its check goes with it.
            last.push(alter(format!("DROP COLUMN IF EXISTS {}", ident(gone))));
            vec![checks, validates, last]
        }
    }
}

fn add(table: &TableName, column: &str, shadow: &str, storage: Storage, required: bool) -> Vec<String> {
    let alter = |what: String| format!("ALTER TABLE {} {what}", qualified(table));
    let sql_type = if storage == Storage::Bytes { "bytea" } else { "text" };
    let (one, trigger) = (ident(&names::one(column)), ident(&names::shadow(column)));
    let (source, held) = (ident(column), ident(shadow));
    let how_many = if required { "= 1" } else { "<= 1" };
    let mut statements = vec![
        schema::MAKE_SCHEMA.to_owned(),
        alter(format!("ADD COLUMN IF NOT EXISTS {held} {sql_type}")),
        alter(format!("DROP CONSTRAINT IF EXISTS {one}")),
        alter(format!("ADD CONSTRAINT {one} CHECK (pg_catalog.num_nonnulls({source}, {held}) {how_many}) NOT VALID")),
    ];
    if required {
        statements.push(alter(format!("ALTER COLUMN {source} DROP NOT NULL")));
    }
    statements.extend([
        format!(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql \
             SET search_path = pg_catalog SET bytea_output = hex SET extra_float_digits = 1 AS $enfold${}$enfold$",
            function(table, column),
            body(column, shadow)
        ),
        format!(
            "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE ON {} FOR EACH ROW \
             WHEN (NEW.{source} IS NOT NULL AND NEW.{held} IS NOT NULL) EXECUTE FUNCTION {}()",
            qualified(table),
            function(table, column)
        ),
        // Last, so that a check with its mark means that all of it is there.
        format!("COMMENT ON CONSTRAINT {one} ON {} IS {}", qualified(table), literal(mark(required))),
    ]);
    statements
}

pub(super) const fn mark(required: bool) -> &'static str {
    if required { REQUIRED } else { OPTIONAL }
}

fn function(table: &TableName, column: &str) -> String {
    format!("enfold.{}", ident(&names::shadow_function(table, column)))
}

/// Called where both have a value. What was changed counts; where both were, the source, whose writer may know nothing of
/// the shadow. Where neither was, the check refuses.
pub(super) fn body(column: &str, shadow: &str) -> String {
    format!(
        " BEGIN IF TG_OP = 'INSERT' OR {source_differs} THEN NEW.{held} := NULL; \
         ELSIF {shadow_differs} THEN NEW.{source} := NULL; END IF; RETURN NEW; END ",
        source = ident(column),
        held = ident(shadow),
        source_differs = text::differs(column),
        shadow_differs = text::differs(shadow),
    )
}

impl Postgres {
    pub(super) async fn change_shadow(
        &self,
        table: &TableName,
        column: &str,
        shadow: &str,
        change: &ShadowChange,
    ) -> Result<()> {
        let doing = format!("cannot change the table `{}.{}`", table.schema, table.table);
        for statements in parts(table, column, shadow, change) {
            if let Err(error) = self.in_tries(&doing, &statements).await {
                return Err(self.undo_shadow(table, column, shadow, change, error).await);
            }
        }
        Ok(())
    }

    /// What a drop that found values leaves behind would refuse them for ever.
    async fn undo_shadow(
        &self,
        table: &TableName,
        column: &str,
        shadow: &str,
        change: &ShadowChange,
        error: Error,
    ) -> Error {
        let (gone, checks, hint) = match change {
            ShadowChange::Drop { .. } => {
                let checks = vec![names::empty(shadow), names::full(column)];
                (shadow, checks, "run `enfold rollback` again, which empties it first")
            }
            ShadowChange::DropSource { .. } => {
                (column, vec![names::full(shadow)], "run `enfold apply` and `enfold enforce` again")
            }
            ShadowChange::Validate if error.causes().any(|cause| cause.contains("23514")) => {
                let line = format!("`{}.{}.{column}` still holds values", table.schema, table.table);
                return Error::new(Code::PlaintextFound, line)
                    .hint("nothing was lost; run `enfold enforce` again, which sweeps the column first");
            }
            _ => return error,
        };
        if !error.causes().any(|cause| cause.contains("23514")) {
            return error;
        }
        let statements: Vec<String> = checks
            .iter()
            .map(|name| format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", qualified(table), ident(name)))
            .collect();
        let line = format!("cannot drop `{}.{}.{gone}`, which still holds values", table.schema, table.table);
        let error = Error::new(Code::Busy, line).hint(hint);
        match self.in_tries("cannot take a check off again", &statements).await {
            Ok(()) => error,
            Err(left) => error.cause(left.message().to_owned()),
        }
    }
}
