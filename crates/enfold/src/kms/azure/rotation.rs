//! The rotation policy of a key: when the service gives it its next version.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::wire::Attributes;
use crate::kms::service::{DAY, RotationPlan};

/// What `rotationpolicy` answers, and what is sent back as it came but for the one action. Durations are of ISO 8601:
/// `P90D`, `P1Y`.
#[derive(Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RotationPolicy {
    lifetime_actions: Vec<Value>,
    /// `expiryTime` among them: how long each version lives.
    #[serde(skip_serializing_if = "Value::is_null")]
    attributes: Value,
}

impl RotationPolicy {
    /// `version`: the newest one. A key has a policy always; one that only notifies rotates nothing. `None` for what is no
    /// policy.
    pub(super) fn plan(&self, version: &Attributes) -> Option<RotationPlan> {
        if !self.lifetime_actions.iter().all(is_action) {
            return None;
        }
        let Some(rotation) = self.lifetime_actions.iter().find(|action| is_rotation(action)) else {
            return Some(RotationPlan::default());
        };
        let made = version.created.and_then(|at| Timestamp::from_second(at).ok());
        let from = made.unwrap_or(Timestamp::UNIX_EPOCH);
        let at = match (span(&rotation["trigger"]["timeAfterCreate"]), span(&rotation["trigger"]["timeBeforeExpiry"])) {
            (Some(after), _) => moved(from, after),
            (None, Some(before)) => {
                let expires = span(&self.attributes["expiryTime"]).and_then(|life| moved(from, life));
                expires.and_then(|expires| moved(expires, before.negate()))
            }
            (None, None) => None,
        };
        let period = at.and_then(|at| Duration::try_from(at.duration_since(from)).ok());
        Some(RotationPlan { period, next: made.and(at), ..RotationPlan::default() })
    }

    /// Has it rotate so long after a version was made, or not at all.
    pub(super) fn set(&mut self, period: Option<Duration>) {
        self.lifetime_actions.retain(|action| !is_rotation(action));
        let days = period.map(|period| period.as_secs() / DAY.as_secs());
        self.lifetime_actions.extend(days.map(
            |days| json!({ "trigger": { "timeAfterCreate": format!("P{days}D") }, "action": { "type": "Rotate" } }),
        ));
        // The service sets the dates itself, and takes nothing but this one.
        self.attributes = match self.attributes.get("expiryTime") {
            Some(expiry) if !expiry.is_null() => json!({ "expiryTime": expiry }),
            _ => Value::Null,
        };
    }
}

fn is_action(action: &Value) -> bool {
    action["trigger"].is_object() && action["action"]["type"].is_string()
}

fn is_rotation(action: &Value) -> bool {
    action["action"]["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("rotate"))
}

fn span(text: &Value) -> Option<Span> {
    text.as_str()?.parse().ok()
}

/// Months and years are those of the calendar.
fn moved(at: Timestamp, by: Span) -> Option<Timestamp> {
    at.to_zoned(TimeZone::UTC).checked_add(by).ok().map(|moved| moved.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a version that was made on the first of January 2026.
    fn plan(policy: Value) -> (Option<u64>, Option<String>) {
        let policy: RotationPolicy = serde_json::from_value(policy).unwrap();
        let plan = policy.plan(&Attributes { created: Some(1_767_225_600), ..Attributes::default() }).unwrap();
        (plan.period.map(|period| period.as_secs() / 86_400), plan.next.map(|next| next.to_string()))
    }

    fn action(trigger: &Value, kind: &str) -> Value {
        json!({ "trigger": trigger, "action": { "type": kind } })
    }

    #[test]
    fn a_policy_rotates_after_a_time_or_before_the_end_of_a_version() {
        let after = action(&json!({ "timeAfterCreate": "P90D", "timeBeforeExpiry": null }), "Rotate");
        let notify = action(&json!({ "timeBeforeExpiry": "P30D" }), "Notify");
        assert_eq!(
            plan(json!({ "lifetimeActions": [notify, after], "attributes": { "expiryTime": "P2Y" } })),
            (Some(90), Some("2026-04-01T00:00:00Z".to_owned()))
        );
        let before = action(&json!({ "timeBeforeExpiry": "P1M" }), "rotate");
        assert_eq!(
            plan(json!({ "lifetimeActions": [before], "attributes": { "expiryTime": "P1Y" } })),
            (Some(334), Some("2026-12-01T00:00:00Z".to_owned()))
        );
    }

    #[test]
    fn a_policy_that_only_notifies_rotates_nothing() {
        let notify = action(&json!({ "timeBeforeExpiry": "P30D" }), "Notify");
        assert_eq!(plan(json!({ "lifetimeActions": [notify], "attributes": {} })), (None, None));
        assert_eq!(plan(json!({})), (None, None));
    }

    #[test]
    fn what_is_no_policy_has_no_plan() {
        for bad in [json!({ "action": { "type": "Rotate" } }), json!({ "trigger": {}, "action": {} }), json!("P90D")] {
            let policy: RotationPolicy = serde_json::from_value(json!({ "lifetimeActions": [bad] })).unwrap();
            assert!(policy.plan(&Attributes::default()).is_none());
        }
    }
}
