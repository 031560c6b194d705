//! Schema steps. On SQLite a form check is a pair of triggers (a CHECK constraint cannot be added to a table that is
//! there), a rewrite is `VACUUM`, and nothing has to be widened: a declared length limits nothing.
//!
//! Every statement is a short transaction of its own, except `VACUUM`, which holds the write lock while it copies the
//! file; building an index holds it while it sorts.

use std::time::{Duration, Instant};

use enfold::{Code, Error, Result};
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::census;
use super::dropped;
use super::error::{Doing, convert};
use super::forms;
use super::generations;
use super::names::{literal, quote};
use super::schema;
use super::shape::Shape;
use crate::database::SchemaStep;
use crate::disabling::Guarded;
use crate::generations::{GenerationChange, former_column};
use crate::model::{Storage, TableName, Target, TargetColumn};

/// How long a step keeps trying for its lock, in tries of the pool's lock timeout.
const PATIENCE: Duration = Duration::from_secs(60);

/// The statements of a step, in order; none where SQLite needs nothing.
pub(super) fn sql(step: &SchemaStep) -> Vec<String> {
    match step {
        SchemaStep::Widen { .. }
        | SchemaStep::ValidateFormCheck { .. }
        | SchemaStep::Shadow { .. }
        | SchemaStep::AddMemberCheck { .. } => Vec::new(),
        SchemaStep::AddIndexColumn { table, column } => {
            vec![format!("ALTER TABLE {} ADD COLUMN {} BLOB", name(table), quote(column))]
        }
        SchemaStep::BuildIndex { table, column, unique, tenant, .. } => {
            let columns: Vec<_> = tenant.iter().chain([column]).map(|c| quote(c)).collect();
            let unique = if *unique { "UNIQUE " } else { "" };
            let index = quote(&index_name(table, column));
            vec![
                format!("DROP INDEX IF EXISTS {index}"),
                format!("CREATE {unique}INDEX {index} ON {} ({})", name(table), columns.join(", ")),
            ]
        }
        SchemaStep::DropIndexColumn { table, column } => {
            // Of an index that was rotated.
            let mut statements = generations::drop_triggers(table, column);
            statements.push(format!("DROP INDEX IF EXISTS {}", quote(&index_name(table, column))));
            statements.push(format!("ALTER TABLE {} DROP COLUMN {}", name(table), quote(column)));
            statements
        }
        SchemaStep::Generations { table, column, change, .. } => generations::sql(table, column, change, "rowid"),
        SchemaStep::DropPlainIndex { index, .. } => vec![format!("DROP INDEX IF EXISTS {}", quote(index))],
        SchemaStep::RestorePlainIndexes { table, .. } => vec![dropped::listing(table)],
        SchemaStep::GuardBinding { table, bound, sealed, .. } => {
            vec![format!("DROP TRIGGER IF EXISTS {}", quote(&guard_name(table))), guard(table, bound, sealed)]
        }
        SchemaStep::DropBindingGuard { table } => vec![format!("DROP TRIGGER IF EXISTS {}", quote(&guard_name(table)))],
        SchemaStep::AddFormCheck { table, column, storage, key_ids } => {
            let [insert, update] = check_names(table, column);
            vec![
                format!("DROP TRIGGER IF EXISTS {}", quote(&insert)),
                format!("DROP TRIGGER IF EXISTS {}", quote(&update)),
                check(&insert, "INSERT", table, column, *storage, key_ids),
                check(&update, &format!("UPDATE OF {}", quote(column)), table, column, *storage, key_ids),
            ]
        }
        SchemaStep::DropFormCheck { table, column } => {
            check_names(table, column).iter().map(|n| format!("DROP TRIGGER IF EXISTS {}", quote(n))).collect()
        }
        SchemaStep::RefuseKeys { table, columns } => {
            let triggers = columns.iter().flat_map(|column| refusals(table, column));
            drop_refusals(table, columns).into_iter().chain(triggers).collect()
        }
        // Which columns have such triggers is looked up when it is run.
        SchemaStep::AllowKeys { .. } => Vec::new(),
        SchemaStep::Rewrite { table } => vec![
            // What is freed from here on is overwritten, in VACUUM's copy too.
            "PRAGMA secure_delete = ON".to_owned(),
            // Otherwise sqlite_stat4 keeps samples of old index entries.
            format!("ANALYZE {}", name(table)),
            "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
            "VACUUM".to_owned(),
            "PRAGMA wal_checkpoint(TRUNCATE)".to_owned(),
        ],
    }
}

