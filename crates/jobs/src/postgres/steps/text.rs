//! Each schema step as SQL: what `plan --print-sql` prints, and what [`super`] runs.

use enfold::Result;
use enfold::policy::Member;

use super::{dropped, generations, names, refuse, shadow};
use crate::database::{IndexKind, SchemaStep};
use crate::generations::former_column;
use crate::model::{Storage, TableName};
use crate::postgres::form::{Look, key_ids};
use crate::postgres::held::Within;
use crate::postgres::store::schema;
use crate::postgres::{ident, literal, qualified};

/// The statements of a step. `base`: the type under the column's domains, where it is known; a JSON column whose kind is
/// not known is looked at as jsonb.
pub(super) fn statements(step: &SchemaStep, base: Option<&str>) -> Result<Vec<String>> {
    Ok(match step {
        SchemaStep::Widen { table, column } => {
            vec![format!("ALTER TABLE {} ALTER COLUMN {} TYPE text", qualified(table), ident(column))]
        }
        SchemaStep::AddIndexColumn { table, column } => {
            vec![format!("ALTER TABLE {} ADD COLUMN IF NOT EXISTS {} bytea", qualified(table), ident(column))]
        }
        SchemaStep::BuildIndex { table, column, unique, tenant, partitions } => {
            let index = IndexText { column: column.clone(), unique: *unique, tenant: tenant.clone(), beside: None };
            let build = |table: &TableName, concurrently| index.create(table, &qualified(table), concurrently);
            // A partitioned table's own is refused concurrently, but takes over those of its partitions and builds nothing.
            let mut statements: Vec<String> = partitions.iter().map(|leaf| build(leaf, true)).collect();
            statements.push(build(table, partitions.is_empty()));
            statements
        }
        SchemaStep::DropIndexColumn { table, column } => vec![
            // Of an index that was rotated.
            format!("DROP TRIGGER IF EXISTS {} ON {}", ident(&names::route(column)), qualified(table)),
            format!("DROP FUNCTION IF EXISTS {}()", generations::function(table, column)),
            format!(
                "ALTER TABLE {} DROP COLUMN IF EXISTS {}, DROP COLUMN IF EXISTS {}",
                qualified(table),
                ident(column),
                ident(&former_column(column))
            ),
        ],
        SchemaStep::Generations { table, column, change, partitions } => {
            let relations: Vec<TableName> = [table].into_iter().chain(partitions).cloned().collect();
            generations::statements(table, column, change, &relations)
        }
        SchemaStep::DropPlainIndex { table, index, kind } => {
            let name = index_name(table, index);
            // Without the record there would be no way back.
            let mut statements = schema::script();
            statements.push("BEGIN".to_owned());
            statements.extend(dropped::record(table, &name));
            let (drop, commit) = (dropped::drop(kind, &qualified(table), &name), "COMMIT".to_owned());
            // What goes concurrently cannot go in a transaction.
            statements.extend(if *kind == IndexKind::Plain { [commit, drop] } else { [drop, commit] });
            statements
        }
        SchemaStep::RestorePlainIndexes { table, .. } => vec![dropped::listing(table)],
        SchemaStep::GuardBinding { table, bound, sealed, members } => guard(table, bound, sealed, members),
        SchemaStep::DropBindingGuard { table } => vec![
            format!("DROP TRIGGER IF EXISTS {} ON {}", names::GUARD, qualified(table)),
            format!("DROP TRIGGER IF EXISTS {} ON {}", names::GUARD_AFTER, qualified(table)),
            format!("DROP FUNCTION IF EXISTS enfold.{}()", ident(&names::guard_function(table))),
        ],
        SchemaStep::AddFormCheck { table, column, storage, key_ids: ids } => {
            let name = ident(&names::check(column));
            let condition = form(column, *storage, ids, base)?;
            vec![
                format!("ALTER TABLE {} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID", qualified(table)),
                format!("COMMENT ON CONSTRAINT {name} ON {} IS {}", qualified(table), literal(&mark(*storage, ids))),
            ]
        }
        SchemaStep::AddMemberCheck { table, column, member, key_ids: ids } => {
            let name = ident(&names::check(column));
            let value = Within::of(member).read(&ident(&member.column));
            let condition = format!("{value} IS NULL OR {}", Look::Jsonb.is_envelope(&value, &key_ids(ids)?));
            vec![
                format!("ALTER TABLE {} ADD CONSTRAINT {name} CHECK ({condition}) NOT VALID", qualified(table)),
                format!(
                    "COMMENT ON CONSTRAINT {name} ON {} IS {}",
                    qualified(table),
                    literal(&member_mark(member, ids))
                ),
            ]
        }
        SchemaStep::ValidateFormCheck { table, column } => {
            vec![format!("ALTER TABLE {} VALIDATE CONSTRAINT {}", qualified(table), ident(&names::check(column)))]
        }
        SchemaStep::DropFormCheck { table, column } => {
            vec![format!("ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", qualified(table), ident(&names::check(column)))]
        }
        SchemaStep::Shadow { table, column, shadow: held, change } => {
            shadow::parts(table, column, held, change).into_iter().flatten().collect()
        }
        SchemaStep::RefuseKeys { table, columns } => {
            let columns: Vec<_> = columns.iter().map(|column| (column.clone(), None)).collect();
            schema::script().into_iter().chain(refuse::statements(table, &columns)).collect()
        }
        SchemaStep::AllowKeys { table } => refuse::drop(table),
        SchemaStep::Rewrite { table } => vec![format!("VACUUM (FULL, ANALYZE) {}", qualified(table))],
    })
}

