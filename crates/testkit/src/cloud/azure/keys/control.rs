//! The operations of the fake that change what becomes of keys: versions in and out of use, rotation policies, deletion.

use serde_json::{Map, Value, json};

use super::{Key, Version};
use crate::cloud::azure::{knows, refusal};
use crate::cloud::server::{Reply, Request};

/// Versions on a page, whatever was asked for: few, so that lists of more than one page are common.
const PAGE: usize = 2;
const DAY: i64 = 24 * 3600;
/// How often a key that was asked back is looked at until it is there.
const LOOKS: u32 = 2;

#[derive(Clone, Copy)]
pub(super) enum Control<'a> {
    List,
    Patch(&'a str),
    Policy,
    SetPolicy,
    Delete,
    Recover,
}

impl<'a> Control<'a> {
    /// The key that a call is for, and what it does.
    pub(super) fn of(method: &str, parts: &[&'a str]) -> Option<(&'a str, Self)> {
        Some(match (method, parts) {
            ("GET", ["keys", key, "versions"]) => (key, Self::List),
            ("PATCH", ["keys", key, version]) => (key, Self::Patch(version)),
            ("GET", ["keys", key, "rotationpolicy"]) => (key, Self::Policy),
            ("PUT", ["keys", key, "rotationpolicy"]) => (key, Self::SetPolicy),
            ("DELETE", ["keys", key]) => (key, Self::Delete),
            ("POST", ["deletedkeys", key, "recover"]) => (key, Self::Recover),
            _ => return None,
        })
    }
}

impl Key {
    pub(super) fn control(&mut self, control: Control<'_>, request: &Request) -> Result<Value, Reply> {
        match control {
            Control::List => self.list(request),
            Control::Patch(version) => self.patch(version, request),
            Control::Policy => Ok(self.policy.clone()),
            Control::SetPolicy => self.set_policy(request),
            Control::Delete => {
                let now = jiff::Timestamp::now().as_second();
                let mut deleted = self.show(self.last());
                deleted["deletedDate"] = now.into();
                deleted["scheduledPurgeDate"] = (now + i64::from(self.recoverable_days) * DAY).into();
                deleted["recoveryId"] = format!("https://{}/deletedkeys/{}", self.kind.host(), self.name).into();
                Ok(deleted)
            }
            Control::Recover => {
                self.looks_until_there = LOOKS;
                Ok(self.show(self.last()))
            }
        }
    }

    /// As if somebody had set the policy.
    pub(in crate::cloud::azure) fn rotate_after(&mut self, days: u32) {
        let rotate = json!({ "trigger": { "timeAfterCreate": format!("P{days}D") }, "action": { "type": "Rotate" } });
        self.policy = policy(&self.name, &[rotate], &Value::Null);
    }

    pub(super) fn last(&self) -> &Version {
        &self.versions[self.versions.len() - 1]
    }

    fn list(&self, request: &Request) -> Result<Value, Reply> {
        let token = request.query.get("$skiptoken").map_or("page 0", String::as_str);
        let from = token.strip_prefix("page ").and_then(|n| n.parse::<usize>().ok());
        let from = from.ok_or_else(|| refusal(400, "BadParameter", None))?;
        // Without the keys themselves, as a list has them.
        let item = |version: &Version| {
            let whole = self.show(version);
            json!({ "kid": whole["key"]["kid"], "attributes": whole["attributes"] })
        };
        let page: Vec<Value> = self.versions.iter().skip(from).take(PAGE).map(item).collect();
        // The service names itself, and not the way that the caller came.
        let next = from + PAGE;
        let link = format!(
            "https://{}/keys/{}/versions?api-version=7.4&$skiptoken=page%20{next}&maxresults=2",
            self.kind.host(),
            self.name
        );
        Ok(json!({ "value": page, "nextLink": (next < self.versions.len()).then_some(link) }))
    }

    fn patch(&mut self, version: &str, request: &Request) -> Result<Value, Reply> {
        let bad = || refusal(400, "BadParameter", None);
        let given = request.json().filter(|given| knows(given, &["attributes"])).ok_or_else(bad)?;
        let attributes = given.get("attributes").and_then(Value::as_object).ok_or_else(bad)?;
        let enabled = attributes.get("enabled").and_then(Value::as_bool).filter(|_| knows(attributes, &["enabled"]));
        let found = self.versions.iter_mut().find(|known| known.id == version);
        let found = found.ok_or_else(|| refusal(404, "KeyNotFound", None))?;
        found.enabled = enabled.ok_or_else(bad)?;
        Ok(self.show(self.version(version)?))
    }

    fn set_policy(&mut self, request: &Request) -> Result<Value, Reply> {
        let bad = || refusal(400, "BadParameter", None);
        let given = request.json().filter(|given| knows(given, &["lifetimeActions", "attributes"])).ok_or_else(bad)?;
        let actions = given.get("lifetimeActions").and_then(Value::as_array).ok_or_else(bad)?;
        let attributes = given.get("attributes").cloned().unwrap_or_else(|| json!({}));
        let settable = attributes.as_object().is_some_and(|given| knows(given, &["expiryTime"]));
        if !settable || !actions.iter().all(is_action) {
            return Err(bad());
        }
        self.policy = policy(&self.name, actions, attributes.get("expiryTime").unwrap_or(&Value::Null));
        Ok(self.policy.clone())
    }
}

/// What the service has for a key of which nobody said anything.
pub(super) fn default_policy(name: &str) -> Value {
    let notice = json!({ "trigger": { "timeBeforeExpiry": "P30D" }, "action": { "type": "Notify" } });
    policy(name, &[notice], &Value::Null)
}

fn policy(name: &str, actions: &[Value], expiry: &Value) -> Value {
    json!({
        "id": format!("https://fake.vault.azure.net/keys/{name}/rotationpolicy"),
        "lifetimeActions": actions,
        "attributes": { "expiryTime": expiry, "created": 1_700_000_000, "updated": 1_700_000_000 },
    })
}

/// A rotation some time after a version was made, of 7 days at least, or before it expires; a notice only before that.
fn is_action(action: &Value) -> bool {
    let object = |name: &str| action.get(name).and_then(Value::as_object);
    let (Some(trigger), Some(what)) = (object("trigger"), object("action")) else { return false };
    let text = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    let days = |text: &str| text.strip_prefix('P')?.strip_suffix('D')?.parse::<u32>().ok();
    let is = |name: &str, least: u32| {
        trigger.len() == 1 && text(trigger, name).is_some_and(|text| days(&text).is_some_and(|days| days >= least))
    };
    match text(what, "type").as_deref() {
        Some("Rotate") => is("timeAfterCreate", 7) || is("timeBeforeExpiry", 7),
        Some("Notify") => is("timeBeforeExpiry", 7),
        _ => false,
    }
}