pub(super) fn run(connection: &mut Connection, step: &SchemaStep) -> Result<()> {
    match step {
        SchemaStep::Widen { .. } => Ok(()),
        // A plan refuses it here.
        SchemaStep::Shadow { .. } | SchemaStep::AddMemberCheck { .. } => {
            Err(Error::new(Code::TypeRefused, "shadows and members of JSON columns are on Postgres only"))
        }
        SchemaStep::AddIndexColumn { table, column } => {
            let shape = Shape::read(connection, &table.table)?;
            if shape.column(column).is_some() { Ok(()) } else { execute(connection, step) }
        }
        SchemaStep::DropIndexColumn { table, column } => {
            let shape = Shape::read(connection, &table.table)?;
            if shape.column(&former_column(column)).is_some() {
                generations::run(connection, step, table, column, &GenerationChange::DropFormer)?;
            }
            if shape.column(column).is_none() { Ok(()) } else { execute(connection, step) }
        }
        SchemaStep::Generations { table, column, change, .. } => {
            generations::run(connection, step, table, column, change)
        }
        SchemaStep::BuildIndex { table, column, .. } => {
            if index_is_there(connection, step, &index_name(table, column))? {
                return Ok(());
            }
            execute(connection, step)
        }
        SchemaStep::DropPlainIndex { index, .. } => dropped::drop(connection, step, index),
        SchemaStep::RestorePlainIndexes { table, sealed } => dropped::restore(connection, step, table, sealed),
        SchemaStep::ValidateFormCheck { table, column } => validate(connection, table, column),
        SchemaStep::Rewrite { table } => rewrite(connection, table),
        SchemaStep::RefuseKeys { .. } => {
            schema::ensure(connection)?;
            if all_there(connection, step)? { Ok(()) } else { execute(connection, step) }
        }
        SchemaStep::AllowKeys { table } => allow_keys(connection, step, table),
        _ => execute(connection, step),
    }
}

/// Runs a step's statements in one transaction, trying again while somebody else holds the lock.
fn execute(connection: &mut Connection, step: &SchemaStep) -> Result<()> {
    together(connection, step, &sql(step))
}

/// Statements in one transaction, as soon as the lock is free.
pub(super) fn together(connection: &mut Connection, step: &SchemaStep, statements: &[String]) -> Result<()> {
    let script = format!("BEGIN IMMEDIATE; {}; COMMIT;", statements.join("; "));
    patiently(step, || {
        let done = connection.execute_batch(&script);
        if done.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        done
    })
}

pub(super) fn patiently(step: &SchemaStep, mut run: impl FnMut() -> rusqlite::Result<()>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match run() {
            Ok(()) => return Ok(()),
            // Nobody is told when SQLite's lock is free: one asks again.
            Err(error) if is_busy(&error) && Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(explain(step, &error)),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn explain(step: &SchemaStep, error: &rusqlite::Error) -> Error {
    if let (SchemaStep::BuildIndex { table, column, .. }, Some(ErrorCode::ConstraintViolation)) =
        (step, error.sqlite_error_code())
    {
        return Error::new(Code::PlanRefused, format!("cannot make the blind index `{}.{column}` unique", table.table))
            .cause("two rows have the same value after normalising")
            .hint("make the values differ, or take `unique = true` from the index in the policy");
    }
    if let (SchemaStep::RestorePlainIndexes { table, .. }, Some(ErrorCode::ConstraintViolation)) =
        (step, error.sqlite_error_code())
    {
        return Error::new(Code::PlanRefused, format!("cannot make a unique index of `{}` again", table.table))
            .cause("two rows have the same value");
    }
    convert(error, describe(step))
}

/// The pragma that truncates the log reports a reader in the way as a row, not as an error.
fn rewrite(connection: &Connection, table: &TableName) -> Result<()> {
    let step = SchemaStep::Rewrite { table: table.clone() };
    let analysed: bool = connection
        .query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1')", [], |row| row.get(0))
        .doing(|| describe(&step))?;
    patiently(&step, || {
        connection.execute_batch("PRAGMA secure_delete = ON")?;
        if analysed {
            connection.execute_batch(&format!("ANALYZE {}", name(table)))?;
        }
        truncate_log(connection)?;
        connection.execute_batch("VACUUM")?;
        truncate_log(connection)
    })
}

fn truncate_log(connection: &Connection) -> rusqlite::Result<()> {
    let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, None));
    }
    Ok(())
}

