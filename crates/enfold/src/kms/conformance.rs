//! The suite that every provider passes, shipped with the trait: for Enfold's own providers, and for those of others.
//!
//! A provider's test implements [`Fixture`] over a real server (or over itself, where it is its own server), calls
//! [`run`] and asserts on the [`Report`]. A case that a server cannot be brought into is reported as not run with the
//! reason, and a server that refuses under another name than the service it imitates as a deviation; the test must
//! expect both by name, so that nothing is skipped in silence.

mod control;
mod trouble;
mod versions;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

pub use self::control::NO_ABILITY;
use super::context::EncryptionContext;
use super::material::{KeyMaterial, WrappedKey};
use super::service::{
    GenerateRequest, KeyManagementService, KeyManagementServiceExt, RewrapRequest, RootKeyState, UnwrapRequest,
    WrapRequest,
};
use crate::error::{Code, Result};

/// What the suite needs from a provider's test.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The provider and its server, as the report should call them.
    fn name(&self) -> String;

    /// A provider over a root key that was made for this call and is enabled.
    async fn key(&self) -> Arc<dyn KeyManagementService>;

    /// Brings the root key of `kms`, or the way to it, into trouble.
    async fn trouble(&self, kms: &Arc<dyn KeyManagementService>, trouble: Trouble) -> Arranged;

    /// Why this server, or whoever runs the suite, cannot do what a case takes.
    fn lacks(&self, _: Case) -> Option<&'static str> {
        None
    }

    /// Does to the versions of the root key of `kms` what those who keep it may do.
    async fn versions(&self, kms: &Arc<dyn KeyManagementService>, change: Change) -> Arranged;

    /// The version of the root key that a wrap names, where the provider's wraps name one.
    fn version_of(&self, _: &WrappedKey) -> Option<u32> {
        None
    }

    /// The code with which this server refuses where the service itself would give another one. The call must be
    /// refused all the same.
    fn deviation(&self, _: Case) -> Option<Code> {
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Disabled,
    PendingDeletion,
    Deleted,
    Denied,
    /// What the provider signs in with was good when the wrap was made, and is over.
    CredentialExpired,
    Throttled,
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new version, which wraps from now on.
    Rotate,
    /// Every version but the newest opens nothing any more.
    RetireOld,
}

