//! The one transaction of a batch: prove the lease, write each row that is still the version that was read, look at
//! what was stored, checkpoint.

use std::collections::HashMap;

use enfold::{Code, Error, Result};
use rusqlite::{Connection, ToSql, TransactionBehavior, params};

use super::rows::{Reader, Stored, digest_of};
use crate::model::{RowError, Target};
use crate::sqlite::error::{Doing, row_refusal};
use crate::sqlite::names::{quote, rowid};
use crate::store::{Cell, Change, Checkpoint, Lease, Outcome, RowVersion};

/// How an attempt at the whole batch ended.
enum Attempt {
    Committed(Vec<Outcome>),
    /// A row was refused after it had touched the database: go again, with a savepoint around each row.
    Careful,
    /// The refusal of one row ended the transaction (`ON CONFLICT ROLLBACK`): go again without that row.
    Without(usize, String),
}

pub(super) fn write(
    connection: &mut Connection,
    lease: &Lease,
    target: &Target,
    changes: &[Change],
    checkpoint: &Checkpoint,
) -> Result<Vec<Outcome>> {
    let mut careful = false;
    let mut refused = HashMap::new();
    loop {
        match attempt(connection, lease, target, changes, checkpoint, careful, &refused)? {
            Attempt::Committed(outcomes) => return Ok(outcomes),
            Attempt::Careful => careful = true,
            Attempt::Without(row, reason) => {
                refused.insert(row, reason);
            }
        }
    }
}

fn attempt(
    connection: &mut Connection,
    lease: &Lease,
    target: &Target,
    changes: &[Change],
    checkpoint: &Checkpoint,
    careful: bool,
    refused: &HashMap<usize, String>,
) -> Result<Attempt> {
    let what = || format!("write a batch of `{}`", target.table.table);
    // IMMEDIATE: the lock is taken before anything is read, so nothing can change between the comparison and the
    // write. Dropping the transaction rolls it back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    prove(&transaction, lease)?;
    let reader = Reader::new(&transaction, target)?;
    let mut outcomes = Vec::with_capacity(changes.len());
    let mut errors = checkpoint.errors.clone();
    for (i, change) in changes.iter().enumerate() {
        if let Some(reason) = refused.get(&i) {
            let outcome = Outcome::Rejected { reason: reason.clone() };
            errors.extend(change.noted(&outcome));
            outcomes.push(outcome);
            continue;
        }
        if careful {
            transaction.execute_batch("SAVEPOINT enfold_row").doing(what)?;
        }
        let Wrote { outcome, touched, misfits } = write_row(&transaction, &reader, target, change)?;
        if transaction.is_autocommit() {
            let reason = match outcome {
                Outcome::Rejected { reason } => reason,
                Outcome::Written | Outcome::Lost => "a trigger ended the transaction".to_owned(),
            };
            return Ok(Attempt::Without(i, reason));
        }
        if careful {
            let undo = if matches!(outcome, Outcome::Written) { "" } else { "ROLLBACK TO enfold_row; " };
            transaction.execute_batch(&format!("{undo}RELEASE enfold_row")).doing(what)?;
        } else if touched && !matches!(outcome, Outcome::Written) {
            return Ok(Attempt::Careful);
        }
        // A cell that does not fit says so itself.
        let said = !misfits.is_empty() && matches!(outcome, Outcome::Rejected { .. });
        errors.extend(change.noted(if said { &Outcome::Written } else { &outcome }));
        errors.extend(misfits);
        outcomes.push(outcome);
    }
    record(&transaction, lease, changes, checkpoint, &outcomes, &errors)?;
    transaction.commit().doing(what)?;
    Ok(Attempt::Committed(outcomes))
}

/// Only the holder of the present token may write.
pub(super) fn prove(connection: &Connection, lease: &Lease) -> Result<()> {
    let held: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM enfold_job_chunks WHERE job = ?1 AND chunk = ?2 AND token = ?3 AND state = 'leased')",
        )
        .and_then(|mut s| s.query_row(params![lease.job.0, lease.chunk, lease.token], |row| row.get(0)))
        .doing(|| "prove the lease".to_owned())?;
    if held {
        return Ok(());
    }
    Err(Error::new(
        Code::LeaseLost,
        format!("chunk {} of job {} belongs to another worker now", lease.chunk, lease.job.0),
    ))
}

