//! The cases of what a provider does to its root key by its own side abilities.

use std::sync::Arc;
use std::time::Duration;

use super::{Check, Fixture, Verdict, check, context, good, material, opens_to, refused_as};
use crate::error::Code;
use crate::kms::service::{ControlKey, KeyManagementService, KeyManagementServiceExt, RootKeyState};

type Kms = Arc<dyn KeyManagementService>;

/// Services differ in the windows that they give, and all of them give this one.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const HALF_A_YEAR: Duration = Duration::from_secs(180 * 24 * 3600);

/// Why a provider of which this is not asked is none the worse.
pub const NO_ABILITY: &str = "the provider has no such ability";

pub(super) async fn disabled_and_enabled(fixture: &dyn Fixture) -> Verdict {
    let kms = fixture.key().await;
    let Some(controller) = kms.controller() else { return Ok(Some(NO_ABILITY)) };
    let wrapped = good(kms.wrap_one(&material(7), &context()).await)?;
    for _ in 0..2 {
        good(controller.disable().await)?;
    }
    out_of_use(&kms, RootKeyState::Disabled).await?;
    refused_as(Code::KmsKeyDisabled, "disabled, unwrap", kms.unwrap_one(&wrapped, &context()).await)?;
    refused_as(Code::Usage, "what is disabled waits for no deletion", controller.cancel_deletion().await)?;
    in_use_again(&kms, controller).await?;
    opens_to(&*kms, &wrapped, &context(), &material(7)).await?;
    Ok(None)
}

pub(super) async fn deletion_cancelled(fixture: &dyn Fixture) -> Verdict {
    let kms = fixture.key().await;
    let Some(controller) = kms.controller() else { return Ok(Some(NO_ABILITY)) };
    let wrapped = good(kms.wrap_one(&material(7), &context()).await)?;
    let forever = controller.schedule_deletion(Duration::from_secs(100 * 365 * 24 * 3600)).await;
    refused_as(Code::Usage, "a window that no service gives", forever)?;
    opens_to(&*kms, &wrapped, &context(), &material(7)).await?;
    let gone = good(controller.schedule_deletion(A_WEEK).await)?;
    // The clocks of the service and of this machine may differ a little.
    let promised = gone.duration_since(jiff::Timestamp::now()).as_secs();
    check(promised > 6 * 24 * 3600, "it can be brought back for less than was asked")?;
    out_of_use(&kms, RootKeyState::PendingDeletion).await?;
    refused_as(Code::KmsKeyDisabled, "pending, unwrap", kms.unwrap_one(&wrapped, &context()).await)?;
    refused_as(Code::KmsKeyDisabled, "pending, enable", controller.enable().await)?;
    good(controller.cancel_deletion().await)?;
    in_use_again(&kms, controller).await?;
    opens_to(&*kms, &wrapped, &context(), &material(7)).await?;
    Ok(None)
}

pub(super) async fn rotated_by_us(fixture: &dyn Fixture) -> Verdict {
    let kms = fixture.key().await;
    let Some(rotator) = kms.rotator() else { return Ok(Some(NO_ABILITY)) };
    let old = good(kms.wrap_one(&material(1), &context()).await)?;
    good(rotator.rotate().await)?;
    let new = good(kms.wrap_one(&material(2), &context()).await)?;
    opens_to(&*kms, &old, &context(), &material(1)).await?;
    opens_to(&*kms, &new, &context(), &material(2)).await?;
    if let (Some(old), Some(new)) = (fixture.version_of(&old), fixture.version_of(&new)) {
        check(new == old + 1, "a rotation is something else than one more version")?;
    }
    Ok(None)
}

pub(super) async fn rotated_by_itself(fixture: &dyn Fixture) -> Verdict {
    let kms = fixture.key().await;
    let Some(rotator) = kms.rotator() else { return Ok(Some(NO_ABILITY)) };
    check(period(&kms).await?.is_none(), "a new key rotates by itself already")?;
    good(rotator.rotate_every(Some(HALF_A_YEAR)).await)?;
    check(period(&kms).await? == Some(HALF_A_YEAR), "another period is described than was set")?;
    good(rotator.rotate_every(None).await)?;
    check(period(&kms).await?.is_none(), "it still rotates by itself")?;
    Ok(None)
}

/// Refuses what is new too, and is described so.
async fn out_of_use(kms: &Kms, state: RootKeyState) -> Check {
    refused_as(Code::KmsKeyDisabled, "out of use, wrap", kms.wrap_one(&material(8), &context()).await)?;
    match kms.describer() {
        None => Ok(()),
        Some(describer) => match describer.describe().await {
            Ok(about) => check(about.state == state, "the description has another state"),
            Err(error) => check(error.code() == Code::KmsKeyDisabled, "the description fails in another way"),
        },
    }
}

async fn in_use_again(kms: &Kms, controller: &dyn ControlKey) -> Check {
    for _ in 0..2 {
        good(controller.enable().await)?;
    }
    let wrapped = good(kms.wrap_one(&material(9), &context()).await)?;
    opens_to(&**kms, &wrapped, &context(), &material(9)).await
}

/// A description of a key that can be rotated says whether it does so by itself.
async fn period(kms: &Kms) -> Result<Option<Duration>, String> {
    let Some(describer) = kms.describer() else { return Err("it cannot be described".to_owned()) };
    match good(describer.describe().await)?.rotation {
        Some(plan) => Ok(plan.period),
        None => Err("its description says nothing of rotation".to_owned()),
    }
}
