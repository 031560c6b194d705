//! The methods of the fake that change what becomes of keys: states of versions, their destruction, automatic rotation.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Key, VersionState, fields};
use crate::cloud::google::{refusal, unknown_field};
use crate::cloud::server::{Reply, Request};

/// `CryptoKey.destroy_scheduled_duration`, where nobody chose another: 30 days.
pub(super) const DESTROYED_AFTER: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Versions on a page, whatever was asked for: few, so that lists of more than one page are common.
const PAGE: usize = 2;

#[derive(Clone, Copy)]
pub(super) enum Control {
    List,
    Patch,
    PatchVersion(u32),
    Destroy(u32),
    Restore(u32),
}

impl Control {
    /// The key that a call is for, and what it does.
    pub(super) fn of<'a>(method: &str, name: &'a str) -> Option<(&'a str, Self)> {
        let version = |name: &'a str| {
            let (key, number) = name.rsplit_once("/cryptoKeyVersions/")?;
            Some((key, number.parse().ok()?))
        };
        match method {
            "GET" => name.strip_suffix("/cryptoKeyVersions").map(|key| (key, Self::List)),
            "PATCH" => match version(name) {
                Some((key, number)) => Some((key, Self::PatchVersion(number))),
                None => Some((name, Self::Patch)),
            },
            "POST" => match name.rsplit_once(':')? {
                (name, "destroy") => version(name).map(|(key, number)| (key, Self::Destroy(number))),
                (name, "restore") => version(name).map(|(key, number)| (key, Self::Restore(number))),
                _ => None,
            },
            _ => None,
        }
    }

    /// The parameters that the method knows.
    pub(super) fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::List => &["pageSize", "pageToken"],
            Self::Patch | Self::PatchVersion(_) => &["updateMask"],
            Self::Destroy(_) | Self::Restore(_) => &[],
        }
    }
}

impl Key {
    pub(super) fn control(&mut self, control: Control, request: &Request) -> Result<Value, Reply> {
        match control {
            Control::List => self.list(request),
            Control::Patch => self.patch(request),
            Control::PatchVersion(number) => self.patch_version(number, request),
            Control::Destroy(number) => {
                fields(request, &[])?;
                self.move_version(
                    number,
                    &[VersionState::Enabled, VersionState::Disabled],
                    VersionState::DestroyScheduled,
                )
            }
            Control::Restore(number) => {
                fields(request, &[])?;
                self.move_version(number, &[VersionState::DestroyScheduled], VersionState::Disabled)
            }
        }
    }

    fn list(&self, request: &Request) -> Result<Value, Reply> {
        let token = request.query.get("pageToken").map_or("page 0", String::as_str);
        let from = token.strip_prefix("page ").and_then(|n| n.parse::<usize>().ok());
        let from = from.ok_or_else(|| invalid("Invalid page token."))?;
        let versions: Vec<Value> =
            self.versions.keys().skip(from).take(PAGE).map(|number| self.show(*number)).collect();
        let mut page = json!({ "cryptoKeyVersions": versions, "totalSize": self.versions.len() });
        if from + PAGE < self.versions.len() {
            page["nextPageToken"] = format!("page {}", from + PAGE).into();
        }
        Ok(page)
    }

    /// Automatic rotation: both fields are set, or both taken away.
    fn patch(&mut self, request: &Request) -> Result<Value, Reply> {
        let given = fields(request, &["rotationPeriod", "nextRotationTime"])?;
        if request.query.get("updateMask").map(String::as_str) != Some("rotationPeriod,nextRotationTime") {
            return Err(invalid("Invalid value for update_mask."));
        }
        let text = |name: &str| given.get(name).and_then(Value::as_str);
        self.rotation = match (text("rotationPeriod"), text("nextRotationTime")) {
            (None, None) => None,
            (Some(period), Some(next)) => {
                let seconds = period.strip_suffix('s').and_then(|s| s.parse::<u64>().ok());
                // From a day to 876,000 hours, and the first time in the future.
                let sound = seconds.is_some_and(|s| (86_400..=876_000 * 3600).contains(&s));
                let later = next.parse::<Timestamp>().is_ok_and(|next| next > Timestamp::now());
                if !sound || !later {
                    return Err(invalid("rotation_period or next_rotation_time is out of range."));
                }
                Some((period.to_owned(), next.to_owned()))
            }
            _ => return Err(invalid("rotation_period needs next_rotation_time, and the other way round.")),
        };
        Ok(self.described())
    }

    fn patch_version(&mut self, number: u32, request: &Request) -> Result<Value, Reply> {
        let given = fields(request, &["state"])?;
        if request.query.get("updateMask").map(String::as_str) != Some("state") {
            return Err(invalid("Invalid value for update_mask."));
        }
        // Nothing else can be set: the other states come from other methods.
        let to = match given.get("state").and_then(Value::as_str) {
            Some("ENABLED") => VersionState::Enabled,
            Some("DISABLED") => VersionState::Disabled,
            _ => return Err(invalid("Invalid value for state.")),
        };
        self.move_version(number, &[VersionState::Enabled, VersionState::Disabled], to)
    }

    fn move_version(&mut self, number: u32, from: &[VersionState], to: VersionState) -> Result<Value, Reply> {
        let name = format!("{}/cryptoKeyVersions/{number}", self.name);
        let version = self
            .versions
            .get_mut(&number)
            .ok_or_else(|| refusal(404, "NOT_FOUND", "CryptoKeyVersion not found.", &[]))?;
        if !from.contains(&version.state) {
            let message = format!("{name} cannot do this, current state is: {}.", version.state.name());
            return Err(refusal(400, "FAILED_PRECONDITION", &message, &[]));
        }
        version.state = to;
        version.destroyed_at = (to == VersionState::DestroyScheduled).then(|| Timestamp::now() + self.destroyed_after);
        Ok(self.show(number))
    }
}

/// Parameters that the method does not know are refused.
pub(super) fn parameters(request: &Request, known: &[&str]) -> Result<(), Reply> {
    match request.query.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(unknown_field(name)),
        None => Ok(()),
    }
}

fn invalid(message: &str) -> Reply {
    refusal(400, "INVALID_ARGUMENT", message, &[])
}
