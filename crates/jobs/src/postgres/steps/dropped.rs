//! Indexes that hold plaintext: dropped with a record of what they were, and made again from it.
//!
//! The record is committed before the drop or with it, so that whatever is interrupted there is always the index or its
//! definition. It is written under an empty search path: the definition names everything in full, and means the same in
//! any session. A tablespace of its own and comments are not part of a definition, and are not kept.

use enfold::{Code, Error, Result};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::text;
use crate::database::IndexKind;
use crate::model::TableName;
use crate::postgres::store::schema;
use crate::postgres::{Postgres, Purpose, ident, literal, qualified};

/// The statements that a restore would run are made of the rows of this answer: they are not known before it is asked.
pub(super) fn listing(table: &TableName) -> String {
    format!(
        "SELECT CASE WHEN constraint_definition IS NULL THEN definition ELSE \
                format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s', relation_schema, relation_name, index_name, constraint_definition) END \
         FROM enfold.dropped_indexes WHERE table_schema = {} AND table_name = {}",
        literal(&table.schema),
        literal(&table.table)
    )
}

/// The statement that drops an index of `relation`. All names are quoted already, but for the constraint's.
pub(super) fn drop(kind: &IndexKind, relation: &str, index: &str) -> String {
    match kind {
        IndexKind::Constraint(name) => format!("ALTER TABLE {relation} DROP CONSTRAINT IF EXISTS {}", ident(name)),
        // There is no CONCURRENTLY for it.
        IndexKind::Partitioned => format!("DROP INDEX IF EXISTS {index}"),
        IndexKind::Plain => format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"),
    }
}

/// An index on record.
struct Dropped {
    index: TableName,
    relation: TableName,
    partitioned: bool,
    /// As `pg_get_indexdef` gives it.
    definition: String,
    /// As `pg_get_constraintdef` gives it, where the index belonged to a constraint.
    constraint: Option<String>,
    /// Its table or partition is not there any more.
    gone: bool,
}

