//! Job records: made, cut into ranges, changed from state to state, listed.

use enfold::{Code, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::pressure::disk;
use crate::model::{Goal, JobId, JobState, Progress, RowError, Target};
use crate::postgres::session::Param;
use crate::postgres::shape::Leaf;
use crate::postgres::{Postgres, Purpose, Tx};
use crate::store::{Control, JobLimits, JobRecord, JobSpec, Order};

/// Blocks in a range: 32 MiB of table with the usual block size. Small enough that workers share the end of a table,
/// large enough that leases cost nothing.
const RANGE_BLOCKS: u64 = 4096;

pub(super) async fn create(db: &Postgres, spec: &JobSpec) -> Result<JobId> {
    super::schema::ensure(db).await?;
    let shape = db.shape_now(&spec.target).await?;
    let total = match spec.goal {
        Goal::Prune => db.count_remaining(Goal::Prune, &spec.target).await?,
        _ => count(db, &shape.leaves).await?,
    };
    let doing = db.doing("record a job in");
    let tx = db.begin(Purpose::Own).await?;
    let (database_bytes, wal_bytes) = disk(&tx, &doing).await?;
    let target = serde_json::to_value(&spec.target).map_err(|_| internal("a target does not serialise"))?;
    let row = tx
        .one(
            &doing,
            "INSERT INTO enfold.jobs (goal, target, state, batch_rows, rate, lease_ms, rows_total, database_bytes, wal_bytes, \
                                      priority, requested_by, reason) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
            &[
                (&word(&spec.goal)?, Type::TEXT),
                (&target, Type::JSONB),
                (&word(&JobState::Pending)?, Type::TEXT),
                (&i64::from(spec.batch_rows), Type::INT8),
                (&spec.rate.map(i64::from), Type::INT8),
                (&i64::try_from(spec.lease.as_millis()).unwrap_or(i64::MAX), Type::INT8),
                (&signed(total), Type::INT8),
                (&database_bytes, Type::INT8),
                (&wal_bytes, Type::INT8),
                (&spec.order.priority, Type::INT4),
                (&spec.order.by, Type::TEXT),
                (&spec.order.reason, Type::TEXT),
            ],
        )
        .await?;
    let job = JobId(row.get(0));
    cut(&tx, job, 1, &shape.leaves).await?;
    tx.commit().await?;
    Ok(job)
}

pub(super) async fn begin_pass(db: &Postgres, job: JobId, pass: u32) -> Result<bool> {
    let record = find(db, job).await?;
    let shape = db.shape_now(&record.target).await?;
    let doing = db.doing("begin another pass of a job in");
    let tx = db.begin(Purpose::Own).await?;
    let pass = i32::try_from(pass).map_err(|_| internal("a job came to more passes than can be counted"))?;
    let moved = tx
        .query(
            &doing,
            "UPDATE enfold.jobs SET pass = $2, changed_at = now() WHERE id = $1 AND pass = $2 - 1 AND state = $3 \
               AND NOT EXISTS (SELECT FROM enfold.job_chunks c WHERE c.job = $1 AND c.pass = $2 - 1 AND NOT c.done) \
             RETURNING id",
            &[(&job.0, Type::INT8), (&pass, Type::INT4), (&word(&JobState::Running)?, Type::TEXT)],
        )
        .await?;
    if moved.is_empty() {
        tx.rollback().await?;
        return Ok(false);
    }
    tx.query(
        &doing,
        "UPDATE enfold.job_errors SET settled = true WHERE job = $1 AND NOT settled",
        &[(&job.0, Type::INT8)],
    )
    .await?;
    cut(&tx, job, pass, &shape.leaves).await?;
    tx.commit().await?;
    Ok(true)
}

pub(super) async fn finish(db: &Postgres, job: JobId, pass: u32, state: JobState) -> Result<bool> {
    let pass = i32::try_from(pass).map_err(|_| internal("a job came to more passes than can be counted"))?;
    let tx = db.begin(Purpose::Own).await?;
    let ended = tx
        .query(
            &db.doing("end a job in"),
            "UPDATE enfold.jobs SET state = $4, changed_at = now() WHERE id = $1 AND pass = $2 AND state = $3 \
               AND NOT EXISTS (SELECT FROM enfold.job_chunks c WHERE c.job = $1 AND c.pass = $2 AND NOT c.done) \
             RETURNING id",
            &[
                (&job.0, Type::INT8),
                (&pass, Type::INT4),
                (&word(&JobState::Running)?, Type::TEXT),
                (&word(&state)?, Type::TEXT),
            ],
        )
        .await?;
    tx.commit().await?;
    Ok(!ended.is_empty())
}

pub(super) async fn find(db: &Postgres, job: JobId) -> Result<JobRecord> {
    let mut found = records(db, "j.id = $1", &[(&job.0, Type::INT8)]).await?;
    found.pop().ok_or_else(|| no_job(job))
}

fn no_job(job: JobId) -> Error {
    Error::new(Code::Usage, format!("there is no job {} in the database", job.0))
        .hint("`enfold jobs list --all` lists them")
}

pub(super) async fn all(db: &Postgres) -> Result<Vec<JobRecord>> {
    records(db, "true", &[]).await
}

pub(super) async fn open(db: &Postgres) -> Result<Vec<JobRecord>> {
    let ends = [JobState::Completed, JobState::CompletedWithErrors, JobState::Cancelled];
    debug_assert!(ends.iter().all(|state| state.is_end()));
    let ends = ends.iter().map(word).collect::<Result<Vec<_>>>()?;
    records(db, "j.state <> ALL ($1)", &[(&ends, Type::TEXT_ARRAY)]).await
}

pub(super) async fn transition(
    db: &Postgres,
    job: JobId,
    from: &[JobState],
    to: JobState,
    last_error: Option<&str>,
) -> Result<bool> {
    let from = from.iter().map(word).collect::<Result<Vec<_>>>()?;
    let tx = db.begin(Purpose::Own).await?;
    let moved = tx
        .query(
            &db.doing("change the state of a job in"),
            "UPDATE enfold.jobs SET state = $3, last_error = coalesce($4, last_error), changed_at = now() \
             WHERE id = $1 AND state = ANY ($2) RETURNING id",
            &[(&job.0, Type::INT8), (&from, Type::TEXT_ARRAY), (&word(&to)?, Type::TEXT), (&last_error, Type::TEXT)],
        )
        .await?;
    tx.commit().await?;
    Ok(!moved.is_empty())
}

pub(super) async fn control(db: &Postgres, job: JobId) -> Result<Control> {
    let sql = "SELECT state, batch_rows, rate FROM enfold.jobs WHERE id = $1";
    let rows = db.once(Purpose::Own, &db.doing("read the settings of a job in"), sql, &[(&job.0, Type::INT8)]).await?;
    let row = rows.first().ok_or_else(|| no_job(job))?;
    let rate: Option<i64> = row.get(2);
    Ok(Control {
        state: from_word(row.get(0))?,
        batch_rows: u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX),
        rate: rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)),
    })
}

