//! Who may do what, and what the log of events says of who did.

use std::collections::BTreeMap;

use enfold::Result;
use enfold::access::{Emergency, Grant, Role, ServiceKey, Standing};
use enfold::catalog::EventQuery;
use enfold::events::{Event, EventKind};
use enfold::policy::Detail;
use jiff::Timestamp;

use super::{Found, Look};
use crate::shown::{count, time};

/// How far back it is looked: 90 days.
const LATELY_MS: i64 = 90 * 86_400_000;
/// Events that are looked at, newest first.
const EVENTS: u32 = 100_000;
/// What kinds of events about the role for emergencies begin with.
const EMERGENCY: &str = "emergency-";
pub(super) const NO_LOG: &str = "the policy does not keep the log in the catalog";

pub(super) async fn access(look: &Look<'_>) -> Result<Found> {
    let list = look.enfold.access_list(0).await?;
    let now_ms = Timestamp::now().as_millisecond();
    let living: Vec<&ServiceKey> = list.keys.values().filter(|key| key.lets_in(now_ms)).collect();
    let mut lines: Vec<String> = living.iter().map(|key| told(key)).collect();
    for (issuer, policy) in &look.session.policy.service.issuers {
        lines.extend(policy.grants.iter().map(|(name, granted)| {
            format!("grant {name} to those whom issuer {issuer} vouches for: {}", role(&granted.grant))
        }));
    }
    if lines.is_empty() {
        return Ok(Found::not_checked("nobody is let into the service", lines));
    }
    let wrong = living.iter().filter(|key| sees_values(key) && changes_keys(key));
    let wrong: Vec<String> =
        wrong.map(|key| format!("service key {} may both see values and change keys", key.name)).collect();
    Ok(Found::of(lines, &wrong))
}

fn told(key: &ServiceKey) -> String {
    let roles: Vec<String> = key.grants.iter().map(role).collect();
    format!("service key {}: {}, until {}", key.name, roles.join(", "), time(key.expires_ms).unwrap_or_default())
}

/// Tenants are not named.
fn role(grant: &Grant) -> String {
    let narrowed = if grant.is_narrowed() { " (narrowed)" } else { "" };
    format!("role {}{narrowed}", grant.role.word())
}

fn sees_values(key: &ServiceKey) -> bool {
    key.grants.iter().any(|grant| grant.role.sees_values())
}

fn changes_keys(key: &ServiceKey) -> bool {
    key.grants.iter().any(|grant| grant.role == Role::Admin)
}

/// Events of these kinds of late; whether there were more than are looked at.
async fn lately(look: &Look<'_>, kinds: &[EventKind]) -> Result<(Vec<Event>, bool)> {
    let kinds = Some(kinds.iter().map(|kind| kind.as_str().to_owned()).collect());
    let since_ms = Some(Timestamp::now().as_millisecond() - LATELY_MS);
    look.enfold.flush().await?;
    let query = EventQuery { since_ms, kinds, ..EventQuery::newest(EVENTS) };
    let events = look.enfold.catalog().events(&query).await?;
    let more = events.len() >= EVENTS as usize;
    Ok((events, more))
}

fn by_actor(events: &[Event]) -> Vec<String> {
    let mut by: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in events {
        let actor = event.actor.as_deref().unwrap_or("nobody named");
        *by.entry((actor, event.kind.as_str())).or_default() += event.count;
    }
    by.into_iter().map(|((actor, kind), n)| format!("{actor}: {kind} {}", count(n))).collect()
}

pub(super) async fn uses(look: &Look<'_>) -> Result<Found> {
    let policy = &look.session.policy.events;
    if !policy.catalog {
        return Ok(Found::not_checked(NO_LOG, Vec::new()));
    }
    let (events, more) = lately(look, &[EventKind::Open, EventKind::KeyUsed, EventKind::Denied]).await?;
    let nameless = events.iter().filter(|event| event.kind == EventKind::Open && event.actor.is_none());
    let nameless: u64 = nameless.map(|event| event.count).sum();
    let mut wrong = Vec::new();
    if policy.opens == Detail::Off {
        wrong.push("the policy has nothing written down of values that are opened (`events.opens`)".to_owned());
    }
    if nameless > 0 {
        wrong.push(format!("{} values were opened by callers that did not say who they are", count(nameless)));
    }
    let untold = more.then(|| "there are more events than are looked at".to_owned());
    Ok(Found::unless(untold, by_actor(&events), &wrong))
}

pub(super) async fn emergencies(look: &Look<'_>) -> Result<Found> {
    let kinds: Vec<EventKind> =
        EventKind::ALL.iter().copied().filter(|kind| kind.as_str().starts_with(EMERGENCY)).collect();
    if !look.session.policy.events.catalog {
        return Ok(Found::not_checked(NO_LOG, Vec::new()));
    }
    let (events, more) = lately(look, &kinds).await?;
    let untold = more.then(|| "there are more events than are looked at".to_owned());
    let mut lines = by_actor(&events);
    if lines.is_empty() {
        lines.push("no use of it is in the log".to_owned());
    }
    let known = look.enfold.emergencies().await?;
    let is_open = |emergency: &Emergency| look.enfold.standing_of(emergency) == Standing::Open;
    let open = known.iter().filter(|(_, known)| known.as_ref().is_ok_and(is_open)).count();
    let broken = known.iter().filter(|(_, known)| known.is_err()).count();
    let wrong = [(open, "wait for their review"), (broken, "are not as a process with keys wrote them")];
    let wrong = wrong.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("emergencies that {what}: {n}"));
    Ok(Found::unless(untold, lines, &wrong.collect::<Vec<_>>()))
}

pub(super) async fn chains(look: &Look<'_>) -> Result<Found> {
    let policy = &look.session.policy.events;
    if !policy.catalog {
        return Ok(Found::not_checked(NO_LOG, Vec::new()));
    }
    look.enfold.flush().await?;
    let report = look.enfold.verify_log(Vec::new()).await?;
    let signed = report.signed_until_ms.and_then(time);
    let lines = vec![
        format!(
            "{} entries of {} writers, {} of them signed",
            count(report.entries),
            count(report.writers),
            count(report.signed)
        ),
        signed.map_or("no checkpoint".to_owned(), |at| {
            format!("{} checkpoints, the last at {at}", count(report.checkpoints))
        }),
    ];
    let wrong: Vec<String> = report
        .findings
        .first()
        .map(|_| format!("chains that are not as they were written and signed: {}", report.findings.len()))
        .into_iter()
        .collect();
    let unsigned = (policy.log_keys.is_empty() || report.checkpoints == 0)
        .then(|| "every chain holds together, and nobody signed how far the log has come".to_owned());
    Ok(Found::unless(unsigned, lines, &wrong))
}
