//! Job records, passes and chunks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use enfold::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{JobId, JobState, Progress, RowError};
use crate::sqlite::error::Doing;
use crate::sqlite::names::{position, quote};
use crate::sqlite::shape::Shape;
use crate::sqlite::{prune, schema};
use crate::store::{Control, JobRecord, JobSpec, LONGEST_LEASE, Lease, Order, Range, WorkerSign};

/// A chunk is this many batches: enough that leases cost nothing, few enough that a killed worker leaves little.
const BATCHES_A_CHUNK: u32 = 16;

/// Where one pass cuts a table: first row ids, ascending, and how many rows there are.
struct Cut {
    relation: String,
    /// Half-open ranges of row ids; the first begins below every row.
    ranges: Vec<(i64, Option<i64>)>,
    rows: u64,
}

pub(super) fn create(connection: &mut Connection, spec: &JobSpec) -> Result<JobId> {
    schema::ensure(connection)?;
    let cut = cut(connection, &spec.target.table.table, spec.batch_rows)?;
    let rows = match &spec.target.prune {
        Some(rule) => prune::remaining(connection, rule, &spec.target)?,
        None => cut.rows,
    };
    let what = || "record a job".to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    transaction
        .execute(
            "INSERT INTO enfold_jobs (goal, target, state, pass, batch_rows, rate, rows_total, priority, requested_by, reason, created_at, changed_at)
             VALUES (?1, ?2, 'pending', 1, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)",
            params![
                word(&spec.goal)?,
                json(&spec.target)?,
                spec.batch_rows,
                spec.rate,
                rows.cast_signed(),
                spec.order.priority,
                spec.order.by,
                spec.order.reason,
                now(),
            ],
        )
        .doing(what)?;
    let job = JobId(transaction.last_insert_rowid());
    insert_chunks(&transaction, job, 1, &cut)?;
    transaction.commit().doing(what)?;
    Ok(job)
}

pub(super) fn begin_pass(connection: &mut Connection, job: JobId, pass: u32) -> Result<bool> {
    let record = read(connection, job)?;
    if record.pass.checked_add(1) != Some(pass) || record.progress.chunks_done < record.progress.chunks_total {
        return Ok(false);
    }
    let batch_rows = control(connection, job)?.batch_rows;
    let cut = cut(connection, &record.target.table.table, batch_rows)?;
    let what = || "begin a pass".to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    let moved = transaction
        .execute(
            "UPDATE enfold_jobs SET pass = ?2, rows_total = rows_total + ?3 WHERE id = ?1 AND pass = ?2 - 1 AND state = 'running'",
            params![job.0, pass, cut.rows.cast_signed()],
        )
        .doing(what)?;
    if moved == 0 {
        return Ok(false);
    }
    transaction.execute("UPDATE enfold_job_errors SET settled = 1 WHERE job = ?1", [job.0]).doing(what)?;
    insert_chunks(&transaction, job, pass, &cut)?;
    transaction.commit().doing(what)?;
    Ok(true)
}

pub(super) fn finish(connection: &Connection, job: JobId, pass: u32, state: JobState) -> Result<bool> {
    require(connection, job)?;
    let moved = connection
        .execute(
            "UPDATE enfold_jobs SET state = ?3 WHERE id = ?1 AND pass = ?2 AND state = 'running' AND NOT EXISTS
                    (SELECT 1 FROM enfold_job_chunks c WHERE c.job = ?1 AND c.pass = ?2 AND c.state <> 'done')",
            params![job.0, pass, word(&state)?],
        )
        .doing(|| format!("end job {}", job.0))?;
    Ok(moved == 1)
}

pub(super) fn read(connection: &Connection, job: JobId) -> Result<JobRecord> {
    require(connection, job)?;
    let mut found = select(connection, "WHERE id = ?2", &[&job.0])?;
    found.pop().ok_or_else(|| missing(job))
}

pub(super) fn all(connection: &Connection) -> Result<Vec<JobRecord>> {
    if schema::version(connection)? == 0 {
        return Ok(Vec::new());
    }
    select(connection, "ORDER BY id", &[])
}

pub(super) fn open(connection: &Connection) -> Result<Vec<JobRecord>> {
    all(connection).map(|jobs| jobs.into_iter().filter(|job| !job.state.is_end()).collect())
}

