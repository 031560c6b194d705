//! When a job gives way to everybody else: the limits of the policy, and what the record of a running job puts in their
//! place.

use std::time::Duration;

use enfold::policy::{BackOff, CanaryQuery};

use crate::store::JobLimits;

/// The policy's limits with what the job's record says in place of what it does not.
pub(super) fn in_force(policy: &BackOff, job: &JobLimits) -> BackOff {
    let milliseconds = |ms: u32| Duration::from_millis(u64::from(ms));
    let canary_query = policy
        .canary_query
        .clone()
        .map(|query| CanaryQuery { time: job.canary_query_time_ms.map_or(query.time, milliseconds), ..query });
    BackOff {
        max_replica_lag: job.max_replica_lag_ms.map_or(policy.max_replica_lag, milliseconds),
        max_lock_waits: job.max_lock_waits.unwrap_or(policy.max_lock_waits),
        max_slot_mib: job.max_slot_mib.unwrap_or(policy.max_slot_mib),
        max_snapshot_age: job.max_snapshot_age.unwrap_or(policy.max_snapshot_age),
        max_wal_mib_per_second: job.max_wal_mib_per_second.or(policy.max_wal_mib_per_second),
        max_requested_checkpoints: job.max_requested_checkpoints.unwrap_or(policy.max_requested_checkpoints),
        max_disk_growth_mib: job.max_disk_growth_mib.or(policy.max_disk_growth_mib),
        canary_query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_job_s_record_says_stands_in_for_the_policy_and_nothing_else_does() {
        let query = |ms| CanaryQuery { sql: "SELECT 1".to_owned(), time: Duration::from_millis(ms) };
        let policy = BackOff {
            max_replica_lag: Duration::from_secs(3),
            max_disk_growth_mib: Some(9),
            canary_query: Some(query(1)),
            ..BackOff::default()
        };
        assert_eq!(in_force(&policy, &JobLimits::default()), policy);
        let changed = JobLimits {
            max_replica_lag_ms: Some(500),
            max_disk_growth_mib: Some(90),
            canary_query_time_ms: Some(7),
            ..JobLimits::default()
        };
        let expected = BackOff {
            max_replica_lag: Duration::from_millis(500),
            max_disk_growth_mib: Some(90),
            canary_query: Some(query(7)),
            ..policy.clone()
        };
        assert_eq!(in_force(&policy, &changed), expected);
    }
}
