//! Taking former data keys out of use, so that nobody misses them: nothing opens under a disabled data key, so no value may need
//! it then, nor come to need it.
//!
//! In this order, and each only when the one before is so:
//!
//! 1. Every process goes by a state in which the key is a former one, so none seals under it. A process says by which state
//!    it goes, and what it said runs out; one that could not say it stops within `cache.max_unseen` of that state.
//! 2. The database takes no new value under the key: a process may hold one that it sealed before.
//! 3. Transactions that were open then have ended. They may have written such a value before, or not see that it is refused;
//!    those from before step 1 are among them.
//! 4. Every protected column, shadow, member and wrap inside of an envelope is counted, and none is under the key.
//! 5. Every replica has applied the log up to that count. One that lags shows values of before to its readers.
//!
//! Then the operators sign that it is disabled, and what came by a way that no trigger sees is counted once more: a disable can be
//! taken back. Whoever is stopped on the way, or finds something missing, begins again: what has
//! passed is looked at once more, and what cannot be looked at again is on record ([`crate::disabling`]). There is no way round
//! it; the kill switch is another thing, for which values stay that need the key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use enfold::catalog::KeyStatus;
use enfold::policy::{RecordWrap, Scope};
use enfold::{Behind, CallContext, Code, DataKeyRecord, Enfold, Error, KeyId, Leaving, Result, ScopeId};
use serde::Serialize;

use super::needs::{Needs, needs, targets};
use super::observer::Observer;
use super::session::Session;
use crate::database::SchemaStep;
use crate::disabling::{Disabling, Guarded, OpenTransaction, Passed};
use crate::model::Target;
use crate::store::Order;

/// How often what is missing is looked at again.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Which data keys are to be disabled, and who wants it.
pub struct Disable<'a> {
    /// The ring, as the policy calls it.
    pub ring: &'a str,
    pub keys: &'a [KeyId],
    /// Sign that nothing below this version opens in these scopes, instead of that the data keys, which are below it, are disabled
    /// one by one.
    pub minimum: Option<(&'a [ScopeId], u32)>,
    pub context: &'a CallContext,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// They are disabled. These values of the policy live in no column, so that nobody could count them.
    Disabled { uncounted: Vec<String> },
    /// Values need them.
    Needed(Needs),
    /// Something is missing that passes by itself.
    Waits(Missing),
}

/// What is missing before data keys can be disabled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Processes that may still seal under one of them.
    pub processes: Vec<Behind>,
    /// For so many seconds a process that could not say by which state it goes may do so too.
    pub unheard_s: u64,
    /// Transactions from before the database began to refuse values under them.
    pub transactions: Vec<OpenTransaction>,
    /// Replicas that may show values under them yet.
    pub replicas: Vec<String>,
}

impl Missing {
    fn is_nothing(&self) -> bool {
        self.processes.is_empty() && self.unheard_s == 0 && self.transactions.is_empty() && self.replicas.is_empty()
    }

    /// One line for each thing that is missing.
    pub fn says(&self) -> Vec<String> {
        let process = |behind: &Behind| {
            let name = behind.application.as_deref().unwrap_or("a process");
            format!("{name} still goes by epoch {}; its word runs out in {} s", behind.epoch, behind.lapses_in_s)
        };
        let unheard = (self.unheard_s > 0)
            .then(|| format!("a process that gave no word may go by an earlier state for {} s yet", self.unheard_s));
        let transaction = |open: &OpenTransaction| format!("{} has a transaction open since before", open.says);
        let replica = |replica: &String| format!("{replica} has not applied yet what took the last values away");
        let processes = self.processes.iter().map(process);
        let others = self.transactions.iter().map(transaction).chain(self.replicas.iter().map(replica));
        processes.chain(unheard).chain(others).collect()
    }
}

/// Says that data keys which were just made former ones are to be disabled, so that the time in which every process takes that in
/// runs from now on.
pub async fn announce(session: &Session, wanted: &Disable<'_>) -> Result<()> {
    begin(session, keys_of(session)?, wanted).await.map(|_| ())
}

/// What needs the data keys. Nothing is changed.
///
/// # Errors
/// As [`disable`].
pub async fn look(session: &Session, wanted: &Disable<'_>) -> Result<Needs> {
    let enfold = keys_of(session)?;
    enfold.operator()?;
    must_be_former(enfold, wanted).await?;
    must_be_countable(enfold, wanted).await?;
    needs(session, wanted.ring, wanted.keys).await
}

