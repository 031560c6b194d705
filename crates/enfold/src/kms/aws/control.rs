//! Rotating a key of AWS KMS, taking it out of use, and deleting it.
//!
//! None of these actions takes an alias, so that is resolved first.

use std::time::Duration;

use async_trait::async_trait;

use super::rotation::timestamp;
use super::{AwsKms, answer};
use crate::error::Result;
use crate::kms::failure::{self, Operation};
use crate::kms::service::{ControlKey, DAY, RotateKey};

/// AWS KMS API reference, `EnableKeyRotation`: `RotationPeriodInDays`.
const PERIODS: std::ops::RangeInclusive<u64> = 90..=2560;
/// `ScheduleKeyDeletion`: `PendingWindowInDays`.
const WINDOWS: std::ops::RangeInclusive<u64> = 7..=30;

#[async_trait]
impl RotateKey for AwsKms {
    async fn rotate(&self) -> Result<()> {
        let operation = Operation::Rotate;
        let request = self.clients.current().await.rotate_key_on_demand().key_id(self.target(operation).await?);
        request.send().await.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e))
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        let operation = Operation::ScheduleRotation;
        let Some(period) = period else {
            let request = self.clients.current().await.disable_key_rotation().key_id(self.target(operation).await?);
            return request.send().await.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e));
        };
        let days = period.as_secs() / DAY.as_secs();
        let whole = period == Duration::from_secs(days * DAY.as_secs());
        let days = i32::try_from(days).ok().filter(|_| whole && PERIODS.contains(&days));
        let days = days.ok_or_else(|| {
            failure::not_so(operation, &self.uri, "AWS KMS rotates keys every 90 to 2560 days, by whole days")
        })?;
        let request = self.clients.current().await.enable_key_rotation().key_id(self.target(operation).await?);
        let sent = request.rotation_period_in_days(days).send().await;
        sent.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e))
    }
}

#[async_trait]
impl ControlKey for AwsKms {
    async fn disable(&self) -> Result<()> {
        let operation = Operation::Disable;
        let request = self.clients.current().await.disable_key().key_id(self.target(operation).await?);
        request.send().await.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e))
    }

    async fn enable(&self) -> Result<()> {
        let operation = Operation::Enable;
        let request = self.clients.current().await.enable_key().key_id(self.target(operation).await?);
        request.send().await.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e))
    }

    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp> {
        let operation = Operation::ScheduleDeletion;
        let days = at_least.as_secs().div_ceil(DAY.as_secs()).max(*WINDOWS.start());
        let days = i32::try_from(days).ok().filter(|_| WINDOWS.contains(&days));
        let days = days.ok_or_else(|| failure::not_so(operation, &self.uri, "AWS KMS waits for 7 to 30 days"))?;
        let request = self.clients.current().await.schedule_key_deletion().key_id(self.target(operation).await?);
        let sent = request.pending_window_in_days(days).send().await;
        let answer = sent.map_err(|e| answer::refused(operation, &self.uri, &e))?;
        let at = answer.deletion_date.as_ref().and_then(timestamp);
        at.ok_or_else(|| self.broken(operation, "it does not say when the key will be gone"))
    }

    async fn cancel_deletion(&self) -> Result<()> {
        let operation = Operation::CancelDeletion;
        let request = self.clients.current().await.cancel_key_deletion().key_id(self.target(operation).await?);
        request.send().await.map(drop).map_err(|e| answer::refused(operation, &self.uri, &e))
    }
}

impl AwsKms {
    /// What the actions here name: the URI's key, or the one that its alias stands for now.
    async fn target(&self, operation: Operation) -> Result<String> {
        match self.key.is_alias() {
            false => Ok(self.key.key().to_owned()),
            true => self.resolved(operation).await.map(|arn| arn.to_string()),
        }
    }
}
