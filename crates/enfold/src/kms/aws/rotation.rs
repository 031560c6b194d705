//! When AWS KMS rotates a key by itself.

use aws_sdk_kms::primitives::DateTime;
use aws_sdk_kms::types::KeyMetadata;
use jiff::Timestamp;

use super::{AwsKms, answer, usable};
use crate::error::{Code, Error, Result};
use crate::kms::failure::Operation;
use crate::kms::service::{DAY, RotationPlan};

/// What AWS KMS rotated by before the period could be chosen, and still does where none is said.
const YEAR_IN_DAYS: u32 = 365;

impl AwsKms {
    /// None for a key that AWS KMS rotates in no way.
    pub(super) async fn rotation(&self, key: &KeyMetadata) -> Result<Option<RotationPlan>> {
        if !usable(key) {
            return Ok(None);
        }
        // An alias is not taken here.
        let answer = self.clients.current().await.get_key_rotation_status().key_id(key.key_id()).send().await;
        let status = answer.map_err(|e| answer::refused(Operation::Describe, &self.uri, &e))?;
        let under_way_since = status.on_demand_rotation_start_date().and_then(timestamp);
        if !status.key_rotation_enabled() {
            return Ok(Some(RotationPlan { under_way_since, ..RotationPlan::default() }));
        }
        let days = status.rotation_period_in_days().and_then(|days| u32::try_from(days).ok()).unwrap_or(YEAR_IN_DAYS);
        let next = status.next_rotation_date().and_then(timestamp);
        Ok(Some(RotationPlan { period: Some(DAY * days), next, under_way_since }))
    }
}

/// Why a rotation is not known; the key may be as good as any.
pub(super) fn untold(error: &Error) -> String {
    match error.code() {
        Code::KmsAccessDenied => "whether it is rotated may not be asked (`kms:GetKeyRotationStatus`)".to_owned(),
        _ => "AWS KMS did not say whether it is rotated".to_owned(),
    }
}

pub(super) fn timestamp(date: &DateTime) -> Option<Timestamp> {
    Timestamp::new(date.secs(), i32::try_from(date.subsec_nanos()).ok()?).ok()
}