pub(super) async fn set_control(
    db: &Postgres,
    job: JobId,
    batch_rows: Option<u32>,
    rate: Option<Option<u32>>,
) -> Result<()> {
    let tx = db.begin(Purpose::Own).await?;
    tx.query(
        &db.doing("change the settings of a job in"),
        "UPDATE enfold.jobs SET batch_rows = coalesce($2, batch_rows), rate = CASE WHEN $3 THEN $4 ELSE rate END, \
                changed_at = now() WHERE id = $1",
        &[
            (&job.0, Type::INT8),
            (&batch_rows.map(i64::from), Type::INT8),
            (&rate.is_some(), Type::BOOL),
            (&rate.flatten().map(i64::from), Type::INT8),
        ],
    )
    .await?;
    tx.commit().await
}

pub(super) async fn set_limits(db: &Postgres, job: JobId, limits: &JobLimits) -> Result<()> {
    // An older program's table has no place for them.
    super::schema::ensure(db).await?;
    let limits = serde_json::to_value(limits).map_err(|_| internal("limits do not serialise"))?;
    let sql = "UPDATE enfold.jobs SET limits = $2, changed_at = now() WHERE id = $1 RETURNING id";
    let params = [(&job.0 as _, Type::INT8), (&limits as _, Type::JSONB)];
    let set = db.once(Purpose::Own, &db.doing("change the limits of a job in"), sql, &params).await?;
    if set.is_empty() { Err(no_job(job)) } else { Ok(()) }
}

