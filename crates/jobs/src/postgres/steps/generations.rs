//! Two generations of a blind index on Postgres.
//!
//! Writers store both in one value, and a trigger takes it apart before the row is checked for uniqueness: so the
//! application's statements, `ON CONFLICT` among them, stay as they are. After the cut the trigger stays and costs a look at
//! two bytes: a value that was computed before it may be written after it.

use enfold::{Code, Error, Result};
use enfold_core::index::GENERATION_LEN;
use tokio_postgres::types::Type;

use super::names;
use super::text::IndexText;
use crate::generations::{GenerationChange, IndexPlace, Stored, former_column, mark, next_column};
use crate::model::TableName;
use crate::postgres::shape::{leaves, table_oid};
use crate::postgres::store::schema;
use crate::postgres::{Postgres, Purpose, ident, literal, qualified};

/// By which our own refusal in [`cut`] is told from everything else: `object_not_in_prerequisite_state`.
const UNFILLED: &str = "55000";

/// What the trigger makes of a value.
#[derive(Clone, Copy)]
pub(super) enum Route {
    /// `now` stays, and `next` goes to its own column.
    Both,
    /// Of the two only this one is kept.
    One(Stored),
}

/// The statements of a change, all in one transaction. `relations`: the table, and its partitions behind it.
pub(super) fn statements(
    table: &TableName,
    column: &str,
    change: &GenerationChange,
    relations: &[TableName],
) -> Vec<String> {
    let alter = |what: String| format!("ALTER TABLE {} {what}", qualified(table));
    let (next_name, former_name) = (ident(&next_column(column)), ident(&former_column(column)));
    match change {
        GenerationChange::Begin { now, next } => {
            let add = alter(format!("ADD COLUMN IF NOT EXISTS {next_name} bytea"));
            [schema::MAKE_SCHEMA.to_owned(), add]
                .into_iter()
                .chain(route(table, column, Route::Both, *now, *next))
                .collect()
        }
        GenerationChange::Watch => {
            let watch = |relation: &TableName| watch(column).create(relation, &qualified(relation), true);
            // The indexes of partitions are looked at by themselves.
            if relations.len() > 1 {
                relations[1..].iter().map(watch).collect()
            } else {
                relations.iter().map(watch).collect()
            }
        }
        GenerationChange::Cut { now, next, .. } => cut(table, column, [*now, *next], relations),
        GenerationChange::GiveUp { now, next } => {
            let mut statements = route(table, column, Route::One(*now), *now, *next);
            // Its indexes go with it.
            statements.push(alter(format!("DROP COLUMN IF EXISTS {next_name}")));
            statements
        }
        GenerationChange::DropFormer => vec![alter(format!("DROP COLUMN IF EXISTS {former_name}"))],
    }
}

/// What is looked up to know whether a row lacks the next generation.
pub(super) fn watch(column: &str) -> IndexText {
    IndexText { column: next_column(column), unique: false, tenant: None, beside: Some(column.to_owned()) }
}

fn cut(table: &TableName, column: &str, [now, next]: [Stored; 2], relations: &[TableName]) -> Vec<String> {
    let (name, next_name) = (ident(column), ident(&next_column(column)));
    let (former, relation) = (former_column(column), qualified(table));
    let rename = |from: &str, to: &str| format!("ALTER TABLE {relation} RENAME COLUMN {from} TO {to}");
    let mut statements = vec![
        format!("LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE"),
        // The index that watches answers at once, whatever the statistics say of it.
        "SET LOCAL enable_seqscan = off".to_owned(),
        format!(
            "DO $enfold$ BEGIN IF EXISTS (SELECT FROM {relation} WHERE {name} IS NOT NULL AND {next_name} IS NULL) \
             THEN RAISE EXCEPTION USING MESSAGE = 'enfold: rows lack the next generation', ERRCODE = '{UNFILLED}'; \
             END IF; END $enfold$"
        ),
    ];
    let index = |relation: &TableName, name: String| qualified(&TableName { table: name, ..relation.clone() });
    statements.extend(
        relations
            .iter()
            .map(|relation| format!("DROP INDEX IF EXISTS {}", index(relation, watch(column).name(&relation.table)))),
    );
    statements.extend([rename(&name, &ident(&former)), rename(&next_name, &name), grants(table, column, &former)]);
    for relation in relations {
        let of = |column: &str| names::index(&relation.table, column);
        for (from, to) in [(column, former.as_str()), (next_column(column).as_str(), column)] {
            let (from, to) = (index(relation, of(from)), ident(&of(to)));
            statements.push(format!("ALTER INDEX IF EXISTS {from} RENAME TO {to}"));
        }
    }
    // Named anew by what it sees now: it would have followed the former column.
    statements.push(format!("DROP TRIGGER IF EXISTS {} ON {relation}", ident(&names::route(column))));
    statements.extend(route(table, column, Route::One(next), now, next));
    statements
}

