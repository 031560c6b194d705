//! Schema steps: run so that the application hardly notices, and so that running one twice is running it once.
//!
//! A lock that is not free at once queues everybody behind it; so each try waits only for [`super::Limits::lock_timeout`],
//! and tries are spaced. Indexes are built and dropped CONCURRENTLY, outside any transaction.
mod done;
mod dropped;
mod generations;
pub(super) mod names;
mod refuse;
pub(super) mod shadow;
mod text;

use std::time::{Duration, Instant};

use enfold::db::postgres::failure;
use enfold::{Code, Error, Result};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use self::text::IndexText;
use super::session::Param;
use super::shape::{leaves, table_oid};
use super::{Postgres, Purpose, literal, qualified};
use crate::database::SchemaStep;
use crate::model::TableName;

impl Postgres {
    /// The SQL of a step, for people who run it themselves.
    pub fn step_sql(&self, step: &SchemaStep) -> Vec<String> {
        // A key id that is none is refused when the step is run; here there is nobody to refuse to.
        text::statements(step, None).unwrap_or_default()
    }

    pub async fn run_step(&self, step: &SchemaStep) -> Result<()> {
        if self.is_done(step).await? {
            return Ok(());
        }
        match step {
            SchemaStep::Widen { table, column } => match self.column(table, column).await? {
                found if found.base == "text" && found.plain => Ok(()),
                found if matches!(found.base.as_str(), "text" | "varchar") => self.alter(step, None).await,
                found => Err(Error::new(Code::TypeRefused, format!("`{}.{column}` is not a text column", table.table))
                    .cause(format!("its type is `{}`", found.base))),
            },
            SchemaStep::AddIndexColumn { .. }
            | SchemaStep::DropIndexColumn { .. }
            | SchemaStep::GuardBinding { .. }
            | SchemaStep::DropBindingGuard { .. }
            | SchemaStep::DropFormCheck { .. }
            | SchemaStep::ValidateFormCheck { .. } => self.alter(step, None).await,
            SchemaStep::AddFormCheck { table, column, storage, key_ids } => {
                let found = self.column(table, column).await?;
                match self.check_mark(table, column).await? {
                    Some(mark) if mark == text::mark(*storage, key_ids) => Ok(()),
                    there => self.alter(step, Some((&found.base, there.is_some()))).await,
                }
            }
            SchemaStep::AddMemberCheck { table, column, member, key_ids } => {
                match self.check_mark(table, column).await? {
                    Some(mark) if mark == text::member_mark(member, key_ids) => Ok(()),
                    there => self.alter(step, Some(("jsonb", there.is_some()))).await,
                }
            }
            SchemaStep::BuildIndex { table, column, unique, tenant, .. } => {
                let (column, tenant) = (column.clone(), tenant.clone());
                self.build_index(table, &IndexText { column, unique: *unique, tenant, beside: None }).await
            }
            SchemaStep::Generations { table, column, change, .. } => {
                self.change_generation(table, column, change).await
            }
            SchemaStep::DropPlainIndex { table, index, .. } => self.drop_index(table, index).await,
            SchemaStep::RestorePlainIndexes { table, sealed } => self.restore_indexes(table, sealed).await,
            SchemaStep::Shadow { table, column, shadow, change } => {
                self.change_shadow(table, column, shadow, change).await
            }
            SchemaStep::RefuseKeys { table, columns } => self.refuse_keys(table, columns).await,
            SchemaStep::AllowKeys { table } => self.allow_keys(table).await,
            SchemaStep::Rewrite { table } => self.rewrite(table).await,
        }
    }

    /// Runs a step's statements in one transaction, again and again until its locks are free. `check`: the column's
    /// type, and whether another check must go first.
    async fn alter(&self, step: &SchemaStep, check: Option<(&str, bool)>) -> Result<()> {
        let mut statements = text::statements(step, check.map(|(base, _)| base))?;
        if let (
            SchemaStep::AddFormCheck { table, column, .. } | SchemaStep::AddMemberCheck { table, column, .. },
            Some((_, true)),
        ) = (step, check)
        {
            let drop = SchemaStep::DropFormCheck { table: table.clone(), column: column.clone() };
            statements.splice(0..0, text::statements(&drop, None)?);
        }
        let table = step.table();
        let doing = format!("cannot change the table `{}.{}`", table.schema, table.table);
        self.in_tries(&doing, &statements).await.map_err(|error| self.explain(step, error))
    }

