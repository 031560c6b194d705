//! Keys: whether they work, how old they are, and whether they are those that the operators signed.

use std::collections::BTreeSet;
use std::time::Duration;

use enfold::kms::{KeyDescription, RootKeyState};
use enfold::{Result, RootDue, RootHealth, Tried};
use jiff::Timestamp;

use super::{Found, Look};
use crate::shown::{count, time};

const DAY_MS: i64 = 86_400_000;
const NINETY_DAYS: Duration = Duration::from_secs(90 * 86_400);

pub(super) async fn sealing(look: &Look<'_>) -> Result<Found> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (ring, tested) in look.enfold.self_test(look.context).await {
        match tested {
            Ok(_) => lines.push(format!("ring {ring}: sealed and opened")),
            Err(error) => wrong.push(format!("ring {ring}: {error}")),
        }
    }
    Ok(Found::of(lines, &wrong))
}

/// A customer's root key by its ring alone: its URI would tell the tenant.
fn named(health: &RootHealth) -> String {
    match health.tenant {
        Some(_) => format!("a customer's root key of ring {}", health.ring),
        None => format!("{} of ring {}", health.root, health.ring),
    }
}

fn described(health: &RootHealth) -> Option<&KeyDescription> {
    health.description.as_ref().and_then(|told| told.as_ref().ok())
}

pub(super) async fn roots(look: &Look<'_>) -> Result<Found> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for health in look.roots().await? {
        let name = named(health);
        match described(health).map(|told| told.state) {
            Some(RootKeyState::Disabled) => wrong.push(format!("{name} is disabled")),
            Some(RootKeyState::PendingDeletion) => wrong.push(format!("{name} waits for its deletion")),
            Some(RootKeyState::Unavailable) => wrong.push(format!("{name} cannot be used")),
            Some(RootKeyState::Enabled) | None => {}
        }
        match health.tried.error() {
            None => lines.push(format!("{name}: wrapped and unwrapped a throw-away key")),
            // The error's causes name the root key, which may be a customer's.
            Some(error) => wrong.push(format!("{name} {} (code `{}`)", did_not(&health.tried), error.code().word())),
        }
        if health.root.starts_with("local:") {
            wrong.push(format!("{name} is a file for development, and in no key service"));
        }
    }
    Ok(Found::of(lines, &wrong))
}

fn did_not(tried: &Tried) -> &'static str {
    match tried {
        Tried::Both { .. } => "did both",
        Tried::NotWrapped(_) => "did not wrap",
        Tried::NotUnwrapped(_) => "did not unwrap",
    }
}

/// How the rotation of a root key stands.
enum Rotation {
    Fine(String),
    Wrong(String),
    Untold(String),
}

pub(super) async fn root_rotation(look: &Look<'_>) -> Result<Found> {
    let now_ms = Timestamp::now().as_millisecond();
    let scheduled = look.enfold.root_schedule().await?;
    let (mut lines, mut wrong, mut untold) = (Vec::new(), Vec::new(), 0);
    for health in look.roots().await? {
        let due = scheduled.iter().find(|due| due.ring == health.ring && due.root == health.root);
        match rotation(health, due, now_ms) {
            Rotation::Fine(line) => lines.push(line),
            Rotation::Wrong(why) => wrong.push(why),
            Rotation::Untold(line) => {
                untold += 1;
                lines.push(line);
            }
        }
    }
    let untold = (untold > 0).then(|| format!("of {untold} root keys nobody says when they are rotated"));
    Ok(Found::unless(untold, lines, &wrong))
}

fn rotation(health: &RootHealth, due: Option<&RootDue>, now_ms: i64) -> Rotation {
    let name = named(health);
    if let Some(due) = due {
        let when = time(due.due_ms).unwrap_or_default();
        return if due.is_due(now_ms) {
            Rotation::Wrong(format!("{name} has been due by the policy's cadence since {when}"))
        } else {
            Rotation::Fine(format!("{name}: due by the policy's cadence at {when}"))
        };
    }
    match described(health).and_then(|told| told.rotation.as_ref()).map(|plan| plan.period) {
        Some(Some(period)) => {
            Rotation::Fine(format!("{name}: its service rotates it every {} days", period.as_secs() / 86_400))
        }
        Some(None) => Rotation::Wrong(format!("{name} is rotated only when somebody asks for it")),
        None => Rotation::Untold(format!("{name}: its service does not say, and the policy has no cadence for it")),
    }
}

pub(super) async fn data_rotation(look: &Look<'_>) -> Result<Found> {
    let now_ms = Timestamp::now().as_millisecond();
    let scheduled = look.enfold.schedule().await?;
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for ring in &scheduled {
        let (due, days) = (count(ring.due(now_ms).len() as u64), ring.cadence_ms / DAY_MS);
        let all = count(ring.keys.len() as u64);
        lines.push(format!("ring {}: {all} data keys seal, {due} of them for longer than {days} days", ring.ring));
        if !ring.due(now_ms).is_empty() {
            wrong.push(format!("ring {}: {due} data keys are due", ring.ring));
        }
    }
    let without: BTreeSet<&String> =
        look.session.policy.rings.keys().filter(|name| scheduled.iter().all(|ring| ring.ring != **name)).collect();
    let untold = without.into_iter().map(|ring| format!("the policy has no cadence for ring {ring}"));
    Ok(Found::unless(untold.reduce(|all, one| format!("{all}; {one}")), lines, &wrong))
}

pub(super) async fn cadence(look: &Look<'_>) -> Result<Found> {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for (ring, policy) in &look.session.policy.rings {
        match policy.rotation.cadence {
            Some(cadence) if cadence <= NINETY_DAYS => {
                lines.push(format!("ring {ring}: {} days", cadence.as_secs() / 86_400));
            }
            Some(cadence) => wrong.push(format!("ring {ring} has a cadence of {} days", cadence.as_secs() / 86_400)),
            None => wrong.push(format!("ring {ring} has no cadence")),
        }
    }
    Ok(Found::of(lines, &wrong))
}

pub(super) async fn states(look: &Look<'_>) -> Result<Found> {
    let epochs = look.enfold.epochs().await?;
    let mut wrong: Vec<String> = look.enfold.check_catalog().await?.iter().map(ToString::to_string).collect();
    if look.session.policy.trust.operator_key.is_none() {
        wrong.push("the policy does not pin the operators' key (`trust.operator_key`)".to_owned());
    }
    let line = |epoch: &enfold::RingEpoch| {
        format!("ring {}: epoch {}, at least {} by the policy", epoch.ring, epoch.epoch, epoch.pinned)
    };
    Ok(Found::of(epochs.iter().map(line).collect(), &wrong))
}