impl Postgres {
    pub(super) async fn drop_index(&self, table: &TableName, index: &str) -> Result<()> {
        let name = text::index_name(table, index);
        let doing = format!("cannot look up the index `{index}`");
        let sql = "SELECT k.conname::text, pg_catalog.format('%I.%I', n.nspname, r.relname), c.relkind = 'I' \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             JOIN pg_catalog.pg_class r ON r.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace \
             LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = c.oid AND k.contype IN ('u', 'p', 'x') AND k.conrelid = i.indrelid \
             WHERE c.oid = pg_catalog.to_regclass($1)";
        let rows = self.once(Purpose::Own, &doing, sql, &[(&name, Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let (constraint, relation, partitioned): (Option<String>, String, bool) = (row.get(0), row.get(1), row.get(2));
        schema::ensure(self).await?;
        let doing = format!("cannot drop the index `{index}`");
        let [path, record] = record(table, &name);
        let kind = IndexKind::of(constraint, partitioned);
        let drop = drop(&kind, &relation, &name);
        if kind != IndexKind::Plain {
            return self.in_tries(&doing, &[path, record, drop]).await;
        }
        self.in_tries(&doing, &[path, record]).await?;
        self.builds_end(&relation).await?;
        self.outside(table, &drop).await
    }

    /// Makes the indexes again that are on record and over no column of `sealed`, partitions' before those they belong
    /// to, and ends each record.
    pub(super) async fn restore_indexes(&self, table: &TableName, sealed: &[String]) -> Result<()> {
        for dropped in self.recorded(table, sealed).await? {
            if !dropped.gone {
                self.restore_index(&dropped).await.map_err(|error| dropped.explain(error))?;
            }
            let sql = "DELETE FROM enfold.dropped_indexes WHERE index_schema = $1 AND index_name = $2";
            let (schema, name) = (&dropped.index.schema, &dropped.index.table);
            let doing = format!("cannot end the record of the index `{name}`");
            self.once(Purpose::Own, &doing, sql, &[(schema, Type::TEXT), (name, Type::TEXT)]).await?;
        }
        Ok(())
    }

    async fn recorded(&self, table: &TableName, sealed: &[String]) -> Result<Vec<Dropped>> {
        let doing = format!("cannot look up what was dropped of the table `{}.{}`", table.schema, table.table);
        // Databases that an older Enfold converted have no record.
        let there = "SELECT pg_catalog.to_regclass('enfold.dropped_indexes') IS NOT NULL";
        if !self.once(Purpose::Own, &doing, there, &[]).await?.first().is_some_and(|row| row.get(0)) {
            return Ok(Vec::new());
        }
        let sql = "SELECT index_schema, index_name, relation_schema, relation_name, partitioned, definition, constraint_definition, \
                          pg_catalog.to_regclass(pg_catalog.format('%I.%I', relation_schema, relation_name)) IS NULL \
                   FROM enfold.dropped_indexes WHERE table_schema = $1 AND table_name = $2 AND NOT columns && $3 \
                   ORDER BY level DESC, index_schema, index_name";
        let sealed = sealed.to_vec();
        let params =
            [(&table.schema as _, Type::TEXT), (&table.table as _, Type::TEXT), (&sealed as _, Type::TEXT_ARRAY)];
        Ok(self.once(Purpose::Own, &doing, sql, &params).await?.iter().map(Dropped::of).collect())
    }

    async fn restore_index(&self, dropped: &Dropped) -> Result<()> {
        let (name, relation) = (qualified(&dropped.index), qualified(&dropped.relation));
        let doing = format!("cannot make the index `{}` again", dropped.index.table);
        self.builds_end(&relation).await?;
        let valid = self.index_is_valid(&dropped.index).await?;
        let using_index = dropped.constraint.as_deref().is_none_or(|constraint| constraint.starts_with("UNIQUE "));
        if dropped.partitioned || !using_index {
            // Takes over the indexes of partitions that are there by now; a constraint that cannot be made of an index
            // is built under its lock.
            let sql = match &dropped.constraint {
                Some(constraint) => {
                    format!("ALTER TABLE {relation} ADD CONSTRAINT {} {constraint}", ident(&dropped.index.table))
                }
                None => dropped.create("")?,
            };
            return if valid.is_some() { Ok(()) } else { self.in_tries(&doing, &[sql]).await };
        }
        if valid != Some(true) {
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {name}");
            // A build or a drop that was interrupted leaves an index that costs every write and serves no read.
            if valid == Some(false) {
                self.outside(&dropped.relation, &drop).await?;
            }
            if let Err(error) = self.outside(&dropped.relation, &dropped.create("CONCURRENTLY ")?).await {
                if self.index_is_valid(&dropped.index).await? == Some(false) {
                    self.outside(&dropped.relation, &drop).await.ok();
                }
                return Err(error);
            }
        }
        let Some(constraint) = &dropped.constraint else { return Ok(()) };
        if self.is_constraint(&dropped.index).await? {
            return Ok(());
        }
        // DEFERRABLE and the like come after the last column.
        let deferred = constraint.rsplit_once(')').map_or("", |(_, rest)| rest);
        let bare = ident(&dropped.index.table);
        let sql = format!("ALTER TABLE {relation} ADD CONSTRAINT {bare} UNIQUE USING INDEX {bare}{deferred}");
        self.in_tries(&doing, &[sql]).await
    }

    async fn is_constraint(&self, index: &TableName) -> Result<bool> {
        let sql = "SELECT FROM pg_catalog.pg_constraint WHERE conindid = pg_catalog.to_regclass($1) AND contype = 'u'";
        let name = qualified(index);
        let rows = self.once(Purpose::Own, "cannot look up a constraint", sql, &[(&name, Type::TEXT)]).await?;
        Ok(!rows.is_empty())
    }
}

impl Dropped {
    fn of(row: &Row) -> Self {
        Self {
            index: TableName { schema: row.get(0), table: row.get(1) },
            relation: TableName { schema: row.get(2), table: row.get(3) },
            partitioned: row.get(4),
            definition: row.get(5),
            constraint: row.get(6),
            gone: row.get(7),
        }
    }

    /// The definition as a statement that may be run twice, with `how` before the name.
    fn create(&self, how: &str) -> Result<String> {
        statement(&self.definition, how).ok_or_else(|| {
            Error::new(Code::Internal, format!("the record of the index `{}` is no index", self.index.table))
        })
    }

    fn explain(&self, error: Error) -> Error {
        // By SQLSTATE: unique_violation.
        let error = if error.causes().any(|cause| cause.contains("23505")) {
            Error::new(Code::PlanRefused, format!("cannot make the unique index `{}` again", self.index.table))
                .cause(format!("two rows of `{}` have the same value", self.relation.table))
        } else {
            error
        };
        error
            .hint(format!("no value is sealed any more; only the index `{}` is missing", self.index.table))
            .hint("settle what stands in its way and run `enfold rollback` again, or delete its row from enfold.dropped_indexes")
    }
}

/// `CREATE INDEX name ON ONLY table …` as `CREATE INDEX how IF NOT EXISTS name ON table …`: the definition of a
/// partitioned index is of the parent alone, and all of it is wanted.
fn statement(definition: &str, how: &str) -> Option<String> {
    let (create, rest) = ["CREATE UNIQUE INDEX ", "CREATE INDEX "]
        .into_iter()
        .find_map(|create| Some((create, definition.strip_prefix(create)?)))?;
    let mut quoted = false;
    let end = rest.find(|c| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    })?;
    let (name, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(" ON ")?;
    Some(format!("{create}{how}IF NOT EXISTS {name} ON {}", rest.strip_prefix("ONLY ").unwrap_or(rest)))
}

/// Records an index and, if it is a partitioned one, those of the partitions. `columns` are all that it holds, computes
/// from or filters by, those behind a generated column too. Statements of one transaction; an index that is gone leaves the
/// record as it is.
pub(super) fn record(table: &TableName, index: &str) -> [String; 2] {
    let insert = format!(
        "INSERT INTO enfold.dropped_indexes (index_schema, index_name, table_schema, table_name, relation_schema, relation_name, \
                level, partitioned, columns, definition, constraint_definition) \
         SELECT n.nspname, c.relname, {schema}, {table}, m.nspname, r.relname, t.level, c.relkind = 'I', \
                ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = r.oid AND a.attnum > 0 AND ( \
                        a.attnum = ANY (x.indkey::int2[]) \
                        OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid = a.attnum) \
                        OR EXISTS (SELECT FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid \
                                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid = a.attnum \
                                    WHERE f.adrelid = r.oid AND f.adnum = ANY (x.indkey::int2[]) AND f.adnum <> a.attnum))), \
                pg_get_indexdef(c.oid), pg_get_constraintdef(k.oid) \
         FROM (SELECT relid, level FROM pg_partition_tree(to_regclass({index})) UNION SELECT to_regclass({index}), 0) t \
         JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_index x ON x.indexrelid = c.oid JOIN pg_class r ON r.oid = x.indrelid JOIN pg_namespace m ON m.oid = r.relnamespace \
         LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.contype IN ('u', 'p', 'x') AND k.conrelid = r.oid \
         ON CONFLICT (index_schema, index_name) DO UPDATE SET \
            table_schema = excluded.table_schema, table_name = excluded.table_name, relation_schema = excluded.relation_schema, \
            relation_name = excluded.relation_name, level = excluded.level, partitioned = excluded.partitioned, \
            columns = excluded.columns, definition = excluded.definition, \
            constraint_definition = excluded.constraint_definition, dropped_at = now()",
        schema = literal(&table.schema),
        table = literal(&table.table),
        index = literal(index),
    );
    ["SET LOCAL search_path = pg_catalog".to_owned(), insert]
}

#[cfg(test)]
mod tests {
    use super::statement;

    #[test]
    fn a_definition_becomes_a_statement_whatever_the_name_is() {
        for (definition, wanted) in [
            (
                "CREATE UNIQUE INDEX t_a ON public.t USING btree (lower(a))",
                "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_a ON public.t USING btree (lower(a))",
            ),
            (
                "CREATE INDEX \"a \"\" ON ONLY b\" ON ONLY public.t USING gin (a)",
                "CREATE INDEX CONCURRENTLY IF NOT EXISTS \"a \"\" ON ONLY b\" ON public.t USING gin (a)",
            ),
        ] {
            assert_eq!(statement(definition, "CONCURRENTLY ").as_deref(), Some(wanted));
        }
        assert_eq!(statement("DROP TABLE t", ""), None);
    }
}