pub(super) async fn set_priority(db: &Postgres, job: JobId, priority: i32) -> Result<()> {
    super::schema::ensure(db).await?;
    let sql = "UPDATE enfold.jobs SET priority = $2 WHERE id = $1 RETURNING id";
    let params = [(&job.0 as _, Type::INT8), (&priority as _, Type::INT4)];
    let set = db.once(Purpose::Own, &db.doing("change the priority of a job in"), sql, &params).await?;
    if set.is_empty() { Err(no_job(job)) } else { Ok(()) }
}

pub(super) async fn errors(db: &Postgres, job: JobId, limit: u32) -> Result<Vec<RowError>> {
    let tx = db.begin(Purpose::Own).await?;
    let rows = tx
        .query(
            &db.doing("read the row errors of a job in"),
            // A batch that was read again after a crash has noted its errors twice.
            "SELECT row_label, column_name, code, reason FROM ( \
               SELECT DISTINCT ON (row_label, column_name) * FROM enfold.job_errors WHERE job = $1 AND NOT settled \
                ORDER BY row_label, column_name, id DESC) e ORDER BY id LIMIT $2",
            &[(&job.0, Type::INT8), (&i64::from(limit), Type::INT8)],
        )
        .await?;
    tx.commit().await?;
    Ok(rows.iter().map(|r| RowError { row: r.get(0), column: r.get(1), code: r.get(2), reason: r.get(3) }).collect())
}

/// Rows of the table by the planner's estimate, or counted where it was never analysed.
async fn count(db: &Postgres, leaves: &[Leaf]) -> Result<u64> {
    let mut total = 0;
    for leaf in leaves {
        total += match leaf.rows {
            Some(rows) => rows,
            None => {
                let tx = db.begin(Purpose::Count).await?;
                let doing = format!("cannot count the rows of `{}`", leaf.relation);
                let row = tx.one(&doing, &format!("SELECT count(*) FROM ONLY {}", leaf.relation), &[]).await?;
                tx.commit().await?;
                u64::try_from(row.get::<_, i64>(0)).unwrap_or(0)
            }
        };
    }
    Ok(total)
}