pub enum Arranged {
    /// The provider to go on with: the same, or one that reaches the same root key another way.
    Done(Arc<dyn KeyManagementService>),
    /// Why this server cannot be brought into that trouble.
    Impossible(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    RoundTrip,
    EmptyBatch,
    ContextsOfAllKinds,
    WrongContext,
    WrongKey,
    ChangedBytes,
    BatchWithOneBadItem,
    OrderKept,
    Generate,
    Describe,
    Rotated,
    OldVersion,
    RetiredVersion,
    Disabled,
    PendingDeletion,
    Deleted,
    Denied,
    CredentialExpired,
    Throttled,
    TimedOut,
    DisabledAndEnabled,
    DeletionCancelled,
    RotatedByUs,
    RotatedByItself,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// Refused, but under this code instead of the right one.
    Deviated(Code),
    NotRun(&'static str),
    Failed(String),
}

/// What came of every case. Its text is the table for the test's output and for the documentation.
pub struct Report {
    pub provider: String,
    pub results: Vec<(Case, Outcome)>,
}

/// Runs every case, whatever came of the ones before.
pub async fn run(fixture: &dyn Fixture) -> Report {
    let mut results = Vec::new();
    for case in Case::ALL {
        let expected = fixture.deviation(case);
        let outcome = match one(fixture, case, expected).await {
            Ok(None) => expected.map_or(Outcome::Passed, Outcome::Deviated),
            Ok(Some(why)) => Outcome::NotRun(why),
            Err(what) => Outcome::Failed(what),
        };
        results.push((case, outcome));
    }
    Report { provider: fixture.name(), results }
}

impl Case {
    pub const ALL: [Self; 24] = [
        Self::RoundTrip,
        Self::EmptyBatch,
        Self::ContextsOfAllKinds,
        Self::WrongContext,
        Self::WrongKey,
        Self::ChangedBytes,
        Self::BatchWithOneBadItem,
        Self::OrderKept,
        Self::Generate,
        Self::Describe,
        Self::Rotated,
        Self::OldVersion,
        Self::RetiredVersion,
        Self::Disabled,
        Self::PendingDeletion,
        Self::Deleted,
        Self::Denied,
        Self::CredentialExpired,
        Self::Throttled,
        Self::TimedOut,
        Self::DisabledAndEnabled,
        Self::DeletionCancelled,
        Self::RotatedByUs,
        Self::RotatedByItself,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round trip",
            Self::EmptyBatch => "empty batch",
            Self::ContextsOfAllKinds => "contexts of all kinds",
            Self::WrongContext => "wrong context",
            Self::WrongKey => "wrong key",
            Self::ChangedBytes => "changed bytes",
            Self::BatchWithOneBadItem => "batch with one bad item",
            Self::OrderKept => "order kept",
            Self::Generate => "generate",
            Self::Describe => "describe",
            Self::Rotated => "rotated",
            Self::OldVersion => "old version",
            Self::RetiredVersion => "retired version",
            Self::Disabled => "disabled",
            Self::PendingDeletion => "pending deletion",
            Self::Deleted => "deleted",
            Self::Denied => "denied",
            Self::CredentialExpired => "expired credential",
            Self::Throttled => "throttled",
            Self::TimedOut => "time-out",
            Self::DisabledAndEnabled => "disabled by us, and enabled",
            Self::DeletionCancelled => "deletion by us, and cancelled",
            Self::RotatedByUs => "rotated by us",
            Self::RotatedByItself => "automatic rotation",
        }
    }
}

impl Report {
    /// The cases with any other outcome than [`Outcome::Passed`].
    pub fn exceptions(&self) -> Vec<(Case, Outcome)> {
        self.results.iter().filter(|(_, outcome)| *outcome != Outcome::Passed).cloned().collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.provider)?;
        for (case, outcome) in &self.results {
            let said = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Deviated(code) => format!("refused, as `{code}`"),
                Outcome::NotRun(why) => format!("not run: {why}"),
                Outcome::Failed(what) => format!("FAILED: {what}"),
            };
            writeln!(f, "  {:30} {said}", case.name())?;
        }
        Ok(())
    }
}

/// `Ok(Some(why))` where the case could not be arranged.
type Verdict = std::result::Result<Option<&'static str>, String>;
type Check = std::result::Result<(), String>;

async fn one(fixture: &dyn Fixture, case: Case, deviation: Option<Code>) -> Verdict {
    if let Some(why) = fixture.lacks(case) {
        return Ok(Some(why));
    }
    let kms = fixture.key().await;
    let kms = &*kms;
    let invalid = deviation.unwrap_or(Code::WrapInvalid);
    match case {
        Case::RoundTrip => round_trip(kms).await?,
        Case::EmptyBatch => empty_batch(kms).await?,
        Case::ContextsOfAllKinds => contexts_of_all_kinds(kms).await?,
        Case::WrongContext => wrong_context(kms, invalid).await?,
        Case::WrongKey => wrong_key(kms, &*fixture.key().await, invalid).await?,
        Case::ChangedBytes => changed_bytes(kms, invalid).await?,
        Case::BatchWithOneBadItem => batch_with_one_bad_item(kms, invalid).await?,
        Case::OrderKept => order_kept(kms).await?,
        Case::Generate => generate(kms).await?,
        Case::Describe => describe(kms).await?,
        Case::Rotated => return versions::rotated(fixture).await,
        Case::OldVersion => return versions::old_version(fixture, invalid).await,
        Case::RetiredVersion => return versions::retired(fixture, deviation).await,
        Case::Disabled => return trouble::refused(fixture, Trouble::Disabled, deviation).await,
        Case::PendingDeletion => return trouble::refused(fixture, Trouble::PendingDeletion, deviation).await,
        Case::Deleted => return trouble::refused(fixture, Trouble::Deleted, deviation).await,
        Case::Denied => return trouble::refused(fixture, Trouble::Denied, deviation).await,
        Case::CredentialExpired => return trouble::refused(fixture, Trouble::CredentialExpired, deviation).await,
        Case::Throttled => return trouble::refused(fixture, Trouble::Throttled, deviation).await,
        Case::TimedOut => return trouble::refused(fixture, Trouble::TimedOut, deviation).await,
        Case::DisabledAndEnabled => return control::disabled_and_enabled(fixture).await,
        Case::DeletionCancelled => return control::deletion_cancelled(fixture).await,
        Case::RotatedByUs => return control::rotated_by_us(fixture).await,
        Case::RotatedByItself => return control::rotated_by_itself(fixture).await,
    }
    Ok(None)
}

