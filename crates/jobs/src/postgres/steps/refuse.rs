//! The refusal of new values under data keys that go out of use: a trigger that looks a value's key up in `enfold.refused_keys`.
//!
//! A trigger and not a check, because a check looks at a row whenever it is changed, and so would stop an UPDATE of something
//! else in a row that still holds such a value. A list in a table and not in the trigger, so that taking a data key out of use
//! needs no right on the application's table and no lock on it, however many there are.
//!
//! It looks after the row was written, at what later triggers made of it. The function runs with its owner's rights: an
//! application needs none in schema `enfold`.

use enfold::Result;
use tokio_postgres::types::Type;

use super::{names, text};
use crate::disabling::Guarded;
use crate::model::{Storage, TableName};
use crate::postgres::form::Look;
use crate::postgres::held::Within;
use crate::postgres::session::Param;
use crate::postgres::store::schema;
use crate::postgres::{Postgres, ident, literal, qualified};

/// `base`: the type under the domains of a column that holds JSON; looked at as jsonb where it is not known.
pub(super) fn statements(table: &TableName, columns: &[(Guarded, Option<String>)]) -> Vec<String> {
    let function = function(table);
    let trigger = |name: &str, event: &str, when: &str| {
        format!(
            "CREATE OR REPLACE TRIGGER {name} AFTER {event} ON {} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {function}()",
            qualified(table)
        )
    };
    // An UPDATE of anything else costs no call.
    let changed: Vec<String> = columns.iter().map(|(column, _)| changes(column)).collect();
    let filled: Vec<String> =
        columns.iter().map(|(column, _)| format!("{} IS NOT NULL", value("NEW", column))).collect();
    vec![
        schema::MAKE_SCHEMA.to_owned(),
        // Refused here, where whoever makes the trigger sees it, and not in an application's next INSERT.
        "DO $enfold$ BEGIN PERFORM FROM enfold.refused_keys LIMIT 1; END $enfold$".to_owned(),
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER \
             SET search_path = pg_catalog AS $enfold${}$enfold$",
            body(columns)
        ),
        trigger(names::REFUSE_INSERT, "INSERT", &filled.join(" OR ")),
        trigger(names::REFUSE_UPDATE, "UPDATE", &changed.join(" OR ")),
    ]
}

pub(super) fn drop(table: &TableName) -> Vec<String> {
    let trigger = |name: &str| format!("DROP TRIGGER IF EXISTS {name} ON {}", qualified(table));
    vec![
        trigger(names::REFUSE_INSERT),
        trigger(names::REFUSE_UPDATE),
        format!("DROP FUNCTION IF EXISTS {}()", function(table)),
    ]
}

fn function(table: &TableName) -> String {
    format!("enfold.{}", ident(&names::refuse_function(table)))
}

/// The function's text, which Postgres keeps as it is. Of an INSERT there is no OLD, and all of it is NULL.
fn body(columns: &[(Guarded, Option<String>)]) -> String {
    let refused: Vec<String> = columns
        .iter()
        .map(|(column, base)| {
            let look = match &column.member {
                Some(_) => Look::Jsonb,
                None => Look::of(column.storage, base.as_deref().unwrap_or("jsonb")),
            };
            format!(
                "({} AND EXISTS (SELECT FROM enfold.refused_keys k WHERE k.prefix = {}))",
                changes(column),
                look.key_prefix(&value("NEW", column))
            )
        })
        .collect();
    let message = literal(
        "enfold: the value is under a data key that was taken out of use; seal it again, under the data key that seals now",
    );
    format!(
        " BEGIN IF {} THEN RAISE EXCEPTION USING MESSAGE = {message}, ERRCODE = 'integrity_constraint_violation', \
         SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME; END IF; RETURN NULL; END ",
        refused.join(" OR ")
    )
}

/// Whether the exact text of a value changes: a type's own equality may hide that.
fn changes(column: &Guarded) -> String {
    text::differ(&value("OLD", column), &value("NEW", column))
}

fn value(row: &str, column: &Guarded) -> String {
    let holder = ident(&column.holder);
    match &column.member {
        Some(member) => Within::of(member).read(&format!("{row}.{holder}")),
        None => format!("{row}.{holder}"),
    }
}

impl Postgres {
    pub(super) async fn refuse_keys(&self, table: &TableName, columns: &[Guarded]) -> Result<()> {
        schema::ensure(self).await?;
        let columns = self.with_types(table, columns).await?;
        if self.has_refusal(table, &body(&columns)).await? {
            return Ok(());
        }
        let doing = format!("cannot have the table `{}.{}` refuse data keys", table.schema, table.table);
        self.in_tries(&doing, &statements(table, &columns)).await
    }

    pub(in crate::postgres) async fn is_refused_in(&self, table: &TableName, columns: &[Guarded]) -> Result<bool> {
        let columns = self.with_types(table, columns).await?;
        self.has_refusal(table, &body(&columns)).await
    }

    async fn with_types(&self, table: &TableName, columns: &[Guarded]) -> Result<Vec<(Guarded, Option<String>)>> {
        let mut with_types = Vec::with_capacity(columns.len());
        for column in columns {
            let is_json = column.storage == Storage::Json && column.member.is_none();
            let base = if is_json { Some(self.column(table, &column.holder).await?.base) } else { None };
            with_types.push((column.clone(), base));
        }
        Ok(with_types)
    }

    pub(super) async fn allow_keys(&self, table: &TableName) -> Result<()> {
        if !self.has_any_refusal(table).await? {
            return Ok(());
        }
        let doing = format!("cannot change the table `{}.{}`", table.schema, table.table);
        self.in_tries(&doing, &drop(table)).await
    }

    /// Both triggers, firing, and the function behind them word for word.
    async fn has_refusal(&self, table: &TableName, body: &str) -> Result<bool> {
        let sql = "SELECT count(*) = 2 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                   JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'enfold' \
                   WHERE t.tgrelid = $1 AND t.tgname IN ($2, $3) AND t.tgenabled IN ('O', 'A') \
                     AND p.proname = $4 AND p.prosrc = $5 AND p.prosecdef";
        let function = names::refuse_function(table);
        let params: [Param<'_>; 4] = [
            (&names::REFUSE_INSERT, Type::TEXT),
            (&names::REFUSE_UPDATE, Type::TEXT),
            (&function, Type::TEXT),
            (&body, Type::TEXT),
        ];
        Ok(self.first(table, sql, &params).await? == Some(true))
    }

    async fn has_any_refusal(&self, table: &TableName) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname IN ($2, $3))";
        let params: [Param<'_>; 2] = [(&names::REFUSE_INSERT, Type::TEXT), (&names::REFUSE_UPDATE, Type::TEXT)];
        Ok(self.first(table, sql, &params).await? == Some(true))
    }
}
