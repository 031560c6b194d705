//! Two generations of a blind index on SQLite.
//!
//! A trigger cannot change the row that it was called for, so what writers store is taken apart after it is in the table, in
//! the same statement; a unique index sees it then. A statement that would pass over a row of the same value (`OR IGNORE`,
//! `ON CONFLICT … DO`) is refused instead while an index is rotated: it did not see the row that is in its way.

use enfold::{Code, Error, Result};
use enfold_core::index::GENERATION_LEN;
use rusqlite::{Connection, TransactionBehavior};

use super::error::Doing;
use super::names::{literal, quote, same};
use super::shape::Shape;
use super::steps::{index_name, name, patiently, together};
use super::tokens::mentions;
use crate::database::SchemaStep;
use crate::generations::{GenerationChange, IndexPlace, Stored, former_column, next_column};
use crate::model::TableName;

/// What the triggers make of a value.
#[derive(Clone, Copy)]
enum Route {
    /// `now` stays, and `next` goes to its own column.
    Both,
    /// Of the two only this one is kept.
    One(Stored),
}

/// The statements of a change, all in one transaction. `rowid`: what the table's row id is called.
pub(super) fn sql(table: &TableName, column: &str, change: &GenerationChange, rowid: &str) -> Vec<String> {
    let (next_name, watch) = (next_column(column), quote(&watch_name(table, column)));
    let drop_index = |name: &str| format!("DROP INDEX IF EXISTS {name}");
    match change {
        GenerationChange::Begin { now, next } => {
            let add = format!("ALTER TABLE {} ADD COLUMN {} BLOB", name(table), quote(&next_name));
            [add].into_iter().chain(route(table, column, Route::Both, [*now, *next], rowid)).collect()
        }
        GenerationChange::Watch => vec![format!(
            "CREATE INDEX IF NOT EXISTS {watch} ON {} ({next}) WHERE {} IS NOT NULL AND {next} IS NULL",
            name(table),
            quote(column),
            next = quote(&next_name)
        )],
        GenerationChange::Cut { now, next, unique, tenant } => {
            let rename = |from: &str, to: &str| {
                format!("ALTER TABLE {} RENAME COLUMN {} TO {}", name(table), quote(from), quote(to))
            };
            let build = SchemaStep::BuildIndex {
                table: table.clone(),
                column: column.to_owned(),
                unique: *unique,
                tenant: tenant.clone(),
                partitions: Vec::new(),
            };
            // A rename would have the triggers follow.
            let mut statements = drop_triggers(table, column);
            statements.extend([
                drop_index(&watch),
                rename(column, &former_column(column)),
                rename(&next_name, column),
                drop_index(&quote(&index_name(table, &next_name))),
            ]);
            statements.extend(super::steps::sql(&build));
            statements.extend(route(table, column, Route::One(*next), [*now, *next], rowid));
            statements
        }
        GenerationChange::GiveUp { now, next } => {
            let mut statements = route(table, column, Route::One(*now), [*now, *next], rowid);
            statements.extend([drop_index(&watch), drop_index(&quote(&index_name(table, &next_name)))]);
            statements.push(format!("ALTER TABLE {} DROP COLUMN {}", name(table), quote(&next_name)));
            statements
        }
        GenerationChange::DropFormer => {
            vec![format!("ALTER TABLE {} DROP COLUMN {}", name(table), quote(&former_column(column)))]
        }
    }
}

pub(super) fn run(
    connection: &mut Connection,
    step: &SchemaStep,
    table: &TableName,
    column: &str,
    change: &GenerationChange,
) -> Result<()> {
    let shape = Shape::read(connection, &table.table)?;
    let has = |name: &str| shape.column(name).is_some();
    let (has_next, has_former) = (has(&next_column(column)), has(&former_column(column)));
    let mut statements = sql(table, column, change, &shape.rowid()?);
    match change {
        GenerationChange::Begin { .. } if has_next => {
            statements.remove(0);
        }
        GenerationChange::Cut { .. } if has_former && !has_next => return Ok(()),
        GenerationChange::Cut { .. } => return cut(connection, step, table, column, &statements),
        GenerationChange::GiveUp { .. } if !has_next => {
            statements.pop();
        }
        GenerationChange::DropFormer if !has_former => return Ok(()),
        _ => {}
    }
    together(connection, step, &statements)
}

/// Nobody writes between the look at the rows and the renames: the write lock is held from the first on.
fn cut(
    connection: &mut Connection,
    step: &SchemaStep,
    table: &TableName,
    column: &str,
    statements: &[String],
) -> Result<()> {
    let lacks = format!(
        "SELECT EXISTS (SELECT 1 FROM {} WHERE {} IS NOT NULL AND {} IS NULL)",
        name(table),
        quote(column),
        quote(&next_column(column))
    );
    let mut lacking = false;
    patiently(step, || {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        lacking = tx.query_row(&lacks, [], |row| row.get(0))?;
        if lacking {
            return tx.rollback();
        }
        tx.execute_batch(&statements.join("; "))?;
        tx.commit()
    })?;
    if lacking {
        let line = format!("rows of `{}` have the present generation of `{column}` alone", table.table);
        return Err(Error::new(Code::Busy, line));
    }
    Ok(())
}

