//! Whether what a step makes is there already, or what it takes away is gone: somebody who owns the table may have run the
//! printed statements. Asked from the system catalogs, for which no right is needed; `IF NOT EXISTS` would ask for the
//! owner's rights even where it does nothing.

use enfold::Result;
use tokio_postgres::types::Type;

use super::generations::Route;
use super::{generations, names, shadow, text};
use crate::database::{SchemaStep, ShadowChange};
use crate::generations::{GenerationChange, former_column, next_column};
use crate::model::TableName;
use crate::postgres::session::Param;
use crate::postgres::shape::table_oid;
use crate::postgres::{Postgres, Purpose};

impl Postgres {
    /// `false` for steps that look for themselves, and for the rewrite, which leaves no mark.
    pub(super) async fn is_done(&self, step: &SchemaStep) -> Result<bool> {
        Ok(match step {
            SchemaStep::AddIndexColumn { table, column } => self.has_column(table, column).await?,
            SchemaStep::DropIndexColumn { table, column } => !self.has_column(table, column).await?,
            SchemaStep::GuardBinding { table, bound, sealed, members } => {
                let body = text::guard_body(bound, sealed, members);
                self.has_guard(table, &body, &text::guard_mark(bound, sealed, members)).await?
            }
            SchemaStep::DropBindingGuard { table } => !self.has_any_guard(table).await?,
            SchemaStep::ValidateFormCheck { table, column } => self.check(table, column).await? == Some(true),
            SchemaStep::DropFormCheck { table, column } => self.check(table, column).await?.is_none(),
            SchemaStep::Shadow { table, column, shadow, change } => match change {
                ShadowChange::Add { required, .. } => {
                    self.has_column(table, shadow).await? && self.has_shadow(table, column, shadow, *required).await?
                }
                ShadowChange::Refuse => self.named_check(table, &names::empty(column)).await?.is_some(),
                ShadowChange::Validate => self.named_check(table, &names::empty(column)).await? == Some(true),
                ShadowChange::Allow => {
                    self.named_check(table, &names::empty(column)).await?.is_none()
                        && !self.always_filled(table, shadow).await?
                }
                ShadowChange::Drop { .. } => !self.has_column(table, shadow).await?,
                ShadowChange::DropSource { .. } => !self.has_column(table, column).await?,
            },
            SchemaStep::Generations { table, column, change, .. } => self.is_changed(table, column, change).await?,
            SchemaStep::Widen { .. }
            | SchemaStep::AddFormCheck { .. }
            | SchemaStep::AddMemberCheck { .. }
            | SchemaStep::BuildIndex { .. }
            | SchemaStep::DropPlainIndex { .. }
            | SchemaStep::RestorePlainIndexes { .. }
            | SchemaStep::RefuseKeys { .. }
            | SchemaStep::AllowKeys { .. }
            | SchemaStep::Rewrite { .. } => false,
        })
    }

    async fn is_changed(&self, table: &TableName, column: &str, change: &GenerationChange) -> Result<bool> {
        let (next_name, former) = (next_column(column), former_column(column));
        Ok(match change {
            GenerationChange::Begin { now, next } => {
                let body = generations::body(column, Route::Both, *now, *next);
                self.has_column(table, &next_name).await? && self.has_route(table, column, &body).await?
            }
            GenerationChange::Watch => false,
            GenerationChange::Cut { now, next, .. } => {
                let body = generations::body(column, Route::One(*next), *now, *next);
                !self.has_column(table, &next_name).await? && self.has_route(table, column, &body).await?
            }
            GenerationChange::GiveUp { now, next } => {
                let body = generations::body(column, Route::One(*now), *now, *next);
                !self.has_column(table, &next_name).await? && self.has_route(table, column, &body).await?
            }
            GenerationChange::DropFormer => !self.has_column(table, &former).await?,
        })
    }

