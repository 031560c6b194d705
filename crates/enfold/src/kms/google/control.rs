//! Rotating a key of Cloud KMS, taking it out of use, and deleting it.
//!
//! States are those of its versions: a key as such can neither be disabled nor deleted. So each of these is done to every
//! version. What waits for its destruction comes back disabled.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Method;

use super::GoogleKms;
use super::wire::{self, CryptoKey, CryptoKeyVersion, UpdatePrimary, Versions};
use crate::error::{Code, Result};
use crate::kms::failure::{self, Operation};
use crate::kms::json;
use crate::kms::service::{ControlKey, DAY, RotateKey};

/// How often, and how long apart, a new version is looked at until it is ready: those of an HSM take some seconds.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// Cloud KMS, `CryptoKey.rotation_period`.
const SHORTEST_PERIOD: Duration = DAY;
/// A key that has more versions than these pages hold answers without an end.
const MOST_PAGES: usize = 1000;

#[async_trait]
impl RotateKey for GoogleKms {
    async fn rotate(&self) -> Result<()> {
        let operation = Operation::Rotate;
        let mut made: CryptoKeyVersion = self.ask(operation, Method::POST, "/cryptoKeyVersions", empty()).await?;
        let number = self.number(operation, &made)?;
        let mut looks = 0;
        while made.state == "PENDING_GENERATION" && looks < LOOKS {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            made = self.ask(operation, Method::GET, &format!("/cryptoKeyVersions/{number}"), None).await?;
            looks += 1;
        }
        if made.state != "ENABLED" {
            return Err(failure::failed(Code::KmsProtocol, operation, &self.uri)
                .cause(format!("version {number} was made and is not ready, so the former one still wraps"))
                .hint(format!("when it is: `gcloud kms keys set-primary-version KEY --version {number}`")));
        }
        let body = json::body(&UpdatePrimary { crypto_key_version_id: &number.to_string() }, 64);
        let about: CryptoKey = self.ask(operation, Method::POST, ":updatePrimaryVersion", Some(body)).await?;
        match about.primary {
            Some(primary) if primary.name == made.name => Ok(()),
            _ => Err(failure::unusable(operation, &self.uri, "the new version is not the primary one")),
        }
    }

    async fn rotate_every(&self, period: Option<Duration>) -> Result<()> {
        let operation = Operation::ScheduleRotation;
        let next = |period: Duration| jiff::Timestamp::now().checked_add(period).ok();
        let plan = match period {
            None => wire::Rotation::default(),
            Some(period) => match next(period).filter(|_| period >= SHORTEST_PERIOD) {
                Some(next) => wire::Rotation::every(period, next),
                None => {
                    return Err(failure::not_so(operation, &self.uri, "Cloud KMS rotates a key every day at most"));
                }
            },
        };
        let path = "?updateMask=rotationPeriod,nextRotationTime";
        let about: CryptoKey = self.ask(operation, Method::PATCH, path, Some(json::body(&plan, 128))).await?;
        match about.rotation_period.as_deref().and_then(wire::duration) == period {
            true => Ok(()),
            false => Err(failure::unusable(operation, &self.uri, "the key has another rotation period")),
        }
    }
}

#[async_trait]
impl ControlKey for GoogleKms {
    async fn disable(&self) -> Result<()> {
        self.set_all(Operation::Disable, "ENABLED", "DISABLED").await
    }

    async fn enable(&self) -> Result<()> {
        self.set_all(Operation::Enable, "DISABLED", "ENABLED").await
    }

    /// The primary version goes first, so that what waits since before it was destroyed by somebody on purpose.
    async fn schedule_deletion(&self, at_least: Duration) -> Result<jiff::Timestamp> {
        let operation = Operation::ScheduleDeletion;
        let about = self.about(operation).await?;
        let promised = about.destroy_scheduled_duration.as_deref().and_then(wire::duration).unwrap_or_default();
        if promised < at_least {
            let days = promised.as_secs() / DAY.as_secs();
            return Err(failure::not_so(operation, &self.uri, format!("this key can be brought back for {days} days"))
                .cause("`destroyScheduledDuration` is set when a key is made, and cannot be changed"));
        }
        let (mut versions, primary) = (self.versions(operation).await?, about.primary.map(|primary| primary.name));
        versions.sort_by_key(|version| Some(&version.name) != primary.as_ref());
        let mut last = None;
        for version in versions {
            let at = match version.state.as_str() {
                "DESTROYED" => continue,
                "DESTROY_SCHEDULED" => version.destroy_time,
                _ => self.version_call(operation, &version, Method::POST, ":destroy", empty()).await?.destroy_time,
            };
            last = last.max(at);
        }
        last.ok_or_else(|| failure::not_found(operation, &self.uri).cause("all its versions are destroyed"))
    }

    async fn cancel_deletion(&self) -> Result<()> {
        let operation = Operation::CancelDeletion;
        let primary = self.about(operation).await?.primary;
        let since = primary.filter(|primary| primary.state == "DESTROY_SCHEDULED").and_then(|p| p.destroy_time);
        let since = since.ok_or_else(|| failure::not_pending(operation, &self.uri))?;
        for version in self.versions(operation).await? {
            if version.state == "DESTROY_SCHEDULED" && version.destroy_time >= Some(since) {
                self.version_call(operation, &version, Method::POST, ":restore", empty()).await?;
            }
        }
        Ok(())
    }
}

impl GoogleKms {
    /// Brings every version that is in one state into another. A key whose primary version waits for its destruction
    /// is not touched.
    async fn set_all(&self, operation: Operation, from: &str, to: &'static str) -> Result<()> {
        let primary = self.about(operation).await?.primary;
        if primary.is_some_and(|primary| primary.state == "DESTROY_SCHEDULED") {
            return Err(failure::pending_deletion(operation, &self.uri));
        }
        for version in self.versions(operation).await? {
            if version.state == from {
                let body = json::body(&wire::NewState { state: to }, 64);
                self.version_call(operation, &version, Method::PATCH, "?updateMask=state", Some(body)).await?;
            }
        }
        Ok(())
    }

    async fn version_call(
        &self,
        operation: Operation,
        version: &CryptoKeyVersion,
        method: Method,
        what: &str,
        body: Option<Bytes>,
    ) -> Result<CryptoKeyVersion> {
        let number = self.number(operation, version)?;
        self.ask(operation, method, &format!("/cryptoKeyVersions/{number}{what}"), body).await
    }

    /// All versions there are and ever were.
    async fn versions(&self, operation: Operation) -> Result<Vec<CryptoKeyVersion>> {
        let (mut all, mut page) = (Vec::new(), String::new());
        for _ in 0..MOST_PAGES {
            let path = format!("/cryptoKeyVersions?pageSize=100{page}");
            let Versions { crypto_key_versions, next_page_token } =
                self.ask(operation, Method::GET, &path, None).await?;
            all.extend(crypto_key_versions);
            if next_page_token.is_empty() {
                return Ok(all);
            }
            page = url::form_urlencoded::byte_serialize(next_page_token.as_bytes()).collect();
            page.insert_str(0, "&pageToken=");
        }
        Err(failure::unusable(operation, &self.uri, "the list of versions has no end"))
    }

    fn number(&self, operation: Operation, version: &CryptoKeyVersion) -> Result<u32> {
        wire::version(self.key.name(), &version.name)
            .ok_or_else(|| failure::unusable(operation, &self.uri, "it names another key than was asked for"))
    }
}

fn empty() -> Option<Bytes> {
    Some(Bytes::from_static(b"{}"))
}
