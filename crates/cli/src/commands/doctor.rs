//! `enfold doctor`: configuration, database, catalog and keys, each checked as a user's first call would find it.

mod readers;
mod root_keys;

use std::fmt::Write as _;

use enfold::events::SinkStanding;
use enfold::policy::{Environment, Policy};
use enfold::{CallContext, Code, Enfold, Error, OnDisk, Place, Result, RingEpoch, SelfTest, SharedCacheHealth};
use enfold_core::{Form, Part, PayloadType};
use serde::Serialize;

use super::{Context, customers};
use crate::words::some;

/// Why keys are used here, for the log of events.
const REASON: &str = "self-test";

#[derive(Serialize)]
struct Check {
    name: String,
    status: Status,
    says: String,
    hints: Vec<String>,
    /// Of a check of a root key: every answer by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    root_key: Option<root_keys::Facts>,
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
pub(super) struct Found {
    pub(super) says: String,
    pub(super) warns: bool,
    /// What to do about it.
    pub(super) hints: Vec<String>,
}

impl Found {
    pub(super) fn warning(says: String, hints: Vec<String>) -> Self {
        Self { says, warns: true, hints }
    }
}

impl From<String> for Found {
    fn from(says: String) -> Self {
        Self { says, warns: false, hints: Vec::new() }
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
    let (mut checks, mut answers) = (Vec::new(), Vec::new());
    let mut note = |name: &str, outcome: Result<Found>| {
        let check = match outcome {
            Ok(Found { says, warns, hints }) => {
                let status = if warns { Status::Warning } else { Status::Ok };
                Check { name: name.to_owned(), status, says, hints, root_key: None }
            }
            Err(error) => {
                let hints = error.hints().map(str::to_owned).collect();
                let (name, status, says) = (name.to_owned(), Status::Failed, error.to_string());
                let check = Check { name, status, says, hints, root_key: None };
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
    match rights(&policy).await {
        Ok(duties) => duties.into_iter().for_each(|(duty, outcome)| note(&format!("rights of {duty}"), outcome)),
        Err(error) => note("rights", Err(error)),
    }
    match Enfold::open(policy.clone()).await {
        Err(error) => note("catalog and keys", Err(error)),
        Ok(enfold) => {
            note("catalog", Ok(format!("reached at {}", policy.catalog.display()).into()));
            match enfold.epochs().await {
                Ok(rings) => rings.iter().for_each(|ring| note(&format!("state of ring {}", ring.ring), Ok(pin(ring)))),
                Err(error) => note("states", Err(error)),
            }
            match enfold.root_keys(&context.call(Some(REASON))).await {
                Ok(roots) => {
                    // Who signs the rings' states keeps the root keys too, or shares a machine with who does.
                    let operator = enfold.operator().is_ok();
                    for root in roots {
                        let (name, facts) = (root_keys::name(&root), root_keys::Facts::of(&root, operator));
                        match customers::withdrawn(&root) {
                            Some(found) => note(&name, Ok(found)),
                            None => root_keys::checks(root, operator)
                                .into_iter()
                                .for_each(|(name, outcome)| note(&name, outcome)),
                        }
                        answers.push((name, facts));
                    }
                }
                Err(error) => note("root keys", Err(error)),
            }
            match enfold.wraps().await {
                Ok(rings) => customers::signed(&rings).into_iter().for_each(|(name, found)| note(&name, Ok(found))),
                Err(error) => note("customers", Err(error)),
            }
            for (ring, outcome) in enfold.self_test(&context.call(Some(REASON))).await {
                note(&format!("self-test of ring {ring}"), outcome.map(|done| self_test(&done)));
            }
            match enfold.check_catalog().await {
                Ok(wrong) if wrong.is_empty() => note("data keys", Ok("every row is as it was made".to_owned().into())),
                Ok(wrong) => wrong.into_iter().for_each(|error| note("data keys", Err(error))),
                Err(error) => note("data keys", Err(error)),
            }
            if let Some(found) = enfold.shared_cache_health().await {
                note(&format!("shared cache {}", found.server), Ok(shared_cache(&found)));
            }
            match enfold.reader_health().await {
                Ok(health) => health.into_iter().for_each(|found| {
                    note(&format!("reader {}", found.reader), readers::found(found));
                }),
                Err(error) => note("readers", Err(error)),
            }
            for (name, outcome) in keys(&enfold).await {
                note(&name, outcome.map(Found::from));
            }
            let operator = enfold.operator().map(|_| "here: this machine may change modes and keys".to_owned());
            note("events", enfold.settle().await.map(|()| "written".to_owned().into()));
            for sink in enfold.metrics().sinks {
                note(&format!("events to {}", sink.sink), Ok(receiver(&sink)));
            }
            enfold.sign_off().await;
            // Applications must not have it, so its absence is no fault.
            note(
                "operators' key",
                Ok(operator.unwrap_or_else(|_| "not here, as it should be for an application".to_owned()).into()),
            );
        }
    }
    for (name, facts) in answers {
        if let Some(check) = checks.iter_mut().find(|check: &&mut Check| check.name == name) {
            check.root_key = Some(facts);
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

fn receiver(sink: &SinkStanding) -> Found {
    let says = format!("{}, {} delivered", sink.kind, some(count(sink.delivered), "line"));
    if sink.lost == 0 && !sink.failing {
        return says.into();
    }
    let hint = "the program's log says why, and `enfold log export` has what is missing there".to_owned();
    Found::warning(format!("{says}, {} not", count(sink.lost)), vec![hint])
}

fn count(lines: u64) -> usize {
    usize::try_from(lines).unwrap_or(usize::MAX)
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

fn self_test(done: &SelfTest) -> Found {
    match done.data_key {
        Some(id) => format!("a throw-away value was sealed and opened with data key {id}").into(),
        None => "a throw-away value was sealed and opened with a data key drawn for it; the ring has none yet"
            .to_owned()
            .into(),
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
    if warns { Found::warning(says, vec![hint]) } else { Found::from(says) }
}

/// A shared cache that is down costs speed only, so nothing here is a failure.
fn shared_cache(found: &SharedCacheHealth) -> Found {
    let keep = "set `save \"\"` and `appendonly no` there: what is on a disk outlives its time, and is in backups";
    match &found.on_disk {
        Ok(OnDisk::No) => "reached; it writes nothing to disk".to_owned().into(),
        Ok(OnDisk::Yes(settings)) => {
            let says = format!("reached, and it writes entries to disk ({})", settings.join(", "));
            Found::warning(says, vec![keep.to_owned()])
        }
        Ok(OnDisk::NotTold) => {
            let says = "reached; whether it writes to disk may not be asked (`CONFIG GET`)".to_owned();
            Found::warning(says, vec![format!("if it does, {keep}")])
        }
        Err(error) => {
            let says = format!("{error}; data keys come from the key service instead");
            Found::warning(says, vec!["start it, or take `shared_cache` out of the policy".to_owned()])
        }
    }
}

/// Every table of the policy is there and may be read.
async fn database(policy: &Policy) -> Result<String> {
    let database = enfold_jobs::connect(&policy.database, Some(&policy.jobs)).await?;
    for table in policy.tables.values() {
        database.inspect(table, enfold_jobs::database::Counts::LeftOut).await?;
    }
    Ok(format!("reached at {}, and every table of the policy is there", policy.database.display()))
}

/// What the database role has of the rights that each duty needs. Which it is meant for it does not say of itself, so a
/// duty of which it has nothing is no fault, as long as there is another that it has all of.
#[cfg(feature = "postgres")]
async fn rights(policy: &Policy) -> Result<Vec<(&'static str, Result<Found>)>> {
    use enfold::policy::Scheme;
    use enfold_jobs::postgres::{Duty, Lack, Standing, examine};

    if policy.database.scheme() != Scheme::Postgres {
        return Ok(Vec::new());
    }
    let examined = examine(policy).await?;
    // Reading alone and owning alone move no value.
    let complete = |duty: &Duty| examined.contains(&(*duty, Standing::Complete));
    let works = complete(&Duty::Application) || complete(&Duty::Worker);
    let listed = |lacks: &[Lack]| lacks.iter().map(|lack| lack.says.as_str()).collect::<Vec<_>>().join("; ");
    let grants = |lacks: Vec<Lack>| lacks.into_iter().map(|lack| lack.grant).collect::<Vec<_>>();
    let say = |duty: Duty, standing: Standing| match standing {
        Standing::Complete => Ok("every right is there".to_owned().into()),
        Standing::Without(lacks) => {
            Ok(format!("not this role's, which has none of what sets it apart; lacks {}", listed(&lacks)).into())
        }
        Standing::Lacks(lacks) if works || !matches!(duty, Duty::Application | Duty::Worker) => {
            Ok(Found::warning(format!("lacks {}", listed(&lacks)), grants(lacks)))
        }
        Standing::Lacks(lacks) => {
            let doing = match duty {
                Duty::Application => "cannot seal and open as this role",
                _ => "cannot run jobs as this role",
            };
            let error = Error::new(Code::DatabaseDenied, doing).cause(format!("lacks {}", listed(&lacks)));
            Err(grants(lacks).into_iter().fold(error, Error::hint))
        }
    };
    Ok(examined.into_iter().map(|(duty, standing)| (duty.word(), say(duty, standing))).collect())
}

#[cfg(not(feature = "postgres"))]
async fn rights(_: &Policy) -> Result<Vec<(&'static str, Result<Found>)>> {
    Ok(Vec::new())
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
            column.mode().await?.word()
        ));
    }
    let place = Place { tenant: None, row: &row };
    let call = CallContext::new("enfold doctor", REASON);
    let sealed = column.for_conversion().seal(&call, &place, Form::Text, PayloadType::Text, b"self-test").await?;
    let opened = column.open(&call, &place, Form::Text, &sealed).await?;
    if opened.value.as_slice() != b"self-test" {
        return Err(Error::new(Code::Internal, format!("`{name}` opened to something else than was sealed")));
    }
    let mode = column.mode().await?;
    Ok(format!("sealed and opened, mode {}", mode.word()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pin_and_one_far_behind_are_warned_of() {
        let warned = |epoch, pinned| {
            let found = pin(&RingEpoch { ring: "main".into(), epoch, pinned });
            assert_eq!(found.warns, !found.hints.is_empty());
            found.hints
        };
        assert!([warned(2, 1), warned(10, 1), warned(1, 1)].concat().is_empty());
        let hint = ["set `min_epoch = 11` for the ring `main` in the policy of every application".to_owned()];
        assert_eq!([warned(11, 0), warned(11, 1)], [hint.clone(), hint]);
    }

    #[test]
    fn a_shared_cache_that_writes_to_disk_may_not_be_asked_or_is_down_is_warned_of() {
        let found = |on_disk| shared_cache(&SharedCacheHealth { server: "127.0.0.1:6379".into(), on_disk });
        assert!(found(Ok(OnDisk::No)).hints.is_empty());
        let writes = found(Ok(OnDisk::Yes(vec!["appendonly yes".into()])));
        assert!(writes.says.contains("(appendonly yes)") && !writes.hints.is_empty());
        assert!(!found(Ok(OnDisk::NotTold)).hints.is_empty());
        let down = found(Err(Error::new(Code::DatabaseUnavailable, "cannot reach it")));
        assert!(down.says.contains("from the key service") && !down.hints.is_empty());
    }
}
