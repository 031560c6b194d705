//! The cases of a root key, or of the way to it, that is in trouble.

use super::{Arranged, Fixture, Trouble, Verdict, check, context, good, material, refused_as};
use crate::error::{Code, Retry};
use crate::kms::failure::Operation;
use crate::kms::service::{KeyManagementServiceExt, RootKeyState};

/// Everything that the key service refuses then is refused under the right code, and its description says the state.
pub(super) async fn refused(fixture: &dyn Fixture, trouble: Trouble, deviation: Option<Code>) -> Verdict {
    let healthy = fixture.key().await;
    let (key, context) = (material(7), context());
    let wrapped = good(healthy.wrap_one(&key, &context).await)?;
    let kms = match fixture.trouble(&healthy, trouble).await {
        Arranged::Done(kms) => kms,
        Arranged::Impossible(why) => return Ok(Some(why)),
    };
    let (right, retry, state) = expected(trouble);
    let code = deviation.unwrap_or(right);
    let named = |operation: Operation| format!("{operation} in trouble");
    refused_as(code, &named(Operation::Unwrap), kms.unwrap_one(&wrapped, &context).await)?;
    refused_as(code, &named(Operation::Wrap), kms.wrap_one(&key, &context).await)?;
    if kms.generator().is_some() {
        refused_as(code, &named(Operation::Generate), kms.generate_one(&context).await)?;
    }
    if let Some(describer) = kms.describer() {
        match (describer.describe().await, state) {
            (Ok(about), Some(state)) => check(about.state == state, "the description has another state")?,
            (Ok(_), None) => return Err("a key that cannot be asked was described".to_owned()),
            (Err(error), _) => check(error.code() == code, "the description fails in another way")?,
        }
    }
    check(deviation.is_some() || right.retry() == retry, "the wrong word on whether to try again")?;
    Ok(None)
}

/// The code, whether to try again, and the state that a description may still give.
fn expected(trouble: Trouble) -> (Code, Retry, Option<RootKeyState>) {
    match trouble {
        Trouble::Disabled => (Code::KmsKeyDisabled, Retry::Never, Some(RootKeyState::Disabled)),
        Trouble::PendingDeletion => (Code::KmsKeyDisabled, Retry::Never, Some(RootKeyState::PendingDeletion)),
        Trouble::Deleted => (Code::KmsKeyNotFound, Retry::Never, None),
        Trouble::Denied => (Code::KmsAccessDenied, Retry::Never, None),
        Trouble::CredentialExpired => (Code::KmsAccessDenied, Retry::Never, None),
        Trouble::Throttled => (Code::KmsThrottled, Retry::Later, None),
        Trouble::TimedOut => (Code::KmsUnavailable, Retry::Later, None),
    }
}