/// What became of one row.
struct Wrote {
    outcome: Outcome,
    /// Whether the table may have been touched.
    touched: bool,
    /// Cells that stay as they are, for what is stored there is of a class that would come back as another type.
    misfits: Vec<RowError>,
}

impl Wrote {
    fn untouched(outcome: Outcome) -> Self {
        Self { outcome, touched: false, misfits: Vec::new() }
    }
}

fn write_row(connection: &Connection, reader: &Reader, target: &Target, change: &Change) -> Result<Wrote> {
    let what = || format!("write a row of `{}`", target.table.table);
    let RowVersion::Digest { rowid, digest } = &change.version else {
        return Err(Error::new(Code::Internal, "a row version of another store was given to SQLite"));
    };
    let Some(mut row) = reader.versioned(connection, *rowid).doing(what)? else {
        return Ok(Wrote::untouched(Outcome::Lost));
    };
    if digest_of(&row) != *digest {
        return Ok(Wrote::untouched(Outcome::Lost));
    }
    if let Some(doomed) = &reader.doomed {
        // It was doomed a moment ago in this transaction, which nobody else can write beside.
        let sql = format!("DELETE FROM {} AS t WHERE {} = ? AND {doomed}", reader.table, reader.rowid);
        return executed(connection, &sql, &[rowid], what).map(|refusal| Wrote {
            outcome: refusal.map_or(Outcome::Written, |reason| Outcome::Rejected { reason }),
            touched: true,
            misfits: Vec::new(),
        });
    }
    // From here on `row` is what shall be stored.
    let mut names = Vec::new();
    let mut misfit = vec![false; target.columns.len()];
    let mut misfits = Vec::new();
    for (i, (column, cell)) in target.columns.iter().zip(&change.cells).enumerate() {
        let Cell::Set(bytes) = cell else { continue };
        if !row[i].fits(column.storage) {
            misfit[i] = true;
            misfits.push(RowError {
                row: change.label.clone(),
                column: column.name.clone(),
                code: Code::DatabaseFailed.word().to_owned(),
                reason: format!("it holds a value of class {}, which would come back as another type", row[i].class()),
            });
            continue;
        }
        row[i] = Stored::of(column.storage, bytes.as_deref());
        names.push((i, &column.name));
    }
    let cells = target.columns.len();
    for (i, (index, cell)) in target.indexes.iter().zip(&change.indexed).enumerate() {
        let Cell::Set(bytes) = cell else { continue };
        if index.over.iter().any(|&over| misfit[over]) {
            continue;
        }
        row[cells + i] = bytes.as_ref().map_or(Stored::Null, |b| Stored::Blob(b.clone()));
        names.push((cells + i, &index.column));
    }
    let first = cells + target.indexes.len();
    let companions = target.columns.iter().enumerate().flat_map(|(at, c)| c.companions.values().map(move |n| (at, n)));
    for (i, ((over, name), cell)) in companions.zip(&change.beside).enumerate() {
        let Cell::Set(bytes) = cell else { continue };
        if misfit[over] {
            continue;
        }
        row[first + i] = Stored::of(target.columns[over].storage, bytes.as_deref());
        names.push((first + i, name));
    }
    if names.is_empty() {
        let outcome = match misfits.first() {
            None => Outcome::Written,
            Some(error) => Outcome::Rejected { reason: error.reason.clone() },
        };
        return Ok(Wrote { outcome, touched: false, misfits });
    }
    let wrote = |outcome, misfits| Ok(Wrote { outcome, touched: true, misfits });
    let rejected = |reason: &str| wrote(Outcome::Rejected { reason: reason.to_owned() }, Vec::new());
    let sets: Vec<String> = names.iter().map(|(_, name)| format!("{} = ?", quote(name))).collect();
    let sql = format!("UPDATE {} SET {} WHERE {} = ?", reader.table, sets.join(", "), reader.rowid);
    let mut values: Vec<&dyn ToSql> = names.iter().map(|(i, _)| &row[*i] as &dyn ToSql).collect();
    values.push(rowid);
    if let Some(reason) = executed(connection, &sql, &values, what)? {
        return rejected(&reason);
    }
    // Not the statement's own RETURNING: SQLite evaluates it before AFTER triggers have run.
    match reader.digest(connection, *rowid).doing(what)? {
        Some(stored) if stored == digest_of(&row) => wrote(Outcome::Written, misfits),
        _ => rejected("a trigger altered what was written"),
    }
}