fn route(table: &TableName, column: &str, route: Route, [now, next]: [Stored; 2], rowid: &str) -> Vec<String> {
    let (held, beside) = (quote(column), quote(&next_column(column)));
    let both = |row: &str| {
        let value = format!("{row}.{held}");
        format!(
            "(length({value}) = {} AND {} AND {})",
            now.bytes + next.bytes,
            begins(&value, 1, now),
            begins(&value, now.bytes + 1, next)
        )
    };
    let (first, last) =
        (format!("substr(NEW.{held}, 1, {})", now.bytes), format!("substr(NEW.{held}, {})", now.bytes + 1));
    let set = match route {
        Route::Both => format!("{held} = {first}, {beside} = {last}"),
        Route::One(kept) if kept == now => format!("{held} = {first}"),
        Route::One(_) => format!("{held} = {last}"),
    };
    // The writer's own way of settling a conflict holds for the trigger's update too, and may leave the row as it was.
    let taken = literal(&format!("UNIQUE constraint failed: {}.{column}", table.table));
    let split = format!(
        "UPDATE {table} SET {set} WHERE {rowid} = NEW.{rowid}; \
         SELECT RAISE(ABORT, {taken}) WHERE EXISTS (SELECT 1 FROM {table} AS t WHERE t.{rowid} = NEW.{rowid} AND {still})",
        table = name(table),
        still = both("t"),
    );
    let [insert, update, alone, refuse_insert, refuse_update] = trigger_names(table, column).map(|name| quote(&name));
    let trigger = |name: &str, event: &str, when: &str, then: &str| {
        let on = self::name(table);
        format!("CREATE TRIGGER {name} {event} ON {on} WHEN {when} BEGIN {then}; END")
    };
    let of = format!("UPDATE OF {held}");
    let kept = if let Route::One(kept) = route { kept } else { now };
    let whole = format!("(length(NEW.{held}) = {} AND {})", kept.bytes, begins(&format!("NEW.{held}"), 1, kept));
    let neither = format!("NEW.{held} IS NOT NULL AND NOT {whole} AND NOT {}", both("NEW"));
    let says = format!("enfold: {column} takes generation {} of its blind index", kept.generation);
    let refuse = format!("SELECT RAISE(ABORT, {})", literal(&says));
    let mut statements = drop_triggers(table, column);
    statements.extend([
        trigger(&insert, "AFTER INSERT", &both("NEW"), &split),
        trigger(&update, &format!("AFTER {of}"), &both("NEW"), &split),
        trigger(&refuse_insert, "BEFORE INSERT", &neither, &refuse),
        trigger(
            &refuse_update,
            &format!("BEFORE {of}"),
            &format!("{neither} AND OLD.{held} IS NOT NEW.{held}"),
            &refuse,
        ),
    ]);
    if let Route::Both = route {
        // What a statement changes without the other leaves the other of another value.
        let stale = format!(
            "NOT coalesce({}, 0) AND NOT coalesce({}, 0) AND OLD.{held} IS NOT NEW.{held} AND OLD.{beside} IS NEW.{beside} \
             AND NEW.{beside} IS NOT NULL",
            both("NEW"),
            both("OLD")
        );
        let empty = format!("UPDATE {} SET {beside} = NULL WHERE {rowid} = NEW.{rowid}", name(table));
        statements.push(trigger(&alone, &format!("AFTER {of}"), &stale, &empty));
    }
    statements
}

/// Whether a generation begins at a byte of a value, counted from 1.
fn begins(value: &str, at: u16, of: Stored) -> String {
    format!("substr({value}, {at}, {GENERATION_LEN}) = x'{:04x}'", of.generation)
}

pub(super) fn drop_triggers(table: &TableName, column: &str) -> Vec<String> {
    trigger_names(table, column).iter().map(|name| format!("DROP TRIGGER IF EXISTS {}", quote(name))).collect()
}

fn trigger_names(table: &TableName, column: &str) -> [String; 5] {
    ["insert", "update", "alone", "refuse_insert", "refuse_update"]
        .map(|event| format!("enfold_route_{}_{column}_{event}", table.table))
}

fn watch_name(table: &TableName, column: &str) -> String {
    format!("enfold_unfilled_{}_{column}", table.table)
}

pub(super) fn look(connection: &Connection, table: &TableName, column: &str) -> Result<IndexPlace> {
    let shape = Shape::read(connection, &table.table)?;
    let has = |name: &str| shape.column(name).is_some();
    let what = || format!("look up what mentions `{}.{column}`", table.table);
    let mut statement = connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND type <> 'table' ORDER BY type, name")
        .doing(what)?;
    let rows = statement
        .query_map([], |row| {
            Ok([row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?])
        })
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .doing(what)?;
    let mut own: Vec<String> = trigger_names(table, column).into();
    own.extend([watch_name(table, column), index_name(table, column)]);
    let hangs = |[_, name, of, sql]: &&[String; 4]| {
        !own.contains(name) && mentions(sql, column) && (same(of, &table.table) || mentions(sql, &table.table))
    };
    let others = rows.iter().filter(hangs).map(|[kind, name, ..]| format!("{kind} {name}")).collect();
    Ok(IndexPlace { there: has(column), next: has(&next_column(column)), former: has(&former_column(column)), others })
}

/// What a change does, for errors.
pub(super) fn describes(change: &GenerationChange) -> &'static str {
    match change {
        GenerationChange::Begin { .. } => "begin the next generation of",
        GenerationChange::Watch => "watch the next generation of",
        GenerationChange::Cut { .. } => "have the next generation take over in",
        GenerationChange::GiveUp { .. } => "give the next generation up of",
        GenerationChange::DropFormer => "drop the former generation of",
    }
}