    /// Statements in one transaction, as soon as their locks are free.
    async fn in_tries(&self, doing: &str, statements: &[String]) -> Result<()> {
        let until = Instant::now() + self.limits.schema_patience;
        let mut pause = Duration::from_millis(50);
        loop {
            let tx = self.begin(Purpose::Schema).await?;
            match tx.client().batch_execute(&statements.join("; ")).await {
                Ok(()) => return tx.commit().await,
                Err(error) => {
                    let said = failure(doing, &error);
                    tx.rollback().await.ok();
                    if said.code() != Code::Busy || Instant::now() >= until {
                        return Err(said);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    fn explain(&self, step: &SchemaStep, error: Error) -> Error {
        let table = step.table();
        let name = format!("{}.{}", table.schema, table.table);
        match step {
            // 23514 by SQLSTATE: the only check that is validated is ours.
            SchemaStep::ValidateFormCheck { column, .. } if error.causes().any(|cause| cause.contains("23514")) => {
                Error::new(Code::PlaintextFound, format!("`{name}.{column}` still holds values that are no envelopes"))
                    .hint("nothing was lost; run `enfold enforce` again, which sweeps the column first")
            }
            _ if error.code() == Code::Busy => {
                error.hint("somebody holds the table for long: look into pg_stat_activity, then run the command again")
            }
            _ => error,
        }
    }

    async fn build_index(&self, table: &TableName, index: &IndexText) -> Result<()> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let leaves = leaves(&tx, oid, table).await?;
        let partitioned = leaves.len() != 1 || leaves[0].relation != qualified(table);
        tx.commit().await?;
        for leaf in &leaves {
            let bare = if partitioned { self.bare_name(&leaf.relation).await? } else { table.clone() };
            let name = TableName { schema: bare.schema.clone(), table: index.name(&bare.table) };
            self.builds_end(&leaf.relation).await?;
            match self.index_is_valid(&name).await? {
                Some(true) => continue,
                // A build that was interrupted leaves an index that costs every write and serves no read.
                Some(false) => {
                    self.outside(table, &format!("DROP INDEX CONCURRENTLY IF EXISTS {}", qualified(&name))).await?;
                }
                None => {}
            }
            let sql = index.create(&bare, &leaf.relation, true);
            if let Err(error) = self.outside(table, &sql).await {
                if self.index_is_valid(&name).await? == Some(false) {
                    self.outside(table, &format!("DROP INDEX CONCURRENTLY IF EXISTS {}", qualified(&name))).await.ok();
                }
                return Err(if error.causes().any(|cause| cause.contains("23505")) {
                    Error::new(
                        Code::PlanRefused,
                        format!("two rows of `{}` have the same value in a unique blind index", table.table),
                    )
                    .cause(format!("the index is over `{}`", index.column))
                    .hint("make the values distinct, or make the index one that is not unique; nothing was sealed")
                } else {
                    error
                });
            }
        }
        let joined = TableName { schema: table.schema.clone(), table: index.name(&table.table) };
        if partitioned && index.beside.is_none() && self.index_is_valid(&joined).await? != Some(true) {
            // Finds the leaves' indexes and takes them over; nothing is built.
            let sql = index.create(table, &qualified(table), false);
            let doing = format!("cannot join the indexes of the partitions of `{}`", table.table);
            self.in_tries(&doing, &[sql]).await?;
        }
        Ok(())
    }

    /// `SKIP_LOCKED` passes by a table whose lock is not free, so whether it was rewritten shows by its file.
    async fn rewrite(&self, table: &TableName) -> Result<()> {
        let before = self.files(table).await?;
        let until = Instant::now() + self.limits.schema_patience;
        let mut pause = Duration::from_millis(50);
        loop {
            self.outside(table, &format!("VACUUM (FULL, ANALYZE, SKIP_LOCKED) {}", qualified(table))).await?;
            let now = self.files(table).await?;
            if before.iter().all(|file| !now.contains(file)) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(Error::new(
                    Code::Busy,
                    format!("cannot rewrite `{}.{}`: its lock is never free", table.schema, table.table),
                )
                .hint("run it when the application is idle, or use pg_repack, which needs no long lock"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }

    /// Waits for every index that a session builds CONCURRENTLY on the table. The build of an apply that was killed goes on
    /// in the server, and is then found done. Beginning another beside it would end in a deadlock: that one waits for the
    /// table's lock with a snapshot, and the first one waits for all older snapshots to go. So no snapshot is held here
    /// between two looks. A build takes what it takes, and so does waiting for it.
    async fn builds_end(&self, relation: &str) -> Result<()> {
        let sql = "SELECT FROM pg_catalog.pg_stat_progress_create_index p JOIN pg_catalog.pg_database d ON d.oid = p.datid \
                   WHERE d.datname = pg_catalog.current_database() AND p.relid = pg_catalog.to_regclass($1) \
                     AND p.command LIKE '%CONCURRENTLY'";
        let doing = format!("cannot see whether an index of {relation} is being built");
        let mut pause = Duration::from_millis(50);
        while !self.once(Purpose::Own, &doing, sql, &[(&relation, Type::TEXT)]).await?.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        Ok(())
    }

    /// A statement that may not stand in a transaction.
    async fn outside(&self, table: &TableName, sql: &str) -> Result<()> {
        let doing = format!("cannot work on the table `{}.{}`", table.schema, table.table);
        let client = self.endpoint.connect().await?;
        client.batch_execute(sql).await.map_err(|error| {
            let said = failure(&doing, &error);
            match error.code() {
                Some(&SqlState::QUERY_CANCELED) => {
                    said.hint("the role has a statement_timeout: ALTER ROLE … SET statement_timeout = 0 for the one that migrates")
                }
                _ => said,
            }
        })
    }

    async fn files(&self, table: &TableName) -> Result<Vec<i64>> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let rows = tx
            .query(
                "cannot look up the files of a table",
                "SELECT pg_catalog.pg_relation_filenode(l.relid)::int8 FROM \
                   (SELECT relid FROM pg_catalog.pg_partition_tree($1) WHERE isleaf UNION SELECT $1::oid) l \
                 WHERE pg_catalog.pg_relation_filenode(l.relid) IS NOT NULL",
                &[(&oid, Type::OID)],
            )
            .await?;
        tx.commit().await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn bare_name(&self, relation: &str) -> Result<TableName> {
        let tx = self.begin(Purpose::Own).await?;
        let row = tx
            .one(
                "cannot look up a partition",
                "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::regclass",
                &[(&relation, Type::TEXT)],
            )
            .await?;
        tx.commit().await?;
        Ok(TableName { schema: row.get(0), table: row.get(1) })
    }

    async fn index_is_valid(&self, index: &TableName) -> Result<Option<bool>> {
        let tx = self.begin(Purpose::Own).await?;
        let sql = format!(
            "SELECT i.indisvalid FROM pg_catalog.pg_index i WHERE i.indexrelid = pg_catalog.to_regclass({})",
            literal(&qualified(index))
        );
        let rows = tx.query("cannot look up an index", &sql, &[]).await?;
        tx.commit().await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn column(&self, table: &TableName, column: &str) -> Result<Column> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let rows = tx
            .query(
                "cannot look up a column",
                "WITH RECURSIVE under AS ( \
                   SELECT a.atttypid AS type, a.atttypmod AS modifier, 0 AS depth FROM pg_catalog.pg_attribute a \
                    WHERE a.attrelid = $1 AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped \
                   UNION ALL \
                   SELECT t.typbasetype, t.typtypmod, u.depth + 1 FROM under u JOIN pg_catalog.pg_type t ON t.oid = u.type AND t.typtype = 'd') \
                 SELECT t.typname::text, u.depth = 0 AND u.modifier < 0 FROM under u \
                 JOIN pg_catalog.pg_type t ON t.oid = u.type AND t.typtype <> 'd'",
                &[(&oid, Type::OID), (&column, Type::TEXT)],
            )
            .await?;
        tx.commit().await?;
        rows.first().map(|row| Column { base: row.get(0), plain: row.get(1) }).ok_or_else(|| {
            Error::new(Code::TableMissing, format!("there is no column `{}.{}.{column}`", table.schema, table.table))
        })
    }

    /// The comment of the form check that is there; empty where somebody took the comment away.
    async fn check_mark(&self, table: &TableName, column: &str) -> Result<Option<String>> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let rows = tx
            .query(
                "cannot look up a check",
                "SELECT coalesce(pg_catalog.obj_description(oid, 'pg_constraint'), '') FROM pg_catalog.pg_constraint \
                 WHERE conrelid = $1 AND conname = $2",
                &[(&oid, Type::OID), (&names::check(column), Type::TEXT)],
            )
            .await?;
        tx.commit().await?;
        Ok(rows.first().map(|row| row.get(0)))
    }
}

struct Column {
    /// Under its domains.
    base: String,
    /// Neither a domain nor limited in length.
    plain: bool,
}

impl SchemaStep {
    fn table(&self) -> &TableName {
        match self {
            SchemaStep::Widen { table, .. }
            | SchemaStep::AddIndexColumn { table, .. }
            | SchemaStep::BuildIndex { table, .. }
            | SchemaStep::DropIndexColumn { table, .. }
            | SchemaStep::DropPlainIndex { table, .. }
            | SchemaStep::RestorePlainIndexes { table, .. }
            | SchemaStep::GuardBinding { table, .. }
            | SchemaStep::DropBindingGuard { table }
            | SchemaStep::AddFormCheck { table, .. }
            | SchemaStep::AddMemberCheck { table, .. }
            | SchemaStep::ValidateFormCheck { table, .. }
            | SchemaStep::DropFormCheck { table, .. }
            | SchemaStep::Shadow { table, .. }
            | SchemaStep::Generations { table, .. }
            | SchemaStep::RefuseKeys { table, .. }
            | SchemaStep::AllowKeys { table }
            | SchemaStep::Rewrite { table } => table,
        }
    }
}
