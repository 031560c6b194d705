//! What `doctor` says of a root key: what it is and does, what this process may do with it, and how clocks compare.

use std::time::Duration;

use enfold::kms::{Held, KeyUri, NeededBy, Permission, RootKeyState, RotationPlan};
use enfold::policy::format_duration;
use enfold::{Code, Concern, ConcernAbout, Result, RootHealth, Tried};
use serde::Serialize;

use super::Found;

/// The answers of one root key, for programs.
#[derive(Serialize)]
pub(super) struct Facts {
    ring: String,
    root: String,
    /// Whose it is; null where it is a root key of the ring.
    tenant: Option<String>,
    exists: Option<bool>,
    state: Option<&'static str>,
    manager: Option<String>,
    resolved: Option<String>,
    rotation: Option<Rotation>,
    deletion: Option<String>,
    can_wrap: bool,
    can_unwrap: bool,
    /// Null where the key service draws no data keys: Enfold draws them itself and has them wrapped.
    can_generate: Option<bool>,
    wrap_ms: Option<f64>,
    unwrap_ms: Option<f64>,
    permissions: Vec<Right>,
    clock_skew_seconds: Option<f64>,
    concerns: Vec<ConcernAbout>,
}

#[derive(Serialize)]
struct Rotation {
    /// Null where it is rotated only when somebody asks for it.
    period_seconds: Option<u64>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Right {
    name: String,
    held: &'static str,
    needed_by: &'static str,
}

impl Facts {
    pub(super) fn of(root: &RootHealth, operator: bool) -> Self {
        let described = root.description.as_ref().and_then(|told| told.as_ref().ok());
        let (can_wrap, can_unwrap, took) = match &root.tried {
            Tried::Both { wrap, unwrap } => (true, true, Some((*wrap, *unwrap))),
            Tried::NotUnwrapped(_) => (true, false, None),
            Tried::NotWrapped(_) => (false, false, None),
        };
        Self {
            ring: root.ring.clone(),
            root: root.root.clone(),
            tenant: root.tenant.clone(),
            exists: root.exists(),
            state: described.map(|described| state(described.state)),
            manager: described.map(|described| described.manager.clone()),
            resolved: described.map(|described| described.resolved.clone()),
            rotation: described.and_then(|described| described.rotation).map(|plan| Rotation {
                period_seconds: plan.period.map(|period| period.as_secs()),
                next: plan.next.map(|next| next.to_string()),
            }),
            deletion: described.and_then(|described| described.deletion).map(|at| at.to_string()),
            can_wrap,
            can_unwrap,
            can_generate: root.drawn.as_ref().map(Result::is_ok),
            wrap_ms: took.map(|(wrap, _)| milliseconds(wrap)),
            unwrap_ms: took.map(|(_, unwrap)| milliseconds(unwrap)),
            permissions: root.permissions.iter().flatten().map(Right::of).collect(),
            clock_skew_seconds: root.clock_skew.map(|skew| skew.as_secs_f64()),
            concerns: root.concerns(operator).into_iter().map(|concern| concern.about).collect(),
        }
    }
}

impl Right {
    fn of(permission: &Permission) -> Self {
        let held = match permission.held {
            Held::Yes => "yes",
            Held::No => "no",
            Held::NotTold => "not-told",
        };
        let needed_by = match permission.needed_by {
            NeededBy::Applications => "applications",
            NeededBy::Operators => "operators",
            NeededBy::Nobody => "nobody",
        };
        Self { name: permission.name.clone(), held, needed_by }
    }
}

pub(super) fn name(root: &RootHealth) -> String {
    match &root.tenant {
        None => format!("root key {} of ring {}", root.root, root.ring),
        Some(tenant) => format!("root key {} of tenant {tenant} in ring {}", root.root, root.ring),
    }
}

/// The key itself, then the rights on it and the clock of its service, where they are told.
pub(super) fn checks(root: RootHealth, operator: bool) -> Vec<(String, Result<Found>)> {
    let mut concerns = root.concerns(operator);
    let mut about = |which: fn(ConcernAbout) -> bool| concerns.extract_if(.., |c| which(c.about)).collect::<Vec<_>>();
    let rights_concern = about(|which| which == ConcernAbout::Rights);
    let clock_concern = about(|which| which == ConcernAbout::Clock);
    let name = name(&root);
    let rights = rights(&root.permissions).map(|says| Ok(found(says, rights_concern)));
    let clock = root.clock_skew.map(|_| {
        // What is off is said by the concern alone.
        let says = if clock_concern.is_empty() { "this machine's and the key service's agree" } else { "" };
        Ok(found(says.to_owned(), clock_concern))
    });
    let mut checks = vec![(name.clone(), key(root, concerns))];
    checks.extend(rights.map(|outcome| (format!("rights on {name}"), outcome)));
    checks.extend(clock.map(|outcome| (format!("clock of {name}"), outcome)));
    checks
}

/// What a root key is and does. That its state may not be asked, or that this process may not wrap, is no fault: who only
/// reads needs neither right.
fn key(root: RootHealth, concerns: Vec<Concern>) -> Result<Found> {
    let mut says = match root.description {
        None => "its service says nothing of its state".to_owned(),
        Some(Ok(described)) => {
            let resolved = match described.resolved == root.root {
                true => String::new(),
                false => format!(", as `{}`", described.resolved),
            };
            let rotation = described.rotation.map(|plan| rotation(&plan)).unwrap_or_default();
            let untold: String = described.untold.iter().map(|untold| format!("; {untold}")).collect();
            format!("{}, held by {}{resolved}{rotation}{untold}", state(described.state), described.manager)
        }
        Some(Err(error)) if error.code() == Code::KmsAccessDenied => "its state may not be asked here".to_owned(),
        Some(Err(error)) => return Err(error),
    };
    let unable = match root.tried {
        Tried::Both { wrap, unwrap } => {
            let (wrap, unwrap) = (milliseconds(wrap), milliseconds(unwrap));
            says.push_str(&format!("; wrapped in {wrap:.1} ms, unwrapped in {unwrap:.1} ms"));
            None
        }
        Tried::NotWrapped(error) if error.code() == Code::KmsAccessDenied => {
            Some("this process may not wrap, so it can make no data key")
        }
        Tried::NotWrapped(error) | Tried::NotUnwrapped(error) => return Err(error),
    };
    says.push_str(match &root.drawn {
        Some(Ok(())) => ", and drew a data key",
        Some(Err(_)) if unable.is_none() => ", and drew no data key, which Enfold does not need",
        Some(Err(_)) | None => "",
    });
    if root.root.parse().is_ok_and(|uri: KeyUri| uri.is_proved_on_a_fake_alone()) {
        says.push_str("; Enfold's use of this service is not yet tested against the real service");
    }
    let mut found = found(says, concerns);
    if let Some(unable) = unable {
        found.says.push_str(&format!("; {unable}"));
        found.warns = true;
        found.hints.push("grant it the right to encrypt under the root key, unless it only reads".to_owned());
    }
    Ok(found)
}

/// What is to be settled stands behind what was found, and how among the hints.
fn found(mut says: String, concerns: Vec<Concern>) -> Found {
    let mut hints = Vec::new();
    for concern in concerns {
        if !says.is_empty() {
            says.push_str("; ");
        }
        says.push_str(&concern.says);
        if !hints.contains(&concern.remedy) {
            hints.push(concern.remedy);
        }
    }
    Found { says, warns: !hints.is_empty(), hints }
}

fn rights(permissions: &Result<Vec<Permission>>) -> Option<String> {
    let permissions = match permissions {
        Ok(permissions) if permissions.is_empty() => return None,
        Ok(permissions) => permissions,
        Err(error) => return Some(format!("they were not told: {error}")),
    };
    let those = |held: Held, words: &str| {
        let names: Vec<&str> = permissions.iter().filter(|p| p.held == held).map(|p| p.name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{words} `{}`", names.join("`, `")))
    };
    let parts = [those(Held::Yes, "has"), those(Held::No, "lacks"), those(Held::NotTold, "cannot be asked about")];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

fn rotation(plan: &RotationPlan) -> String {
    match (plan.period, plan.next) {
        (None, _) => ", rotated only when somebody asks for it".to_owned(),
        (Some(period), None) => format!(", rotated every {}", format_duration(period)),
        (Some(period), Some(next)) => format!(", rotated every {}, next at {next}", format_duration(period)),
    }
}

fn state(state: RootKeyState) -> &'static str {
    match state {
        RootKeyState::Enabled => "enabled",
        RootKeyState::Disabled => "disabled",
        RootKeyState::PendingDeletion => "waiting for its deletion",
        RootKeyState::Unavailable => "not usable",
    }
}

fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