async fn round_trip(kms: &dyn KeyManagementService) -> Check {
    let (key, context) = (material(7), context());
    let wrapped = good(kms.wrap_one(&key, &context).await)?;
    // A wrap is the key in another form, so the key itself must not be found in it.
    if wrapped.as_bytes().windows(KeyMaterial::LEN).any(|w| w == key.expose()) {
        return Err("the wrapped form holds the key in the clear".to_owned());
    }
    opens_to(kms, &wrapped, &context, &key).await
}

async fn empty_batch(kms: &dyn KeyManagementService) -> Check {
    check(kms.wrap(&[]).await.is_empty(), "wrapping nothing gave something")?;
    check(kms.unwrap(&[]).await.is_empty(), "unwrapping nothing gave something")
}

async fn contexts_of_all_kinds(kms: &dyn KeyManagementService) -> Check {
    let mut many = EncryptionContext::new();
    for n in 0..20 {
        many = good(many.with(&format!("label-{n}"), &format!("value {n} with, \"marks\": {{and}} \\ more")))?;
    }
    let long = good(EncryptionContext::new().with("long", &"x".repeat(2000)))?;
    let foreign = good(EncryptionContext::new().with("daten_klasse", "persönlich, 個人情報"))?;
    for context in [EncryptionContext::new(), many, long, foreign] {
        let key = material(3);
        let wrapped = good(kms.wrap_one(&key, &context).await)?;
        opens_to(kms, &wrapped, &context, &key).await?;
    }
    Ok(())
}

async fn wrong_context(kms: &dyn KeyManagementService, code: Code) -> Check {
    let wrapped = good(kms.wrap_one(&material(7), &context()).await)?;
    let base = || EncryptionContext::new().with("enfold:ring", "orders");
    let others = [
        ("another value", base().and_then(|c| c.with("data_class", "public"))),
        ("another name", base().and_then(|c| c.with("data_klass", "personal"))),
        ("a pair too few", base()),
        ("a pair too many", context().with("extra", "1")),
        ("no pair", Ok(EncryptionContext::new())),
    ];
    for (what, other) in others {
        let other = good(other)?;
        refused_as(code, what, kms.unwrap_one(&wrapped, &other).await)?;
        // Or the wrap of one tenant would become the wrap of another's key.
        if let Some(rewrapper) = kms.rewrapper() {
            let answers = rewrapper.rewrap(&[RewrapRequest { wrapped: &wrapped, context: &other }]).await;
            check(answers.len() == 1, "another number of results than of requests")?;
            for answer in answers {
                refused_as(code, &format!("{what}, rewrapped"), answer)?;
            }
        }
    }
    Ok(())
}

async fn wrong_key(kms: &dyn KeyManagementService, other: &dyn KeyManagementService, code: Code) -> Check {
    let wrapped = good(kms.wrap_one(&material(7), &context()).await)?;
    refused_as(code, "under another root key", other.unwrap_one(&wrapped, &context()).await)
}

async fn changed_bytes(kms: &dyn KeyManagementService, code: Code) -> Check {
    let bytes = good(kms.wrap_one(&material(7), &context()).await)?.into_bytes();
    let last = bytes.len() - 1;
    // The first bytes name version and key at some services, so a change there may be refused as another key.
    for at in [last, last - 16, bytes.len() / 2] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        refused_as(
            code,
            &format!("byte {at} changed"),
            kms.unwrap_one(&good(WrappedKey::new(changed))?, &context()).await,
        )?;
    }
    let mut short = bytes.clone();
    short.pop();
    refused_as(code, "cut short", kms.unwrap_one(&good(WrappedKey::new(short))?, &context()).await)?;
    let mut long = bytes;
    long.push(0);
    refused_as(code, "grown", kms.unwrap_one(&good(WrappedKey::new(long))?, &context()).await)
}

