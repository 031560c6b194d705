//! Rotating a key of Key Vault or Managed HSM, taking it out of use, and deleting it.
//!
//! Each version is enabled or not; a key as a whole is deleted, and comes back as it was. A URI that names one version
//! stands for that one: it can be disabled and enabled, and neither rotated nor deleted.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::AzureKms;
use super::rotation::RotationPolicy;
use super::wire::{self, Attributes, DeletedKey, KeyBundle, KeyList, NewAttributes};
use crate::error::{Code, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::json;
use crate::kms::service::{ControlKey, DAY, RotateKey};

/// How often, and how long apart, a key is looked at that was asked back: the service gives it back some time later.
const LOOKS: u32 = 40;
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// A key that has more versions than these pages hold answers without an end.
const MOST_PAGES: usize = 1000;

#[async_trait]
impl RotateKey for AzureKms {
    async fn rotate(&self) -> Result<()> {
        let operation = Operation::Rotate;
        self.whole(operation)?;
        let path = format!("/keys/{}/rotate", self.key.name());
        let made: KeyBundle = self.ask(operation, Method::POST, &path, Some(Bytes::from_static(b"{}"))).await?;
        self.version_of(operation, &made.key.kid).map(drop)
    }

    /// What else the policy of the key holds (notices, the life of a version) is left as it is.
    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        let operation = Operation::ScheduleRotation;
        self.whole(operation)?;
        let whole_days = |period: &Duration| period.as_secs() > 0 && period.as_secs().is_multiple_of(DAY.as_secs());
        if !period.as_ref().is_none_or(whole_days) {
            return Err(failure::not_so(operation, &self.uri, "Azure rotates keys by whole days"));
        }
        let path = format!("/keys/{}/rotationpolicy", self.key.name());
        let mut policy: RotationPolicy = self.ask(operation, Method::GET, &path, None).await?;
        policy.set(period);
        let body = json::body(&policy, 1024);
        let now: RotationPolicy = self.ask(operation, Method::PUT, &path, Some(body)).await?;
        match now.plan(&Attributes::default()).is_some_and(|plan| plan.period == period) {
            true => Ok(()),
            false => Err(failure::unusable(operation, &self.uri, "the key has another rotation policy")),
        }
    }
}

#[async_trait]
impl ControlKey for AzureKms {
    async fn disable(&self) -> Result<()> {
        self.set_enabled(Operation::Disable, false).await
    }

    async fn enable(&self) -> Result<()> {
        self.set_enabled(Operation::Enable, true).await
    }

    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp> {
        let operation = Operation::ScheduleDeletion;
        self.whole(operation)?;
        let promised = self.about(operation).await?.attributes.recoverable_for();
        if promised < at_least || promised.is_zero() {
            let days = promised.as_secs() / DAY.as_secs();
            return Err(failure::not_so(operation, &self.uri, format!("this key can be brought back for {days} days"))
                .cause("how long is a setting of its vault"));
        }
        let path = format!("/keys/{}", self.key.name());
        let deleted: DeletedKey = self.ask(operation, Method::DELETE, &path, None).await?;
        let at = deleted.scheduled_purge_date.and_then(|at| jiff::Timestamp::from_second(at).ok());
        at.ok_or_else(|| failure::unusable(operation, &self.uri, "it does not say when the key will be gone"))
    }

    async fn cancel_deletion(&self) -> Result<()> {
        let operation = Operation::CancelDeletion;
        self.whole(operation)?;
        let path = format!("/deletedkeys/{}/recover", self.key.name());
        let answer = self.call(operation, Method::POST, &path, None).await?;
        if answer.status == 404 && self.about(operation).await.is_ok() {
            return Err(failure::not_pending(operation, &self.uri));
        }
        let _: Value = wire::success(operation, &self.uri, &answer)?;
        for _ in 0..LOOKS {
            match self.about(operation).await {
                // It is on its way: not among the keys yet, or still among the deleted ones.
                Err(error) if matches!(error.code(), Code::KmsKeyNotFound | Code::KmsKeyDisabled) => {}
                other => return other.map(drop),
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Err(failure::failed(Code::KmsUnavailable, operation, &self.uri)
            .cause("the key was asked back and is not there yet"))
    }
}

impl AzureKms {
    /// Refuses a URI that stands for one version alone.
    fn whole(&self, operation: Operation) -> Result<()> {
        if self.key.version().is_none() {
            return Ok(());
        }
        Err(failure::failed(Code::KmsUriInvalid, operation, &self.uri)
            .cause("the URI names one version, and would go on standing for that")
            .hint("leave the version away: wraps say which version made them"))
    }

    async fn set_enabled(&self, operation: Operation, enabled: bool) -> Result<()> {
        let versions = match self.key.version() {
            Some(only) => vec![only.to_owned()],
            None => self.versions(operation, !enabled).await?,
        };
        let body = json::body(&NewAttributes::enabled(enabled), 64);
        for version in versions {
            let path = format!("/keys/{}/{version}", self.key.name());
            let now: KeyBundle = self.ask(operation, Method::PATCH, &path, Some(body.clone())).await?;
            if now.attributes.enabled != enabled {
                return Err(failure::unusable(
                    operation,
                    &self.uri,
                    "a version is in another state than was asked for",
                ));
            }
        }
        Ok(())
    }

    /// Those that are enabled, or those that are not.
    async fn versions(&self, operation: Operation, enabled: bool) -> Result<Vec<String>> {
        // A key that is deleted is told apart from one that never was.
        self.about(operation).await?;
        let (mut all, mut page) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let path = format!("/keys/{}/versions", self.key.name());
            let answer = self.call_with(operation, Method::GET, &path, &page, None).await?;
            let KeyList { value, next_link } = wire::success(operation, &self.uri, &answer)?;
            for item in value.into_iter().filter(|item| item.attributes.enabled == enabled) {
                all.push(self.version_of(operation, &item.kid)?);
            }
            // Of the link only what names the page is taken, so that nobody is called whom the URI does not name.
            let link = next_link.as_deref().and_then(|link| url::Url::parse(link).ok());
            let token =
                |link: &url::Url| Some(link.query_pairs().find(|(name, _)| name == "$skiptoken")?.1.into_owned());
            let Some(token) = link.as_ref().and_then(token) else { return Ok(all) };
            page = url::form_urlencoded::byte_serialize(token.as_bytes()).collect();
            page.insert_str(0, "&$skiptoken=");
        }
        Err(failure::unusable(operation, &self.uri, "the list of versions has no end"))
    }
}