    /// The trigger, firing, with the function behind it word for word.
    async fn has_route(&self, table: &TableName, column: &str, body: &str) -> Result<bool> {
        let sql = "SELECT true FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                   WHERE t.tgrelid = $1 AND t.tgname = $2 AND t.tgenabled IN ('O', 'A') AND p.prosrc = $3";
        let trigger = names::route(column);
        let params: [Param<'_>; 2] = [(&trigger, Type::TEXT), (&body, Type::TEXT)];
        Ok(self.first(table, sql, &params).await?.is_some())
    }

    async fn has_column(&self, table: &TableName, column: &str) -> Result<bool> {
        let sql = "SELECT true FROM pg_catalog.pg_attribute \
                   WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped";
        Ok(self.first(table, sql, &[(&column, Type::TEXT)]).await?.is_some())
    }

    async fn always_filled(&self, table: &TableName, column: &str) -> Result<bool> {
        let sql = "SELECT attnotnull FROM pg_catalog.pg_attribute \
                   WHERE attrelid = $1 AND attname = $2 AND attnum > 0 AND NOT attisdropped";
        Ok(self.first(table, sql, &[(&column, Type::TEXT)]).await? == Some(true))
    }

    /// Whether the form check was validated; `None` where there is none.
    async fn check(&self, table: &TableName, column: &str) -> Result<Option<bool>> {
        self.named_check(table, &names::check(column)).await
    }

    async fn named_check(&self, table: &TableName, name: &str) -> Result<Option<bool>> {
        let sql = "SELECT convalidated FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND conname = $2";
        self.first(table, sql, &[(&name, Type::TEXT)]).await
    }

    /// The check with its mark, and the trigger, firing, with the function behind it word for word.
    async fn has_shadow(&self, table: &TableName, column: &str, shadow: &str, required: bool) -> Result<bool> {
        let sql = "SELECT true FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                   JOIN pg_catalog.pg_constraint c ON c.conrelid = t.tgrelid AND c.conname = $4 \
                     AND pg_catalog.obj_description(c.oid, 'pg_constraint') = $5 \
                   WHERE t.tgrelid = $1 AND t.tgname = $2 AND t.tgenabled IN ('O', 'A') AND p.prosrc = $3";
        let (trigger, body, one) = (names::shadow(column), shadow::body(column, shadow), names::one(column));
        let mark = shadow::mark(required);
        let params: [Param<'_>; 4] =
            [(&trigger, Type::TEXT), (&body, Type::TEXT), (&one, Type::TEXT), (&mark, Type::TEXT)];
        Ok(self.first(table, sql, &params).await?.is_some())
    }

    /// Both triggers, firing, with their marks, and the function behind them word for word.
    async fn has_guard(&self, table: &TableName, body: &str, mark: &str) -> Result<bool> {
        let sql = "SELECT count(*) = 2 FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
                   JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'enfold' \
                   WHERE t.tgrelid = $1 AND t.tgname IN ($2, $3) AND t.tgenabled IN ('O', 'A') \
                     AND p.proname = $4 AND p.prosrc = $5 AND pg_catalog.obj_description(t.oid, 'pg_trigger') = $6";
        let function = names::guard_function(table);
        let params: [Param<'_>; 5] = [
            (&names::GUARD, Type::TEXT),
            (&names::GUARD_AFTER, Type::TEXT),
            (&function, Type::TEXT),
            (&body, Type::TEXT),
            (&mark, Type::TEXT),
        ];
        Ok(self.first(table, sql, &params).await? == Some(true))
    }

    async fn has_any_guard(&self, table: &TableName) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname IN ($2, $3)) \
                   OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
                                WHERE n.nspname = 'enfold' AND p.proname = $4)";
        let function = names::guard_function(table);
        let params: [Param<'_>; 3] =
            [(&names::GUARD, Type::TEXT), (&names::GUARD_AFTER, Type::TEXT), (&function, Type::TEXT)];
        Ok(self.first(table, sql, &params).await? == Some(true))
    }

    /// The answer's one value. `$1` is the table; `params` follow it.
    pub(super) async fn first(&self, table: &TableName, sql: &str, params: &[Param<'_>]) -> Result<Option<bool>> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let mut all: Vec<Param<'_>> = vec![(&oid, Type::OID)];
        all.extend(params.iter().cloned());
        let doing = format!("cannot look up what was done to the table `{}.{}`", table.schema, table.table);
        let rows = tx.query(&doing, sql, &all).await?;
        tx.commit().await?;
        Ok(rows.first().map(|row| row.get(0)))
    }
}