/// With no plaintext left, a trigger that looks at new rows has looked at all of them.
fn validate(connection: &Connection, table: &TableName, column: &str) -> Result<()> {
    let [insert, _] = check_names(table, column);
    let there: Option<String> = connection
        .query_row("SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = ?1", [&insert], |row| row.get(0))
        .optional()
        .doing(|| format!("look for the form check of `{}.{column}`", table.table))?;
    let Some(trigger) = there else {
        return Err(Error::new(Code::PlanRefused, format!("`{}.{column}` has no form check to validate", table.table))
            .hint("run `enfold enforce` from its start"));
    };
    let storage = [Storage::Text, Storage::Bytes, Storage::Json]
        .into_iter()
        .find(|storage| trigger.contains(&forms::envelope(&format!("NEW.{}", quote(column)), *storage)))
        .ok_or_else(|| {
            Error::new(Code::PlanStale, format!("the form check of `{}.{column}` is another program's", table.table))
                .hint("run `enfold enforce` again: it replaces the check")
        })?;
    let target = Target {
        table: table.clone(),
        policy_table: table.table.clone(),
        columns: vec![TargetColumn {
            name: column.to_owned(),
            id: String::new(),
            storage,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
        }],
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: Vec::new(),
        leaving: enfold::Leaving::default(),
        prune: None,
    };
    let found = census::census(connection, &target, None)?;
    let left: u64 = found.iter().map(|c| c.plaintext + c.lookalikes).sum();
    if left == 0 {
        return Ok(());
    }
    Err(Error::new(Code::PlaintextFound, format!("{left} values of `{}.{column}` are no envelopes", table.table))
        .hint("run `enfold apply` again: it converts what writers added meanwhile"))
}

/// Whether the very index that the step builds is there already.
fn index_is_there(connection: &Connection, step: &SchemaStep, index: &str) -> Result<bool> {
    let found: Option<String> = connection
        .query_row("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?1", [index], |row| row.get(0))
        .optional()
        .doing(|| describe(step))?;
    Ok(found.is_some_and(|found| sql(step).contains(&found)))
}

fn check(trigger: &str, event: &str, table: &TableName, column: &str, storage: Storage, key_ids: &[String]) -> String {
    let new = format!("NEW.{}", quote(column));
    let mut wanted = forms::envelope(&new, storage);
    if !key_ids.is_empty() {
        let prefixes: Vec<_> = key_ids.iter().flat_map(|id| forms::prefixes(id, storage)).collect();
        wanted = format!("{wanted} AND {} IN ({})", forms::key_prefix(&new, storage), prefixes.join(", "));
    }
    // A row that is still plain must not break updates that merely write its columns back.
    let changed = if event == "INSERT" { String::new() } else { format!(" AND {}", differs(column)) };
    let says = format!("enfold: {}.{column} takes envelopes only", table.table);
    format!(
        "CREATE TRIGGER {} BEFORE {event} ON {} WHEN {new} IS NOT NULL AND NOT ({wanted}){changed} \
         BEGIN SELECT RAISE(ABORT, {}); END",
        quote(trigger),
        name(table),
        literal(&says)
    )
}

fn guard(table: &TableName, bound: &[String], sealed: &[String]) -> String {
    let moved: Vec<_> = bound.iter().map(|c| differs(c)).collect();
    // The sealed bytes stayed as they were: they are bound to what is just being changed. Any storage will do here,
    // for a value is an envelope in at most one of the forms.
    let stays: Vec<_> = sealed
        .iter()
        .map(|c| {
            let old = format!("OLD.{}", quote(c));
            let forms = [Storage::Text, Storage::Bytes, Storage::Json].map(|s| forms::envelope(&old, s));
            format!("(({}) AND NOT {})", forms.join(" OR "), differs(c))
        })
        .collect();
    let says = format!(
        "enfold: {} of {} may change only together with the values sealed for it",
        bound.join(", "),
        table.table
    );
    format!(
        "CREATE TRIGGER {} BEFORE UPDATE ON {} WHEN ({}) AND ({}) BEGIN SELECT RAISE(ABORT, {}); END",
        quote(&guard_name(table)),
        name(table),
        moved.join(" OR "),
        stays.join(" OR "),
        literal(&says)
    )
}

/// See `postgres/steps/refuse.rs` for why a trigger that looks in a table.
fn refusals(table: &TableName, column: &Guarded) -> [String; 2] {
    let holder = &column.holder;
    let prefix = forms::key_prefix(&format!("NEW.{}", quote(holder)), column.storage);
    let says = format!("enfold: the value for {}.{holder} is under a data key that was taken out of use", table.table);
    let trigger = |event: &str, changed: &str| {
        format!(
            "CREATE TRIGGER {} AFTER {event} ON {} WHEN {changed}EXISTS \
             (SELECT 1 FROM enfold_refused_keys WHERE prefix = {prefix}) BEGIN SELECT RAISE(ABORT, {}); END",
            quote(&refusal_name(table, holder, event)),
            name(table),
            literal(&says)
        )
    };
    [trigger("INSERT", ""), trigger("UPDATE", &format!("{} AND ", differs(holder)))]
}