/// By which a check that is there is known to be the one that is wanted: Postgres prints expressions its own way.
pub(super) fn mark(storage: Storage, ids: &[String]) -> String {
    let mut sorted = ids.to_vec();
    sorted.sort();
    format!(
        "Enfold: an envelope, {storage:?}, {}",
        if sorted.is_empty() { "any key".to_owned() } else { sorted.join(" ") }
    )
}

/// The same for a member.
pub(super) fn member_mark(member: &Member, ids: &[String]) -> String {
    format!("{} at {:?} of {}", mark(Storage::Json, ids), member.path, member.column)
}

/// By which a guard that is there is known to be the one that is wanted.
pub(super) fn guard_mark(bound: &[String], sealed: &[String], members: &[Member]) -> String {
    let members: Vec<String> =
        members.iter().map(|member| format!(" and {:?} of {}", member.path, member.column)).collect();
    format!("Enfold: envelopes in {sealed:?}{} are bound to {bound:?}", members.concat())
}

/// The database index over a blind index, or over the rows that lack the next generation of one.
pub(super) struct IndexText {
    pub(super) column: String,
    pub(super) unique: bool,
    pub(super) tenant: Option<String>,
    /// Only rows that have nothing in the column and something in this one.
    pub(super) beside: Option<String>,
}

impl IndexText {
    pub(super) fn name(&self, table: &str) -> String {
        match &self.beside {
            None => names::index(table, &self.column),
            Some(beside) => names::unfilled(table, beside),
        }
    }

    pub(super) fn create(&self, table: &TableName, relation: &str, concurrently: bool) -> String {
        let columns: Vec<String> = self.tenant.iter().chain([&self.column]).map(|name| ident(name)).collect();
        let rows = self
            .beside
            .as_ref()
            .map(|beside| format!(" WHERE {} IS NOT NULL AND {} IS NULL", ident(beside), ident(&self.column)));
        format!(
            "CREATE {}INDEX {}IF NOT EXISTS {} ON {relation} ({}){}",
            if self.unique { "UNIQUE " } else { "" },
            if concurrently { "CONCURRENTLY " } else { "" },
            ident(&self.name(&table.table)),
            columns.join(", "),
            rows.unwrap_or_default()
        )
    }
}

/// `schema.index` as a plan writes it, or a bare name in the table's schema.
pub(super) fn index_name(table: &TableName, index: &str) -> String {
    let bare = index.strip_prefix(&format!("{}.", table.schema)).unwrap_or(index);
    qualified(&TableName { schema: table.schema.clone(), table: bare.to_owned() })
}

fn form(column: &str, storage: Storage, ids: &[String], base: Option<&str>) -> Result<String> {
    let look = Look::of(storage, base.unwrap_or("jsonb"));
    let name = ident(column);
    Ok(format!("{name} IS NULL OR {}", look.is_envelope(&name, &key_ids(ids)?)))
}