/// Runs a statement that writes one row; the reason where the database would not have it.
fn executed(
    connection: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    what: impl FnOnce() -> String + Copy,
) -> Result<Option<String>> {
    match connection.prepare_cached(sql).doing(what)?.execute(values) {
        Ok(1) => Ok(None),
        Ok(_) => Ok(Some("a trigger suppressed the change".to_owned())),
        // The statement undid itself; `ON CONFLICT FAIL` does not need to, for it changes one row only.
        Err(error) => row_refusal(&error).map_or_else(|| Err(error).doing(what), |reason| Ok(Some(reason))),
    }
}

fn record(
    connection: &Connection,
    lease: &Lease,
    changes: &[Change],
    checkpoint: &Checkpoint,
    outcomes: &[Outcome],
    errors: &[RowError],
) -> Result<()> {
    let what = || "record a checkpoint".to_owned();
    let count =
        |wanted: fn(&Outcome) -> bool| i64::try_from(outcomes.iter().filter(|o| wanted(o)).count()).unwrap_or(i64::MAX);
    let changed = count(|o| matches!(o, Outcome::Written));
    let lost = count(|o| matches!(o, Outcome::Lost));
    connection
        .prepare_cached(
            "UPDATE enfold_job_chunks SET cursor = coalesce(?4, cursor), state = iif(?4 IS NULL, 'done', state),
                    rows_seen = rows_seen + ?5, rows_changed = rows_changed + ?6, rows_lost = rows_lost + ?7
              WHERE job = ?1 AND chunk = ?2 AND token = ?3",
        )
        .and_then(|mut s| {
            s.execute(params![
                lease.job.0,
                lease.chunk,
                lease.token,
                checkpoint.cursor.map(rowid),
                checkpoint.rows_seen.cast_signed(),
                changed,
                lost
            ])
        })
        .doing(what)?;
    settle(connection, lease, changes, outcomes)?;
    for error in errors {
        connection
            .prepare_cached(
                "INSERT INTO enfold_job_errors (job, row_label, column_name, code, reason, settled) VALUES (?1, ?2, ?3, ?4, ?5, 0)
                 ON CONFLICT DO UPDATE SET code = excluded.code, reason = excluded.reason, settled = 0",
            )
            .and_then(|mut s| s.execute(params![lease.job.0, error.row, error.column, error.code, error.reason]))
            .doing(what)?;
    }
    Ok(())
}

/// A row that was written has no error any more but those that are noted with it.
fn settle(connection: &Connection, lease: &Lease, changes: &[Change], outcomes: &[Outcome]) -> Result<()> {
    let what = || "settle row errors".to_owned();
    let any: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM enfold_job_errors WHERE job = ?1 AND settled = 0)")
        .and_then(|mut s| s.query_row([lease.job.0], |row| row.get(0)))
        .doing(what)?;
    if !any {
        return Ok(());
    }
    for (change, _) in changes.iter().zip(outcomes).filter(|(_, o)| matches!(o, Outcome::Written)) {
        connection
            .prepare_cached("UPDATE enfold_job_errors SET settled = 1 WHERE job = ?1 AND row_label = ?2")
            .and_then(|mut s| s.execute(params![lease.job.0, change.label]))
            .doing(what)?;
    }
    Ok(())
}
