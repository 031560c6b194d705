//! Whether the database has enough to do without us: read from statistics views, at most once a second.
//!
//! What the role may not see (other users' activity needs `pg_monitor`) is not counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use enfold::Result;

use crate::postgres::{Postgres, Purpose};
use crate::store::Pressure;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen last, so that rates can be told.
#[derive(Default)]
pub(in crate::postgres) struct Gauge(Mutex<Option<Seen>>);

struct Seen {
    at: Instant,
    pressure: Pressure,
    wal: i64,
}

/// One row: seconds of replica lag, sessions that wait for us, bytes a slot holds back beyond what it may, age of the
/// oldest snapshot in transactions, WAL position.
const QUERY: &str = "SELECT \
    (SELECT coalesce(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_catalog.pg_stat_replication), \
    (SELECT count(*) FROM pg_catalog.pg_stat_activity w WHERE w.wait_event_type = 'Lock' AND EXISTS ( \
        SELECT FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) \
           AND b.application_name LIKE 'enfold%' AND b.datname = pg_catalog.current_database())), \
    (SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE wal_status IN ('unreserved', 'lost')), \
    (SELECT coalesce(max(pg_catalog.age(backend_xmin)), 0)::int8 FROM pg_catalog.pg_stat_activity WHERE pid <> pg_catalog.pg_backend_pid()), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::int8 END, \
    (SELECT coalesce(max(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)), 0)::int8 \
       FROM pg_catalog.pg_replication_slots WHERE NOT pg_catalog.pg_is_in_recovery())";

pub(super) async fn look(db: &Postgres) -> Result<Pressure> {
    let before = {
        let seen = db.gauge.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some(seen) if seen.at.elapsed() < LOOK_EVERY => return Ok(seen.pressure.clone()),
            Some(seen) => Some((seen.at, seen.wal)),
            None => None,
        }
    };
    let tx = db.begin(Purpose::Own).await?;
    let row = tx.one(&db.doing("look at the load of"), QUERY, &[]).await?;
    tx.commit().await?;
    let (lag, waiting, endangered): (f64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    let (age, wal, held): (i64, i64, i64) = (row.get(3), row.get(4), row.get(5));
    let limits = db.limits();
    let wal_rate = before.map_or(0.0, |(at, then)| rate(wal.saturating_sub(then), at.elapsed()));

    let wait = |reason: String, seconds: u64| Pressure::Wait { reason, at_least: Duration::from_secs(seconds) };
    let pressure = if lag > limits.max_replica_lag.as_secs_f64() {
        wait(format!("a replica is {lag:.0} s behind"), 2)
    } else if waiting > 0 {
        wait(format!("{waiting} sessions wait for a lock of the job"), 1)
    } else if endangered > 0 {
        wait(format!("{endangered} replication slots are about to lose their log, or have lost it"), 10)
    } else if held > limits.max_slot_bytes {
        wait(format!("a replication slot holds back {} MiB of log", held >> 20), 10)
    } else if age > limits.max_snapshot_age {
        wait(format!("a transaction keeps {age} transactions' row versions from being cleared"), 5)
    } else if limits.max_wal_rate.is_some_and(|max| wal_rate > max) {
        wait(format!("the log grows by {:.0} MiB/s", wal_rate / f64::from(1 << 20)), 1)
    } else {
        Pressure::None
    };
    *db.gauge.0.lock().unwrap_or_else(PoisonError::into_inner) =
        Some(Seen { at: Instant::now(), pressure: pressure.clone(), wal });
    Ok(pressure)
}

#[allow(clippy::cast_precision_loss, reason = "a rate, for comparison")]
fn rate(bytes: i64, over: Duration) -> f64 {
    bytes as f64 / over.as_secs_f64().max(0.001)
}