/// Rights on the one column, which hang on the former one now, are given on the one in its place.
fn grants(table: &TableName, column: &str, former: &str) -> String {
    format!(
        "DO $enfold$ DECLARE g record; BEGIN FOR g IN \
           SELECT x.privilege_type AS may, x.is_grantable AS passes, \
                  CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.grantee)) END AS whom \
           FROM pg_catalog.pg_attribute a, pg_catalog.aclexplode(a.attacl) x \
           WHERE a.attrelid = {relation}::pg_catalog.regclass AND a.attname = {former} \
         LOOP EXECUTE pg_catalog.format('GRANT %s (%I) ON {text} TO %s%s', g.may, {column}, g.whom, \
           CASE WHEN g.passes THEN ' WITH GRANT OPTION' ELSE '' END); END LOOP; END $enfold$",
        relation = literal(&qualified(table)),
        former = literal(former),
        column = literal(column),
        // In a format string, and in a literal.
        text = qualified(table).replace('%', "%%").replace('\'', "''"),
    )
}

fn route(table: &TableName, column: &str, route: Route, now: Stored, next: Stored) -> Vec<String> {
    let (function, trigger) = (function(table, column), ident(&names::route(column)));
    let name = ident(column);
    let when = match route {
        Route::Both => String::new(),
        Route::One(kept) => format!(
            "WHEN (NEW.{name} IS NOT NULL AND (octet_length(NEW.{name}) <> {} OR NOT {})) ",
            kept.bytes,
            begins(&format!("NEW.{name}"), 1, kept)
        ),
    };
    vec![
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql \
             SET search_path = pg_catalog AS $enfold${}$enfold$",
            body(column, route, now, next)
        ),
        format!(
            "CREATE OR REPLACE TRIGGER {trigger} BEFORE INSERT OR UPDATE OF {name} ON {} FOR EACH ROW {when}EXECUTE FUNCTION {function}()",
            qualified(table)
        ),
    ]
}

pub(super) fn function(table: &TableName, column: &str) -> String {
    format!("enfold.{}", ident(&names::route_function(table, column)))
}

pub(super) fn body(column: &str, route: Route, now: Stored, next: Stored) -> String {
    let (name, next_name) = (ident(column), ident(&next_column(column)));
    let value = format!("NEW.{name}");
    let second = now.bytes + 1;
    let both = format!(
        "octet_length({value}) = {} AND {} AND {}",
        now.bytes + next.bytes,
        begins(&value, 1, now),
        begins(&value, second, next)
    );
    let (first, last) =
        (format!("substring({value} FROM 1 FOR {})", now.bytes), format!("substring({value} FROM {second})"));
    let alone = |of: Stored| format!("octet_length({value}) = {} AND {}", of.bytes, begins(&value, 1, of));
    let refuse = |kept: Stored| {
        format!(
            "RAISE EXCEPTION USING MESSAGE = {}, ERRCODE = 'integrity_constraint_violation', \
             SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;",
            literal(&format!("enfold: {column} takes generation {} of its blind index", kept.generation))
        )
    };
    match route {
        // What ON CONFLICT … DO UPDATE takes from EXCLUDED was taken apart when the row was to be inserted, a moment ago: so
        // that is remembered, until the transaction ends.
        Route::Both => format!(
            " DECLARE whole bytea; BEGIN \
             IF TG_OP = 'UPDATE' AND {value} IS NOT DISTINCT FROM OLD.{name} THEN RETURN NEW; END IF; \
             IF {both} THEN \
               IF TG_OP = 'INSERT' THEN PERFORM set_config({kept}, encode({value}, 'hex'), true); END IF; \
               NEW.{next_name} := {last}; {value} := {first}; RETURN NEW; \
             END IF; \
             IF {value} IS NOT NULL AND NOT ({alone}) THEN {refuse} END IF; \
             IF TG_OP = 'UPDATE' AND NEW.{next_name} IS NOT DISTINCT FROM OLD.{next_name} THEN \
               whole := decode(coalesce(current_setting({kept}, true), ''), 'hex'); \
               NEW.{next_name} := CASE WHEN substring(whole FROM 1 FOR {len}) = {value} THEN substring(whole FROM {second}) END; \
             END IF; RETURN NEW; END ",
            kept = literal(&format!("enfold.kept_{}", mark(&format!("{name} {}", next.generation)))),
            len = now.bytes,
            alone = alone(now),
            refuse = refuse(now),
        ),
        Route::One(kept) => format!(
            " BEGIN IF {both} THEN {value} := {}; RETURN NEW; END IF; {} END ",
            if kept == now { first } else { last },
            refuse(kept)
        ),
    }
}