async fn batch_with_one_bad_item(kms: &dyn KeyManagementService, code: Code) -> Check {
    let context = context();
    let mut wrapped = Vec::new();
    for n in 0..5 {
        wrapped.push(good(kms.wrap_one(&material(n), &context).await)?);
    }
    let mut bytes = wrapped[2].as_bytes().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    wrapped[2] = good(WrappedKey::new(bytes))?;
    let requests: Vec<_> = wrapped.iter().map(|wrapped| UnwrapRequest { wrapped, context: &context }).collect();
    let answers = kms.unwrap(&requests).await;
    check(answers.len() == 5, "another number of results than of requests")?;
    for (n, answer) in (0..5).zip(answers) {
        if n == 2 {
            refused_as(code, "the bad item", answer)?;
        } else {
            check(
                good(answer)?.expose() == material(n).expose(),
                "an item beside the bad one opened to something else",
            )?;
        }
    }
    Ok(())
}

async fn order_kept(kms: &dyn KeyManagementService) -> Check {
    let context = context();
    let keys: Vec<KeyMaterial> = (0..40).map(material).collect();
    let requests: Vec<_> = keys.iter().map(|key| WrapRequest { key, context: &context }).collect();
    let mut wrapped = Vec::new();
    for answer in kms.wrap(&requests).await {
        wrapped.push(good(answer)?);
    }
    check(wrapped.len() == keys.len(), "another number of results than of requests")?;
    let requests: Vec<_> = wrapped.iter().map(|wrapped| UnwrapRequest { wrapped, context: &context }).collect();
    let answers = kms.unwrap(&requests).await;
    check(answers.len() == keys.len(), "another number of results than of requests")?;
    for (key, answer) in keys.iter().zip(answers) {
        check(good(answer)?.expose() == key.expose(), "the results are not in the order of the requests")?;
    }
    Ok(())
}

async fn generate(kms: &dyn KeyManagementService) -> Check {
    let context = context();
    let one = good(kms.generate_one(&context).await)?;
    let two = good(kms.generate_one(&context).await)?;
    check(one.key.expose() != two.key.expose(), "the same key twice")?;
    opens_to(kms, &one.wrapped, &context, &one.key).await?;
    refused(kms.unwrap_one(&one.wrapped, &EncryptionContext::new()).await)?;
    let Some(generator) = kms.generator() else { return Ok(()) };
    let batch = generator.generate(&[GenerateRequest { context: &context }; 3]).await;
    check(batch.len() == 3, "another number of results than of requests")?;
    for made in batch {
        let made = good(made)?;
        opens_to(kms, &made.wrapped, &context, &made.key).await?;
    }
    Ok(())
}

async fn describe(kms: &dyn KeyManagementService) -> Check {
    let Some(describer) = kms.describer() else { return Ok(()) };
    let about = good(describer.describe().await)?;
    check(about.state == RootKeyState::Enabled, "an enabled key is not described as one")?;
    check(about.usable, "a key that wraps is described as unusable")?;
    check(!about.resolved.is_empty(), "the description names no key")
}

fn material(n: u8) -> KeyMaterial {
    KeyMaterial::from_bytes(&mut [n; KeyMaterial::LEN])
}

fn context() -> EncryptionContext {
    let made = EncryptionContext::new().with("enfold:ring", "orders").and_then(|c| c.with("data_class", "personal"));
    // Two fixed pairs that the tests of the context accept.
    made.unwrap_or_default()
}

async fn opens_to(
    kms: &dyn KeyManagementService,
    wrapped: &WrappedKey,
    context: &EncryptionContext,
    key: &KeyMaterial,
) -> Check {
    let opened = good(kms.unwrap_one(wrapped, context).await)?;
    check(opened.expose() == key.expose(), "it opened to another key")
}

fn good<T>(result: Result<T>) -> std::result::Result<T, String> {
    result.map_err(|error| format!("{error:?}"))
}

fn refused<T>(result: Result<T>) -> std::result::Result<Code, String> {
    match result {
        Ok(_) => Err("it was not refused".to_owned()),
        Err(error) => Ok(error.code()),
    }
}

fn refused_as<T>(code: Code, what: &str, result: Result<T>) -> Check {
    match result {
        Ok(_) => Err(format!("{what}: not refused")),
        Err(error) if error.code() == code => Ok(()),
        Err(error) => Err(format!("{what}: expected `{code}`, found {error:?}")),
    }
}

fn check(holds: bool, what: &str) -> Check {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}
