//! Looks at the date of every answer on its way through the SDK.

use std::sync::Arc;

use aws_sdk_kms::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kms::error::BoxError;
use jiff::{SignedDuration, Timestamp};

use crate::kms::service_clock::ServiceClock;

/// Every clone is the same.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<ServiceClock>);

impl Watch {
    pub(super) fn skew(&self) -> Option<SignedDuration> {
        self.0.skew()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch(..)")
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "EnfoldServiceClock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.saw(context.response().headers().get("date"), Timestamp::now());
        Ok(())
    }
}
