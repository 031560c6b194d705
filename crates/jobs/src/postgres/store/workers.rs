//! Signs of life: which workers wait for jobs. Time is the server's.

use std::time::Duration;

use enfold::Result;
use tokio_postgres::types::Type;

use super::schema;
use crate::model::JobId;
use crate::postgres::{Postgres, Purpose};
use crate::store::WorkerSign;

pub(super) async fn sign_of_life(db: &Postgres, sign: &WorkerSign) -> Result<()> {
    if !schema::has_workers(db).await? {
        schema::ensure(db).await?;
    }
    let sql = "INSERT INTO enfold.job_workers (worker, version, job, seen_at) VALUES ($1, $2, $3, clock_timestamp()) \
               ON CONFLICT (worker) DO UPDATE SET version = excluded.version, job = excluded.job, seen_at = excluded.seen_at";
    let job = sign.job.map(|job| job.0);
    let params = [(&sign.name as _, Type::TEXT), (&sign.version as _, Type::TEXT), (&job as _, Type::INT8)];
    db.once(Purpose::Own, &db.doing("give a worker's sign of life in"), sql, &params).await.map(|_| ())
}

pub(super) async fn sign_off(db: &Postgres, worker: &str) -> Result<()> {
    let sql = "DELETE FROM enfold.job_workers WHERE worker = $1";
    let doing = db.doing("sign a worker off in");
    db.once(Purpose::Own, &doing, sql, &[(&worker, Type::TEXT)]).await.map(|_| ())
}

pub(super) async fn seen(db: &Postgres, lately: Duration) -> Result<Vec<WorkerSign>> {
    if !schema::has_workers(db).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT worker, version, job, (extract(epoch FROM clock_timestamp() - seen_at) * 1000)::int8 \
               FROM enfold.job_workers WHERE seen_at > clock_timestamp() - $1 * interval '1 millisecond' ORDER BY worker";
    let milliseconds = lately.as_secs_f64() * 1000.0;
    let rows = db.once(Purpose::Own, &db.doing("list the workers in"), sql, &[(&milliseconds, Type::FLOAT8)]).await?;
    let sign = |row: &tokio_postgres::Row| WorkerSign {
        name: row.get(0),
        version: row.get(1),
        job: row.get::<_, Option<i64>>(2).map(JobId),
        seen: Duration::from_millis(u64::try_from(row.get::<_, i64>(3)).unwrap_or(0)),
    };
    Ok(rows.iter().map(sign).collect())
}