/// A trigger before and one after the update: the first sees rows that move to another partition, the second what
/// later triggers made of the row. Values are compared as their exact text, for a type's own equality may hide a
/// change. The condition costs no call as long as no bound column changes.
fn guard(table: &TableName, bound: &[String], sealed: &[String], members: &[Member]) -> Vec<String> {
    let changed: Vec<String> = bound.iter().map(|column| differs(column)).collect();
    let function = format!("enfold.{}", ident(&names::guard_function(table)));
    let trigger = |name: &str, when: &str| {
        format!(
            "CREATE OR REPLACE TRIGGER {name} {when} UPDATE ON {} FOR EACH ROW WHEN ({}) EXECUTE FUNCTION {function}()",
            qualified(table),
            changed.join(" OR ")
        )
    };
    let comment = |name: &str| {
        format!("COMMENT ON TRIGGER {name} ON {} IS {}", qualified(table), literal(&guard_mark(bound, sealed, members)))
    };
    vec![
        schema::MAKE_SCHEMA.to_owned(),
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
             SET search_path = pg_catalog SET bytea_output = hex AS $enfold${}$enfold$",
            guard_body(bound, sealed, members)
        ),
        trigger(names::GUARD, "BEFORE"),
        trigger(names::GUARD_AFTER, "AFTER"),
        // Last, so that a guard with its marks is a whole one.
        comment(names::GUARD),
        comment(names::GUARD_AFTER),
    ]
}

/// The function's text, which Postgres keeps as it is.
pub(super) fn guard_body(bound: &[String], sealed: &[String], members: &[Member]) -> String {
    let columns = sealed.iter().map(|column| [format!("OLD.{}", ident(column)), format!("NEW.{}", ident(column))]);
    let members = members
        .iter()
        .map(|member| ["OLD", "NEW"].map(|row| Within::of(member).read(&format!("{row}.{}", ident(&member.column)))));
    let stays: Vec<String> = columns
        .chain(members)
        .map(|[old, new]| format!("({} AND NOT ({}))", sealed_form(&old), differ(&old, &new)))
        .collect();
    let message = literal(&format!(
        "enfold: {} cannot change while the row's envelopes stay, which are bound to it; seal the values again in the same statement",
        bound.join(", ")
    ));
    format!(
        " BEGIN IF {} THEN RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = 'integrity_constraint_violation', \
         SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME; END IF; RETURN NEW; END ",
        stays.join(" OR ")
    )
}

pub(super) fn differs(column: &str) -> String {
    let name = ident(column);
    differ(&format!("OLD.{name}"), &format!("NEW.{name}"))
}

pub(super) fn differ(old: &str, new: &str) -> String {
    format!("{old}::text COLLATE \"C\" IS DISTINCT FROM {new}::text")
}

/// Whether a value of any type has the beginning of an envelope: the text form, the binary form as hexadecimal text, a
/// JSON string or object.
fn sealed_form(value: &str) -> String {
    format!(r#"coalesce({value}::text COLLATE "C" ~ '^("?enf1:|[\\]xf9e9df01|[{{].*"enf")', false)"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_every_statement_is_quoted() {
        let table = TableName { schema: "S".to_owned(), table: "weird \"name\"".to_owned() };
        let column = "Col'umn".to_owned();
        let steps = [
            SchemaStep::Widen { table: table.clone(), column: column.clone() },
            SchemaStep::AddIndexColumn { table: table.clone(), column: column.clone() },
            SchemaStep::DropIndexColumn { table: table.clone(), column: column.clone() },
            SchemaStep::ValidateFormCheck { table: table.clone(), column: column.clone() },
            SchemaStep::DropFormCheck { table: table.clone(), column },
            SchemaStep::Rewrite { table: table.clone() },
            SchemaStep::DropBindingGuard { table },
        ];
        for step in steps {
            let sql = statements(&step, None).expect("text").join("; ");
            assert!(sql.contains(r#""S"."weird ""name""""#), "{sql}");
            assert!(!sql.contains("Col'umn") || sql.contains(r#"Col'umn""#), "{sql}");
        }
    }
}