/// What [`disable`] changes of the schema, once: for people who run it themselves.
pub async fn refusals(session: &Session, ring: &str) -> Result<Vec<SchemaStep>> {
    let refusal = |target: Target| SchemaStep::RefuseKeys {
        columns: target.columns.iter().map(Guarded::of).collect(),
        table: target.table,
    };
    Ok(targets(session, ring).await?.into_iter().map(refusal).collect())
}

/// Disables former data keys if nothing is missing. Nothing is waited for.
///
/// # Errors
/// `Usage` for one that is no former data key; `KeyNeeded` where the ring has columns that this policy does not name.
pub async fn disable(session: &Session, wanted: &Disable<'_>) -> Result<Tried> {
    let enfold = keys_of(session)?;
    // Most are stopped by this, and then nothing need be refused yet.
    let found = look(session, wanted).await?;
    if !found.is_none() {
        return are_needed(session, wanted, found).await;
    }
    let noted = begin(session, enfold, wanted).await?;
    let missing = processes(session, enfold, wanted, &noted).await?;
    if !missing.is_nothing() {
        return Ok(Tried::Waits(missing));
    }
    note(session, wanted, Passed::Acknowledged).await?;
    let open = refuse(session, wanted, &noted).await?;
    let still = session.db.disablings().open_transactions().await?;
    let transactions: Vec<_> = still.into_iter().filter(|transaction| open.contains(&transaction.mark)).collect();
    if !transactions.is_empty() {
        return Ok(Tried::Waits(Missing { transactions, ..Missing::default() }));
    }
    note(session, wanted, Passed::Ended).await?;
    let found = needs(session, wanted.ring, wanted.keys).await?;
    if !found.is_none() {
        return are_needed(session, wanted, found).await;
    }
    note(session, wanted, Passed::Counted).await?;
    let replicas = session.db.disablings().replicas_before(ring_id(session, wanted.ring), wanted.keys).await?;
    if !replicas.is_empty() {
        return Ok(Tried::Waits(Missing { replicas, ..Missing::default() }));
    }
    let before = sign(enfold, wanted).await?;
    // No trigger fires in a session of a replica's role, nor when Apache AGE writes a graph by itself.
    let found = needs(session, wanted.ring, wanted.keys).await?;
    if !found.is_none() {
        take_back(enfold, wanted, &before).await?;
        return are_needed(session, wanted, found).await;
    }
    note(session, wanted, Passed::Disabled).await?;
    Ok(Tried::Disabled { uncounted: found.uncounted })
}

/// What was counted before, if anything was, says nothing of replicas any more.
async fn are_needed(session: &Session, wanted: &Disable<'_>, found: Needs) -> Result<Tried> {
    session.db.disablings().uncount(ring_id(session, wanted.ring), wanted.keys).await?;
    Ok(Tried::Needed(found))
}

/// Signs what is wanted; the least versions that opened before.
async fn sign(enfold: &Enfold, wanted: &Disable<'_>) -> Result<BTreeMap<String, u32>> {
    let (operator, before) = (enfold.operator()?, enfold.minimums(wanted.ring).await?);
    match wanted.minimum {
        None => operator.disable_many(wanted.ring, wanted.keys, wanted.context).await?,
        Some((scopes, version)) => operator.set_minimum(wanted.ring, scopes, version, wanted.context).await?,
    }
    Ok(before)
}

async fn take_back(enfold: &Enfold, wanted: &Disable<'_>, before: &BTreeMap<String, u32>) -> Result<()> {
    let operator = enfold.operator()?;
    let Some((scopes, _)) = wanted.minimum else {
        return operator.enable_many(wanted.ring, wanted.keys, wanted.context).await;
    };
    for scope in scopes {
        let version = before.get(scope.as_str()).copied().unwrap_or(0);
        operator.set_minimum(wanted.ring, std::slice::from_ref(scope), version, wanted.context).await?;
    }
    Ok(())
}

/// As [`disable`], waiting for so long for what passes by itself, or until the observer asks to stop.
pub async fn disable_within(
    session: &Session,
    wanted: &Disable<'_>,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<Tried> {
    let until = Instant::now() + patience;
    loop {
        let tried = disable(session, wanted).await?;
        let Tried::Waits(missing) = &tried else { return Ok(tried) };
        if Instant::now() >= until || observer.stop_requested() {
            return Ok(tried);
        }
        observer.waiting(&missing.says().join("; "));
        session.db.store().pause(LOOK_EVERY).await;
    }
}