pub(super) fn set_priority(connection: &mut Connection, job: JobId, priority: i32) -> Result<()> {
    require(connection, job)?;
    schema::ensure(connection)?;
    let found = connection
        .execute("UPDATE enfold_jobs SET priority = ?2 WHERE id = ?1", params![job.0, priority])
        .doing(|| format!("change the priority of job {}", job.0))?;
    if found == 0 { Err(missing(job)) } else { Ok(()) }
}

pub(super) fn sign_of_life(connection: &mut Connection, sign: &WorkerSign) -> Result<()> {
    schema::ensure(connection)?;
    connection
        .execute(
            "INSERT INTO enfold_job_workers (worker, version, job, seen_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (worker) DO UPDATE SET version = excluded.version, job = excluded.job, seen_at = excluded.seen_at",
            params![sign.name, sign.version, sign.job.map(|job| job.0), now()],
        )
        .doing(|| "give a worker's sign of life".to_owned())?;
    Ok(())
}

pub(super) fn sign_off(connection: &Connection, worker: &str) -> Result<()> {
    connection
        .execute("DELETE FROM enfold_job_workers WHERE worker = ?1", [worker])
        .doing(|| "sign a worker off".to_owned())?;
    Ok(())
}

pub(super) fn workers(connection: &Connection, lately: Duration) -> Result<Vec<WorkerSign>> {
    let what = || "list the workers".to_owned();
    if schema::version(connection)? < WITH_ORDERS {
        return Ok(Vec::new());
    }
    let since = now().saturating_sub(millis(lately));
    let sql = "SELECT worker, version, job, seen_at FROM enfold_job_workers WHERE seen_at > ?1 ORDER BY worker";
    let mut statement = connection.prepare_cached(sql).doing(what)?;
    let sign = |row: &Row<'_>| {
        Ok(WorkerSign {
            name: row.get(0)?,
            version: row.get(1)?,
            job: row.get::<_, Option<i64>>(2)?.map(JobId),
            seen: Duration::from_millis(u64::try_from(now().saturating_sub(row.get(3)?)).unwrap_or(0)),
        })
    };
    statement.query_map([since], sign).and_then(Iterator::collect).doing(what)
}

pub(super) fn transition(
    connection: &Connection,
    job: JobId,
    from: &[JobState],
    to: JobState,
    last_error: Option<&str>,
) -> Result<bool> {
    require(connection, job)?;
    let from = from.iter().map(word).collect::<Result<Vec<_>>>()?;
    let moved = connection
        .execute(
            "UPDATE enfold_jobs SET state = ?2, last_error = coalesce(?3, last_error)
              WHERE id = ?1 AND state IN (SELECT value FROM json_each(?4))",
            params![job.0, word(&to)?, last_error, json(&from)?],
        )
        .doing(|| format!("move job {}", job.0))?;
    Ok(moved == 1)
}

pub(super) fn control(connection: &Connection, job: JobId) -> Result<Control> {
    require(connection, job)?;
    let (state, batch_rows, rate) = connection
        .prepare_cached("SELECT state, batch_rows, rate FROM enfold_jobs WHERE id = ?1")
        .and_then(|mut s| {
            s.query_row([job.0], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))).optional()
        })
        .doing(|| format!("read the settings of job {}", job.0))?
        .ok_or_else(|| missing(job))?;
    Ok(Control { state: from_word(&state)?, batch_rows, rate })
}

pub(super) fn set_control(
    connection: &Connection,
    job: JobId,
    batch_rows: Option<u32>,
    rate: Option<Option<u32>>,
) -> Result<()> {
    require(connection, job)?;
    let found = connection
        .execute(
            "UPDATE enfold_jobs SET batch_rows = coalesce(?2, batch_rows), rate = iif(?3, ?4, rate) WHERE id = ?1",
            params![job.0, batch_rows, rate.is_some(), rate.flatten()],
        )
        .doing(|| format!("change the settings of job {}", job.0))?;
    if found == 0 { Err(missing(job)) } else { Ok(()) }
}

