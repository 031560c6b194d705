//! The cases of a root key that has more than one version.

use std::sync::Arc;

use super::{Arranged, Change, Check, Fixture, Verdict, check, context, good, material, opens_to, refused_as};
use crate::error::Code;
use crate::kms::context::EncryptionContext;
use crate::kms::material::WrappedKey;
use crate::kms::service::{
    KeyManagementService, KeyManagementServiceExt, KeyVersions, RewrapRequest, RootKeyState, UnwrapRequest,
};

type Kms = Arc<dyn KeyManagementService>;

/// A wrap from before a rotation opens after it, and a new one is of the new version.
pub(super) async fn rotated(fixture: &dyn Fixture) -> Verdict {
    let kms = fixture.key().await;
    let context = context();
    let old = good(kms.wrap_one(&material(1), &context).await)?;
    let before = described(&kms).await?;
    let kms = match fixture.versions(&kms, Change::Rotate).await {
        Arranged::Done(kms) => kms,
        Arranged::Impossible(why) => return Ok(Some(why)),
    };
    let new = good(kms.wrap_one(&material(2), &context).await)?;
    opens_to(&*kms, &old, &context, &material(1)).await?;
    opens_to(&*kms, &new, &context, &material(2)).await?;
    if let (Some(before), Some(after)) = (before, described(&kms).await?) {
        check(after.newest == before.newest + 1, "a rotation is described as something else than one more version")?;
        check(after.oldest_usable == before.oldest_usable, "a rotation retired versions")?;
        check(
            fixture.version_of(&new).is_none_or(|version| version == after.newest),
            "a new wrap is of an old version",
        )?;
    }
    if let (Some(old), Some(new)) = (fixture.version_of(&old), fixture.version_of(&new)) {
        check(new == old + 1, "a wrap does not name the version that made it")?;
    }
    Ok(None)
}

/// Wraps of three versions open side by side, each under its own context alone, and can be brought to the newest.
pub(super) async fn old_version(fixture: &dyn Fixture, invalid: Code) -> Verdict {
    let mut kms = fixture.key().await;
    let context = context();
    let mut wraps = vec![good(kms.wrap_one(&material(0), &context).await)?];
    for n in 1..3 {
        kms = match fixture.versions(&kms, Change::Rotate).await {
            Arranged::Done(kms) => kms,
            Arranged::Impossible(why) => return Ok(Some(why)),
        };
        wraps.push(good(kms.wrap_one(&material(n), &context).await)?);
    }
    all_open(&kms, &wraps, &context).await?;
    for wrapped in &wraps {
        let answer = kms.unwrap_one(wrapped, &EncryptionContext::new()).await;
        refused_as(invalid, "a wrap of several versions ago, under another context", answer)?;
    }
    let Some(rewrapper) = kms.rewrapper() else { return Ok(None) };
    let requests: Vec<_> = wraps.iter().map(|wrapped| RewrapRequest { wrapped, context: &context }).collect();
    let mut renewed = Vec::new();
    for answer in rewrapper.rewrap(&requests).await {
        renewed.push(good(answer)?);
    }
    check(renewed.len() == wraps.len(), "another number of results than of requests")?;
    let newest = fixture.version_of(&wraps[2]);
    check(renewed.iter().all(|w| fixture.version_of(w) == newest), "a rewrap is not of the newest version")?;
    all_open(&kms, &renewed, &context).await?;
    // What was brought to the newest version does without the others.
    match fixture.versions(&kms, Change::RetireOld).await {
        Arranged::Done(kms) => all_open(&kms, &renewed, &context).await?,
        Arranged::Impossible(_) => {}
    }
    Ok(None)
}

/// A wrap of a retired version is refused for that reason, and the key goes on.
pub(super) async fn retired(fixture: &dyn Fixture, deviation: Option<Code>) -> Verdict {
    let mut kms = fixture.key().await;
    let (context, code) = (context(), deviation.unwrap_or(Code::KmsVersionRetired));
    let old = good(kms.wrap_one(&material(1), &context).await)?;
    for change in [Change::Rotate, Change::RetireOld] {
        kms = match fixture.versions(&kms, change).await {
            Arranged::Done(kms) => kms,
            Arranged::Impossible(why) => return Ok(Some(why)),
        };
    }
    let new = good(kms.wrap_one(&material(2), &context).await)?;
    let requests = [&old, &new].map(|wrapped| UnwrapRequest { wrapped, context: &context });
    let mut answers = kms.unwrap(&requests).await.into_iter();
    let (Some(of_old), Some(of_new), None) = (answers.next(), answers.next(), answers.next()) else {
        return Err("another number of results than of requests".to_owned());
    };
    refused_as(code, "a wrap of a retired version", of_old)?;
    check(good(of_new)?.expose() == material(2).expose(), "the wrap beside it opened to something else")?;
    if let Some(rewrapper) = kms.rewrapper() {
        for answer in rewrapper.rewrap(&[RewrapRequest { wrapped: &old, context: &context }]).await {
            refused_as(code, "a wrap of a retired version, rewrapped", answer)?;
        }
    }
    if let Some(versions) = described(&kms).await? {
        check(versions.oldest_usable == versions.newest, "retired versions are described as usable")?;
    }
    Ok(None)
}

async fn all_open(kms: &Kms, wraps: &[WrappedKey], context: &EncryptionContext) -> Check {
    let requests: Vec<_> = wraps.iter().map(|wrapped| UnwrapRequest { wrapped, context }).collect();
    let answers = kms.unwrap(&requests).await;
    check(answers.len() == wraps.len(), "another number of results than of requests")?;
    for (n, answer) in (0..).zip(answers) {
        check(good(answer)?.expose() == material(n).expose(), "a wrap of another version opened to something else")?;
    }
    Ok(())
}

/// The versions of a key that is enabled, where the service numbers them.
async fn described(kms: &Kms) -> Result<Option<KeyVersions>, String> {
    let Some(describer) = kms.describer() else { return Ok(None) };
    let about = good(describer.describe().await)?;
    check(about.state == RootKeyState::Enabled, "an enabled key is not described as one")?;
    Ok(about.versions)
}
