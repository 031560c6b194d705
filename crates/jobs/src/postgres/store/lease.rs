//! Leases: who works on which range, until when, and the fencing token that every write proves.

use std::time::Duration;

use enfold::{Code, Error, Result};
use tokio_postgres::types::Type;

use super::jobs::unsigned;
use crate::model::JobId;
use crate::postgres::{Postgres, Purpose, Tx};
use crate::store::{LONGEST_LEASE, Lease, Range};

/// Time is the server's, so that workers' clocks need not agree.
pub(super) async fn take(db: &Postgres, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>> {
    let tx = db.begin(Purpose::Own).await?;
    let rows = tx
        .query(
            &db.doing("lease a range in"),
            "WITH free AS ( \
               SELECT c.job, c.pass, c.chunk FROM enfold.job_chunks c JOIN enfold.jobs j ON j.id = c.job AND j.pass = c.pass \
                WHERE c.job = $1 AND NOT c.done AND (c.expires_at IS NULL OR c.expires_at <= clock_timestamp() \
                       OR c.expires_at > clock_timestamp() + $4 * interval '1 millisecond') \
                ORDER BY c.chunk LIMIT 1 FOR UPDATE OF c SKIP LOCKED) \
             UPDATE enfold.job_chunks c \
                SET token = c.token + 1, worker = $2, expires_at = clock_timestamp() + $3 * interval '1 millisecond' \
               FROM free WHERE c.job = free.job AND c.pass = free.pass AND c.chunk = free.chunk \
             RETURNING c.chunk, c.pass, c.token, c.relation, c.from_position, c.to_position, c.cursor_position",
            &[
                (&job.0, Type::INT8),
                (&worker, Type::TEXT),
                (&milliseconds(ttl), Type::FLOAT8),
                // Set by a server whose clock has been put back since, or by another that this one took over from.
                (&milliseconds(LONGEST_LEASE.max(ttl * 2)), Type::FLOAT8),
            ],
        )
        .await?;
    tx.commit().await?;
    Ok(rows.first().map(|row| Lease {
        job,
        chunk: chunk_number(row.get(1), row.get(0)),
        token: row.get(2),
        worker: worker.to_owned(),
        range: Range { relation: row.get(3), from: unsigned(row.get(4)), to: unsigned(row.get(5)) },
        cursor: unsigned(row.get(6)),
    }))
}

pub(super) async fn renew(db: &Postgres, lease: &Lease, ttl: Duration) -> Result<()> {
    let (pass, chunk) = pass_and_chunk(lease.chunk);
    let tx = db.begin(Purpose::Own).await?;
    let rows = tx
        .query(
            &db.doing("renew a lease in"),
            "UPDATE enfold.job_chunks SET expires_at = clock_timestamp() + $5 * interval '1 millisecond' \
             WHERE job = $1 AND pass = $2 AND chunk = $3 AND token = $4 AND NOT done RETURNING token",
            &[
                (&lease.job.0, Type::INT8),
                (&pass, Type::INT4),
                (&chunk, Type::INT8),
                (&lease.token, Type::INT8),
                (&milliseconds(ttl), Type::FLOAT8),
            ],
        )
        .await?;
    tx.commit().await?;
    if rows.is_empty() { Err(lost(lease)) } else { Ok(()) }
}

/// Proves the lease inside a transaction, and keeps it from being taken until that ends.
pub(super) async fn prove(tx: &Tx, lease: &Lease) -> Result<()> {
    let (pass, chunk) = pass_and_chunk(lease.chunk);
    let rows = tx
        .query(
            "cannot prove the lease of a range",
            "SELECT token FROM enfold.job_chunks WHERE job = $1 AND pass = $2 AND chunk = $3 AND token = $4 AND NOT done FOR UPDATE",
            &[(&lease.job.0, Type::INT8), (&pass, Type::INT4), (&chunk, Type::INT8), (&lease.token, Type::INT8)],
        )
        .await?;
    if rows.is_empty() { Err(lost(lease)) } else { Ok(()) }
}

fn lost(lease: &Lease) -> Error {
    Error::new(Code::LeaseLost, format!("range {} of job {} has gone to another worker", lease.chunk, lease.job.0))
}

/// One number for pass and chunk, as leases carry it: the pass in the upper half.
fn chunk_number(pass: i32, chunk: i64) -> i64 {
    i64::from(pass) << 40 | chunk
}

pub(super) fn pass_and_chunk(number: i64) -> (i32, i64) {
    (i32::try_from(number >> 40).unwrap_or(i32::MAX), number & ((1 << 40) - 1))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_and_chunk_share_a_number_and_come_apart_again() {
        for (pass, chunk) in [(1, 1), (3, 1 << 39), (70_000, 12)] {
            assert_eq!(pass_and_chunk(chunk_number(pass, chunk)), (pass, chunk));
        }
    }
}