/// Takes a disable back: the data keys open again, and the database takes values under them.
///
/// # Errors
/// `Usage` for one below the least version that opens.
pub async fn enable(session: &Session, wanted: &Disable<'_>) -> Result<()> {
    let enfold = keys_of(session)?;
    enfold.operator()?.enable_many(wanted.ring, wanted.keys, wanted.context).await?;
    for id in wanted.keys {
        let is_disabled = |key: DataKeyRecord| key.status == KeyStatus::Disabled;
        if enfold.data_key(*id).await?.is_some_and(is_disabled) {
            return Err(Error::new(Code::Usage, format!("data key `{id}` is below the least version that opens"))
                .hint(format!("`enfold keys set-minimum {} VERSION` lowers that", wanted.ring)));
        }
    }
    take_again(session, wanted.ring, wanted.keys).await
}

/// Has the database take values under data keys that were disabled with a minimum that is lower now.
pub async fn take_freed(session: &Session, ring: &str) -> Result<()> {
    let graces = keys_of(session)?.graces().await?;
    let opens: BTreeSet<KeyId> =
        graces.into_iter().filter(|grace| grace.ring == ring).flat_map(|grace| grace.keys).map(|key| key.id).collect();
    let (id, noted) = (ring_id(session, ring), session.db.disablings().all().await?);
    let freed =
        noted.iter().filter(|one| one.ring == id && one.times.disabled_ms.is_some() && opens.contains(&one.key));
    take_again(session, ring, &freed.map(|one| one.key).collect::<Vec<_>>()).await
}

async fn take_again(session: &Session, ring: &str, keys: &[KeyId]) -> Result<()> {
    let disablings = session.db.disablings();
    disablings.forget(ring_id(session, ring), keys).await?;
    if disablings.refuses_any().await? {
        return Ok(());
    }
    for ring in session.policy.rings.keys() {
        for target in targets(session, ring).await? {
            session.db.run(&SchemaStep::AllowKeys { table: target.table }).await?;
        }
    }
    Ok(())
}

fn keys_of(session: &Session) -> Result<&Enfold> {
    session.keys.enfold().ok_or_else(|| Error::new(Code::Internal, "data keys of another making cannot be disabled"))
}

fn ring_id<'a>(session: &'a Session, ring: &'a str) -> &'a str {
    session.policy.rings.get(ring).map_or(ring, |ring| ring.id.as_str())
}

/// One that seals is in use by definition, and so is one that is not there. Where a key service wraps records' data keys, former
/// ones are ids of a root key, which the rings disable in another way.
async fn must_be_former(enfold: &Enfold, wanted: &Disable<'_>) -> Result<()> {
    let ring = enfold.policy().rings.get(wanted.ring);
    if ring.is_some_and(|ring| (ring.scope, ring.record_wrap) == (Scope::Record, RecordWrap::Kms)) {
        return Err(Error::new(Code::Usage, format!("ring `{}` has no data key to disable", wanted.ring))
            .cause("every record has its own beside its value, and a root key wraps it")
            .hint("`enfold keys set-root` disables a root key"));
    }
    let former = enfold.former_keys(wanted.ring, &Leaving::default()).await?;
    let Some(id) = wanted.keys.iter().find(|id| !former.contains(*id)) else { return Ok(()) };
    Err(Error::new(Code::Usage, format!("data key `{id}` of ring `{}` is none that seals no more", wanted.ring))
        .cause(
            "only a former data key can be free of values; this one seals, makes blind indexes, or is not in the ring",
        )
        .hint(format!("`enfold keys rotate {}` has another version seal", wanted.ring))
        .hint("`--kill-switch` disables any data key at once, whatever needs it"))
}

/// A column of the ring that another policy names may hold values that nobody would count here.
async fn must_be_countable(enfold: &Enfold, wanted: &Disable<'_>) -> Result<()> {
    let elsewhere = enfold.columns_elsewhere(wanted.ring).await?;
    if elsewhere.is_empty() {
        return Ok(());
    }
    let line = format!("cannot count what needs data keys of ring `{}`", wanted.ring);
    Err(Error::new(Code::KeyNeeded, line)
        .cause(format!("the operators signed columns that this policy does not name: {}", elsewhere.join(", ")))
        .hint("run it with the policy that names every column of the ring")
        .hint("nothing was changed"))
}

async fn begin(session: &Session, enfold: &Enfold, wanted: &Disable<'_>) -> Result<Vec<Disabling>> {
    let epoch = enfold.epoch(wanted.ring).await?;
    let (by, reason) = (wanted.context.actor.clone(), wanted.context.reason.clone());
    let order = Order { by, reason, ..Order::default() };
    session.db.disablings().begin(ring_id(session, wanted.ring), wanted.keys, epoch, &order).await
}

async fn note(session: &Session, wanted: &Disable<'_>, passed: Passed) -> Result<()> {
    session.db.disablings().note(ring_id(session, wanted.ring), wanted.keys, &passed).await
}

