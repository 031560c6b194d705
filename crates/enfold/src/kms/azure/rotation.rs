//! The rotation policy of a key: when the service gives it its next version.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::Deserialize;

use super::wire::Attributes;
use crate::kms::service::RotationPlan;

/// What `rotationpolicy` answers. Durations are of ISO 8601: `P90D`, `P1Y`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    #[serde(default)]
    lifetime_actions: Vec<LifetimeAction>,
    #[serde(default)]
    attributes: PolicyAttributes,
}

#[derive(Deserialize)]
struct LifetimeAction {
    trigger: Trigger,
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trigger {
    time_after_create: Option<String>,
    time_before_expiry: Option<String>,
}

#[derive(Deserialize)]
struct Action {
    /// `Rotate` or `Notify`, in any case.
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyAttributes {
    /// How long each version lives.
    expiry_time: Option<String>,
}

impl Policy {
    /// `version`: the newest one. A key has a policy always; one that only notifies rotates nothing.
    pub(super) fn plan(&self, version: &Attributes) -> RotationPlan {
        let rotates = self.lifetime_actions.iter().find(|a| a.action.kind.eq_ignore_ascii_case("rotate"));
        let Some(LifetimeAction { trigger, .. }) = rotates else { return RotationPlan::default() };
        let made = version.created.and_then(|at| Timestamp::from_second(at).ok());
        let from = made.unwrap_or(Timestamp::UNIX_EPOCH);
        let at = match (&trigger.time_after_create, &trigger.time_before_expiry) {
            (Some(after), _) => span(after).and_then(|after| moved(from, after)),
            (None, Some(before)) => {
                let expires = self.attributes.expiry_time.as_deref().and_then(span).and_then(|life| moved(from, life));
                expires.zip(span(before)).and_then(|(expires, before)| moved(expires, before.negate()))
            }
            (None, None) => None,
        };
        let period = at.and_then(|at| Duration::try_from(at.duration_since(from)).ok());
        RotationPlan { period, next: made.and(at), ..RotationPlan::default() }
    }
}

fn span(text: &str) -> Option<Span> {
    text.parse().ok()
}

/// Months and years are those of the calendar.
fn moved(at: Timestamp, by: Span) -> Option<Timestamp> {
    at.to_zoned(TimeZone::UTC).checked_add(by).ok().map(|moved| moved.timestamp())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Of a version that was made on the first of January 2026.
    fn plan(policy: Value) -> (Option<u64>, Option<String>) {
        let policy: Policy = serde_json::from_value(policy).unwrap();
        let plan = policy.plan(&Attributes { created: Some(1_767_225_600), ..Attributes::default() });
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
}