/// Ranges of blocks up to the present end of each leaf. What is written behind that end later is written by the sweep
/// itself or by writers in hybrid mode; the closing pass looks at it.
async fn cut(tx: &Tx, job: JobId, pass: i32, leaves: &[Leaf]) -> Result<()> {
    let (mut relations, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    for leaf in leaves {
        let mut block = 0;
        while block < leaf.blocks {
            let end = (block + RANGE_BLOCKS).min(leaf.blocks);
            relations.push(leaf.relation.as_str());
            from.push(signed(block << 16));
            to.push(signed(end << 16));
            block = end;
        }
    }
    tx.query(
        "cannot record the ranges of a job",
        "INSERT INTO enfold.job_chunks (job, pass, chunk, relation, from_position, to_position, cursor_position) \
         SELECT $1, $2, n, r, f, t, f FROM unnest($3, $4, $5) WITH ORDINALITY AS u (r, f, t, n)",
        &[
            (&job.0, Type::INT8),
            (&pass, Type::INT4),
            (&relations, Type::TEXT_ARRAY),
            (&from, Type::INT8_ARRAY),
            (&to, Type::INT8_ARRAY),
        ],
    )
    .await?;
    Ok(())
}

/// `only`: which ones, of `enfold.jobs j`. Works with the tables of an earlier version as well, which know no orders.
async fn records(db: &Postgres, only: &str, params: &[Param<'_>]) -> Result<Vec<JobRecord>> {
    let doing = db.doing("read the jobs in");
    let tx = db.begin(Purpose::Own).await?;
    let there = tx.one(&doing, "SELECT to_regclass('enfold.jobs') IS NOT NULL", &[]).await?;
    if !there.get::<_, bool>(0) {
        tx.commit().await?;
        return Ok(Vec::new());
    }
    let rows = tx
        .query(
            &doing,
            &format!(
                "SELECT j.id, j.goal, j.target, j.state, j.pass, j.rows_total, j.last_error, \
                        coalesce(sum(c.rows_seen), 0)::int8, coalesce(sum(c.rows_changed), 0)::int8, coalesce(sum(c.rows_lost), 0)::int8, \
                        count(*) FILTER (WHERE c.pass = j.pass), count(*) FILTER (WHERE c.pass = j.pass AND c.done), \
                        (SELECT count(DISTINCT row_label) FROM enfold.job_errors e WHERE e.job = j.id AND NOT e.settled), \
                        coalesce((to_jsonb(j) ->> 'priority')::int, 0), to_jsonb(j) ->> 'requested_by', to_jsonb(j) ->> 'reason', \
                        count(DISTINCT c.worker) FILTER (WHERE c.pass = j.pass AND NOT c.done AND c.expires_at > clock_timestamp()), \
                        (extract(epoch FROM j.created_at) * 1000)::int8, (extract(epoch FROM j.changed_at) * 1000)::int8 \
                 FROM enfold.jobs j LEFT JOIN enfold.job_chunks c ON c.job = j.id \
                 WHERE {only} GROUP BY j.id ORDER BY j.id"
            ),
            params,
        )
        .await?;
    tx.commit().await?;
    rows.iter().map(record).collect()
}

fn record(row: &Row) -> Result<JobRecord> {
    let number = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
    let target: Target =
        serde_json::from_value(row.get(2)).map_err(|_| internal("a job's target cannot be read back"))?;
    Ok(JobRecord {
        id: JobId(row.get(0)),
        goal: from_word(row.get(1))?,
        target,
        state: from_word(row.get(3))?,
        pass: u32::try_from(row.get::<_, i32>(4)).unwrap_or(0),
        progress: Progress {
            rows_total: number(5),
            rows_seen: number(7),
            rows_changed: number(8),
            rows_lost_race: number(9),
            rows_failed: number(12),
            chunks_total: number(10),
            chunks_done: number(11),
        },
        last_error: row.get(6),
        order: Order { priority: row.get(13), by: row.get(14), reason: row.get(15) },
        workers: u32::try_from(number(16)).unwrap_or(u32::MAX),
        created_ms: row.get(17),
        changed_ms: row.get(18),
    })
}

/// The word that serde writes for a unit variant, so that tables and JSON say the same.
fn word<T: Serialize>(value: &T) -> Result<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => Ok(word),
        _ => Err(internal("a state has no word")),
    }
}

fn from_word<T: DeserializeOwned>(word: String) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word)).map_err(|_| {
        Error::new(Code::CatalogVersion, "a job is in a state that this program does not know")
            .hint("run the newer program")
    })
}

/// Positions and counts in a column of type bigint; "to the end" is its greatest value.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The other way: the greatest value stands for the end.
pub(super) fn unsigned(number: i64) -> u64 {
    if number == i64::MAX { u64::MAX } else { u64::try_from(number).unwrap_or(0) }
}

fn internal(what: &str) -> Error {
    Error::new(Code::Internal, what)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Tid;
    use super::*;

    #[test]
    fn the_end_survives_the_column() {
        assert_eq!(unsigned(signed(u64::MAX)), u64::MAX);
        assert_eq!(unsigned(signed(Tid { block: 7, offset: 3 }.position())), 7 << 16 | 3);
    }
}