async fn processes(session: &Session, enfold: &Enfold, wanted: &Disable<'_>, noted: &[Disabling]) -> Result<Missing> {
    let epoch = noted.iter().map(|one| one.epoch).max().unwrap_or(u64::MAX);
    let age = noted.iter().map(|one| one.age).min().unwrap_or_default();
    let unseen = session.policy.rings.get(wanted.ring).map_or(Duration::MAX, |ring| ring.cache.max_unseen);
    let unheard = unseen.saturating_sub(age);
    Ok(Missing {
        processes: enfold.behind(wanted.ring, epoch).await?,
        // Rounded up: none means that the time is over.
        unheard_s: unheard.as_secs() + u64::from(unheard.subsec_nanos() > 0),
        ..Missing::default()
    })
}

/// Has the database refuse new values, and gives the transactions that were open when it began to.
async fn refuse(session: &Session, wanted: &Disable<'_>, noted: &[Disabling]) -> Result<BTreeSet<String>> {
    let disablings = session.db.disablings();
    let targets = targets(session, wanted.ring).await?;
    let covered = names(&targets);
    let is_covered =
        |one: &Disabling| one.times.refused_ms.is_some() && covered.iter().all(|c| one.covered.contains(c));
    let mut begins = !noted.iter().all(is_covered);
    for target in targets {
        let columns: Vec<Guarded> = target.columns.iter().map(Guarded::of).collect();
        if !disablings.refuses_in(&target.table, &columns).await? {
            session.db.run(&SchemaStep::RefuseKeys { table: target.table, columns }).await?;
            begins = true;
        }
    }
    if !begins {
        return Ok(noted.iter().flat_map(|one| one.open.iter().cloned()).collect());
    }
    let ring = ring_id(session, wanted.ring);
    disablings.refuse(ring, wanted.keys).await?;
    let open: Vec<String> = disablings.open_transactions().await?.into_iter().map(|open| open.mark).collect();
    disablings.note(ring, wanted.keys, &Passed::Refused { covered, open: open.clone() }).await?;
    Ok(open.into_iter().collect())
}

fn names(targets: &[Target]) -> Vec<String> {
    let of = |target: &Target| {
        let table = target.policy_table.clone();
        target.columns.iter().map(move |column| format!("{table}.{}", column.name)).collect::<Vec<_>>()
    };
    targets.iter().flat_map(of).collect()
}

/// Former data keys that are disabled at once, in one state.
const AT_ONCE: usize = 1_000;

/// Disables, as far as nothing is missing, what the schedule of each ring says has been a former data key for long enough. What is
/// missing now is looked at again when this is called again. Returns the rings in which something was disabled.
///
/// Left to people: rings with values that live in no column, which nobody can count. Every ring has its turn, whatever becomes of
/// the others.
///
/// # Errors
/// The first that a ring had.
pub(super) async fn disable_due(session: &Session, now_ms: i64) -> Result<Vec<String>> {
    let Some(enfold) = session.keys.enfold().filter(|enfold| enfold.has_operator_key()) else { return Ok(Vec::new()) };
    let context = CallContext::new("schedule", "past the policy's grace period");
    let (mut disabled, mut failed) = (Vec::new(), None);
    for grace in enfold.graces().await? {
        let uncounted = session.policy.values.values().any(|value| value.ring == grace.ring);
        let due: Vec<KeyId> = grace.due(now_ms).iter().map(|key| key.id).collect();
        if !grace.acts(now_ms) || uncounted {
            continue;
        }
        for keys in batches(session, &grace.ring, due).await? {
            match disable(session, &Disable { ring: &grace.ring, keys: &keys, minimum: None, context: &context }).await
            {
                Ok(Tried::Disabled { .. }) => disabled.push(grace.ring.clone()),
                Ok(Tried::Needed(_) | Tried::Waits(_)) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }
    disabled.dedup();
    failed.map_or(Ok(disabled), Err)
}

/// Those that were begun together stay together, so that none waits for the time of one that was begun later.
async fn batches(session: &Session, ring: &str, due: Vec<KeyId>) -> Result<Vec<Vec<KeyId>>> {
    let id = ring_id(session, ring);
    let noted = session.db.disablings().all().await?;
    let begun: HashMap<KeyId, i64> =
        noted.into_iter().filter(|one| one.ring == id).map(|one| (one.key, one.times.asked_ms)).collect();
    let mut together: BTreeMap<Option<i64>, Vec<KeyId>> = BTreeMap::new();
    for key in due {
        together.entry(begun.get(&key).copied()).or_default().push(key);
    }
    Ok(together.values().flat_map(|keys| keys.chunks(AT_ONCE)).map(<[KeyId]>::to_vec).collect())
}
