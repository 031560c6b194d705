//! The rows of a Postgres database as the engine moves them. Each rule of [`crate::store`] is kept in one file here:
//! versions in `read`, the lease in `lease`, the one statement in `statement`, the one transaction in `write`.
mod jobs;
mod lease;
pub(super) mod peek;
mod pressure;
mod read;
pub(super) mod schema;
mod statement;
mod wire;
mod workers;
mod write;

use std::time::Duration;

use async_trait::async_trait;
use enfold::{KeyId, Result};

use super::Postgres;
use crate::model::{Goal, JobId, JobState, RowError, Target};
use crate::store::{
    Batch, Change, Checkpoint, Control, JobLimits, JobRecord, JobSpec, Lease, Outcome, Pressure, Row, RowVersion,
    Store, WorkerSign,
};

pub(super) use pressure::Gauge;

#[async_trait]
impl Store for Postgres {
    async fn create_job(&self, spec: &JobSpec) -> Result<JobId> {
        jobs::create(self, spec).await
    }

    async fn begin_pass(&self, job: JobId, pass: u32) -> Result<bool> {
        jobs::begin_pass(self, job, pass).await
    }

    async fn finish(&self, job: JobId, pass: u32, state: JobState) -> Result<bool> {
        jobs::finish(self, job, pass, state).await
    }

    async fn job(&self, job: JobId) -> Result<JobRecord> {
        jobs::find(self, job).await
    }

    async fn jobs(&self) -> Result<Vec<JobRecord>> {
        jobs::all(self).await
    }

    async fn open_jobs(&self) -> Result<Vec<JobRecord>> {
        jobs::open(self).await
    }

    async fn transition(&self, job: JobId, from: &[JobState], to: JobState, last_error: Option<&str>) -> Result<bool> {
        jobs::transition(self, job, from, to, last_error).await
    }

    async fn control(&self, job: JobId) -> Result<Control> {
        jobs::control(self, job).await
    }

    async fn set_control(&self, job: JobId, batch_rows: Option<u32>, rate: Option<Option<u32>>) -> Result<()> {
        jobs::set_control(self, job, batch_rows, rate).await
    }

    async fn set_priority(&self, job: JobId, priority: i32) -> Result<()> {
        jobs::set_priority(self, job, priority).await
    }

    async fn sign_of_life(&self, worker: &WorkerSign) -> Result<()> {
        workers::sign_of_life(self, worker).await
    }

    async fn sign_off(&self, worker: &str) -> Result<()> {
        workers::sign_off(self, worker).await
    }

    async fn workers(&self, lately: Duration) -> Result<Vec<WorkerSign>> {
        workers::seen(self, lately).await
    }

    async fn lease(&self, job: JobId, worker: &str, ttl: Duration) -> Result<Option<Lease>> {
        lease::take(self, job, worker, ttl).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<()> {
        lease::renew(self, lease, ttl).await
    }

    async fn read(&self, lease: &Lease, target: &Target, cursor: u64, limit: u32) -> Result<Batch> {
        read::range(self, lease, target, cursor, limit).await
    }

    async fn reread(&self, lease: &Lease, target: &Target, lost: &[RowVersion]) -> Result<Vec<Row>> {
        read::again(self, lease, target, lost).await
    }

    async fn write(
        &self,
        lease: &Lease,
        target: &Target,
        changes: &[Change],
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Outcome>> {
        write::batch(self, lease, target, changes, checkpoint).await
    }

    async fn remaining(&self, goal: Goal, target: &Target) -> Result<u64> {
        self.count_remaining(goal, target).await
    }

    async fn count_under(&self, target: &Target, keys: &[KeyId]) -> Result<u64> {
        self.count_rows_under(target, keys).await
    }

    async fn row_errors(&self, job: JobId, limit: u32) -> Result<Vec<RowError>> {
        jobs::errors(self, job, limit).await
    }

    async fn set_limits(&self, job: JobId, limits: &JobLimits) -> Result<()> {
        jobs::set_limits(self, job, limits).await
    }

    async fn pressure(&self, job: JobId) -> Result<Pressure> {
        pressure::look(self, job).await
    }

    async fn pause(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}
