//! `enfold doctor`: configuration, database, catalog and keys, each checked as a user's first call would find it.

use std::fmt::Write as _;

use enfold::kms::RootKeyState;
use enfold::policy::{Environment, Policy};
use enfold::{CallContext, Code, Enfold, Error, Place, Result, RingEpoch, RootHealth, Tried};
use enfold_core::{Form, Part, PayloadType};
use serde::Serialize;

use super::Context;
use crate::words::some;

#[derive(Serialize)]
struct Check {
    name: String,
    status: Status,
    says: String,
    hints: Vec<String>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Everything works, and something should be settled all the same.
    Warning,
    Failed,
}

/// What a check that did not fail has to say.
struct Found {
    says: String,
    /// What to do about it, where it is a warning.
    hint: Option<String>,
}

impl From<String> for Found {
    fn from(says: String) -> Self {
        Self { says, hint: None }
    }
}

/// A pin so many epochs behind hides that many changes of modes and keys from a process that starts afresh.
const FAR_BEHIND: u64 = 10;

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

pub(crate) async fn run(context: &Context<'_>) -> Result<()> {
    let mut failed = None;
    let mut checks = Vec::new();
    let mut note = |name: &str, outcome: Result<Found>| {
        let check = match outcome {
            Ok(Found { says, hint }) => {
                let status = if hint.is_some() { Status::Warning } else { Status::Ok };
                Check { name: name.to_owned(), status, says, hints: hint.into_iter().collect() }
            }
            Err(error) => {
                let hints = error.hints().map(str::to_owned).collect();
                let check = Check { name: name.to_owned(), status: Status::Failed, says: error.to_string(), hints };
                failed.get_or_insert(error);
                check
            }
        };
        checks.push(check);
    };
    // Without a policy there is nothing else to check.
    let policy = context.policy()?;
    note("policy", Ok(describe(&policy).into()));
    note("database", database(&policy).await.map(Found::from));
    match Enfold::open(policy.clone()).await {
        Err(error) => note("catalog and keys", Err(error)),
        Ok(enfold) => {
            note("catalog", Ok(format!("reached at {}", policy.catalog.display()).into()));
            match enfold.epochs().await {
                Ok(rings) => rings.iter().for_each(|ring| note(&format!("state of ring {}", ring.ring), Ok(pin(ring)))),
                Err(error) => note("states", Err(error)),
            }
            match enfold.root_keys().await {
                Ok(roots) => roots.into_iter().for_each(|root| {
                    note(&format!("root key {} of ring {}", root.root, root.ring), root_key(root));
                }),
                Err(error) => note("root keys", Err(error)),
            }
            match enfold.check_catalog().await {
                Ok(wrong) if wrong.is_empty() => note("data keys", Ok("every row is as it was made".to_owned().into())),
                Ok(wrong) => wrong.into_iter().for_each(|error| note("data keys", Err(error))),
                Err(error) => note("data keys", Err(error)),
            }
            for (name, outcome) in keys(&enfold).await {
                note(&name, outcome.map(Found::from));
            }
            let operator = enfold.operator().map(|_| "here: this machine may change modes and keys".to_owned());
            note("events", enfold.flush().await.map(|()| "written".to_owned().into()));
            // Applications must not have it, so its absence is no fault.
            note(
                "operators' key",
                Ok(operator.unwrap_or_else(|_| "not here, as it should be for an application".to_owned()).into()),
            );
        }
    }
    let report = Report { ok: failed.is_none(), checks };
    context.screen.result(&report, |out| {
        for check in &report.checks {
            let mark = match check.status {
                Status::Ok => context.screen.good("ok  "),
                Status::Warning => "mind".to_owned(),
                Status::Failed => context.screen.bad("FAIL"),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{mark} {}: {}", check.name, check.says);
            for hint in &check.hints {
                let _ = writeln!(out, "     hint: {hint}");
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn describe(policy: &Policy) -> String {
    let environment = match policy.environment {
        Environment::Development => "development: local keys are allowed",
        Environment::Staging => "staging",
        Environment::Production => "production",
    };
    let columns: usize = policy.tables.values().map(|t| t.columns.len()).sum();
    format!(
        "{}, {}, {}, {environment}",
        some(policy.rings.len(), "ring"),
        some(policy.tables.len(), "table"),
        some(columns, "column")
    )
}

/// What a root key is and does. That its state may not be asked, or that this process may not wrap, is no fault: who only
/// reads needs neither right.
fn root_key(root: RootHealth) -> Result<Found> {
    let mut warnings = Vec::new();
    let state = match root.description {
        None => "its service says nothing of its state".to_owned(),
        Some(Ok(description)) => {
            let resolved = match description.resolved == root.root {
                true => String::new(),
                false => format!(", as `{}`", description.resolved),
            };
            warnings = description.warnings;
            format!("{}, held by {}{resolved}", state(description.state), description.manager)
        }
        Some(Err(error)) if error.code() == Code::KmsAccessDenied => "its state may not be asked here".to_owned(),
        Some(Err(error)) => return Err(error),
    };
    match root.tried {
        Tried::Both { wrap, unwrap } => {
            let milliseconds = |took: std::time::Duration| took.as_secs_f64() * 1000.0;
            let (wrap, unwrap) = (milliseconds(wrap), milliseconds(unwrap));
            let mut says = format!("{state}; wrapped in {wrap:.1} ms, unwrapped in {unwrap:.1} ms");
            for warning in &warnings {
                says.push_str(&format!("; {warning}"));
            }
            let remedy = "make a root key without that, put it into `roots`, and take this one out when the other has wrapped all";
            Ok(Found { says, hint: (!warnings.is_empty()).then(|| remedy.to_owned()) })
        }
        Tried::NotWrapped(error) if error.code() == Code::KmsAccessDenied => Ok(Found {
            says: format!("{state}; this process may not wrap, so it can make no data key"),
            hint: Some("grant it the right to encrypt under the root key, unless it only reads".to_owned()),
        }),
        Tried::NotWrapped(error) | Tried::NotUnwrapped(error) => Err(error),
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

/// Whether a process that starts afresh would notice that the ring's state was deleted or replaced by an older one.
fn pin(ring: &RingEpoch) -> Found {
    let RingEpoch { ring: name, epoch, pinned } = ring;
    let (says, warns) = match pinned {
        0 => (format!("epoch {epoch}; the policy pins none, so a state that was deleted looks like a new ring"), true),
        _ => {
            (format!("epoch {epoch}, and {pinned} at least by the policy"), epoch.saturating_sub(*pinned) >= FAR_BEHIND)
        }
    };
    let hint = format!("set `min_epoch = {epoch}` for the ring `{name}` in the policy of every application");
    Found { says, hint: warns.then_some(hint) }
}

/// Every table of the policy is there and may be read.
async fn database(policy: &Policy) -> Result<String> {
    let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
    for table in policy.tables.values() {
        database.inspect(table).await?;
    }
    Ok(format!("reached at {}, and every table of the policy is there", policy.database.display()))
}

/// A value of each column, sealed and opened in memory: the key service, the catalog and the signed state all agree.
async fn keys(enfold: &Enfold) -> Vec<(String, Result<String>)> {
    let mut out = Vec::new();
    for (table, columns) in enfold.policy().tables.iter().map(|(name, t)| (name, &t.columns)) {
        for column in columns.keys() {
            let name = format!("{table}.{column}");
            out.push((format!("keys of {name}"), round_trip(enfold, &name).await));
        }
    }
    out
}

async fn round_trip(enfold: &Enfold, name: &str) -> Result<String> {
    let column = enfold.column(name)?;
    let (table, policy) = enfold
        .policy()
        .column(name)
        .ok_or_else(|| Error::new(Code::UnknownColumn, format!("the policy has no `{name}`")))?;
    let row: Vec<Part<'_>> =
        if policy.bind_row { table.row_key.iter().map(|_| Part::Int(0)).collect() } else { Vec::new() };
    if table.tenant.is_some() {
        // A value needs a tenant, and a made-up one would be given a key.
        return Ok(format!(
            "signed state in order, mode {}; sealing was not tried, for it needs a tenant",
            super::plan::mode(column.mode().await?)
        ));
    }
    let place = Place { tenant: None, row: &row };
    let call =
        CallContext { actor: Some("enfold doctor".into()), reason: Some("self-test".into()), ..CallContext::default() };
    let sealed = column.for_conversion().seal(&call, &place, Form::Text, PayloadType::Text, b"self-test").await?;
    let opened = column.open(&call, &place, Form::Text, &sealed).await?;
    if opened.value.as_slice() != b"self-test" {
        return Err(Error::new(Code::Internal, format!("`{name}` opened to something else than was sealed")));
    }
    let mode = column.mode().await?;
    Ok(format!("sealed and opened, mode {}", super::plan::mode(mode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pin_and_one_far_behind_are_warned_of() {
        let warned = |epoch, pinned| pin(&RingEpoch { ring: "main".into(), epoch, pinned }).hint;
        assert_eq!([warned(2, 1), warned(10, 1), warned(1, 1)], [None, None, None]);
        let hint = "set `min_epoch = 11` for the ring `main` in the policy of every application".to_owned();
        assert_eq!([warned(11, 0), warned(11, 1)], [Some(hint.clone()), Some(hint)]);
    }
}