/// Whether a generation begins at a byte of a value, counted from 1.
fn begins(value: &str, at: u16, of: Stored) -> String {
    format!("substring({value} FROM {at} FOR {GENERATION_LEN}) = decode('{:04x}', 'hex')", of.generation)
}

impl Postgres {
    pub(super) async fn change_generation(
        &self,
        table: &TableName,
        column: &str,
        change: &GenerationChange,
    ) -> Result<()> {
        if *change == GenerationChange::Watch {
            return self.build_index(table, &watch(column)).await;
        }
        let relations = self.with_partitions(table).await?;
        let doing = format!("cannot change the table `{}.{}`", table.schema, table.table);
        let done = self.in_tries(&doing, &statements(table, column, change, &relations)).await;
        done.map_err(|error| {
            if !error.causes().any(|cause| cause.contains(UNFILLED)) {
                return error;
            }
            let line =
                format!("rows of `{}.{}` have the present generation of `{column}` alone", table.schema, table.table);
            Error::new(Code::Busy, line)
        })
    }

    /// The table first.
    async fn with_partitions(&self, table: &TableName) -> Result<Vec<TableName>> {
        let tx = self.begin(Purpose::Own).await?;
        let oid = table_oid(&tx, table).await?;
        let leaves = leaves(&tx, oid, table).await?;
        tx.commit().await?;
        let mut relations = vec![table.clone()];
        for leaf in leaves.iter().filter(|leaf| leaf.relation != qualified(table)) {
            relations.push(self.bare_name(&leaf.relation).await?);
        }
        Ok(relations)
    }

    pub(in crate::postgres) async fn look_at_index(&self, table: &TableName, column: &str) -> Result<IndexPlace> {
        let relations = self.with_partitions(table).await?;
        // An index that joins those of partitions hangs on each of them; ours are known by their names.
        let ours: Vec<String> = relations.iter().map(|relation| names::index(&relation.table, column)).collect();
        let of: Vec<String> = relations.iter().map(qualified).collect();
        let columns = vec![column.to_owned(), next_column(column), former_column(column)];
        let doing = format!("cannot look up the columns of `{}.{}`", table.schema, table.table);
        let there = "SELECT attname::text FROM pg_catalog.pg_attribute \
                     WHERE attrelid = pg_catalog.to_regclass($1) AND attname = ANY ($2) AND attnum > 0 AND NOT attisdropped";
        let found =
            self.once(Purpose::Own, &doing, there, &[(&of[0], Type::TEXT), (&columns, Type::TEXT_ARRAY)]).await?;
        let found: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        let hanging = "SELECT DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) \
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass \
               AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum \
             LEFT JOIN pg_catalog.pg_class c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid \
             LEFT JOIN pg_catalog.pg_trigger t ON d.classid = 'pg_catalog.pg_trigger'::regclass AND t.oid = d.objid \
             LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
             WHERE a.attrelid = ANY ($1::pg_catalog.regclass[]) AND a.attname = $2 AND d.deptype <> 'i' \
               AND (c.relname IS NULL OR c.relname <> ALL ($3) OR i.indisreplident) AND (t.tgname IS NULL OR t.tgname <> $4) \
               AND (c.relkind IS NULL OR c.relkind NOT IN ('r', 'p')) ORDER BY 1";
        let route = names::route(column);
        let params: [super::Param<'_>; 4] =
            [(&of, Type::TEXT_ARRAY), (&column, Type::TEXT), (&ours, Type::TEXT_ARRAY), (&route, Type::TEXT)];
        let others = self.once(Purpose::Own, &doing, hanging, &params).await?;
        Ok(IndexPlace {
            there: found.contains(&columns[0]),
            next: found.contains(&columns[1]),
            former: found.contains(&columns[2]),
            others: others.iter().map(|row| row.get(0)).collect(),
        })
    }
}