pub(super) fn lease(connection: &mut Connection, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>> {
    require(connection, job)?;
    let what = || format!("lease a chunk of job {}", job.0);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(what)?;
    let now = now();
    let taken = transaction
        .prepare_cached(
            "UPDATE enfold_job_chunks SET state = 'leased', token = token + 1, worker = ?2, expires_at = ?3
              WHERE job = ?1 AND chunk = (
                    SELECT c.chunk FROM enfold_job_chunks c JOIN enfold_jobs j ON j.id = c.job AND j.pass = c.pass
                     WHERE c.job = ?1 AND (c.state = 'pending' OR (c.state = 'leased' AND c.expires_at NOT BETWEEN ?4 + 1 AND ?5))
                     ORDER BY c.chunk LIMIT 1)
             RETURNING chunk, token, relation, from_rowid, to_rowid, cursor",
        )
        .and_then(|mut s| {
            // An end beyond what anybody asks for was set by a clock that has been put back since: its range would be nobody's
            // for as long as that. Taken too early, it is fenced like any other.
            let furthest = now.saturating_add(millis(LONGEST_LEASE.max(ttl * 2)));
            s.query_row(params![job.0, worker, now.saturating_add(millis(ttl)), now, furthest], |row| {
                Ok(Lease {
                    job,
                    chunk: row.get(0)?,
                    token: row.get(1)?,
                    worker: worker.to_owned(),
                    range: Range {
                        relation: row.get(2)?,
                        from: position(row.get(3)?),
                        to: row.get::<_, Option<i64>>(4)?.map_or(u64::MAX, position),
                    },
                    cursor: position(row.get(5)?),
                })
            })
            .optional()
        })
        .doing(what)?;
    transaction.commit().doing(what)?;
    Ok(taken)
}

pub(super) fn renew(connection: &Connection, lease: &Lease, ttl: Duration) -> Result<()> {
    let held = connection
        .execute(
            "UPDATE enfold_job_chunks SET expires_at = ?4 WHERE job = ?1 AND chunk = ?2 AND token = ?3 AND state = 'leased'",
            params![lease.job.0, lease.chunk, lease.token, now().saturating_add(millis(ttl))],
        )
        .doing(|| "renew a lease".to_owned())?;
    if held == 0 { super::write::prove(connection, lease) } else { Ok(()) }
}

pub(super) fn row_errors(connection: &Connection, job: JobId, limit: u32) -> Result<Vec<RowError>> {
    require(connection, job)?;
    connection
        .prepare_cached(
            "SELECT row_label, column_name, code, reason FROM enfold_job_errors WHERE job = ?1 AND settled = 0
              ORDER BY row_label, column_name LIMIT ?2",
        )
        .and_then(|mut s| {
            s.query_map(params![job.0, limit], |row| {
                Ok(RowError { row: row.get(0)?, column: row.get(1)?, code: row.get(2)?, reason: row.get(3)? })
            })?
            .collect()
        })
        .doing(|| format!("read the row errors of job {}", job.0))
}

/// Steps through the row ids, a chunk at a time: the whole costs one look at each page of the table.
fn cut(connection: &Connection, table: &str, batch_rows: u32) -> Result<Cut> {
    let shape = Shape::read(connection, table)?;
    let (rowid, quoted) = (shape.rowid()?, quote(&shape.name));
    let what = || format!("cut `{table}` into ranges");
    let chunk_rows = i64::from(batch_rows.max(1).saturating_mul(BATCHES_A_CHUNK));
    let rows: i64 =
        connection.query_row(&format!("SELECT count(*) FROM {quoted}"), [], |row| row.get(0)).doing(what)?;
    let last: Option<i64> =
        connection.query_row(&format!("SELECT max({rowid}) FROM {quoted}"), [], |row| row.get(0)).doing(what)?;
    let mut ranges = Vec::new();
    if let Some(last) = last {
        let mut next = connection
            .prepare(&format!("SELECT {rowid} FROM {quoted} WHERE {rowid} >= ?1 ORDER BY {rowid} LIMIT 1 OFFSET ?2"))
            .doing(what)?;
        let mut from = i64::MIN;
        while let Some(to) = next.query_row([from, chunk_rows], |row| row.get(0)).optional().doing(what)? {
            ranges.push((from, Some(to)));
            from = to;
        }
        ranges.push((from, last.checked_add(1)));
    }
    Ok(Cut { relation: shape.name.clone(), ranges, rows: rows.cast_unsigned() })
}

fn insert_chunks(connection: &Connection, job: JobId, pass: u32, cut: &Cut) -> Result<()> {
    // Chunk numbers go on from pass to pass: a token of an earlier pass proves nothing in this one.
    let mut insert = connection
        .prepare(
            "INSERT INTO enfold_job_chunks
                    (job, chunk, pass, relation, from_rowid, to_rowid, cursor, state, token, expires_at, rows_seen, rows_changed, rows_lost)
             VALUES (?1, (SELECT coalesce(max(chunk), 0) + 1 FROM enfold_job_chunks WHERE job = ?1), ?2, ?3, ?4, ?5, ?4, 'pending', 0, 0, 0, 0, 0)",
        )
        .doing(|| "record chunks".to_owned())?;
    for (from, to) in &cut.ranges {
        insert.execute(params![job.0, pass, cut.relation, from, to]).doing(|| "record chunks".to_owned())?;
    }
    Ok(())
}

const SELECT_JOB: &str = "
    SELECT id, goal, target, state, pass, last_error, rows_total,
           (SELECT coalesce(sum(rows_seen), 0) FROM enfold_job_chunks WHERE job = id),
           (SELECT coalesce(sum(rows_changed), 0) FROM enfold_job_chunks WHERE job = id),
           (SELECT coalesce(sum(rows_lost), 0) FROM enfold_job_chunks WHERE job = id),
           (SELECT count(DISTINCT row_label) FROM enfold_job_errors WHERE job = id AND settled = 0),
           (SELECT count(*) FROM enfold_job_chunks c WHERE job = id AND c.pass = enfold_jobs.pass),
           (SELECT count(*) FROM enfold_job_chunks c WHERE job = id AND c.pass = enfold_jobs.pass AND c.state = 'done'),
           (SELECT count(DISTINCT c.worker) FROM enfold_job_chunks c WHERE job = id AND c.pass = enfold_jobs.pass
                AND c.state <> 'done' AND c.expires_at > ?1)";

/// The version of the job tables that knows who wants a job, and why.
const WITH_ORDERS: usize = 3;

/// `rest`: which ones, in which order; its values begin with `?2`.
fn select(connection: &Connection, rest: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<JobRecord>> {
    let what = || "read the jobs".to_owned();
    let orders = match schema::version(connection)? {
        WITH_ORDERS.. => "priority, requested_by, reason, created_at, changed_at",
        _ => "0, NULL, NULL, 0, 0",
    };
    let sql = format!("{SELECT_JOB}, {orders} FROM enfold_jobs {rest}");
    let mut statement = connection.prepare_cached(&sql).doing(what)?;
    let now = now();
    let values: Vec<&dyn rusqlite::ToSql> = std::iter::once(&now as _).chain(values.iter().copied()).collect();
    let mut rows = statement.query(&values[..]).doing(what)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().doing(what)? {
        found.push(record(row)?);
    }
    Ok(found)
}

fn record(row: &Row<'_>) -> Result<JobRecord> {
    let what = || "read a job".to_owned();
    let text = |i| row.get::<_, String>(i).doing(what);
    let count = |i| row.get::<_, i64>(i).doing(what).map(|n| u64::try_from(n).unwrap_or(0));
    Ok(JobRecord {
        id: JobId(row.get(0).doing(what)?),
        goal: from_word(&text(1)?)?,
        target: serde_json::from_str(&text(2)?).map_err(|_| unreadable())?,
        state: from_word(&text(3)?)?,
        pass: row.get(4).doing(what)?,
        last_error: row.get(5).doing(what)?,
        progress: Progress {
            rows_total: count(6)?,
            rows_seen: count(7)?,
            rows_changed: count(8)?,
            rows_lost_race: count(9)?,
            rows_failed: count(10)?,
            chunks_total: count(11)?,
            chunks_done: count(12)?,
        },
        workers: row.get(13).doing(what)?,
        order: Order {
            priority: row.get(14).doing(what)?,
            by: row.get(15).doing(what)?,
            reason: row.get(16).doing(what)?,
        },
        created_ms: row.get(17).doing(what)?,
        changed_ms: row.get(18).doing(what)?,
    })
}

fn require(connection: &Connection, job: JobId) -> Result<()> {
    if schema::version(connection)? == 0 { Err(missing(job)) } else { Ok(()) }
}

fn missing(job: JobId) -> Error {
    Error::new(Code::Usage, format!("there is no job {}", job.0)).hint("`enfold jobs list --all` lists them")
}

fn unreadable() -> Error {
    Error::new(Code::CatalogVersion, "a job was recorded in words that this program does not know")
        .hint("use the newer program that made it")
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|_| Error::new(Code::Internal, "a job cannot be written down"))
}

/// The word serde gives a unit variant.
fn word(value: &impl Serialize) -> Result<String> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

fn from_word<T: DeserializeOwned>(word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).map_err(|_| unreadable())
}

/// The wall clock, for workers of several processes share it: they are on one machine, as the file is.
pub(super) fn now() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
