//! One look at the server's statistics.

use std::time::Duration;

use enfold::policy::BackOff;
use enfold::{Code, Error, Result};
use tokio_postgres::types::Type;

use crate::model::JobId;
use crate::postgres::{Postgres, Purpose, Tx};
use crate::store::JobLimits;

/// The server's version, which settles where it counts checkpoints. It does not change under an open connection.
pub(super) async fn version(db: &Postgres) -> Result<i32> {
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int4";
    let rows = db.once(Purpose::Own, &db.doing("look at the load of"), sql, &[]).await?;
    let row = rows.first().ok_or_else(|| Error::new(Code::Internal, "a server without a version"))?;
    Ok(row.get(0))
}

/// What one look sees. Sizes and positions in bytes.
pub(super) struct Measured {
    /// As the server measured it when the slowest replica last replayed something.
    pub(super) replay_lag: Duration,
    /// How far the slowest replica has replayed; none without replicas.
    pub(super) replayed: Option<i64>,
    /// Sessions that wait for a lock of ours.
    pub(super) waiting: i64,
    /// Slots that are about to lose their log.
    pub(super) endangered: i64,
    /// Log that a slot holds back.
    pub(super) held: i64,
    /// Of the oldest snapshot, in transactions.
    pub(super) age: i64,
    pub(super) wal: i64,
    /// Checkpoints that were requested since the server's statistics begin.
    pub(super) requested: i64,
    pub(super) checkpoint_timeout: Duration,
    /// Of database and log since the job began; zero where nobody set a limit.
    pub(super) grown: i64,
}

/// In the order of [`Measured`]. On a standby there is no position of its own log to compare with.
const QUERY: &str = "SELECT \
    (SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_catalog.pg_stat_replication), \
    (SELECT pg_catalog.pg_wal_lsn_diff(min(replay_lsn), '0/0')::int8 FROM pg_catalog.pg_stat_replication), \
    (SELECT count(*) FROM pg_catalog.pg_stat_activity w \
      WHERE w.wait_event_type = 'Lock' AND w.application_name NOT LIKE 'enfold%' AND EXISTS ( \
        SELECT FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) \
           AND b.application_name LIKE 'enfold%' AND b.datname = pg_catalog.current_database())), \
    (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE wal_status IN ('unreserved', 'lost')), \
    (SELECT coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)), 0)::int8 \
       FROM pg_catalog.pg_replication_slots WHERE NOT pg_catalog.pg_is_in_recovery()), \
    (SELECT coalesce(max(pg_catalog.age(x)), 0)::int8 FROM ( \
        SELECT backend_xmin FROM pg_catalog.pg_stat_activity \
         WHERE pid <> pg_catalog.pg_backend_pid() AND backend_type IS DISTINCT FROM 'autovacuum worker' \
        UNION ALL SELECT xmin FROM pg_catalog.pg_replication_slots \
        UNION ALL SELECT transaction FROM pg_catalog.pg_prepared_xacts) AS held (x)), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::int8 END, \
    (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'checkpoint_timeout')";

/// Looks at everything, and reads from the job's record where its limits are not the policy's.
pub(super) async fn all(db: &Postgres, version: i32, job: JobId, policy: &BackOff) -> Result<(Measured, JobLimits)> {
    let doing = db.doing("look at the load of");
    let tx = db.begin(Purpose::Own).await?;
    // As a document, for the table may be an older program's and have fewer columns.
    let sql = "SELECT coalesce(to_jsonb(j) -> 'limits', '{}'), (to_jsonb(j) ->> 'database_bytes')::int8, \
                      (to_jsonb(j) ->> 'wal_bytes')::int8 FROM enfold.jobs j WHERE id = $1";
    let of_job = tx.query(&doing, sql, &[(&job.0, Type::INT8)]).await?;
    let row = of_job.first().ok_or_else(|| Error::new(Code::Internal, "a job without a record"))?;
    let limits: JobLimits = serde_json::from_value(row.get(0)).map_err(|_| {
        Error::new(Code::CatalogVersion, "a job has limits that this program does not know")
            .hint("run the newer program")
    })?;
    let began: (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
    let sql = format!("{QUERY}, {}", requested_checkpoints(version));
    let row = tx.one(&doing, &sql, &[]).await?;
    let grown = match limits.max_disk_growth_mib.or(policy.max_disk_growth_mib) {
        Some(_) => grown(began, disk(&tx, &doing).await?),
        None => 0,
    };
    tx.commit().await?;
    let lag: f64 = row.get(0);
    let measured = Measured {
        replay_lag: Duration::try_from_secs_f64(lag).unwrap_or_default(),
        replayed: row.get(1),
        waiting: row.get(2),
        endangered: row.get(3),
        held: row.get(4),
        age: row.get(5),
        wal: row.get(6),
        checkpoint_timeout: Duration::from_secs(u64::try_from(row.get::<_, i64>(7)).unwrap_or(0)),
        requested: row.get(8),
        grown,
    };
    Ok((measured, limits))
}

/// Bytes of the database and, where the role may list its files, of the write-ahead log.
pub(in crate::postgres::store) async fn disk(tx: &Tx, doing: &str) -> Result<(i64, Option<i64>)> {
    let sql = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()), \
                      pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE')";
    let row = tx.one(doing, sql, &[]).await?;
    let wal = match row.get(1) {
        true => {
            let sql = "SELECT coalesce(sum(size), 0)::int8 FROM pg_catalog.pg_ls_waldir()";
            Some(tx.one(doing, sql, &[]).await?.get(0))
        }
        false => None,
    };
    Ok((row.get(0), wal))
}

/// What is not known of the beginning (a job of an older program, a role that could not see it) did not grow.
fn grown((database, wal): (Option<i64>, Option<i64>), (now, wal_now): (i64, Option<i64>)) -> i64 {
    let since = |then: Option<i64>, now: Option<i64>| match (then, now) {
        (Some(then), Some(now)) => now.saturating_sub(then),
        _ => 0,
    };
    since(database, Some(now)).saturating_add(since(wal, wal_now))
}

/// Version 17 moved the checkpointer's counts to a view of their own.
fn requested_checkpoints(version: i32) -> &'static str {
    if version >= 170_000 {
        "(SELECT num_requested FROM pg_catalog.pg_stat_checkpointer)"
    } else {
        "(SELECT checkpoints_req FROM pg_catalog.pg_stat_bgwriter)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_counted_where_the_server_s_version_keeps_them() {
        for version in [140_000, 150_014, 169_999] {
            assert!(requested_checkpoints(version).contains("checkpoints_req FROM pg_catalog.pg_stat_bgwriter"));
        }
        for version in [170_000, 180_001] {
            assert!(requested_checkpoints(version).contains("num_requested FROM pg_catalog.pg_stat_checkpointer"));
        }
    }

    #[test]
    fn growth_counts_what_was_seen_at_both_ends() {
        assert_eq!(grown((Some(100), Some(10)), (150, Some(30))), 70);
        assert_eq!(grown((Some(100), None), (150, Some(30))), 50);
        assert_eq!(grown((Some(100), Some(10)), (150, None)), 50);
        assert_eq!(grown((None, None), (150, Some(30))), 0);
        assert_eq!(grown((Some(100), Some(30)), (90, Some(20))), -20);
    }
}
