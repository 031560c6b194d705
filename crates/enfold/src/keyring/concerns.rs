//! What is to be settled about a root key although it may work today, and how.

use std::time::Duration;

use jiff::SignedDuration;

use super::{RootHealth, Tried};
use crate::kms::{Held, KeyDescription, NeededBy, RootKeyState};
use crate::policy::format_duration;

/// From here on a wrap or an unwrap is called slow: several times what a key service of the same region takes.
pub(crate) const SLOW: Duration = Duration::from_millis(500);

/// From here on clocks are said to differ. Machines that are set by NTP differ by far less; AWS refuses signatures that
/// are off by five minutes, and Microsoft Entra ID assertions.
const SKEW: SignedDuration = SignedDuration::from_secs(30);

/// One thing to be settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    pub about: ConcernAbout,
    /// What is the matter: a clause.
    pub says: String,
    /// What to do about it.
    pub remedy: String,
}

/// What a [`Concern`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConcernAbout {
    /// Disabled, waiting for its deletion, or made for something else.
    State,
    /// How the key service guards it.
    Protection,
    /// Rights beyond what the work needs.
    Rights,
    Latency,
    Clock,
}

impl RootHealth {
    /// What is to be settled. `operator`: the process is one of those who keep the root keys, so that rights to rotate,
    /// disable and delete are its work; an application's they are not.
    pub fn concerns(&self, operator: bool) -> Vec<Concern> {
        let described = self.description.as_ref().and_then(|told| told.as_ref().ok());
        let mut concerns: Vec<Concern> = described.and_then(state).into_iter().collect();
        for warning in described.into_iter().flat_map(|described| &described.warnings) {
            let remedy = "make a root key without that, put it into `roots`, and take this one out when the other has wrapped all";
            concerns.push(concern(ConcernAbout::Protection, warning.clone(), remedy));
        }
        concerns.extend(self.too_many_rights(operator));
        concerns.extend(self.slow());
        concerns.extend(self.clock_skew.and_then(clock));
        concerns
    }

    fn too_many_rights(&self, operator: bool) -> Option<Concern> {
        let beyond = |needed_by| match needed_by {
            NeededBy::Applications => false,
            NeededBy::Operators => !operator,
            NeededBy::Nobody => true,
        };
        let held = self.permissions.iter().flatten().filter(|p| p.held == Held::Yes && beyond(p.needed_by));
        let names: Vec<String> = held.map(|permission| format!("`{}`", permission.name)).collect();
        (!names.is_empty()).then(|| {
            let beyond = if operator { "beyond keeping the key" } else { "that an application does not need" };
            let says = format!("this process has rights {beyond}: {}", names.join(", "));
            concern(ConcernAbout::Rights, says, "take them away from whoever runs this")
        })
    }

    fn slow(&self) -> Option<Concern> {
        let Tried::Both { wrap, unwrap } = self.tried else { return None };
        let longest = wrap.max(unwrap);
        (longest >= SLOW).then(|| {
            let says = format!("it is slow: {} for a call at best", format_duration(round(longest)));
            let remedy = "put a root key of a region near this machine first into `roots`; values under a cached data key do \
                          not wait for it, so look at `data_keys` in `Enfold::metrics` too";
            concern(ConcernAbout::Latency, says, remedy)
        })
    }
}

fn state(described: &KeyDescription) -> Option<Concern> {
    let when = described.deletion.map(|at| format!(" at {at}")).unwrap_or_default();
    let (says, remedy) = match described.state {
        RootKeyState::PendingDeletion => (
            format!("it waits for its deletion{when}"),
            "cancel the deletion in the key service now: once it is gone, what only it wraps is lost",
        ),
        RootKeyState::Disabled => {
            ("it is disabled".to_owned(), "enable it in the key service, or take it out of `roots`")
        }
        RootKeyState::Unavailable => {
            ("it is in a state in which it cannot be used".to_owned(), "look at it in the key service")
        }
        RootKeyState::Enabled if described.deletion.is_some() => (
            format!("its deletion is scheduled{when}"),
            "cancel the deletion in the key service now: once it is gone, what only it wraps is lost",
        ),
        RootKeyState::Enabled if !described.usable => (
            "it is not made to wrap data keys".to_owned(),
            "name a symmetric key for encryption: the guide of its key service says how to make one",
        ),
        RootKeyState::Enabled => return None,
    };
    Some(concern(ConcernAbout::State, says, remedy))
}