fn drop_refusals(table: &TableName, columns: &[Guarded]) -> Vec<String> {
    let names = columns.iter().flat_map(|c| ["INSERT", "UPDATE"].map(|event| refusal_name(table, &c.holder, event)));
    names.map(|name| format!("DROP TRIGGER IF EXISTS {}", quote(&name))).collect()
}

fn refusal_name(table: &TableName, column: &str, event: &str) -> String {
    format!("enfold_refuse_{}_{column}_{}", table.table, event.to_ascii_lowercase())
}

/// Whether every trigger that the step makes is there, word for word.
pub(super) fn all_there(connection: &Connection, step: &SchemaStep) -> Result<bool> {
    let there = triggers(connection, step)?;
    let wanted = sql(step);
    Ok(wanted.iter().filter(|sql| sql.starts_with("CREATE")).all(|sql| there.iter().any(|(_, found)| found == sql)))
}

fn allow_keys(connection: &mut Connection, step: &SchemaStep, table: &TableName) -> Result<()> {
    let prefix = format!("enfold_refuse_{}_", table.table);
    let ours = triggers(connection, step)?.into_iter().filter(|(name, _)| name.starts_with(&prefix));
    let drops: Vec<String> = ours.map(|(name, _)| format!("DROP TRIGGER IF EXISTS {}", quote(&name))).collect();
    if drops.is_empty() { Ok(()) } else { together(connection, step, &drops) }
}

/// The triggers of the step's table, with their text.
fn triggers(connection: &Connection, step: &SchemaStep) -> Result<Vec<(String, String)>> {
    let (SchemaStep::RefuseKeys { table, .. } | SchemaStep::AllowKeys { table }) = step else { return Ok(Vec::new()) };
    let what = || describe(step);
    let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    let mut statement = connection.prepare(sql).doing(what)?;
    let found = statement.query_map([&table.table], |row| Ok((row.get(0)?, row.get(1)?))).doing(what)?;
    found.collect::<rusqlite::Result<_>>().doing(what)
}

/// Whether an update changes a column's exact bytes. Not `IS NOT`: that asks the column's collation.
fn differs(column: &str) -> String {
    let (old, new) = (format!("OLD.{}", quote(column)), format!("NEW.{}", quote(column)));
    format!("(typeof({old}) <> typeof({new}) OR CAST({old} AS BLOB) IS NOT CAST({new} AS BLOB))")
}

pub(super) fn name(table: &TableName) -> String {
    quote(&table.table)
}

pub(super) fn index_name(table: &TableName, column: &str) -> String {
    format!("enfold_index_{}_{column}", table.table)
}

fn guard_name(table: &TableName) -> String {
    format!("enfold_bind_{}", table.table)
}

pub(super) fn check_names(table: &TableName, column: &str) -> [String; 2] {
    ["insert", "update"].map(|event| format!("enfold_form_{}_{column}_{event}", table.table))
}

/// What a step does, for errors.
pub(super) fn describe(step: &SchemaStep) -> String {
    let (verb, table, column) = match step {
        SchemaStep::Widen { table, column } => ("widen", table, Some(column)),
        SchemaStep::AddIndexColumn { table, column } => ("add the index column", table, Some(column)),
        SchemaStep::BuildIndex { table, column, .. } => ("build the index over", table, Some(column)),
        SchemaStep::DropIndexColumn { table, column } => ("drop the index column", table, Some(column)),
        SchemaStep::DropPlainIndex { table, index, .. } => ("drop the index", table, Some(index)),
        SchemaStep::RestorePlainIndexes { table, .. } => ("make the dropped indexes again of", table, None),
        SchemaStep::GuardBinding { table, .. } => ("guard the bound columns of", table, None),
        SchemaStep::DropBindingGuard { table } => ("drop the guard of", table, None),
        SchemaStep::AddFormCheck { table, column, .. } => ("add the form check of", table, Some(column)),
        SchemaStep::ValidateFormCheck { table, column } => ("validate the form check of", table, Some(column)),
        SchemaStep::DropFormCheck { table, column } => ("drop the form check of", table, Some(column)),
        SchemaStep::Shadow { table, column, .. } => ("change the shadow of", table, Some(column)),
        SchemaStep::AddMemberCheck { table, column, .. } => ("add the form check of", table, Some(column)),
        SchemaStep::Generations { table, column, change, .. } => (generations::describes(change), table, Some(column)),
        SchemaStep::RefuseKeys { table, .. } => ("have data keys refused in", table, None),
        SchemaStep::AllowKeys { table } => ("have data keys taken again in", table, None),
        SchemaStep::Rewrite { table } => ("rewrite", table, None),
    };
    match column {
        Some(column) => format!("{verb} `{}.{column}`", table.table),
        None => format!("{verb} `{}`", table.table),
    }
}
