//! When a job gives way to everybody else: the limits of the policy, and what the record of a running job puts in their
//! place.

use std::time::Duration;

use enfold::policy::{CanaryQuery, JobPolicy};

use crate::store::JobLimits;

/// A job waits while any of these is passed. The policy's reference says what each means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub max_replica_lag: Duration,
    pub max_lock_waits: u32,
    pub max_slot_mib: u32,
    pub max_snapshot_age: u32,
    pub max_wal_mib_per_second: Option<u32>,
    pub max_requested_checkpoints: u32,
    pub max_disk_growth_mib: Option<u32>,
    pub canary_query: Option<CanaryQuery>,
}

/// As a policy that says nothing of them.
impl Default for BackOff {
    fn default() -> Self {
        Self {
            max_replica_lag: Duration::from_secs(10),
            max_lock_waits: 0,
            max_slot_mib: 16 << 10,
            max_snapshot_age: 10_000_000,
            max_wal_mib_per_second: None,
            max_requested_checkpoints: 10,
            max_disk_growth_mib: None,
            canary_query: None,
        }
    }
}

impl From<&JobPolicy> for BackOff {
    fn from(policy: &JobPolicy) -> Self {
        Self {
            max_replica_lag: policy.max_replica_lag,
            max_lock_waits: policy.max_lock_waits,
            max_slot_mib: policy.max_slot_mib,
            max_snapshot_age: policy.max_snapshot_age,
            max_wal_mib_per_second: policy.max_wal_mib_per_second,
            max_requested_checkpoints: policy.max_requested_checkpoints,
            max_disk_growth_mib: policy.max_disk_growth_mib,
            canary_query: policy.canary_query.clone(),
        }
    }
}

impl BackOff {
    /// With what the job's record says in place of what it does not.
    pub fn with(&self, job: &JobLimits) -> Self {
        let milliseconds = |ms: u32| Duration::from_millis(u64::from(ms));
        let canary_query = self
            .canary_query
            .clone()
            .map(|query| CanaryQuery { time: job.canary_query_time_ms.map_or(query.time, milliseconds), ..query });
        Self {
            max_replica_lag: job.max_replica_lag_ms.map_or(self.max_replica_lag, milliseconds),
            max_lock_waits: job.max_lock_waits.unwrap_or(self.max_lock_waits),
            max_slot_mib: job.max_slot_mib.unwrap_or(self.max_slot_mib),
            max_snapshot_age: job.max_snapshot_age.unwrap_or(self.max_snapshot_age),
            max_wal_mib_per_second: job.max_wal_mib_per_second.or(self.max_wal_mib_per_second),
            max_requested_checkpoints: job.max_requested_checkpoints.unwrap_or(self.max_requested_checkpoints),
            max_disk_growth_mib: job.max_disk_growth_mib.or(self.max_disk_growth_mib),
            canary_query,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use enfold::policy::{Variables, parse};

    use super::*;

    fn policy(jobs: &str) -> JobPolicy {
        let text = format!("environment = \"development\"\n[database]\nurl = \"sqlite:app.db\"\n[jobs]\n{jobs}");
        parse(&text, Path::new("enfold.toml"), &Variables::new()).unwrap().jobs
    }

    #[test]
    fn the_default_is_that_of_a_policy_that_says_nothing() {
        assert_eq!(BackOff::from(&policy("")), BackOff::default());
    }

    #[test]
    fn what_a_job_s_record_says_stands_in_for_the_policy_and_nothing_else_does() {
        let text = "max_replica_lag = \"3s\"\nmax_disk_growth_mib = 9\ncanary_query = \"SELECT 1\"\n";
        let of_policy = BackOff::from(&policy(text));
        assert_eq!(of_policy.with(&JobLimits::default()), of_policy);
        let changed = JobLimits {
            max_replica_lag_ms: Some(500),
            max_disk_growth_mib: Some(90),
            canary_query_time_ms: Some(7),
            ..JobLimits::default()
        };
        let query = CanaryQuery { sql: "SELECT 1".to_owned(), time: Duration::from_millis(7) };
        let expected = BackOff {
            max_replica_lag: Duration::from_millis(500),
            max_disk_growth_mib: Some(90),
            canary_query: Some(query),
            ..of_policy.clone()
        };
        assert_eq!(of_policy.with(&changed), expected);
    }
}