fn clock(skew: SignedDuration) -> Option<Concern> {
    let apart = skew.unsigned_abs();
    (skew.abs() >= SKEW).then(|| {
        let way = if skew.is_positive() { "behind" } else { "ahead of" };
        let says = format!("this machine's clock is {} {way} the key service's", format_duration(round(apart)));
        concern(
            ConcernAbout::Clock,
            says,
            "set it by NTP (`timedatectl`): signatures and tokens that are off are refused",
        )
    })
}

/// To what matters: seconds, or below one of them milliseconds.
fn round(duration: Duration) -> Duration {
    match duration.as_secs() {
        0 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}

fn concern(about: ConcernAbout, says: String, remedy: &str) -> Concern {
    Concern { about, says, remedy: remedy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::Permission;

    fn healthy() -> RootHealth {
        let description = KeyDescription::new("memory:a".to_owned(), RootKeyState::Enabled, "test".to_owned(), true);
        let quick = Duration::from_millis(3);
        RootHealth {
            ring: "main".to_owned(),
            root: "memory:a".to_owned(),
            tenant: None,
            description: Some(Ok(description)),
            tried: Tried::Both { wrap: quick, unwrap: quick },
            drawn: None,
            permissions: Ok(Vec::new()),
            clock_skew: Some(SignedDuration::ZERO),
        }
    }

    fn says(health: &RootHealth, operator: bool) -> Vec<String> {
        let concerns = health.concerns(operator);
        assert!(concerns.iter().all(|concern| !concern.remedy.is_empty()));
        concerns.into_iter().map(|concern| concern.says).collect()
    }

    #[test]
    fn a_root_key_in_order_gives_no_concern() {
        assert_eq!(healthy().concerns(false), []);
    }

    #[test]
    fn a_deletion_that_waits_is_a_concern_though_the_key_still_works() {
        let described = |state, deletion: Option<&str>| {
            let mut health = healthy();
            let told = health.description.as_mut().unwrap().as_mut().unwrap();
            (told.state, told.deletion) = (state, deletion.map(|at| at.parse().unwrap()));
            says(&health, true)
        };
        let at = Some("2030-01-02T03:04:05Z");
        assert_eq!(described(RootKeyState::PendingDeletion, None), ["it waits for its deletion"]);
        assert_eq!(described(RootKeyState::PendingDeletion, at), ["it waits for its deletion at 2030-01-02T03:04:05Z"]);
        assert_eq!(described(RootKeyState::Enabled, at), ["its deletion is scheduled at 2030-01-02T03:04:05Z"]);
        assert_eq!(described(RootKeyState::Disabled, None), ["it is disabled"]);
    }

    #[test]
    fn rights_of_operators_are_a_concern_in_an_application_and_those_of_nobody_always() {
        let permission = |name: &str, held, needed_by| Permission { name: name.to_owned(), held, needed_by };
        let health = RootHealth {
            permissions: Ok(vec![
                permission("use", Held::Yes, NeededBy::Applications),
                permission("rotate", Held::Yes, NeededBy::Operators),
                permission("export", Held::Yes, NeededBy::Nobody),
                permission("delete", Held::No, NeededBy::Operators),
                permission("grant", Held::NotTold, NeededBy::Nobody),
            ]),
            ..healthy()
        };
        assert_eq!(
            says(&health, false),
            ["this process has rights that an application does not need: `rotate`, `export`"]
        );
        assert_eq!(says(&health, true), ["this process has rights beyond keeping the key: `export`"]);
    }

    #[test]
    fn a_clock_is_a_concern_from_thirty_seconds_on_either_way() {
        let skewed =
            |seconds| says(&RootHealth { clock_skew: Some(SignedDuration::from_secs(seconds)), ..healthy() }, true);
        assert_eq!((skewed(29).len(), skewed(-29).len()), (0, 0));
        assert_eq!(skewed(90), ["this machine's clock is 1m30s behind the key service's"]);
        assert_eq!(skewed(-600), ["this machine's clock is 10m ahead of the key service's"]);
    }

    #[test]
    fn a_slow_service_is_a_concern() {
        let tried = |wrap, unwrap| {
            let tried = Tried::Both { wrap: Duration::from_millis(wrap), unwrap: Duration::from_millis(unwrap) };
            says(&RootHealth { tried, ..healthy() }, true)
        };
        assert!(tried(499, 499).is_empty());
        assert_eq!(tried(3, 700), ["it is slow: 700ms for a call at best"]);
        assert_eq!(tried(2500, 3), ["it is slow: 2s for a call at best"]);
    }
}
