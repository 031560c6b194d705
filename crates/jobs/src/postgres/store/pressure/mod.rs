//! Whether the database has enough to do without us: read from statistics views, at most once a second.
//!
//! What the role may not see (other users' activity needs `pg_monitor`) is not counted. What is measured and how is in
//! `measure`, what needs more than one look in `history`, the operator's own query in `canary`.

mod canary;
mod history;
mod limits;
mod measure;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use enfold::Result;
use enfold::policy::BackOff;

use crate::model::JobId;
use crate::postgres::Postgres;
use crate::store::Pressure;
use history::History;
use measure::Measured;

pub(super) use measure::disk;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen so far, so that rates can be told.
#[derive(Default)]
pub(in crate::postgres) struct Gauge(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// What was said last, of which job, and when on the store's clock: workers that ask together share one look.
    said: Option<(JobId, Duration, Pressure)>,
    server_version: Option<i32>,
    history: History,
}

pub(super) async fn look(db: &Postgres, job: JobId) -> Result<Pressure> {
    let now = db.started.elapsed();
    let known = {
        let seen = db.gauge.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &seen.said {
            Some((of, at, said)) if *of == job && now.saturating_sub(*at) < LOOK_EVERY => return Ok(said.clone()),
            _ => seen.server_version,
        }
    };
    let version = match known {
        Some(version) => version,
        None => measure::version(db).await?,
    };
    let (measured, changed) = measure::all(db, version, job, &db.limits().back_off).await?;
    let limits = limits::in_force(&db.limits().back_off, &changed);
    let slow = match &limits.canary_query {
        Some(query) => canary::is_slow(db, query).await?,
        None => false,
    };
    let mut seen = db.gauge.0.lock().unwrap_or_else(PoisonError::into_inner);
    let told = seen.history.look(now, &measured);
    let pressure = judge(&measured, &told, slow, &limits);
    seen.server_version = Some(version);
    seen.said = Some((job, now, pressure.clone()));
    Ok(pressure)
}

/// What several looks together tell.
struct Told {
    replica_lag: Duration,
    /// Bytes a second.
    wal_rate: f64,
    requested_checkpoints: i64,
}

/// The first limit that is passed, in the order in which passing them does harm. Every reason names its setting.
fn judge(measured: &Measured, told: &Told, canary_is_slow: bool, limits: &BackOff) -> Pressure {
    let wait = |reason: String, seconds: u64| Pressure::Wait { reason, at_least: Duration::from_secs(seconds) };
    let passed = |now: i64, limit: u32| now > i64::from(limit);
    if passed(measured.waiting, limits.max_lock_waits) {
        let sessions = if measured.waiting == 1 { "1 session waits" } else { "sessions wait" };
        let count = if measured.waiting == 1 { String::new() } else { format!("{} ", measured.waiting) };
        return wait(
            format!("{count}{sessions} for a lock of the job (max_lock_waits = {})", limits.max_lock_waits),
            1,
        );
    }
    if canary_is_slow && let Some(query) = &limits.canary_query {
        let limit = query.time.as_millis();
        return wait(format!("the canary query takes longer than {limit} ms (canary_query_time)"), 2);
    }
    if told.replica_lag > limits.max_replica_lag {
        let (lag, limit) = (told.replica_lag.as_secs_f64(), limits.max_replica_lag.as_secs_f64());
        return wait(format!("a replica is {lag:.0} s behind (max_replica_lag = {limit} s)"), 2);
    }
    if measured.endangered > 0 {
        let slots = measured.endangered;
        return wait(format!("{slots} replication slots are about to lose their log, or have lost it"), 10);
    }
    let held = mib(measured.held);
    if passed(held, limits.max_slot_mib) {
        let limit = limits.max_slot_mib;
        return wait(format!("a replication slot holds back {held} MiB of log (max_slot_mib = {limit})"), 10);
    }
    let grown = mib(measured.grown);
    if let Some(limit) = limits.max_disk_growth_mib.filter(|limit| passed(grown, *limit)) {
        let reason =
            format!("database and log grew by {grown} MiB since the job began (max_disk_growth_mib = {limit})");
        return wait(reason, 10);
    }
    if passed(measured.age, limits.max_snapshot_age) {
        let (age, limit) = (measured.age, limits.max_snapshot_age);
        let reason = format!(
            "a snapshot keeps the row versions of {age} transactions from being cleared (max_snapshot_age = {limit})"
        );
        return wait(reason, 5);
    }
    if passed(told.requested_checkpoints, limits.max_requested_checkpoints) {
        let (count, limit) = (told.requested_checkpoints, limits.max_requested_checkpoints);
        let window = measured.checkpoint_timeout.as_secs();
        let reason =
            format!("{count} checkpoints were requested within {window} s (max_requested_checkpoints = {limit})");
        return wait(reason, 5);
    }
    let rate = told.wal_rate / f64::from(1 << 20);
    if let Some(limit) = limits.max_wal_mib_per_second.filter(|limit| rate > f64::from(*limit)) {
        return wait(format!("the log grows by {rate:.0} MiB/s (max_wal_mib_per_second = {limit})"), 1);
    }
    Pressure::None
}

/// Rounded up: one byte over a limit is over it.
fn mib(bytes: i64) -> i64 {
    if bytes <= 0 { 0 } else { (bytes - 1) / (1 << 20) + 1 }
}
